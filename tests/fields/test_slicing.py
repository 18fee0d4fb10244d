"""Slicing surfaces: sizes, what they depend on, and that a shut window hides them."""

import torch

from lumigraph.fields.slicing import BendySheet, ambient_encoding, ambient_size


def test_a_bendy_sheet_begins_flat_and_bends_with_the_code() -> None:
    torch.manual_seed(0)
    sheet = BendySheet(8)
    points = torch.randn(5, 7, 3)
    assert sheet(points, torch.rand(5, 1, 8)).shape == (5, 7, 2)
    assert 0 < sheet(points, torch.rand(5, 1, 8)).abs().max() < 1e-3
    torch.nn.init.normal_(sheet.network.output.weight)
    first, second = sheet(points, torch.zeros(5, 1, 8)), sheet(points, torch.ones(5, 1, 8))
    assert (first - second).abs().max() > 1e-2
    assert (first[:, 0] - first[:, 1]).abs().max() > 1e-2


def test_the_published_size_of_a_bendy_sheet() -> None:
    # 36 encoded coordinates and a code of 8, six layers of 64, the fifth of which sees the input again.
    inputs = 36 + 8
    wanted = (inputs + 1) * 64 + 4 * 65 * 64 + (64 + inputs + 1) * 64 + 65 * 2
    assert sum(p.numel() for p in BendySheet(8).parameters()) == wanted


def test_ambient_coordinates_are_hidden_at_beta_zero() -> None:
    ambient = torch.randn(4, 2)
    assert ambient_encoding(ambient, 1, torch.tensor(1.0)).shape == (4, ambient_size(2, 1)) == (4, 4)
    assert not ambient_encoding(ambient, 1, torch.tensor(0.0)).any()
    whole = ambient_encoding(ambient, 1, torch.tensor(1.0))
    torch.testing.assert_close(whole, torch.cat([ambient.sin(), ambient.cos()], -1))
