"""The live teacher: right labels, rays where the student is worst, exact state."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.mipnerf360 import MipNeRF360Config
from lumigraph.distillation.live import TILE, LiveSource
from lumigraph.distillation.origins import LiveOptions, from_teacher
from lumigraph.distillation.poses import sample_poses
from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.scenes.procedural import load_builtin
from lumigraph.scenes.scene import Scene
from lumigraph.training.runs import Run

from .conftest import Ball


def live(scene: Scene, **options) -> LiveSource:
    pool = sample_poses("fitted", 5, 0, scene.info.cameras["train"])
    return LiveSource(Ball(), pool, 32, 0, **{"ring": 512, "every": 2, "reuse": 2, **options})


def test_labels_are_the_teachers(scene: Scene) -> None:
    source = live(scene)
    for step in range(8):
        batch = source.batch(step, 32)
        truth = Ball().render(batch.rays)
        torch.testing.assert_close(batch.rgba[:, :3], truth.rgb, atol=1e-6, rtol=0)
        torch.testing.assert_close(batch.depth, truth.depth, equal_nan=True, atol=1e-6, rtol=0)
        source.observe(batch, torch.rand(32))


def test_a_teacher_with_pixels_of_its_own_is_asked_for_its_rays(scene: Scene) -> None:
    class Cornered(Ball):
        def seen_through(self, cameras: Cameras) -> Cameras:
            return replace(cameras, principal=cameras.principal + 0.5)

    pool = sample_poses("fitted", 5, 0, scene.info.cameras["train"])
    source = LiveSource(Cornered(), pool, 32, 0, ring=512, every=2, reuse=2)
    batch = source.batch(0, 64)
    camera, x, y = source._pixels(source._drawn)
    assert torch.equal(batch.rays.directions, pool.rays(camera, x, y).directions)
    theirs = replace(pool, principal=pool.principal + 0.5).rays(camera, x, y)
    torch.testing.assert_close(batch.rgba[:, :3], Ball().render(theirs).rgb, atol=1e-6, rtol=0)
    seen = Cornered().view(pool[0])
    assert torch.equal(seen.rgb, Ball().view(replace(pool[0], principal=pool[0].principal + 0.5)).rgb)


def test_each_label_is_used_as_often_as_asked(scene: Scene) -> None:
    source = live(scene)
    source.batch(0, 32)
    start = source.labelled
    for step in range(100):
        source.batch(step, 32)
    assert (source.labelled - start) * 2 == pytest.approx(100 * 32, abs=2 * 32)
    again = source.labelled
    source.batch(3, 32)
    assert source.labelled == again


def test_several_processes_label_other_rays_and_no_more_each(scene: Scene) -> None:
    """Each is asked for every other step number."""
    sources = [live(scene), live(scene)]
    starts = []
    for process, source in enumerate(sources):
        source.share(process, 2)
        source.batch(process, 32)
        starts.append(source.labelled)
    for step in range(100):
        for process, source in enumerate(sources):
            source.batch(2 * step + process, 32)
    for source, start in zip(sources, starts, strict=True):
        assert (source.labelled - start) * 2 == pytest.approx(100 * 32, abs=2 * 32)
    assert not torch.equal(sources[0]._pixel, sources[1]._pixel)


def test_the_cameras_that_the_teacher_is_asked_for_move_along(scene: Scene) -> None:
    source = live(scene).to(torch.device("meta"))
    assert source._asked.device == source.cameras.device == torch.device("meta")


def test_rays_go_where_the_student_is_wrong(scene: Scene) -> None:
    source = live(scene, floor=0.25)
    for step in range(60):
        batch = source.batch(step, 256)
        camera, x, y = source._pixels(source._drawn)
        bad = (camera == 2) & (x < TILE) & (y < TILE)
        source.observe(batch, bad.float())
    camera, x, y = source._choose(4000)
    assert bool((x < 20).all() and (y < 20).all() and (x >= 0).all() and (y >= 0).all())
    chosen = float(((camera == 2) & (x < TILE) & (y < TILE)).float().mean())
    even = 0.25 / 5 * TILE**2 / 400
    assert chosen == pytest.approx(0.75 + even, abs=0.03)
    assert len(camera.unique()) == 5


def test_even_error_means_even_rays(scene: Scene) -> None:
    source = live(scene)
    source.observe(source.batch(0, 256), torch.full((256,), 0.3))
    camera, x, y = source._choose(8000)
    counts = torch.bincount(camera * 400 + y * 20 + x, minlength=2000).float()
    # 4 pixels to a draw: a Poisson count, whose variance is its mean.
    assert float(counts.var() / counts.mean()) == pytest.approx(1, abs=0.15)


def test_state_goes_on_exactly(scene: Scene) -> None:
    first, second = live(scene), live(scene)
    error = torch.rand(32)
    for step in range(7):
        first.observe(first.batch(step, 32), error)
    second.batch(0, 5)  # as a warm-up does before the state is put back
    second.load_state_dict({name: values.clone() for name, values in first.state_dict().items()})
    for step in range(7, 15):
        batches = [source.batch(step, 32) for source in (first, second)]
        assert torch.equal(batches[0].rgba, batches[1].rgba)
        assert torch.equal(batches[0].rays.origins, batches[1].rays.origins)
        for source, batch in zip((first, second), batches, strict=True):
            source.observe(batch, error)
    afresh = live(scene)
    afresh.load_state_dict({})  # of a checkpoint of another stage: labels are made anew
    assert torch.equal(afresh.batch(0, 32).rgba, live(scene).batch(0, 32).rgba)
    with pytest.raises(LumigraphError, match="another size"):
        live(scene, ring=256).load_state_dict(first.state_dict())


def test_a_live_teacher_is_asked_with_chosen_codes(tmp_path: Path, capsys) -> None:
    """As `bake` draws its views; what was chosen is remembered."""
    info = load_builtin("still:16", downscale=4).info
    config = MipNeRF360Config(codes=2, levels=2, log2_entries=8, proposal_levels=2, proposal_log2_entries=8)
    run = Run.create(tmp_path / "teacher", "mipnerf360", config, info, TrainOptions(run=tmp_path / "teacher"))
    torch.manual_seed(0)
    teacher = run.new_renderer()
    torch.nn.init.normal_(teacher.codes.table, std=3.0)  # pyright: ignore
    torch.nn.init.normal_(teacher.field.encoder.grid.table)  # pyright: ignore
    run.save_weights(teacher, 1)

    def labels(codes) -> torch.Tensor:
        live = LiveOptions(cameras=2, ring=256, codes=codes)
        origin = from_teacher(run.path, 32, 0, live, "cpu", "float32")
        assert origin.provenance["codes"] == codes
        return origin.source.batch(0, 64).rgba

    trained, mean, zero = labels(None), labels("mean"), labels("zero")
    torch.testing.assert_close(trained, mean)
    assert (zero - mean).abs().max() > 0.01
    with pytest.raises(LumigraphError):
        labels("linear")
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "index.json").write_text("{}")
    command = [
        "distill",
        "r2l",
        str(tmp_path / "views"),
        "--run",
        str(tmp_path / "student"),
        "--codes",
        "zero",
    ]
    assert main(command) == 2
    assert "--codes is for a teacher that answers live" in capsys.readouterr().err
