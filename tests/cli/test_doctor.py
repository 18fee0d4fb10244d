"""The doctor describes broken machines without breaking on them."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from lumigraph.cli import doctor

WORKING: dict[str, dict[str, Any]] = {
    "torch": {
        "version": "2.13.0+cpu",
        "cuda_build": None,
        "devices": [],
        "capability": "AVX512",
        "bfloat16": [],
        "threads": 2,
        "sum": 64.0,
    },
    "lightning": {"versions": {"lightning": "2.6.6"}},
    "numba": {"version": "0.68.1", "cache": "/somewhere/__pycache__"},
    "kernel": {"threads": 2, "layer": "omp"},
    "libraries": {"broken": {}},
    "ffmpeg": {"path": "/somewhere/ffmpeg", "version": "9.0"},
    "export": {"versions": {"onnx": "1.23.2"}, "providers": ["CPUExecutionProvider"]},
}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the probes answer; a test changes it to break the machine."""
    machine = {name: dict(answer) for name, answer in WORKING.items()}
    monkeypatch.setattr(doctor, "run_probe", lambda name: machine[name])
    return machine


def _findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(thorough=True)}


def test_a_working_machine_ends_with_code_zero(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main(["--thorough"])
    printed = capsys.readouterr().out
    assert printed.endswith("The core works.\n")
    assert "2 threads (omp)" in printed
    assert " web player " in printed
    for name in ("python", "cores", "memory", "disk", "torch", "gpu", "numba", "ffmpeg", "export", "lpips"):
        assert f" {name} " in printed


def test_json_holds_every_finding(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main(["--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is True
    assert {finding["status"] for finding in report["findings"]} <= {"ok", "note", "problem"}
    assert {"torch", "numba"} <= {finding["name"] for finding in report["findings"]}


@pytest.mark.parametrize("name", list(WORKING))
def test_any_probe_may_fail(answers: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    answers[name] = {"error": "ImportError: something is amiss"}
    if name in ("ffmpeg", "export"):  # not the core
        doctor.main(["--thorough"])
    else:
        with pytest.raises(SystemExit) as ending:
            doctor.main(["--thorough"])
        assert ending.value.code == 1
    printed = capsys.readouterr().out
    assert "something is amiss" in printed
    assert "mend: pip install" in printed


def test_all_probes_may_fail(answers: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for name in answers:
        answers[name] = {"error": "ended by SIGILL"}
    with pytest.raises(SystemExit):
        doctor.main(["--thorough"])
    assert "The core does not work: torch, lightning, numba, libraries." in capsys.readouterr().out


def test_torchvision_beside_a_cpu_torch_is_said_in_words(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "torchvision" not in _findings()
    monkeypatch.setattr(doctor, "_installed", lambda name: True)
    finding = _findings()["torchvision"]
    assert finding.status == "note"
    assert "beside a CPU build of torch" in finding.detail
    assert finding.mend is not None
    assert finding.mend.startswith("pip uninstall torchvision torchaudio")
    answers["torch"]["cuda_build"] = "13.0"
    assert _findings()["torchvision"].status == "ok"


def test_a_lightning_that_torchvision_broke_names_the_cause(answers: dict[str, Any]) -> None:
    answers["lightning"] = {"error": "RuntimeError: operator torchvision::nms does not exist"}
    finding = _findings()["lightning"]
    assert finding.status == "problem"
    assert finding.mend is not None
    assert finding.mend.startswith("pip uninstall torchvision")


def test_kernels_that_cannot_be_kept_name_the_variable(answers: dict[str, Any]) -> None:
    answers["numba"] = {"error": "RuntimeError: cannot cache function 'total': no locator available"}
    finding = _findings()["numba"]
    assert finding.status == "problem"
    assert "NUMBA_CACHE_DIR" in (finding.mend or "")


def test_a_gpu_and_bfloat16_are_reported(answers: dict[str, Any]) -> None:
    answers["torch"].update(cuda_build="13.0", devices=["A graphics card"], bfloat16=["amx_bf16"])
    found = _findings()
    assert (found["gpu"].status, found["gpu"].detail) == ("ok", "A graphics card")
    assert "amx_bf16" in found["bfloat16"].detail


def test_lpips_weights_are_looked_for(answers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LUMIGRAPH_LPIPS", raising=False)
    assert "not set" in _findings()["lpips"].detail
    monkeypatch.setenv("LUMIGRAPH_LPIPS", str(tmp_path / "absent"))
    assert "not there" in _findings()["lpips"].detail
    monkeypatch.setenv("LUMIGRAPH_LPIPS", str(tmp_path))
    assert _findings()["lpips"].status == "ok"


def test_what_is_slow_is_only_looked_up_unless_asked_for(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(doctor, "run_probe", lambda name: asked.append(name) or answers[name])
    doctor.main([])
    assert sorted(asked) == ["ffmpeg", "libraries", "numba", "torch"]
    printed = capsys.readouterr().out
    assert importlib.metadata.version("lightning") in printed
    assert "--thorough" in printed
    assert doctor.installed("no-such-package") == {"error": "no-such-package is not installed"}


def test_probes_run_in_a_child_process() -> None:
    assert doctor.run_probe("libraries") == {"broken": {}}
    assert doctor.run_probe("numba")["cache"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise OSError('libgomp.so.1: not found')", "OSError: libgomp.so.1: not found"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os; os._exit(0)", "it ended without an answer"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_library_that_dies_at_import_becomes_a_reason(
    body: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imageio_ffmpeg.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.run_probe("ffmpeg") == {"error": reason}


def test_a_broken_library_of_many_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tyro.py").write_text("raise ImportError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.run_probe("libraries") == {"broken": {"tyro": "ImportError: half installed"}}


def test_a_hanging_library_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imageio_ffmpeg.py").write_text("import time; time.sleep(60)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 1)
    assert doctor.run_probe("ffmpeg") == {"error": "no answer within 1 s"}
