import os
import subprocess
import sys
import types

import pytest

from lumigraph.cli import main as cli
from lumigraph.errors import LumigraphError
from lumigraph.scenes.procedural import NAMES

HELP_MODULES = 350
"""Modules that --help may import: what its time is spent on, on a fast machine as on a slow or busy one."""


def install(monkeypatch: pytest.MonkeyPatch, verb: str, function) -> None:
    module = types.ModuleType(f"lumigraph.cli.{verb}")
    vars(module)["main"] = function
    monkeypatch.setitem(sys.modules, f"lumigraph.cli.{verb}", module)


def raiser(error: BaseException):
    def main(argv: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            LumigraphError("no images", where="lego", todo="add some"),
            2,
            "lumigraph: no images (in lego). add some.",
        ),
        (KeyboardInterrupt(), 130, "lumigraph: interrupted\n"),
        (KeyboardInterrupt("nothing is kept"), 130, "lumigraph: interrupted; nothing is kept\n"),
        (RuntimeError("first\nsecond"), 1, "lumigraph: unexpected fault: RuntimeError: first second"),
    ],
)
def test_endings_become_exit_codes(monkeypatch, capsys, error, code: int, message: str) -> None:
    monkeypatch.delenv(cli.DEBUG, raising=False)
    install(monkeypatch, "doctor", raiser(error))
    assert cli.main(["doctor"]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_debug_shows_the_traceback(monkeypatch, capsys) -> None:
    monkeypatch.setenv(cli.DEBUG, "1")
    install(monkeypatch, "doctor", raiser(RuntimeError("deep")))
    assert cli.main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_arguments_reach_the_verb(monkeypatch) -> None:
    seen: list[list[str]] = []
    install(monkeypatch, "train", seen.append)
    assert cli.main(["train", "ngp", "--run", "x"]) == 0
    assert seen == [["ngp", "--run", "x"]]


def test_unknown_verb_names_the_closest(capsys) -> None:
    assert cli.main(["trian"]) == 2
    assert "there is no verb 'trian'. Did you mean train?" in capsys.readouterr().err


def test_no_arguments_is_usage(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2
    assert "usage: lumigraph VERB" in capsys.readouterr().out


def python(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("verb", [["train", "ngp"], ["inspect"]])
def test_help_names_every_built_in_scene(verb: list[str], capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main([*verb, "--help"])
    words = capsys.readouterr().out.replace("|", " ").replace(",", " ").replace(";", " ").split()
    assert {f"builtin:{name}" for name in NAMES} <= {word.rstrip(".") for word in words}


HELP = """
import sys
from lumigraph.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = [name for name in ("torch", "lightning", "numba", "numpy") if name in sys.modules]
print(f"\\n{code} {len(sys.modules)} {heavy}")
"""


@pytest.mark.parametrize("verb", [[], *([verb] for verb in cli.VERBS), ["train", "ngp"], ["distill", "r2l"]])
def test_help_is_quick_and_imports_nothing_heavy(verb: list[str]) -> None:
    done = python(HELP, *verb, "--help")
    assert done.returncode == 0, done.stderr
    code, modules, heavy = done.stdout.splitlines()[-1].split(maxsplit=2)
    assert (code, heavy) == ("0", "[]"), done.stderr
    assert "usage: lumigraph" in done.stdout
    assert int(modules) <= HELP_MODULES


def test_a_reader_that_leaves_is_no_error() -> None:
    script = "import sys; from lumigraph.cli.main import main; sys.exit(main(['--help']))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0
