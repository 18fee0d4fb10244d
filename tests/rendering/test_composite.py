"""Compositing: the kernel against the twin, the twin against brute force and golden values."""

import math

import pytest
import torch

from lumigraph.rendering.volume import reference
from lumigraph.rendering.volume.composite import composite, composite_shares, median
from lumigraph.rendering.volume.histogram import median_depth

GOLDEN_T = torch.tensor([2, 2.5, 3, 3.5, 4.0])


def some_rays(count: int = 300, most: int = 25) -> tuple[torch.Tensor, ...]:
    """Density, rgb, t, dt and offsets of rays of different lengths, empty ones among them."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, most, (count,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    samples = int(offsets[-1])
    dt = torch.rand(samples, generator=generator) * 0.1 + 0.01
    t = torch.cat([dt[a:b].cumsum(0) + 2 for a, b in zip(offsets[:-1], offsets[1:], strict=True)])
    density = 8 * torch.rand(samples, generator=generator)
    return density, torch.rand(samples, 3, generator=generator), t, dt, offsets


def test_kernel_equals_the_twin() -> None:
    density, rgb, t, dt, offsets = some_rays()
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(300, *tail, generator=generator) for tail in ((3,), (), (), ())]
    results = []
    for function in (composite, reference.composite):
        s, c = density.clone().requires_grad_(), rgb.clone().requires_grad_()
        out = function(s, c, t, dt, offsets, 1e-2)
        torch.stack([(a * b).sum() for a, b in zip(out, weights, strict=True)]).sum().backward()
        results.append([*(value.detach() for value in out), s.grad, c.grad])
    for ours, twin in zip(*results, strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shares_are_weighted_as_colours_are(channels: int) -> None:
    density, _, t, dt, offsets = some_rays()
    shares = torch.rand(len(t), channels)
    found = composite_shares(density, shares, t, dt, offsets)
    assert found.shape == (300, channels)
    for channel in range(channels):
        grey = shares[:, channel, None].expand(-1, 3).contiguous()
        alone = composite(density, grey, t, dt, offsets)[0][:, 0]
        torch.testing.assert_close(found[:, channel], alone)


def test_golden_values() -> None:
    """Weights, opacity and depth of one ray, computed in double precision from the equations."""
    sigma = torch.tensor([0.1, 1, 3, 0.5])
    dt = GOLDEN_T[1:] - GOLDEN_T[:-1]
    middle = 0.5 * (GOLDEN_T[1:] + GOLDEN_T[:-1])
    offsets = torch.tensor([0, 4])
    each = []
    for sample in range(4):
        rgb = torch.zeros(4, 3)
        rgb[sample] = 1
        each.append(float(composite(sigma, rgb, middle, dt, offsets)[0][0, 0]))
    expected = torch.tensor([0.04877058, 0.37427961, 0.44821491, 0.02847606])
    torch.testing.assert_close(torch.tensor(each), expected, rtol=0, atol=1e-6)
    _, opacity, reach, _ = composite(sigma, torch.ones(4, 3), middle, dt, offsets)
    assert math.isclose(float(opacity), 0.89974116, abs_tol=1e-6)
    assert math.isclose(float(reach), 2.70248641, abs_tol=1e-5)
    assert math.isclose(float(reach / opacity), 3.00362653, abs_tol=1e-5)
    relative = (middle - 2) / 2
    distortion = composite(2 * sigma, torch.ones(4, 3), relative, dt / 2, offsets)[3]
    assert math.isclose(float(distortion), 0.16266930, abs_tol=1e-6)


def test_distortion_by_brute_force() -> None:
    """mip-NeRF 360, equation 15, as two loops over the samples, and its gradient by finite differences."""
    density, rgb, t, dt, offsets = (
        value.double() if value.is_floating_point() else value for value in some_rays(8)
    )

    def brute(sigma: torch.Tensor) -> torch.Tensor:
        totals = []
        for first, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            light, weights = torch.ones((), dtype=sigma.dtype), []
            for i in range(first, end):
                alpha = 1 - torch.exp(-sigma[i] * dt[i])
                weights.append(light * alpha)
                light = light * (1 - alpha)
            total = torch.zeros((), dtype=sigma.dtype)
            for i, w in enumerate(weights):
                total = total + w**2 * dt[first + i] / 3
                for j, v in enumerate(weights):
                    total = total + w * v * (t[first + i] - t[first + j]).abs()
            totals.append(total)
        return torch.stack(totals)

    expected = brute(density)
    weight = torch.randn(len(expected), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    twin = density.clone().requires_grad_()
    by_sums = reference.composite(twin, rgb, t, dt, offsets, 0.0)[3]
    torch.testing.assert_close(by_sums.detach(), expected, rtol=1e-9, atol=1e-12)
    (by_twin,) = torch.autograd.grad(by_sums @ weight, twin)
    for sample in range(0, len(density), 7):
        step = torch.zeros_like(density)
        step[sample] = 1e-5
        slope = (brute(density + step) - brute(density - step)) @ weight / 2e-5
        torch.testing.assert_close(by_twin[sample], slope, rtol=1e-5, atol=1e-8)
    ours = density.float().requires_grad_()
    found = composite(ours, rgb.float(), t.float(), dt.float(), offsets, 0.0)[3]
    torch.testing.assert_close(found.double().detach(), expected, rtol=1e-5, atol=1e-7)
    found.backward(weight.float())
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad.double(), by_twin, rtol=1e-3, atol=1e-5)


def test_a_ray_ends_where_the_light_does() -> None:
    """What lies behind an opaque sample changes nothing and gets no gradient."""
    density = torch.tensor([1.0, 500, 3, 3], requires_grad=True)
    rgb = torch.rand(4, 3, requires_grad=True)
    t, dt, offsets = torch.arange(4.0), torch.ones(4), torch.tensor([0, 4])
    out = composite(density, rgb, t, dt, offsets)
    front = composite(density[:2], rgb[:2], t[:2], dt[:2], torch.tensor([0, 2]))
    for whole, part in zip(out, front, strict=True):
        assert torch.equal(whole, part)
    torch.stack([part.sum() for part in out]).sum().backward()
    assert density.grad is not None
    assert rgb.grad is not None
    assert not density.grad[2:].any()
    assert not rgb.grad[2:].any()
    assert rgb.grad[:2].all()


def test_steps_may_be_split() -> None:
    """A homogeneous stretch is the same in one sample as in many."""
    rgb = torch.tensor([[0.2, 0.5, 0.9]])
    one = composite(
        torch.tensor([0.7]), rgb, torch.tensor([2.5]), torch.tensor([1.0]), torch.tensor([0, 1]), 0.0
    )
    many = composite(
        torch.full((64,), 0.7), rgb.expand(64, 3), torch.linspace(2, 3, 64), torch.full((64,), 1 / 64),
        torch.tensor([0, 64]), 0.0,
    )  # fmt: skip
    torch.testing.assert_close(many[0], one[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(many[1], one[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-8, 1e8])
def test_finite_at_extremes(value: float) -> None:
    density = torch.full((6,), value, requires_grad=True)
    rgb = torch.rand(6, 3, requires_grad=True)
    out = composite(density, rgb, torch.arange(6.0), torch.ones(6), torch.tensor([0, 6]))
    torch.stack([part.sum() for part in out]).sum().backward()
    assert density.grad is not None
    assert rgb.grad is not None
    assert all(torch.isfinite(part).all() for part in (*out, density.grad, rgb.grad))
    assert float(out[1].detach()) == pytest.approx(min(6 * value, 1), abs=1e-6)


def test_rays_without_samples() -> None:
    nothing = torch.zeros(0)
    out = composite(nothing, torch.zeros(0, 3), nothing, nothing, torch.zeros(4, dtype=torch.long))
    assert all(part.shape[0] == 3 and not part.any() for part in out)


def test_distortion_far_away_is_that_of_all_pairs() -> None:
    """Sums over what lies in front lose nothing to the distance from the camera, in single precision."""
    density, rgb, t, dt, offsets = some_rays(20)
    far = t + 500
    w = reference.padded(density * dt, offsets).double()
    w = torch.exp(w - w.cumsum(1)) * (1 - torch.exp(-w))
    at, length = reference.padded(far, offsets).double(), reference.padded(dt, offsets).double()
    pairs = w[:, :, None] * w[:, None, :] * (at[:, :, None] - at[:, None, :]).abs()
    expected = pairs.sum((1, 2)) + (w**2 * length).sum(1) / 3
    found = reference.composite(density, rgb, far, dt, offsets, 0.0)[3]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_what_the_twin_keeps_grows_with_the_samples_and_not_with_their_pairs() -> None:
    rays, most = 3, 400
    density = torch.rand(rays * most, requires_grad=True)
    t, dt = torch.linspace(2, 6, most).repeat(rays), torch.full((rays * most,), 0.01)
    largest = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = reference.composite(
            density, torch.rand(rays * most, 3), t, dt, most * torch.arange(rays + 1), 0.0
        )
    assert largest <= 3 * rays * most
    out[3].sum().backward()
    assert density.grad is not None
    assert density.grad.any()


def test_half_of_the_light_arises_in_front_of_the_median() -> None:
    density, _, t, dt, offsets = some_rays()
    t = t - 0.5 * dt  # samples that touch
    found = median(density, t, dt, offsets)
    torch.testing.assert_close(found, reference.median(density, t, dt, offsets))
    edges, weights = reference.histogram(density, t, dt, offsets, torch.full((300,), 9.0))
    filled = offsets[1:] > offsets[:-1]
    torch.testing.assert_close(found[filled], median_depth(edges, weights)[filled], rtol=1e-3, atol=0)
    assert 0 < int((~filled).sum()) == int((found == 0).sum())
    # A ray of little light has a median too: half of what light there is.
    thin, one = torch.full((4,), 1e-3), torch.tensor([0, 4])
    veil = median(thin, torch.tensor([1.0, 2, 3, 4]), torch.ones(4), one)
    torch.testing.assert_close(veil, torch.tensor([2.5]), rtol=1e-3, atol=0)
    assert float(median(torch.zeros(4), t[:4], dt[:4], one)) == 0
    # It lies within a sample that hides everything.
    wall = median(torch.tensor([0.0, 1e6, 5, 5]), torch.tensor([1.0, 2, 3, 4]), torch.ones(4), one)
    torch.testing.assert_close(wall, torch.tensor([2.0]))
