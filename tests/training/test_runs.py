"""Run folders: made whole, opened strictly, replaced only when told."""

import dataclasses
import json

import pytest
import torch

from lumigraph.configs.mipnerf import MipNeRFConfig
from lumigraph.configs.mipnerf360 import MipNeRF360Config
from lumigraph.errors import LumigraphError
from lumigraph.training.runs import Run


@pytest.fixture
def run(ball, student, options) -> Run:
    return Run.create(options.run, "r2l", student, ball.info, options, {"command": "test"})


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(run, student):
    run.update_results("training", {"step": 3})
    run.update_results("test", {"psnr": 30.0})
    back = Run.open(run.path)
    assert (back.method, back.config) == ("r2l", student)
    assert back.results == {"training": {"step": 3}, "test": {"psnr": 30.0}}
    assert back.provenance["command"] == "test"
    assert "run" not in back.options
    assert str(run.path) not in (run.path / "config.json").read_text()
    assert torch.equal(back.info.cameras["train"].camera_to_world, run.info.cameras["train"].camera_to_world)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 7}, "schema 7, this version reads schema 3"),
        ({"extra": 1}, r"unknown keys \['extra'\]"),
        ({"method": "nerv"}, "there is no method 'nerv'"),
        ({"method": 3}, "'method' should be text"),
        ({"config": {"widht": 3}}, "no option 'widht'"),
        ({"config": {"width": "wide"}}, "width"),
        ({"options": []}, "'options' should be an object"),
    ],
)
def test_foreign_config_is_refused(run, changes, message):
    edit(run.path / "config.json", **changes)
    with pytest.raises(LumigraphError, match=message):
        Run.open(run.path)


def test_not_a_run(tmp_path):
    with pytest.raises(LumigraphError, match="there is no such run"):
        Run.open(tmp_path / "absent")
    with pytest.raises(LumigraphError, match="not a run folder"):
        Run.open(tmp_path)


def test_what_is_not_a_run_is_never_replaced(ball, student, options):
    options.run.mkdir()
    (options.run / "thesis.tex").write_text("years of work")
    with pytest.raises(LumigraphError, match="not a run"):
        Run.create(options.run, "r2l", student, ball.info, dataclasses.replace(options, overwrite=True))
    assert (options.run / "thesis.tex").exists()


def test_runs_of_the_schema_before_open_where_their_weights_mean_the_same(run, student):
    edit(run.path / "config.json", schema=2)
    assert Run.open(run.path).config == student
    for method, config in (("ngp", {}), ("ngp", {"cones": False}), ("mipnerf", {"backbone": "mlp"})):
        edit(run.path / "config.json", method=method, config=config)
        assert Run.open(run.path).method == method
    for method, config in (("ngp", {"cones": True}), ("mipnerf", {"backbone": "grid"})):
        edit(run.path / "config.json", method=method, config=config)
        with pytest.raises(LumigraphError, match="the run has schema 2, this version reads schema 3"):
            Run.open(run.path)


@pytest.mark.parametrize(("before", "now"), [(True, 1.0), (False, 0.0)])
def test_options_are_found_under_the_names_they_had(run, before, now):
    edit(run.path / "config.json", method="mipnerf", config={"area_loss": before})
    assert Run.open(run.path).config == MipNeRFConfig(area_power=now)
    edit(run.path / "config.json", method="mipnerf360", config={"area_loss": before})
    assert Run.open(run.path).config == MipNeRF360Config(area_power=now)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("ngp", {"area_loss": True}),
        ("mipnerf", {"area_loss": "yes"}),
        ("mipnerf", {"area_loss": True, "area_power": 0.5}),
    ],
)
def test_options_that_never_were_are_refused(run, method, config):
    edit(run.path / "config.json", method=method, config=config)
    with pytest.raises(LumigraphError, match="has no option 'area_loss'"):
        Run.open(run.path)


@pytest.mark.parametrize(
    "content",
    [
        '{"model_type": "llama", "schema": "v1"}',
        '{"method": "ppo", "schema": "1"}',
        '{"schema": 1}',
        "[1]",
        "{",
    ],
)
def test_config_of_another_program_is_no_run(ball, student, options, content):
    options.run.mkdir()
    (options.run / "config.json").write_text(content)
    (options.run / "model.safetensors").write_text("hours of a download")
    overwriting = dataclasses.replace(options, overwrite=True)
    with pytest.raises(LumigraphError, match=r"not a run \(no config\.json of ours\).*another folder"):
        Run.create(options.run, "r2l", student, ball.info, overwriting)
    assert sorted(path.name for path in options.run.iterdir()) == ["config.json", "model.safetensors"]


def test_run_of_any_version_is_replaced_when_told(run, ball, student, options):
    run.save_weights(run.new_renderer(), 3)
    edit(run.path / "config.json", schema=7, novelty=True)
    with pytest.raises(LumigraphError, match="--overwrite"):
        Run.create(options.run, "r2l", student, ball.info, options)
    Run.create(options.run, "r2l", student, ball.info, dataclasses.replace(options, overwrite=True))
    assert not run.weights.exists()
    assert Run.open(run.path).config == student


def test_run_without_anything_saved_is_replaced(run, ball, student, options):
    Run.create(options.run, "r2l", student, ball.info, options)


def test_weights(run, tmp_path):
    with pytest.raises(LumigraphError, match="no weights yet"):
        run.load_renderer("cpu")
    torch.manual_seed(1)
    renderer = run.new_renderer()
    run.save_weights(renderer, 5)
    back = run.load_renderer("cpu")
    assert not back.training
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in renderer.state_dict().items())
    edit_config = json.loads((run.path / "config.json").read_text())
    edit_config["config"]["width"] = 8
    (run.path / "config.json").write_text(json.dumps(edit_config))
    with pytest.raises(LumigraphError, match="do not fit"):
        Run.open(run.path).load_renderer("cpu")


def test_scene_is_found_beside_a_moved_run(ball, student, options, tmp_path):
    (tmp_path / "a" / "scene").mkdir(parents=True)
    info = dataclasses.replace(ball.info, source=str(tmp_path / "a" / "scene"))
    run = Run.create(tmp_path / "a" / "run", "r2l", student, info, options)
    assert run.scene_source() == str(tmp_path / "a" / "scene")
    (tmp_path / "a").rename(tmp_path / "b")
    assert (tmp_path / "b" / "scene").samefile(Run.open(tmp_path / "b" / "run").scene_source())
    (tmp_path / "b" / "scene").rmdir()
    with pytest.raises(LumigraphError, match="--scene"):
        Run.open(tmp_path / "b" / "run").scene_source()
