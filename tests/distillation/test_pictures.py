"""Students that learn from whole pictures: from shards, a live teacher, photos and mixtures; and all verbs on them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.cli.main import main
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.distillation.bake import bake_shards, prepare
from lumigraph.distillation.finetuning import finetune, mean_psnr
from lumigraph.distillation.live import LivePictures
from lumigraph.distillation.origins import from_shards, with_hard_rays
from lumigraph.distillation.poses import sample_poses
from lumigraph.distillation.shard_source import MixedSource, ShardSource
from lumigraph.distillation.shards import Plan, Shards, finish
from lumigraph.errors import LumigraphError
from lumigraph.export.bundle_renderer import BundleRenderer
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.renderer import Pictures
from lumigraph.scenes.scene import Scene, Views
from lumigraph.training.begin import begin
from lumigraph.training.fit import EarlyStopping, fit
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource, RaySource
from lumigraph.training.validation import PictureProbe, Probe

from .conftest import SIZE, Ball, cameras

TINY = MobileR2LConfig(
    points=4, octaves=2, width=16, blocks=2, up_factors=(2, 2), up_widths=(12, 8), up_blocks=1, pictures=3,
    lr=5e-3, warmup_lr=1e-3, warmup_steps=5, training_steps=60,
)  # fmt: skip
SMALL = [
    *("--points", "4", "--octaves", "2", "--width", "8", "--blocks", "1", "--up-blocks", "0"),
    *("--up-widths", "8", "8", "--pictures", "2", "--max-steps", "3", "--device", "cpu"),
    *("--precision", "float32"),
]


@pytest.fixture
def shards(tmp_path: Path, scene: Scene) -> Path:
    plan = Plan(sample_poses("fitted", 40, 0, scene.info.cameras["train"]), scene.info, 8)
    prepare(tmp_path / "shards", plan, resume=False, overwrite=False)
    bake_shards(Ball(), tmp_path / "shards", plan, list(range(plan.count)))
    finish(tmp_path / "shards", plan)
    return tmp_path / "shards"


def live(scene: Scene, pool: int = 12, **options) -> LivePictures:
    return LivePictures(Ball(), sample_poses("fitted", pool, 0, scene.info.cameras["train"]), 0, **options)


def is_the_ball(drawn: Pictures, scene_alpha: bool = False) -> bool:
    """Whether each picture is what its own camera sees."""
    shown = drawn.rgba[..., :3] + (1 - drawn.rgba[..., 3:])
    wanted = torch.stack([Ball().view(drawn.cameras[i]).rgb for i in range(len(drawn.cameras))])
    return torch.allclose(shown, wanted, atol=1.6 / 255)


def same(one: Pictures, other: Pictures) -> bool:
    return torch.equal(one.rgba, other.rgba) and torch.equal(
        one.cameras.camera_to_world, other.cameras.camera_to_world
    )


# ------------------------------------------------------------------------------------- sources


def test_pictures_belong_to_their_cameras_and_to_seed_and_step(scene: Scene, shards: Path) -> None:
    def sources(seed: int) -> list[RaySource]:
        pool = sample_poses("fitted", 12, 0, scene.info.cameras["train"])
        opened = ShardSource(Shards.open(shards), seed, last=4, empty_share=0.1)
        return [PhotoSource(scene.views["train"], seed), opened, LivePictures(Ball(), pool, seed)]

    for one, again, other in zip(sources(0), sources(0), sources(1), strict=True):
        drawn = one.pictures(7, 5)
        assert drawn.rgba.shape == (5, SIZE, SIZE, 4)
        assert (drawn.pixels, one.picture_pixels) == (5 * SIZE**2, SIZE**2)
        assert is_the_ball(drawn)
        assert len(drawn.cameras.positions.unique(dim=0)) == 5
        again.pictures(3, 5)
        assert same(drawn, again.pictures(7, 5))
        assert not same(drawn, one.pictures(8, 5))
        assert not same(drawn, other.pictures(7, 5))
        assert one.state_dict() == {}
        assert len(one.pictures(0, 50).cameras) == 50  # more than there are: some come twice


def test_all_pictures_of_shards_are_drawn_alike_and_held_ones_never(shards: Path) -> None:
    source = ShardSource(Shards.open(shards), 0, last=4)
    drawn = torch.cat([source.pictures(step, 6).cameras.positions for step in range(300)])
    _, counts = drawn.unique(dim=0, return_counts=True)
    assert len(counts) == 36
    assert float(counts.float().var() / counts.float().mean()) < 1.5


def test_a_live_teacher_renders_each_picture_once_and_moves_on(scene: Scene) -> None:
    class Counting(Ball):
        asked = 0

        def view(self, camera):
            type(self).asked += 1
            return super().view(camera)

    pool = sample_poses("fitted", 40, 0, scene.info.cameras["train"])
    source = LivePictures(Counting(), pool, 0, reuse=4, kept=10)
    seen = [source.pictures(step, 4) for step in range(20)]
    # The window has gone on by 19, and what is in it is rendered no more than once.
    assert 20 <= Counting.asked <= 29
    assert len(source._rendered) <= 14
    places = torch.cat([drawn.cameras.positions for drawn in seen[-2:]])
    window = pool.positions[(torch.arange(10) + 19)[:, None]][:, 0]
    assert (torch.cdist(places, torch.cat([window, pool.positions[18:19]])).amin(1) < 1e-6).all()
    # A pool that fits is kept whole.
    assert LivePictures(Counting(), pool, 0, kept=100).kept == 40
    # What a resumed run draws is the same, rendered anew.
    fresh = LivePictures(Counting(), pool, 0, reuse=4, kept=10)
    assert same(fresh.pictures(19, 4), seen[19])


def test_photos_of_one_size_come_together_and_masks_count(scene: Scene) -> None:
    part = cameras(5, 0.0)
    larger = torch.tensor([[24, 16]] * 2 + [[SIZE, SIZE]] * 3)
    images = [np.full((int(h), int(w), 3), 40 * i, np.uint8) for i, (w, h) in enumerate(larger.tolist())]
    mask = np.zeros((SIZE, SIZE), bool)
    mask[3:5] = True
    masks = [None, None, None, mask, None]
    views = Views.from_arrays(replace(part, size=larger), [str(i) for i in range(5)], images, masks=masks)
    source = PhotoSource(views, 0)
    assert source.picture_pixels == SIZE**2
    sizes = set()
    for step in range(30):
        drawn = source.pictures(step, 2)
        sizes.add(tuple(drawn.rgba.shape[1:3]))
        for picture, camera in enumerate(drawn.cameras.ids.tolist()):
            assert torch.allclose(drawn.rgba[picture, ..., :3], torch.tensor(40 * camera / 255))
            kept = SIZE * 2 if camera == 3 else drawn.rgba[0, ..., 0].numel()
            assert drawn.weight is None or int(drawn.weight[picture].sum()) == kept
    assert sizes == {(16, 24), (SIZE, SIZE)}


def test_a_mixture_gives_its_part_of_the_steps(scene: Scene) -> None:
    mixed = MixedSource(live(scene), PhotoSource(scene.views["train"], 0), 0.75)
    of_photos = [bool((mixed.pictures(step, 2).cameras.ids >= 0).all()) for step in range(40)]
    assert sum(of_photos) == 10
    assert mixed.picture_pixels == SIZE**2


def test_rays_without_pictures_are_refused() -> None:
    with pytest.raises(LumigraphError, match="whole pictures, and these are single rays"):
        RaySource().pictures(0, 1)


def test_the_probe_looks_at_the_same_pixels_through_views(scene: Scene) -> None:
    views = scene.views["val"]
    of_rays, of_views = (kind.of_views(views, "white", count=100) for kind in (Probe, PictureProbe))
    assert torch.equal(of_rays.truth, of_views.truth)
    assert of_rays.measure(Ball()).psnr == pytest.approx(of_views.measure(Ball()).psnr, abs=1e-3)
    source = PictureProbe.of_source(live(scene), "white")
    assert len(source.truth) == SIZE**2
    assert source.measure(Ball()).psnr > 50


# ------------------------------------------------------------------------------------- learning


def distilled(shards: Path, folder: Path, steps: int = 60) -> Run:
    options = TrainOptions(run=folder, max_steps=steps, device="cpu", precision="float32")
    origin = from_shards(shards, 0)
    run = begin("mobile-r2l", TINY, origin.info, options, {})
    torch.manual_seed(0)
    source = with_hard_rays(origin.source, TINY, 0)
    assert source is origin.source
    fit(run.new_renderer(), source, run, options, origin.validation)
    return run


@pytest.mark.parametrize("mixed", [False, True])
def test_fine_tuning_on_photos_and_pseudo_views(
    tmp_path: Path, shards: Path, scene: Scene, mixed: bool
) -> None:
    run = distilled(shards, tmp_path / "student")
    before = run.load_renderer("cpu")
    reached = mean_psnr(before, scene.views["val"])
    assert reached > 13
    options = TrainOptions(run=run.path, max_steps=24, device="cpu", precision="float32")
    pseudo = from_shards(shards, 0) if mixed else None
    done = finetune(run, scene, options, EarlyStopping(every=12), 2e-3, pseudo, 0.5)
    assert done.val_psnr_before == pytest.approx(reached)
    assert done.val_psnr_after >= done.val_psnr_before
    assert ("mixed_with" in done.run.provenance) is mixed
    after = Run.open(run.path).load_renderer("cpu")
    assert mean_psnr(after, scene.views["val"]) == pytest.approx(done.val_psnr_after)
    assert torch.equal(after.focal, before.focal)
    assert Run.open(run.path).results["training"]["history"][0]["val_psnr"] > 0


# ------------------------------------------------------------------------------------- verbs


def test_every_verb_takes_a_student_of_whole_pictures(
    tmp_path: Path, shards: Path, scene: Scene, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("lumigraph.scenes.load.load_scene_like", lambda *a, **k: scene)
    run = tmp_path / "student"

    def call(*words: object) -> int:
        return main([str(word) for word in words])

    def refusal(*words: object) -> str:
        capsys.readouterr()
        assert call(*words) == 2
        return " ".join(capsys.readouterr().err.split())

    assert call("distill", "mobile-r2l", shards, "--run", run, *SMALL) == 0
    assert Run.open(run).results["training"]["step"] == 3
    assert list((run / "media").glob("*.png"))
    assert call("eval", run, "--json", tmp_path / "eval.json") == 0
    assert json.loads((tmp_path / "eval.json").read_text())["psnr"] > 0
    drawn = tmp_path / "view.png"
    assert call("render", run, "--path", "orbit", "--frames", 1, "--size", "23x17", "--out", drawn) == 0
    with Image.open(drawn) as picture:
        assert picture.size == (23, 17)
    mixed = (
        "--pseudo",
        shards,
        "--pseudo-ratio",
        0.5,
        "--max-steps",
        2,
        "--check-every",
        1,
        "--device",
        "cpu",
    )
    assert call("finetune", run, "builtin:ball", "--run", tmp_path / "tuned", *mixed) == 0
    assert Run.open(tmp_path / "tuned").provenance["mixed_with"]["pseudo_ratio"] == 0.5
    assert "--pseudo-ratio" in refusal("finetune", run, "builtin:ball", "--pseudo-ratio", 2)
    # Its own views are pseudo views like any other: for rays, and for pictures, live too.
    assert call("bake", run, "--out", tmp_path / "baked", "--views", 3, "--device", "cpu") == 0
    assert len(Shards.open(tmp_path / "baked")) == 3
    assert "single rays" in refusal("distill", "r2l", run, "--run", tmp_path / "other", *SMALL[4:6])
    assert not (tmp_path / "other").exists()
    smaller = ["distill", "mobile-r2l", run, "--run", tmp_path / "smaller", "--cameras", 6, *SMALL]
    assert call(*smaller) == 0
    assert Run.open(tmp_path / "smaller").provenance["distilled_from"]["teacher"] == "mobile-r2l"
    assert call(*smaller[:-6], "--max-steps", 5, *smaller[-4:], "--resume") == 0
    assert Run.open(tmp_path / "smaller").results["training"]["step"] == 5
    assert call("export", run, "--out", tmp_path / "bundle", "--check-views", 1) == 0
    assert call("eval", tmp_path / "bundle", "--json", tmp_path / "of_bundle.json") == 0
    figures = [json.loads((tmp_path / name).read_text())["psnr"] for name in ("eval.json", "of_bundle.json")]
    assert figures[1] == pytest.approx(figures[0], abs=0.01)


def call(*words: object) -> int:
    return main([str(word) for word in words])


def shows_the_same(run: Path, bundle: Path, camera: Cameras) -> bool:
    exported, student = (
        BundleRenderer(bundle).view(camera).rgb,
        Run.open(run).load_renderer("cpu").view(camera).rgb,
    )
    return torch.allclose(exported, student, atol=1e-4, rtol=0)


def test_a_finished_student_is_exported(
    tmp_path: Path, shards: Path, scene: Scene, monkeypatch, capsys
) -> None:
    """What could not be written is refused before anything is trained."""
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    distil = ["distill", "mobile-r2l", shards, "--run", run, *SMALL, "--export"]
    bundle.mkdir()
    (bundle / "thesis.tex").write_text("years of work")
    for out, message in ((bundle, "exists already"), (run, "cannot be the folder of the run")):
        assert call(*distil, out) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    with monkeypatch.context() as without:
        without.setattr("lumigraph.export.onnx.find_spec", lambda library: None)
        assert call(*distil, tmp_path / "other") == 2
    assert "pip install lumigraph[export]" in capsys.readouterr().err
    assert not run.exists()
    (bundle / "thesis.tex").unlink()
    assert call(*distil, bundle) == 0
    assert "view: largest error" in capsys.readouterr().out
    assert shows_the_same(run, bundle, scene.info.cameras["train"][0])


@pytest.mark.slow
def test_a_fine_tuned_student_is_exported(
    tmp_path: Path, shards: Path, scene: Scene, monkeypatch, capsys
) -> None:
    """To the place of an earlier bundle, where that is allowed."""
    monkeypatch.setattr("lumigraph.scenes.load.load_scene_like", lambda *a, **k: scene)
    run, tuned, bundle = tmp_path / "run", tmp_path / "tuned", tmp_path / "bundle"
    assert call("distill", "mobile-r2l", shards, "--run", run, *SMALL, "--export", bundle) == 0
    tune = ["finetune", run, "builtin:ball", "--run", tuned, "--max-steps", 2, "--device", "cpu"]
    assert call(*tune, "--export", bundle) == 2
    assert "exists already" in capsys.readouterr().err
    assert not tuned.exists()
    assert call(*tune, "--export", bundle, "--overwrite") == 0
    assert shows_the_same(tuned, bundle, scene.info.cameras["train"][0])
