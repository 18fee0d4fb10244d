"""Compositing: the kernel against the twin, the twin against brute force and golden values."""

import math

import torch

from lumigraph.rendering.volume import reference
from lumigraph.rendering.volume.composite import composite

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


def test_finite_at_extremes() -> None:
    for value in (0.0, 1e-8, 1e8):
        density = torch.full((6,), value, requires_grad=True)
        rgb = torch.rand(6, 3, requires_grad=True)
        out = composite(density, rgb, torch.arange(6.0), torch.ones(6), torch.tensor([0, 6]))
        torch.stack([part.sum() for part in out]).sum().backward()
        assert density.grad is not None
        assert rgb.grad is not None
        assert all(torch.isfinite(part).all() for part in (*out, density.grad, rgb.grad))


def test_rays_without_samples() -> None:
    nothing = torch.zeros(0)
    out = composite(nothing, torch.zeros(0, 3), nothing, nothing, torch.zeros(4, dtype=torch.long))
    assert all(part.shape[0] == 3 and not part.any() for part in out)
