import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.registry import load_config_class, load_presets, methods
from lumigraph.configs.serial import config_from_json, config_to_json
from lumigraph.errors import LumigraphError


@dataclass(frozen=True, kw_only=True)
class Grid:
    levels: int = 8
    widths: tuple[int, ...] = (64, 64)


@dataclass(frozen=True, kw_only=True)
class Sample:
    rate: float
    name: str = "x"
    folder: Path = Path("a/b")
    grid: Grid = field(default_factory=Grid)
    kind: Literal["one", "two"] = "one"
    limit: int | None = None
    span: tuple[float, float] = (0.0, 1.0)
    random: bool = False

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("rate must not be negative")


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Sample,
        rate=finite.map(abs),
        name=st.text(),
        grid=st.builds(Grid, levels=st.integers(), widths=st.lists(st.integers()).map(tuple)),
        kind=st.sampled_from(["one", "two"]),
        limit=st.none() | st.integers(),
        span=st.tuples(finite, finite),
        random=st.booleans(),
    )
)
def test_round_trip_through_json_text(sample: Sample) -> None:
    assert config_from_json(Sample, json.loads(json.dumps(config_to_json(sample)))) == sample


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_and_preset_survives_the_round_trip(name: str) -> None:
    config_class = load_config_class(name)
    for config in [config_class(), *load_presets(name).values()]:
        assert config_from_json(config_class, json.loads(json.dumps(config_to_json(config)))) == config


def test_train_options_round_trip() -> None:
    options = TrainOptions(run=Path("runs/lego"), max_minutes=2.5)
    assert config_from_json(TrainOptions, config_to_json(options)) == options


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "Sample should be an object, not []"),
        ({}, "Sample lacks 'rate'"),
        ({"rate": 1.0, "colour": 1, "age": 2}, "Sample has no option 'age', 'colour'"),
        ({"rate": "fast"}, "Sample.rate should be float, not 'fast'"),
        ({"rate": True}, "Sample.rate should be float, not True"),
        ({"rate": float("nan")}, "Sample.rate should be a finite number, not nan"),
        ({"rate": -1.0}, "Sample: rate must not be negative"),
        ({"rate": 1.0, "grid": {"levels": 2.5}}, "Sample.grid.levels should be int, not 2.5"),
        ({"rate": 1.0, "grid": {"levels": True}}, "Sample.grid.levels should be int, not True"),
        ({"rate": 1.0, "grid": {"depth": 1}}, "Sample.grid has no option 'depth'"),
        ({"rate": 1.0, "kind": "three"}, "Sample.kind should be one of 'one', 'two', not 'three'"),
        ({"rate": 1.0, "kind": ["one"]}, "Sample.kind should be one of 'one', 'two', not ['one']"),
        ({"rate": 1.0, "span": [1.0]}, "Sample.span should have 2 values, not 1"),
        ({"rate": 1.0, "span": 1.0}, "Sample.span should be a list, not 1.0"),
        ({"rate": 1.0, "name": None}, "Sample.name should be str, not null"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data: object, message: str) -> None:
    with pytest.raises(LumigraphError) as caught:
        config_from_json(Sample, data, where="config.json")
    assert message in str(caught.value)
    assert "config.json" in str(caught.value)
