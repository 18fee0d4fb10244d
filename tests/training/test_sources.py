"""PhotoSource: what it draws, and that it draws the same again."""

import dataclasses

import numpy as np
import pytest
import torch

from lumigraph.distillation.hard_rays import HardPool
from lumigraph.distillation.shard_source import MixedSource
from lumigraph.errors import LumigraphError
from lumigraph.rendering.renderer import PixelSampling
from lumigraph.scenes.procedural import load_builtin
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


@pytest.mark.parametrize(
    "wrap",
    [lambda photos: photos, lambda photos: HardPool(MixedSource(photos, photos, 0.5), 4, (0.5, 0.5), 1, 0)],
)
def test_photos_are_read_before_the_first_step_and_once(wrap):
    count = 20  # more than are read together
    known = views_of([(3, 2)] * count, None)
    read = []

    def image(index: int) -> np.ndarray:
        read.append(index)
        return known.image(index).numpy()

    source = wrap(PhotoSource(Views(known.cameras, known.names, known.has_alpha, image), 0))
    assert read == []
    source.read_photos(quiet=True)
    assert sorted(read) == list(range(count))
    source.batch(0, 100)
    assert len(read) == count


def test_nothing_left_by_the_masks():
    with pytest.raises(LumigraphError, match="no pixel to train on"):
        PhotoSource(views_of([(4, 2)], [np.zeros((2, 4), dtype=bool)]), 0)


def test_state_of_another_source_is_refused():
    with pytest.raises(LumigraphError, match="another ray source"):
        RaySource().load_state_dict({"pool": torch.zeros(1)})


def test_depth_is_unknown_where_photos_have_none(ball):
    assert PhotoSource(ball.split("train"), 0).batch(0, 8).depth is None
    depth = PhotoSource(ball.split("train"), 0, depths=True).batch(0, 8).depth
    assert depth is not None
    assert depth.isnan().all()


def drawn(source: PhotoSource, step: int, rays: int = 600):
    source.begin_step(float(step))
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


def timed(count: int, times: list[float], masks=None) -> Views:
    views = views_of([(4, 2)] * count, masks or [None] * count)
    views.cameras = dataclasses.replace(views.cameras, times=torch.tensor(times))
    return views


@pytest.mark.parametrize("same_image", [False, True])
def test_photos_come_in_the_order_of_their_times(same_image):
    """While i < T0 the first max(floor(i / T0 N), 3) photos (D-NeRF, `precrop_iters_time`)."""
    times = [0.5, 0.0, 1.0, 0.25, 0.75, 0.1, 0.9, 0.6]
    order = np.argsort(times).tolist()
    source = PhotoSource(timed(8, times), 0, sampling=PixelSampling(time_steps=100, same_image=same_image))
    for first, count in ((0, 3), (49, 3), (50, 4), (87, 6), (88, 7), (99, 7)):
        seen = set(drawn(source, first, 400)[0].tolist())
        assert seen <= set(order[:count])
        assert len(seen) == (1 if same_image else count)
    plain = PhotoSource(timed(8, times), 0, sampling=PixelSampling(same_image=same_image))
    for one, other in zip(drawn(source, 100), plain.draw(100, 600), strict=True):
        assert torch.equal(one, other)


def test_curricula_pass_with_the_schedules_not_with_the_steps():
    """Where the clock ends training, a few hundred steps may stand for all of `training_steps`."""
    views = timed(8, [number / 7 for number in range(8)])
    sampling = PixelSampling(time_steps=1000, crop_steps=500, crop_share=0.5)
    for source in (PhotoSource(views, 0, sampling=sampling), in_other_sources(views, sampling)):
        for reached, count, inside in (
            (0.0, 3, True),
            (400.0, 3, True),
            (500.5, 4, False),
            (1000.0, 8, False),
        ):
            source.begin_step(reached)
            rays = source.batch(7, 400).rays
            assert rays.camera_ids is not None
            assert len(rays.camera_ids.unique()) == count
            across = rays.directions[:, 0].unique()
            assert len(across) == (2 if inside else 4)


def in_other_sources(views: Views, sampling: PixelSampling) -> HardPool:
    """Photos behind a mixture and a pool, which hand on what they are told."""
    photos = PhotoSource(views, 0, sampling=sampling)
    return HardPool(MixedSource(photos, photos, 1.0), 400, (0.0, 0.0), 1, 0)


def test_early_photos_are_drawn_evenly_and_with_what_else_is_asked():
    views = timed(6, [0.5, 0.0, 1.0, 0.25, 0.75, 0.1], [None, np.eye(2, 4, dtype=bool)] + [None] * 4)
    index, x, y = drawn(PhotoSource(views, 0, sampling=PixelSampling(time_steps=100)), 0, 9000)
    counts = torch.bincount(index * 8 + y * 4 + x, minlength=48).float()
    assert (counts > 0).nonzero().flatten().tolist() == [8, 13, *range(24, 32), *range(40, 48)]
    assert 380 < float(counts[counts > 0].min()) <= float(counts.max()) < 620  # 500 each
    empty = timed(3, [0.0, 0.1, 0.2], [np.zeros((2, 4), bool), None, None])
    assert set(drawn(PhotoSource(empty, 0, sampling=PixelSampling(time_steps=9)), 0)[0].tolist()) == {1, 2}
    with pytest.raises(LumigraphError, match="no times"):
        PhotoSource(views_of([(4, 2)], [None]), 0, sampling=PixelSampling(time_steps=1))


@pytest.mark.parametrize("time_steps", [0, 10])
def test_a_share_of_rays_comes_from_annotated_photos(time_steps):
    views = timed(8, [number / 7 for number in range(8)])
    values = torch.full((8, 2), torch.nan)
    values[1, 0], values[6, 1] = 0.5, -1.0
    views.cameras = dataclasses.replace(views.cameras, attributes=values)
    sampling = PixelSampling(annotated_share=0.4, time_steps=time_steps)
    source = PhotoSource(views, 0, sampling=sampling, attribute_masks=True)
    index, _, _ = drawn(source, 0, 1000)
    assert set(index[:400].tolist()) == ({1} if time_steps else {1, 6})
    assert set(index[400:].tolist()) == ({0, 1, 2} if time_steps else set(range(8)))
    batch = source.batch(0, 50)
    assert batch.attribute_masks.shape == (50, 2)
    assert batch.attribute_masks.isnan().all()  # values are known, masks are not
    # Where all photos are annotated, or none, the share is met by any draw.
    views.cameras = dataclasses.replace(views.cameras, attributes=torch.zeros(8, 2))
    for one, other in zip(
        PhotoSource(views, 0, sampling=PixelSampling(annotated_share=0.4)).draw(0, 60),
        PhotoSource(views, 0).draw(0, 60),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_memory_that_is_said_beforehand_counts_normals() -> None:
    views = load_builtin("still:16", downscale=4).split("train")
    plain, taught = PhotoSource(views, 0), PhotoSource(views, 0, normals=True)
    pixels = int(views.cameras.size.prod(1).sum())
    assert taught.nbytes - plain.nbytes == pixels * 3 * 2
