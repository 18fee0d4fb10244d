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
        assert float((ours - twin).abs().max()) < 1e-5 * float(twin.abs().max()), name


def test_fine_levels_equal_the_twin() -> None:
    """At 2048 cells few bits are left of the place in a cell: the kernel must round it as torch does."""
    layout = GridLayout(2, 2, 14, 1024, 2048)
    table = torch.rand(layout.entries, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    place = points(20_000)
    torch.testing.assert_close(
        encode(place, table, layout), reference.encode(place, table, layout), rtol=0, atol=1e-6
    )


def test_gradients_are_those_of_finite_differences() -> None:
    """In double precision, within cells: dense levels and hashed ones."""
    layout = LAYOUTS[0]
    generator = torch.Generator().manual_seed(3)
    place = torch.rand(12, 3, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    at = place * torch.from_numpy(layout.scales).double()[:, None, None] + 0.5
    place = place[((at - at.round()).abs() > 1e-3).all(-1).all(0)]
    assert len(place) > 6
    table = torch.randn(layout.entries, layout.features, generator=generator, dtype=torch.float64)
    place.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reference.encode(x, table, layout), place, eps=1e-6)
    change = torch.randn(table.shape, generator=generator, dtype=torch.float64)
    table.requires_grad_()
    gradient = torch.randn(len(place), layout.width, generator=generator, dtype=torch.float64)
    (by_table,) = torch.autograd.grad(reference.encode(place, table, layout), table, gradient)
    # The encoding is linear in its table, so that a difference of any size is exact.
    moved = reference.encode(place, table + change, layout) - reference.encode(place, table, layout)
    torch.testing.assert_close((by_table * change).sum(), (gradient * moved).sum())


def test_outside_counts_the_nearest_point() -> None:
    layout = LAYOUTS[0]
    table = torch.randn(layout.entries, layout.features)
    nan, inf = float("nan"), float("inf")
    place = torch.tensor([[-0.5, 0.3, 1e30], [nan, 2.0, -inf], [inf, nan, 0.5]], requires_grad=True)
    nearest = torch.tensor([[0.0, 0.3, 1], [0, 1, 0], [1, 0, 0.5]])
    encoded = encode(place, table, layout)
    assert torch.equal(encoded, encode(nearest, table, layout))
    encoded.sum().backward()
    assert place.grad is not None
    assert torch.equal(place.grad != 0, torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 1]]).bool())


def test_no_points() -> None:
    grid = HashGrid(LAYOUTS[0])
    encoded = grid(torch.zeros(0, 3))
    encoded.sum().backward()
    assert encoded.shape == (0, LAYOUTS[0].width)
    assert grid.table.grad is not None and not grid.table.grad.any()


@pytest.mark.parametrize(
    "sizes", [(0, 2, 10, 4, 8), (2, 0, 10, 4, 8), (2, 2, 3, 4, 8), (2, 2, 10, 1, 8), (2, 2, 10, 9, 8)]
)
def test_impossible_grids_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="GridLayout"):
        GridLayout(*sizes)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    grid = HashGrid(LAYOUTS[0])
    torch.nn.init.normal_(grid.table)
    gradient = torch.randn(5005, LAYOUTS[0].width)
    results = []
    threads = numba.get_num_threads()
    try:
        for count in sorted({1, min(2, threads)}):
            numba.set_num_threads(count)
            grid.zero_grad()
            place = points(5000).requires_grad_()
            encoded = grid(place)
            encoded.backward(gradient)
            results.append([encoded.detach(), grid.table.grad, place.grad])
    finally:
        numba.set_num_threads(threads)
    for tensors in zip(*results, strict=True):
        assert all(np.array_equal(tensors[0], other) for other in tensors)


def test_vertices_hold_their_own_entry() -> None:
    """At a vertex of a dense level the encoding is that vertex's entry."""
    layout = GridLayout(1, 3, 19, 9, 9)
    table = torch.randn(layout.entries, 3)
    vertex = torch.tensor([[3, 5, 2]])
    place = (vertex - 0.5) / float(layout.scales[0])
    torch.testing.assert_close(
        encode(place, table, layout)[0], table[reference.entry_indices(vertex, layout, 0)[0]]
    )
