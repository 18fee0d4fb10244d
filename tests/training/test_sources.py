"""PhotoSource: what it draws, and that it draws the same again."""

import time

import numpy as np
import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.rendering.renderer import PixelSampling
from lumigraph.scenes.scene import Views
from lumigraph.training.sources import PhotoSource, RaySource


def test_batch_is_a_function_of_seed_and_step(ball):
    views = ball.split("train")
    one, other = PhotoSource(views, 3).batch(7, 100), PhotoSource(views, 3).batch(7, 100)
    assert torch.equal(one.rays.origins, other.rays.origins)
    assert torch.equal(one.rgba, other.rgba)
    for seed, step in ((3, 8), (4, 7)):
        assert not torch.equal(one.rays.directions, PhotoSource(views, seed).batch(step, 100).rays.directions)
    assert PhotoSource(views, 3).state_dict() == {}


def test_colours_belong_to_their_rays(ball):
    views = ball.split("train")
    source = PhotoSource(views, 0)
    index, x, y = source.draw(0, 50)
    batch = source.batch(0, 50)
    for i in range(50):
        pixel = views.image(int(index[i]))[y[i], x[i]].float() / 255
        assert torch.allclose(batch.rgba[i], pixel)
        whole = views.cameras.view_rays(int(index[i]))
        assert torch.allclose(batch.rays.directions[i], whole.directions[y[i], x[i]], atol=1e-6)


def test_draws_are_uniform(ball):
    index, x, y = PhotoSource(ball.split("train"), 0).draw(0, 60_000)
    counts = torch.bincount(index * 400 + y * 20 + x, minlength=2400).float()
    assert counts.min() > 0
    # Poisson with mean 25: the variance equals the mean.
    assert 0.85 < float(counts.var()) / 25 < 1.15


def views_of(sizes, masks) -> Views:
    from dataclasses import replace

    images = [np.full((height, width, 3), i, np.uint8) for i, (width, height) in enumerate(sizes)]
    count = len(sizes)
    from lumigraph.geometry.cameras import Cameras

    cameras = Cameras(
        camera_to_world=torch.eye(3, 4).repeat(count, 1, 1),
        focal=torch.ones(count, 2),
        principal=torch.ones(count, 2),
        size=torch.tensor(sizes),
        near=torch.ones(count),
        far=2 * torch.ones(count),
        distortion=torch.zeros(count, 6),
        ids=torch.arange(count),
    )
    return Views.from_arrays(replace(cameras), [str(i) for i in range(count)], images, masks=masks)


def test_mixed_sizes_and_masks_are_honoured():
    mask = np.zeros((3, 5), dtype=bool)
    mask[2, 4] = mask[0, 1] = True
    source = PhotoSource(views_of([(4, 2), (5, 3)], [None, mask]), 0)
    index, x, y = source.draw(0, 2000)
    seen = {tuple(row) for row in torch.stack([index, x, y], -1).tolist()}
    assert seen == {(0, i, j) for i in range(4) for j in range(2)} | {(1, 4, 2), (1, 1, 0)}
    assert torch.allclose(source.batch(0, 2000).rgba[:, 0], index / 255.0)


def test_nothing_left_by_the_masks():
    with pytest.raises(LumigraphError, match="no pixel to train on"):
        PhotoSource(views_of([(4, 2)], [np.zeros((2, 4), dtype=bool)]), 0)


def test_state_of_another_source_is_refused():
    with pytest.raises(LumigraphError, match="another ray source"):
        RaySource().load_state_dict({"pool": torch.zeros(1)})


@pytest.mark.slow
def test_drawing_lego_is_quick(shared_data):
    from lumigraph.scenes.load import load_scene

    source = PhotoSource(load_scene(shared_data / "nerf_synthetic" / "lego", downscale=4).split("train"), 0)
    source.batch(0, 8192)
    times = []
    for step in range(50):
        start = time.perf_counter()
        source.batch(step, 8192)
        times.append(time.perf_counter() - start)
    assert min(times) < 3e-3


def test_depth_is_unknown_where_photos_have_none(ball):
    assert PhotoSource(ball.split("train"), 0).batch(0, 8).depth is None
    depth = PhotoSource(ball.split("train"), 0, depths=True).batch(0, 8).depth
    assert depth is not None
    assert depth.isnan().all()


def drawn(source: PhotoSource, step: int, rays: int = 600):
    index, x, y = source.draw(step, rays)
    again = source.draw(step, rays)
    assert all(torch.equal(one, other) for one, other in zip((index, x, y), again, strict=True))
    return index, x, y


def test_the_middle_of_the_photos_first(ball):
    sampling = PixelSampling(crop_steps=3, crop_share=0.3)
    source = PhotoSource(ball.split("train"), 0, sampling=sampling)
    index, x, y = drawn(source, 2)
    for place in (x, y):
        assert (int(place.min()), int(place.max())) == (7, 12)  # 6 of 20
    assert len(index.unique()) == 6
    # Then as ever.
    plain = PhotoSource(ball.split("train"), 0)
    for one, other in zip(drawn(source, 3), plain.draw(3, 600), strict=True):
        assert torch.equal(one, other)


def test_no_pixel_in_the_middle():
    mask = np.zeros((6, 6), dtype=bool)
    mask[0, 0] = True
    views = views_of([(6, 6)], [mask])
    with pytest.raises(LumigraphError, match="no pixel in the middle.*--crop-steps 0"):
        PhotoSource(views, 0, sampling=PixelSampling(crop_steps=1, crop_share=0.4))
    assert len(PhotoSource(views, 0).draw(0, 3)[0]) == 3


@pytest.mark.parametrize("same_image", [False, True])
def test_a_share_of_rays_meets_something(ball, same_image):
    views = ball.split("train")
    source = PhotoSource(views, 0, sampling=PixelSampling(foreground_share=0.9, same_image=same_image))
    index, x, y = drawn(source, 5)
    alpha = views.pixels(index, x, y)[:, 3]
    assert (alpha[:540] > 0).all()
    assert float((alpha > 0).float().mean()) > 0.9
    assert (alpha == 0).any()
    assert len(index.unique()) == (1 if same_image else 6)


def test_foreground_where_there_is_none():
    """Opaque photos, and photos that are all transparent: drawn as ever."""
    sampling = PixelSampling(foreground_share=0.5)
    opaque = views_of([(4, 2), (5, 3)], [None, None])
    plain = PhotoSource(opaque, 0).draw(1, 40)
    for one, other in zip(PhotoSource(opaque, 0, sampling=sampling).draw(1, 40), plain, strict=True):
        assert torch.equal(one, other)
    empty = Views.from_arrays(opaque.cameras[:1], ["a"], [np.zeros((2, 4, 4), np.uint8)])
    assert len(PhotoSource(empty, 0, sampling=sampling).draw(0, 9)[0]) == 9


def test_one_photo_at_a_time_honours_sizes_and_masks():
    mask = np.zeros((3, 5), dtype=bool)
    mask[2, 4] = mask[0, 1] = True
    views = views_of([(4, 2), (5, 3), (2, 2)], [None, mask, np.zeros((2, 2), dtype=bool)])
    source = PhotoSource(views, 0, sampling=PixelSampling(same_image=True))
    photos = set()
    for step in range(20):
        index, x, y = drawn(source, step, 30)
        assert len(index.unique()) == 1
        photos.add(int(index[0]))
        if int(index[0]) == 1:
            assert {tuple(row) for row in torch.stack([x, y], -1).tolist()} <= {(4, 2), (1, 0)}
    assert photos == {0, 1}
