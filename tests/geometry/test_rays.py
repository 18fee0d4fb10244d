import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import Rays, concatenate


def make_rays(*shape: int, optional: bool = True) -> Rays:
    generator = torch.Generator().manual_seed(0)
    more = {}
    if optional:
        more = {
            "times": torch.rand(shape),
            "camera_ids": torch.arange(torch.Size(shape).numel()).reshape(shape),
            "attributes": torch.rand(*shape, 2),
        }
    return Rays(
        origins=torch.randn(*shape, 3, generator=generator),
        directions=torch.randn(*shape, 3, generator=generator),
        radii=torch.rand(shape, generator=generator),
        near=torch.full(shape, 2.0),
        far=torch.full(shape, 6.0),
        **more,
    )


@pytest.mark.parametrize("optional", [True, False])
def test_reshaping_and_splitting_lose_nothing(optional):
    rays = make_rays(4, 6, optional=optional)
    assert (rays.shape, rays.numel, len(rays)) == ((4, 6), 24, 4)
    flat = rays.flatten()
    assert flat.shape == (24,)
    pieces = list(flat.split(7))
    assert [len(piece) for piece in pieces] == [7, 7, 7, 3]
    again = concatenate(pieces).reshape(4, -1)
    for name, value in rays._present().items():
        assert torch.equal(getattr(again, name), value), name


def test_indexing_takes_ints_slices_masks_and_tuples():
    rays = make_rays(4, 6)
    assert rays[1].shape == (6,)
    assert rays[1:3].shape == (2, 6)
    assert rays[1:3, 5].shape == (2,)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[2, 3] = True
    assert torch.equal(rays[mask].attributes[0], rays.attributes[2, 3])


def test_points_lie_at_their_depths_and_view_directions_are_unit():
    rays = make_rays(5)
    t = torch.tensor([[0.0, 1.0, 2.5]]).expand(5, 3)
    points = rays.points(t)
    assert torch.allclose(points[:, 2], rays.origins + 2.5 * rays.directions)
    assert torch.allclose(rays.view_directions.norm(dim=-1), torch.ones(5))


def test_zero_directions_and_no_rays_stay_finite():
    rays = make_rays(3)
    zero = Rays(rays.origins, torch.zeros(3, 3), rays.radii, rays.near, rays.far)
    assert bool(torch.isfinite(zero.view_directions).all())
    assert make_rays(0, 5).flatten().shape == (0,)


def test_concatenation_refuses_different_contents():
    with pytest.raises(LumigraphError, match="camera_ids"):
        concatenate([make_rays(2), make_rays(2, optional=False)])
    with pytest.raises(LumigraphError, match="no rays"):
        concatenate([])


def test_split_refuses_an_empty_chunk():
    with pytest.raises(ValueError, match="chunk"):
        next(make_rays(2).split(0))
