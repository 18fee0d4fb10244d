"""The code of a ray: order, bins, and the quick encoding against its definition."""

import pytest
import torch

from lumigraph.fields.ray_code import (
    code_size,
    encode_rows,
    octave_major,
    plucker_rows,
    point_depths,
    points_rows,
    positional_encoding,
    scalar_major,
)

NEAR, FAR = torch.tensor(2.0), torch.tensor(6.0)


def test_sizes_of_the_publication() -> None:
    assert code_size(3 * 16, 10) == 1008
    assert code_size(6, 10) == 126


def test_order_is_sines_cosines_raw_scalar_after_scalar() -> None:
    x = torch.tensor([[0.3, -1.7]])
    code = positional_encoding(x, 3)[0]
    for i, value in enumerate((0.3, -1.7)):
        angles = torch.tensor([value, 2 * value, 4 * value])
        expected = torch.cat([angles.sin(), angles.cos(), torch.tensor([value])])
        torch.testing.assert_close(code[7 * i : 7 * i + 7], expected)


def test_points_include_both_ends_and_lie_point_after_point() -> None:
    origins, directions = torch.randn(5, 3), torch.randn(5, 3)
    rows = points_rows(origins, directions, point_depths(4, NEAR, FAR, None))
    torch.testing.assert_close(rows[:3].T, origins + 2 * directions)
    torch.testing.assert_close(rows[9:].T, origins + 6 * directions)
    torch.testing.assert_close(rows[3:6].T, origins + (2 + 4 / 3) * directions)


def test_jitter_stays_in_its_bin() -> None:
    middles = torch.tensor([2.0, 2 + 2 / 3, 4.0, 6 - 2 / 3, 6.0])
    for value in (0.0, 0.5, 1 - 1e-6):
        depths = point_depths(4, NEAR, FAR, torch.full((4, 1), value))[:, 0]
        torch.testing.assert_close(depths, middles[:-1] + value * (middles[1:] - middles[:-1]))


def test_plucker_does_not_depend_on_the_point_of_the_ray() -> None:
    origins, directions = torch.randn(7, 3), torch.randn(7, 3)
    moved = plucker_rows(origins + 1.5 * directions, directions)
    torch.testing.assert_close(plucker_rows(origins, directions), moved, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("octaves", [0, 1, 4, 10])
def test_quick_encoding_is_the_definition(octaves: int) -> None:
    rows = torch.randn(48, 33, generator=torch.Generator().manual_seed(0)) * 6
    out = torch.full((code_size(48, octaves), 33), float("nan"))
    encode_rows(rows, octaves, out)
    exact = positional_encoding(rows.double().T, octaves)
    columns = octave_major(torch.arange(out.shape[0]).double()[None], 48)[0].long()
    # Doubling an angle four times multiplies the rounding of its sine by sixteen.
    assert float((out.T - exact[:, columns]).abs().max()) < 1e-5


def test_reordering_is_undone() -> None:
    weight = torch.randn(5, code_size(6, 10))
    assert torch.equal(scalar_major(octave_major(weight, 6), 6), weight)
