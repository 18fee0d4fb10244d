"""The ball of `ball.py` as fixtures; one thread each, because tests share the machine with others."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.r2l import R2LConfig
from lumigraph.scenes.scene import Scene


def _ball_module():
    spec = spec_from_file_location("ball", Path(__file__).with_name("ball.py"))
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BALL = _ball_module()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumigraph.rendering.machine.available_cores", lambda: 1)


@pytest.fixture(scope="session")
def ball() -> Scene:
    return BALL.ball_scene()


@pytest.fixture
def student() -> R2LConfig:
    return BALL.STUDENT


@pytest.fixture
def options(tmp_path: Path) -> TrainOptions:
    return TrainOptions(run=tmp_path / "run", max_steps=12, device="cpu", precision="float32")
