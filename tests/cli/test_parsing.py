import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from lumigraph.cli.parsing import FlatOptions, Positional, headed, parse, parse_method
from lumigraph.configs import registry
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.registry import MethodEntry


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train something."""

    scene: Positional[str]
    """Scene folder."""
    options: Annotated[FlatOptions[TrainOptions], headed("training")]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The method's own."""

    levels: int = 8
    """How many levels."""
    rate: float = 0.5
    """Learning rate."""
    pair: tuple[float, float] = (0.0, 1.0)
    """From a start
    to an end."""
    more: tuple[int, ...] = ()
    """Any number of them."""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher called `tiny`, whose config module has presets."""
    module = types.ModuleType("tiny_method")
    vars(module).update(
        Config=Config, PRESETS={"small": Config(levels=2, rate=0.1), "large": Config(levels=16)}
    )
    monkeypatch.setitem(sys.modules, "tiny_method", module)
    place = "tiny_method:Config"
    entry = MethodEntry(name="tiny", kind="teacher", config=place, renderer=place, summary="A tiny one")
    monkeypatch.setattr(registry, "methods", lambda: {"tiny": entry})


def test_positional_and_flat_options() -> None:
    arguments = parse(["lego", "--run", "out", "--max-steps", "5"], Arguments, prog="lumigraph x")
    assert arguments == Arguments(scene="lego", options=TrainOptions(run=Path("out"), max_steps=5))


def test_a_default_instance_is_the_start() -> None:
    start = Arguments(scene="lego", options=TrainOptions(run=Path("out"), seed=3))
    assert parse(["fox", "--resume"], Arguments, "lumigraph x", default=start) == Arguments(
        scene="fox", options=TrainOptions(run=Path("out"), seed=3, resume=True)
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lego"], "--run"),
        (["lego", "--run", "r", "--max-step", "1"], "--max-steps"),
        (["lego", "--run", "r", "--seed", "one"], "--seed: 'one' is not a whole number"),
        (["lego", "--run", "r", "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["lego", "--run", "r", "--max-steps", "1.5"], "--max-steps: '1.5' is not a whole number"),
        (["lego", "--run", "r", "--max-minutes", "one"], "--max-minutes: 'one' is not a number"),
        (["lego", "--run", "r", "--precision", "float16"], "bfloat16"),
    ],
)
def test_usage_errors_exit_2_and_name_the_option(argv: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(argv, Arguments, prog="lumigraph x")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "class" not in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (["--max-minutes", "None"], {"max_minutes": None}),
        (["--max-minutes", "3"], {"max_minutes": 3.0}),
        (["--max-steps", "7"], {"max_steps": 7}),
    ],
)
def test_what_may_be_none(option: list[str], value: dict) -> None:
    arguments = parse(["lego", "--run", "r", *option], Arguments, prog="lumigraph x")
    assert arguments.options == TrainOptions(run=Path("r"), **value)


def test_rows_of_numbers(tiny, capsys) -> None:
    start = ["tiny", "lego", "--run", "r"]
    _, config, _ = parse_method(
        [*start, "--pair", "1", "2.5", "--more", "3", "4"], "teacher", Arguments, "lumigraph train"
    )
    assert config == Config(pair=(1.0, 2.5), more=(3, 4))
    for option, message in (
        (["--pair", "1", "x"], "'x' is not a number"),
        (["--more", "1.5"], "'1.5' is not a whole number"),
    ):
        with pytest.raises(SystemExit):
            parse_method([*start, *option], "teacher", Arguments, "lumigraph train")
        error = capsys.readouterr().err
        assert message in error
        assert "tuple" not in error.lower()


def test_method_presets_and_overrides(tiny) -> None:
    argv = ["tiny", "lego", "--preset", "small", "--run", "r", "--rate", "0.2"]
    name, config, arguments = parse_method(argv, "teacher", Arguments, "lumigraph train")
    assert (name, config) == ("tiny", Config(levels=2, rate=0.2))
    assert arguments == Arguments(scene="lego", options=TrainOptions(run=Path("r")))
    _, config, _ = parse_method(
        ["tiny", "lego", "--run", "r", "--preset=large"], "teacher", Arguments, "lumigraph train"
    )
    assert config == Config(levels=16)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "which method? There are: tiny"),
        (["tinny", "lego"], "there is no teacher 'tinny'. Did you mean tiny?"),
        (["lego", "tiny"], "the method comes first: lumigraph train tiny lego"),
        (["xyz", "lego"], "there is no teacher 'xyz'; there are tiny"),
        (["tiny", "lego", "--run", "r", "--preset", "smal"], "no preset 'smal'. Did you mean small?"),
        (["tiny", "lego", "--run", "r", "--preset"], "--preset needs a name. Did you mean small or large?"),
        (["tiny", "lego", "--run", "r", "--level", "1"], "--levels"),
    ],
)
def test_method_usage_errors(tiny, argv: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_method(argv, "teacher", Arguments, "lumigraph train")
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_students_and_options_of_other_methods_are_told(capsys) -> None:
    for argv, message in (
        (["r2l", "lego"], "r2l is a student: lumigraph distill r2l"),
        (
            ["nerf", "lego", "--run", "r", "--depth-loss", "swb"],
            "nerf has no --depth-loss; it is an option of ngp,",
        ),
        (["nerf", "lego", "--run", "r", "--width", "0"], "lumigraph: width must be positive, not 0. See"),
    ):
        with pytest.raises(SystemExit) as caught:
            parse_method(argv, "teacher", Arguments, "lumigraph train")
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


def test_help_lists_methods_then_their_options(tiny, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_method(["--help"], "teacher", Arguments, "lumigraph train")
    assert caught.value.code == 0
    assert "A tiny one" in (text := capsys.readouterr().out)
    assert "small, large" in text
    # What all methods share, and where the rest is.
    for word in ("SCENE", "--max-minutes", "training options", "METHOD --help", "--preset NAME"):
        assert word in text
    assert "--levels" not in text
    with pytest.raises(SystemExit) as caught:
        parse_method(["tiny", "--help"], "teacher", Arguments, "lumigraph train")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in (
        "SCENE",
        "--run",
        "--max-minutes",
        "--levels",
        "How many levels.",
        "--preset",
        "From a start to an",
    ):
        assert word in text
    for heading in ("training options", "tiny options"):
        assert heading in text
    for unclear in ("options options", "method options", "INT", "FLOAT"):
        assert unclear not in text
