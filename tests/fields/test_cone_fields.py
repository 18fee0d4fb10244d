"""Fields that are asked about Gaussians."""

import math

import pytest
import torch

from lumigraph.fields.cone_fields import GaussianGrid, GaussianMLP, Gaussians
from lumigraph.fields.conical import conical_moments, integrated_encoding
from lumigraph.fields.hashgrid import GridLayout

LAYOUT = GridLayout(4, 2, 10, 4, 32)


def grid(unbounded: bool = False) -> GaussianGrid:
    torch.manual_seed(0)
    field = GaussianGrid(LAYOUT, unbounded, hidden=8, geometry_features=4, colour_layers=1)
    torch.nn.init.normal_(field.grid.table)
    return field


def gaussians(size: float) -> Gaussians:
    means = 0.8 * torch.rand(5, 3, 3, generator=torch.Generator().manual_seed(0)) - 0.4
    return Gaussians(means, torch.full_like(means, size**2), torch.full((5, 3), size))


def unit(count: int) -> torch.Tensor:
    directions = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(directions, dim=1)


def test_the_published_network_has_the_published_size():
    field = GaussianMLP(16, 4, depth=8, width=256, skip=5, view_width=128)
    trunk = 96 * 256 + 256 + 6 * (256 * 256 + 256) + 352 * 256 + 256
    heads = 257 + (256 * 256 + 256) + (283 * 128 + 128) + (128 * 3 + 3)
    assert sum(p.numel() for p in field.parameters()) == trunk + heads == 612_740
    assert field.network.hidden[5].in_features == 96 + 256


def test_the_network_sees_the_integrated_encoding():
    torch.manual_seed(0)
    field = GaussianMLP(6, 2, depth=2, width=16, skip=None, view_width=8)
    where = gaussians(0.3)
    raw, rgb = field(where, unit(5), torch.float32)
    expected = field.network.raw_density(integrated_encoding(where.means, where.variances, 6))
    torch.testing.assert_close(raw, expected)
    torch.testing.assert_close(field.raw_density(where, torch.float32), expected)
    assert rgb.shape == (5, 3, 3)


def test_sizes_are_those_of_round_gaussians_of_the_same_volume():
    edges, radii = torch.tensor([[1.0, 2.0]]), torch.tensor([0.1])
    d = torch.tensor([[0.0, 0.6, 1.0]])
    moments = conical_moments(edges, radii)
    where = Gaussians.along_rays(moments, torch.zeros(1, 3), d)
    along = float(moments.t_var) * 1.36
    volume = math.sqrt(along) * float(moments.r_var)
    assert float(where.sizes) ** 3 == pytest.approx(volume, rel=1e-5)
    assert not where.without_extent().sizes.any()
    assert not where.without_extent().variances.any()


def test_levels_fade_from_the_finest():
    field = grid()
    kept = field.grid.level_weights(torch.tensor([0.0, 1e-3, 0.02, 0.1, 10.0]))
    assert torch.equal(kept[0], torch.ones(4))
    assert (kept[:, :-1] >= kept[:, 1:]).all()
    assert (kept[:-1] >= kept[1:]).all()
    # The share of a Gaussian of this size that lies in a cell around its middle.
    size, cells = 0.02, float(field.grid.scales[3])
    share = math.erf(0.5 / cells / (math.sqrt(2) * size))
    assert float(kept[2, 3]) == pytest.approx(share, rel=1e-4)


def test_without_extent_the_grid_is_a_plain_one():
    field, where = grid(), gaussians(0.2).without_extent()
    features = field.grid(0.5 * where.means.flatten(0, 1) + 0.5)
    expected = field.geometry(torch.cat([features, torch.zeros(15, 4)], 1))[:, 0].view(5, 3)
    torch.testing.assert_close(field.raw_density(where, torch.float32), expected)
    torch.testing.assert_close(field(where, unit(5), torch.float32)[0], expected)


@pytest.mark.parametrize("unbounded", [False, True])
def test_wide_gaussians_see_no_detail(unbounded: bool):
    """Two places that the coarsest cells tell apart hardly differ for a Gaussian as wide as the scene."""
    field = grid(unbounded)

    def spread(size: float) -> float:
        return float(field.raw_density(gaussians(size), torch.float32).detach().std())

    assert spread(50.0) < 0.1 * spread(0.0)


def test_contraction_shrinks_gaussians_with_space():
    field = grid(True)
    points = torch.tensor([[0.5, 0.2, 0.1], [3.0, 0.4, -1.0], [50.0, 2.0, 7.0]])
    unit_points, sizes = field._in_unit_cube(points, torch.full((3,), 1e-3))

    def in_cube(point: torch.Tensor) -> torch.Tensor:
        return field._in_unit_cube(point[None], torch.zeros(1))[0][0]

    for point, place, size in zip(points, unit_points, sizes, strict=True):
        jacobian = torch.autograd.functional.jacobian(in_cube, point)
        assert ((place >= 0) & (place <= 1)).all()
        volume = float(torch.linalg.det(jacobian).abs())  # pyright: ignore[reportArgumentType]
        assert float(size) == pytest.approx(1e-3 * volume ** (1 / 3), rel=1e-3)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 1e6])
@pytest.mark.parametrize("of", ["grid", "unbounded", "mlp"])
def test_any_size_has_finite_answers_and_gradients(size: float, of: str):
    torch.manual_seed(0)
    field = (
        GaussianMLP(16, 4, depth=2, width=8, skip=1, view_width=8) if of == "mlp" else grid(of == "unbounded")
    )
    where = gaussians(size)
    raw, rgb = field(Gaussians(1e3 * where.means, where.variances, where.sizes), unit(5), torch.float32)
    assert torch.isfinite(raw).all()
    assert ((rgb >= 0) & (rgb <= 1)).all()
    (raw.sum() + rgb.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in field.parameters() if p.grad is not None)


@pytest.mark.parametrize("field", [grid(), GaussianMLP(2, 1, depth=1, width=4, skip=None, view_width=4)])
def test_reset_follows_the_random_state(field):
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        field.reset()
        return torch.cat([p.detach().flatten() for p in field.parameters()]).clone()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
