"""The hash grid: kernels against the torch twin, at borders, for any number of threads."""

import numba
import numpy as np
import pytest
import torch

from lumigraph.fields.hashgrid import GridLayout, HashGrid, reference
from lumigraph.fields.hashgrid.encoding import encode

LAYOUTS = [GridLayout(4, 2, 10, 4, 64), GridLayout(3, 4, 12, 8, 200), GridLayout(2, 1, 19, 3, 16)]


def points(count: int) -> torch.Tensor:
    """Points in the unit cube, its corners and face centres among them."""
    inside = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    border = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 1, 0.5], [0.5, 0.5, 1], [1, 0, 0]])
    return torch.cat([border, inside])


def test_growth_is_that_of_the_paper() -> None:
    """Golden values: finest resolution 2048 * scale over 16 levels from 16."""
    for scale, growth in ((0.5, 1.3195079), (4, 1.5157166), (16, 1.6624758), (64, 1.8234450)):
        assert GridLayout(16, 2, 19, 16, int(2048 * scale)).growth == pytest.approx(growth, abs=1e-7)


def test_levels_do_not_overlap() -> None:
    layout = GridLayout(16, 2, 14, 16, 512)
    ends = layout.offsets + layout.sizes
    assert (ends[:-1] == layout.offsets[1:]).all()
    assert ends[-1] == layout.entries
    assert not layout.hashed[0]
    assert layout.hashed[-1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_equal_the_twin(layout: GridLayout) -> None:
    place = points(700)
    table = torch.randn(layout.entries, layout.features, generator=torch.Generator().manual_seed(1))
    gradient = torch.randn(len(place), layout.width, generator=torch.Generator().manual_seed(2))
    results = []
    for encoder in (encode, reference.encode):
        x, t = place.clone().requires_grad_(), table.clone().requires_grad_()
        encoded = encoder(x, t, layout)
        encoded.backward(gradient)
        results.append((encoded.detach(), t.grad, x.grad))
    for name, ours, twin in zip(("encoded", "table", "points"), *results, strict=True):
        assert ours is not None
        assert twin is not None
        torch.testing.assert_close(ours, twin, rtol=1e-4, atol=1e-4 * float(twin.abs().max()), msg=name)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    layout = LAYOUTS[0]
    grid = HashGrid(layout)
    gradients = []
    threads = numba.get_num_threads()
    try:
        for count in (1, threads):
            numba.set_num_threads(count)
            grid.zero_grad()
            grid(points(5000)).square().sum().backward()
            assert grid.table.grad is not None
            gradients.append(grid.table.grad.numpy().copy())
    finally:
        numba.set_num_threads(threads)
    assert np.array_equal(*gradients)


def test_vertices_hold_their_own_entry() -> None:
    """At a vertex of a dense level the encoding is that vertex's entry."""
    layout = GridLayout(1, 3, 19, 9, 9)
    table = torch.randn(layout.entries, 3)
    vertex = torch.tensor([[3, 5, 2]])
    place = (vertex - 0.5) / float(layout.scales[0])
    torch.testing.assert_close(
        encode(place, table, layout)[0], table[reference.entry_indices(vertex, layout, 0)[0]]
    )
