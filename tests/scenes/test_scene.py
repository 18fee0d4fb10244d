import logging

import numpy as np
import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.files import read_json, write_json
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.scene import Scene, SceneInfo, Views
from lumigraph.scenes.splits import SplitOptions, divide
from lumigraph.scenes.stored_arrays import MemoryBudget


def make_cameras(sizes: list[tuple[int, int]]) -> Cameras:
    count = len(sizes)
    return Cameras(
        camera_to_world=torch.eye(4)[:3].repeat(count, 1, 1),
        focal=torch.full((count, 2), 10.0),
        principal=torch.tensor(sizes) / 2.0,
        size=torch.tensor(sizes),
        near=torch.full((count,), 2.0),
        far=torch.full((count,), 6.0),
        distortion=torch.zeros(count, 6),
        ids=torch.arange(count),
    )


@pytest.mark.parametrize("sizes", [[(5, 4)] * 3, [(5, 4), (2, 7), (1, 1)]])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("budget", [None, 0, 100])
def test_pixels_are_those_of_the_images(sizes, channels, budget, caplog):
    generator = np.random.default_rng(0)
    images = [
        generator.integers(0, 256, (height, width, channels), dtype=np.uint8) for width, height in sizes
    ]
    memory = MemoryBudget(budget)
    views = Views(make_cameras(sizes), ["a", "b", "c"], channels == 4, lambda i: images[i], memory=memory)
    index, x, y = (torch.tensor(values) for values in ([0, 2, 1, 1, 0], [4, 0, 1, 0, 0], [3, 0, 3, 0, 1]))
    with caplog.at_level(logging.WARNING, "lumigraph"):
        pixels = views.pixels(index, x, y)
    assert len(caplog.records) == (0 if budget is None else 1)
    expected = np.ones((5, 4), np.float32)
    for row, (i, column, line) in enumerate(zip(index.tolist(), x.tolist(), y.tolist(), strict=True)):
        expected[row, :channels] = images[i][line, column] / np.float32(255)
    assert np.array_equal(pixels.numpy(), expected)
    assert all(np.array_equal(views.image(i).numpy(), images[i]) for i in range(3))
    assert views.nbytes == sum(image.nbytes for image in images)
    assert views.mask(0) is None
    assert views.depth(0) is None
    assert views.pixel_masks(index, x, y) is None
    assert views.pixel_depths(index, x, y) is None


def test_each_image_is_decoded_once():
    calls = []

    def load(index):
        calls.append(index)
        return np.full((2, 3, 3), index, np.uint8)

    views = Views(make_cameras([(3, 2)] * 20), [str(i) for i in range(20)], False, load)
    assert not calls
    views.image(7)
    assert calls == [7]
    index = torch.arange(20)
    for _ in range(2):
        assert torch.equal(views.pixels(index, index * 0, index * 0)[:, 0] * 255, index.float())
    assert sorted(calls) == list(range(20))


def test_masks_and_depths():
    mask = np.array([[True, False, True], [False, False, True]])
    depth = np.array([[1.0, np.nan, 2.0], [3.0, 4.0, 5.0]], np.float32)
    images = [np.zeros((2, 3, 3), np.uint8)] * 2
    views = Views.from_arrays(
        make_cameras([(3, 2)] * 2), ["a", "b"], images, masks=[mask, None], depths=[None, depth]
    )
    index, x, y = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]), torch.tensor([0, 1, 1])
    assert views.pixel_masks(index, x, y).tolist() == [False, True, True]
    depths = views.pixel_depths(index, x, y)
    assert depths[:2].isnan().all()
    assert depths[2] == 5.0
    assert views.mask(1).all()
    assert torch.equal(views.mask(0), torch.from_numpy(mask))


def counted(calls: list[int], values: np.ndarray):
    """A loader that notes what it is asked for."""

    def load(index: int) -> np.ndarray:
        calls.append(index)
        return values

    return load


def test_images_masks_and_depths_of_all_splits_share_one_budget(monkeypatch):
    """Half of what is free: 40 images of 18 bytes with 6 of masks and 24 of depths, as many again in another split."""
    monkeypatch.setattr(
        "lumigraph.scenes.stored_arrays.available_memory", lambda: 2 * 40 * (18 + 6) + 24 * 24
    )
    memory, cameras, names = MemoryBudget(), make_cameras([(3, 2)] * 40), [str(i) for i in range(40)]
    image, mask, depth = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3), bool), np.ones((2, 3), np.float32)
    index = torch.arange(40)
    calls: dict[str, list[int]] = {"train": [], "depth": [], "test": []}
    train = Views(
        cameras, names, False, counted(calls["train"], image),
        load_mask=lambda i: mask, load_depth=counted(calls["depth"], depth), memory=memory,
    )  # fmt: skip
    test = Views(cameras, names, False, counted(calls["test"], image), memory=memory)
    for _ in range(2):
        train.pixels(index, index * 0, index * 0)
        train.pixel_masks(index, index * 0, index * 0)
        train.pixel_depths(index, index * 0, index * 0)
        test.pixels(index, index * 0, index * 0)
    assert len(calls["train"]) == 40
    # 960 + 288 bytes; images and masks have taken 960, so that 12 depth maps fit, and nothing of the other split.
    assert len(calls["depth"]) == 12 + 2 * 28
    assert len(calls["test"]) == 80


def test_a_subset_shares_what_is_decoded():
    calls, generator = [], np.random.default_rng(0)
    images = generator.integers(0, 256, (10, 2, 3, 3), dtype=np.uint8)
    masks, depths = generator.random((10, 2, 3)) > 0.5, generator.random((10, 2, 3)).astype(np.float32)

    def load(index: int) -> np.ndarray:
        calls.append(index)
        return images[index]

    names = [str(i) for i in range(10)]
    whole = Views(
        make_cameras([(3, 2)] * 10), names, False, load,
        load_mask=lambda i: masks[i], load_depth=lambda i: depths[i],
    )  # fmt: skip
    parts = whole.subset([7, 2, 5]), whole.subset([0, 1, 3, 4, 6, 8, 9])
    assert (len(parts[0]), parts[0].names, parts[0].nbytes) == (3, ["7", "2", "5"], 3 * 18)
    assert parts[0].cameras.ids.tolist() == [7, 2, 5]
    assert parts[0].has_depths
    index, x, y = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 0]), torch.tensor([1, 0, 1, 0])
    for part in parts:
        part.load()
        chosen = [int(name) for name in part.names]
        rows = (np.array(chosen)[index], y.numpy(), x.numpy())
        assert np.array_equal(part.image(1).numpy(), images[chosen[1]])
        assert np.array_equal(part.mask(1).numpy(), masks[chosen[1]])
        assert np.array_equal(part.depth(1).numpy(), depths[chosen[1]])
        assert np.array_equal(part.pixels(index, x, y)[:, :3].numpy(), images[rows] / np.float32(255))
        assert np.array_equal(part.pixel_masks(index, x, y).numpy(), masks[rows])
        assert np.array_equal(part.pixel_depths(index, x, y).numpy(), depths[rows])
    assert sorted(calls) == list(range(10))
    assert np.array_equal(parts[0].subset([2]).image(0).numpy(), images[5])


def test_an_image_of_another_size_is_refused():
    views = Views(make_cameras([(3, 2)]), ["a.png"], False, lambda i: np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(LumigraphError, match=r"expected 3x2 .* \(in a\.png\)"):
        views.image(0)


def make_info(cameras: Cameras) -> SceneInfo:
    return SceneInfo(
        name="x",
        source="/somewhere/x",
        format="blender",
        downscale=2,
        cameras={"train": cameras},
        bounds=Bounds(-torch.ones(3), torch.ones(3) * 0.1, unbounded=True),
        background="random",
        world_transform=torch.diag(torch.tensor([0.1, 0.1, 0.1, 1.0], dtype=torch.float64)),
        splits=SplitOptions(split="names", test_names=("3.png", "5.png")),
        facing=FacingOptions(facing="inward", far_factor=5.0),
    )


def test_description_survives_json_exactly(tmp_path):
    info = make_info(make_cameras([(5, 4)] * 3))
    write_json(tmp_path / "scene.json", info.to_json())
    back = SceneInfo.from_json(read_json(tmp_path / "scene.json"))
    assert back.to_json() == info.to_json()
    assert torch.equal(back.world_transform, info.world_transform)
    assert (back.splits, back.facing) == (info.splits, info.facing)
    for name, tensor in info.cameras["train"].tensors().items():
        assert torch.equal(tensor, back.cameras["train"].tensors()[name])


@pytest.mark.parametrize(
    "key", ["name", "cameras", "bounds", "background", "world_transform", "downscale", "splits", "facing"]
)
@pytest.mark.parametrize("value", [None, "x", [], {}, 7])
def test_a_damaged_description_is_one_message(key, value):
    data = make_info(make_cameras([(5, 4)])).to_json()
    if key == "name" or (key, value) in (("cameras", {}), ("downscale", 7), ("splits", {}), ("facing", {})):
        del data["name" if key in ("splits", "facing") else key]
    else:
        data[key] = value
    with pytest.raises(LumigraphError):
        SceneInfo.from_json(data, "scene.json")


def test_a_split_that_is_not_there():
    views = Views.from_arrays(make_cameras([(3, 2)]), ["a"], [np.zeros((2, 3, 3), np.uint8)])
    scene = Scene(make_info(views.cameras), {"train": views})
    assert scene.split("train") is views
    with pytest.raises(LumigraphError) as caught:
        scene.split("test")
    assert str(caught.value) == (
        "the scene has no test views (in /somewhere/x). Choose one of the splits it has: train (1 views)."
    )


class TestDivide:
    names = tuple(f"{i}.png" for i in range(20))

    def divide(self, listed=None, **options):
        return divide(self.names, SplitOptions(**options), listed, "here")

    def test_every_eighth_by_default(self):
        result = self.divide()
        assert result["test"] == [0, 8, 16]
        assert sorted(result["test"] + result["train"]) == list(range(20))

    def test_every(self):
        assert self.divide(split="every", every=3)["test"] == [0, 3, 6, 9, 12, 15, 18]

    def test_fraction(self):
        result = self.divide(split="fraction", fraction=0.9)
        assert len(result["train"]) == 18
        assert sorted(result["test"] + result["train"]) == list(range(20))

    def test_all(self):
        assert self.divide(split="all") == {"train": list(range(20))}

    def test_lists(self):
        listed = {"train": ["3.png", "1.png", "gone.png"], "val": [], "test": ["0.png"]}
        assert self.divide(listed) == {"train": [1, 3], "test": [0]}
        assert self.divide(listed, split="files") == {"train": [1, 3], "test": [0]}
        assert "val" not in self.divide(listed, split="every")

    def test_most_centred(self):
        positions = [[float(i), 0.0, 7.0] for i in range(20)]
        result = divide(self.names, SplitOptions(split="most_centred"), None, "here", positions)
        assert result["test"] == [9]  # as near as 10
        assert result["train"] == [i for i in range(20) if i != 9]

    def test_interpolation_goes_by_time(self):
        options = SplitOptions(split="interpolation")
        assert divide(self.names, options, None, "here") == {
            "train": [0, 4, 8, 12, 16],
            "val": [2, 6, 10, 14],
        }
        # Filed from the last to the first; what two cameras of a rig saw at one time stays together.
        times = [(19 - i) // 2 / 9 for i in range(20)]
        assert divide(self.names, options, None, "here", times=times) == {
            "train": [2, 3, 10, 11, 18, 19],
            "val": [6, 7, 14, 15],
        }

    def test_names(self):
        names = ["train/3.png", "train/13.png", "val/3.jpg", "val/x.png"]
        for wanted, place in (("x", 3), ("13", 1), ("13.png", 1), ("train/3.png", 0), ("3.jpg", 2)):
            options = SplitOptions(split="names", test_names=(wanted,))
            assert divide(names, options, None, "here")["test"] == [place]
        for wanted, message in (("3", "several"), ("4.png", "is no view"), ("", "is no view")):
            options = SplitOptions(split="names", test_names=(wanted,))
            with pytest.raises(LumigraphError, match=message):
                divide(names, options, None, "here")

    @pytest.mark.parametrize(
        "options",
        [
            {"split": "files"},
            {"split": "most_centred"},
            {"split": "names"},
            {"split": "every", "test_names": ("3.png",)},
            {"split": "names", "test_names": tuple(f"{i}.png" for i in range(20))},
            {"split": "every", "every": 1},
            {"split": "fraction", "fraction": 1.5},
            {"listed": {"train": [], "test": ["0.png"]}},
        ],
    )
    def test_refuses(self, options):
        with pytest.raises(LumigraphError):
            self.divide(**options)
