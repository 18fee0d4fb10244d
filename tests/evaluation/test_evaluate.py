"""The evaluator: figures, definitions, masks, and scenes that do not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.evaluation.evaluate import cameras_for, evaluate
from lumigraph.evaluation.metrics import average_error
from lumigraph.evaluation.pictures import Gallery, masks_picture
from lumigraph.evaluation.report import error_colours
from lumigraph.evaluation.results import EvalResult, ViewResult
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import similarity
from lumigraph.rendering.background import over
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.procedural import NAMES, make_scene
from lumigraph.scenes.procedural.painting import paint
from lumigraph.scenes.scene import Scene, Views


class Exact(Renderer):
    """Answers with the analytic scene itself."""

    background = "white"

    def __init__(self, name: str):
        super().__init__()
        self.stage = NAMES[name]()

    def view(self, camera: Cameras) -> Rendering:
        rgba = paint(self.stage, camera).rgba[0]
        return Rendering(rgb=over(rgba[..., :3], rgba[..., 3], torch.ones(3)))


def constant_views(count: int = 2, level: int = 102, masks: list[np.ndarray] | None = None) -> Views:
    cameras = make_scene("still", count, 0, 0, size=16).info.cameras["train"]
    images = np.full((count, 16, 16, 3), level, np.uint8)
    return Views.from_arrays(cameras, [f"{i}.png" for i in range(count)], images, masks=masks)


class Constant(Renderer):
    background = "opaque"

    def __init__(self, *levels: float):
        super().__init__()
        self.levels, self.calls = levels, 0

    def view(self, camera) -> Rendering:
        level = self.levels[self.calls]
        self.calls += 1
        return Rendering(rgb=torch.full((16, 16, 3), level))


def test_the_scene_itself_is_nearly_perfect() -> None:
    scene = make_scene("still", 1, 0, 2, size=48)
    result = evaluate(Exact("still"), scene.split("test"))
    # What is left is the rounding of the images to 8 bits.
    assert result.psnr > 50
    assert result.ssim is not None
    assert result.ssim > 0.999
    again = evaluate(Exact("still"), scene.split("test"))
    assert [view.mse for view in again.per_view] == [view.mse for view in result.per_view]


def test_result_holds_figures_and_definitions() -> None:
    data = evaluate(Constant(0.5, 0.5, 0.4), constant_views(), lpips_reason="no weights").to_json()
    assert {"psnr", "ssim", "lpips", "views", "seconds_per_view", "per_view", "definitions"} <= set(data)
    first, second = data["per_view"]
    assert set(first) == {"name", "psnr", "ssim", "ms_ssim", "lpips", "seconds", "depth_error"}
    assert (data["by_time"], data["attribute_masks"], data["ms_ssim_scales"]) == ([], {}, [1])
    assert first["psnr"] == pytest.approx(20, abs=1e-4)
    assert second["psnr"] == 100
    assert data["psnr"] == pytest.approx(60, abs=1e-4)
    assert data["psnr_pooled"] == pytest.approx(20 + 10 * np.log10(2), abs=1e-4)
    assert (data["lpips"], data["lpips_reason"], data["views"]) == (None, "no weights", 2)
    assert data["seconds_per_view"] > 0


def test_figures_of_a_moving_scene_are_told_by_time() -> None:
    views = constant_views(4)
    times = torch.tensor([1.0, 0.05, 0.93, 0.5])
    cameras = replace(views.cameras, times=times)
    result = evaluate(Constant(0.5, 0.4, 0.4, 0.5, 0.4), views, cameras=cameras)
    assert [view.time for view in result.per_view] == times.tolist()
    table = result.to_json()["by_time"]
    assert [(row["from"], row["to"], row["views"]) for row in table] == [
        (0, 0.1, 1),
        (0.5, 0.6, 1),
        (0.9, 1, 2),
    ]
    # Of 0.9 to 1: the view at 0.93 is 20 dB, that at 1 exact.
    assert [row["psnr"] for row in table] == pytest.approx([100, 100, 60], abs=1e-3)
    same = evaluate(
        Constant(0.5, 0.5, 0.4), views.subset([0, 1]), cameras=replace(cameras[:2], times=times[:2] * 0)
    )
    assert same.by_time == {}


class Masks(Renderer):
    """Grey, and for two attributes the share 0.6 of the upper and of the left half."""

    background = "opaque"

    def view(self, camera: Cameras) -> Rendering:
        masks = torch.zeros(16, 16, 2)
        masks[:8, :, 0], masks[:, :8, 1] = 0.6, 0.6
        return Rendering(rgb=torch.full((16, 16, 3), 0.4), extras={"attribute_masks": masks})


def test_masks_of_attributes_are_measured_where_annotated(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = torch.zeros(16, 16, 2)
    truth[:4, :, 0] = 1.0
    truth[:, :, 1] = torch.nan
    views = constant_views(2)
    monkeypatch.setattr(views, "attribute_masks", lambda index: truth if index == 0 else None)
    data = evaluate(Masks(), views, attributes=("head", "arm")).to_json()
    assert set(data["attribute_masks"]) == {"head"}
    assert data["attribute_masks"]["head"]["iou"] == pytest.approx(0.5)
    assert data["attribute_masks"]["head"]["mean_absolute_error"] == pytest.approx(0.25 * 0.4 + 0.25 * 0.6)
    assert [set(view.get("attribute_masks", {})) for view in data["per_view"]] == [{"head"}, set()]
    with pytest.raises(LumigraphError, match="masks of 2 attributes"):
        evaluate(Masks(), views, attributes=("head",))
    truth[..., 0] = 0.0
    nowhere = evaluate(Masks(), views, attributes=("head", "arm")).attribute_masks["head"]
    assert (nowhere.iou, nowhere.mean_absolute_error) == (0.0, pytest.approx(0.3))


def test_masked_pixels_do_not_count() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:, 4:] = True
    views = constant_views(1, masks=[mask])
    renderer = Constant(0.4)
    picture = torch.full((16, 16, 3), 0.4)
    picture[:4] = 1.0
    renderer.view = lambda camera: Rendering(rgb=picture)  # type: ignore[method-assign]
    assert evaluate(renderer, views).psnr == 100
    with pytest.raises(LumigraphError, match="leaves no pixel"):
        evaluate(renderer, constant_views(1, masks=[np.zeros((16, 16), bool)]))


def test_renderings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(LumigraphError, match="not finite"):
        evaluate(Constant(0.4, float("nan")), constant_views(1))


def test_cameras_of_another_scene_come_in_the_renderers_units() -> None:
    scene = make_scene("still", 2, 0, 2, size=16)
    assert cameras_for(scene.info, scene, "test") is scene.split("test").cameras
    moved = similarity(2.0, translation=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    trained = replace(scene.info, world_transform=moved)
    cameras = cameras_for(trained, scene, "test")
    expected = 2 * scene.split("test").cameras.positions + torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(cameras.positions, expected, atol=1e-6)
    assert torch.allclose(cameras.far, 2 * scene.split("test").cameras.far)


def test_scenes_that_do_not_fit_are_refused() -> None:
    scene = make_scene("still", 2, 1, 0, size=16)
    with pytest.raises(LumigraphError, match=r"no test views.*train \(2 views\), val \(1 views\)"):
        cameras_for(scene.info, scene, "test")
    black = Scene(replace(scene.info, background="black"), scene.views)
    with pytest.raises(LumigraphError, match="background"):
        cameras_for(scene.info, black, "val")
    with pytest.raises(LumigraphError, match="has no times"):
        cameras_for(scene.info, scene, "val", ("times",))
    controlled = make_scene("attributes", 2, 1, 0, size=16)
    other = replace(controlled.info, attributes=("arm", "head"))
    with pytest.raises(LumigraphError, match="are head, arm, those trained on were arm, head"):
        cameras_for(other, controlled, "val", ("attributes",))


def test_a_still_renderer_is_measured_on_a_scene_that_moves() -> None:
    moving = make_scene("moving", 2, 1, 0, size=16)
    still = replace(moving.info, cameras=make_scene("still", 2, 1, 0, size=16).info.cameras)
    assert cameras_for(still, moving, "val") is moving.split("val").cameras


def test_gallery_writes_pictures(tmp_path) -> None:
    truth = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
    gallery = Gallery([f"test/r_{i}.png" for i in range(6)], tmp_path / "all")
    for index in range(6):
        gallery.add(index, 20.0, truth, (truth + 0.1).clamp(0, 1))
    names = sorted(entry.name for entry in (tmp_path / "all").iterdir())
    assert len(names) == 19
    assert names[:3] == [f"0000_test_r_0_{kind}.png" for kind in ("error", "render", "truth")]
    assert names[-1] == "error_scale.png"
    assert Image.open(tmp_path / "all" / "0000_test_r_0_truth.png").size == (30, 20)
    scale = np.asarray(Image.open(tmp_path / "all" / "error_scale.png"))
    assert (scale[0] == error_colours(np.linspace(0, 1, scale.shape[1]))).all()


def test_masks_stand_beside_the_true_ones(tmp_path) -> None:
    """Each attribute in its colour, by the share of a pixel that it moves; grey where nobody has said."""
    told = torch.zeros(40, 40, 2)
    told[:20, :, 0], told[20:, :20, 1], told[20:, 20:] = 1, 0.5, torch.nan
    picture = masks_picture(told.numpy()).astype(int)
    red, blue = picture[0, 0], picture[30, 0]
    assert red[0] > red[2] and blue[2] > blue[0]
    full = masks_picture(torch.tensor([[[0.0, 1.0]]]).numpy()).astype(int)[0, 0]
    assert np.abs(blue - (255 + full) / 2).max() <= 1
    assert (picture[30, 30] != 255).all()
    assert (masks_picture(np.zeros((1, 1, 2), np.float32)) == 255).all()

    black, gallery = torch.zeros(40, 40, 3), Gallery(["a.png"], tmp_path / "all", ("head", "arm"))
    gallery.add_masks(0, told, told)
    gallery.add(0, 20.0, black, black)
    names = {entry.name for entry in (tmp_path / "all").iterdir()}
    assert {"0000_a_masks_truth.png", "0000_a_masks_render.png"} < names
    shown = np.asarray(Image.open(gallery.save_comparison(tmp_path / "comparison.png")))
    assert shown.shape[1] > 1.6 * sheet_of(tmp_path, "a.png", 20.0, 40, 40).shape[1]
    assert (shown == red).all(-1).any(0).sum() >= 2 * 400


def sheet_of(folder: Path, name: str, psnr: float, height: int = 100, width: int = 50) -> np.ndarray:
    """The comparison of one black view that was rendered black."""
    gallery = Gallery([name])
    gallery.add(0, psnr, torch.zeros(height, width, 3), torch.zeros(height, width, 3))
    return np.asarray(Image.open(gallery.save_comparison(folder / "comparison.png"))).astype(int)


def test_comparison_has_labels_and_the_scale_of_its_errors(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, "a.png", 20.0)
    ink = (sheet.min(-1) < 200) & (sheet.max(-1) - sheet.min(-1) < 40)
    column = (sheet.shape[1] - 14) // 3
    for left in (14, 14 + column, 14 + 2 * column):
        assert ink[14:38, left : left + column - 14].any(), "a column has no heading"
    # Under the errors, the whole scale from black to pale yellow.
    bar = sheet[-50:, 14 + 2 * column : -14]
    assert (bar == error_colours(np.linspace(0, 1, bar.shape[1]))).all(axis=(1, 2)).any()
    # The line above a view changes with its name, on the left, and its PSNR, over the rendering.
    renamed, better = sheet_of(tmp_path, "b.png", 20.0), sheet_of(tmp_path, "a.png", 21.0)
    for other, part in ((renamed, 0), (better, 1)):
        rows, columns = np.nonzero((other != sheet).any(-1))
        assert rows.min() >= 38 and rows.max() < 62
        assert set((columns - 14) // column) == {part}


def test_long_names_lose_their_beginning_and_stay_in_their_column(tmp_path: Path) -> None:
    first, second = (sheet_of(tmp_path, f"{'long/' * 40}{end}.png", 20.0) for end in "ab")
    columns = np.nonzero((first != second).any(-1))[1]
    assert len(columns)
    assert columns.max() < 14 + (first.shape[1] - 14) // 3 - 14


@pytest.mark.parametrize(("shape", "shown"), [((30, 60), (180, 360)), ((300, 800), (150, 400))])
def test_pictures_of_a_comparison_have_a_readable_size(tmp_path: Path, shape, shown) -> None:
    sheet = sheet_of(tmp_path, "a.png", 20.0, *shape)
    photo = (sheet == 0).all(-1)[:, : sheet.shape[1] // 3]
    assert (photo.sum(0).max(), photo.sum(1).max()) == shown


def test_average_error_is_the_published_one() -> None:
    assert average_error(30.0, 0.95, 0.05) == pytest.approx(0.02236068, abs=1e-8)
    assert average_error(30.0, 0.95) == pytest.approx(0.01495349, abs=1e-8)
    assert average_error(100.0, 1.0, 0.0) == 0


def of_scales(figures: dict[float, tuple[float, float, float]]) -> EvalResult:
    """Two views of each scale, whose means are these PSNR, SSIM and LPIPS."""
    views = []
    for scale, (psnr, ssim, lpips) in figures.items():
        for shift in (-1, 1):
            views.append(ViewResult("v", psnr + shift, ssim, lpips, 0.1, 1e-3, scale))
    return EvalResult(views)


def test_each_scale_is_measured_for_itself() -> None:
    """Mip-NeRF's row of its table 1: the average error over scales is 0.0114."""
    published = {
        1.0: (32.629, 0.9579, 0.0469),
        0.5: (34.336, 0.9703, 0.0260),
        0.25: (35.471, 0.9786, 0.0168),
        0.125: (35.602, 0.9833, 0.0120),
    }
    data = of_scales(dict(reversed(published.items()))).to_json()
    assert [row["scale"] for row in data["scales"]] == list(published)
    assert [row["psnr"] for row in data["scales"]] == pytest.approx([row[0] for row in published.values()])
    assert [row["views"] for row in data["scales"]] == [2] * 4
    assert data["average_error"] == pytest.approx(0.0114, abs=5e-5)
    assert data["average_error_without_lpips"] < data["average_error"]
    one = of_scales({1.0: (30.0, 0.95, 0.05)}).to_json()
    assert one["scales"] == []
    assert one["average_error"] == pytest.approx(0.02236068, abs=1e-8)


def test_views_of_several_scales_know_theirs() -> None:
    scene = make_scene("still", 1, 0, 1, size=48)
    views = scene.split("test").with_scales(2)

    class Small(Exact):
        def view(self, camera: Cameras) -> Rendering:
            seen = super().view(camera)
            return seen if len(seen.rgb) == 48 else Rendering(rgb=0 * seen.rgb)

    result = evaluate(Small("still"), views)
    assert [view.scale for view in result.per_view] == [1.0, 0.5]
    assert result.scales[1.0].psnr > 50
    assert result.scales[0.5].psnr < 20
    assert all(view.scale is None for view in evaluate(Exact("still"), scene.split("test")).per_view)
