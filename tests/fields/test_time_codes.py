"""Codes of moments: exact at the moments of the capture, blended or nearest between them."""

import pytest
import torch

from lumigraph.fields.time_codes import TimeCodeChoice, TimeCodes


def some_codes(choice: TimeCodeChoice = "linear") -> TimeCodes:
    codes = TimeCodes(torch.tensor([0.5, 0.0, 1.0, 0.5, 0.2]), 2, choice)
    with torch.no_grad():
        codes.table.copy_(torch.tensor([[0.0, 1.0], [2.0, 1.0], [5.0, 1.0], [6.0, 3.0]]))
    return codes


def test_photos_of_one_moment_share_a_code_that_begins_small() -> None:
    codes = TimeCodes(torch.tensor([0.3, 0.7, 0.3]), 8)
    assert codes.table.shape == (2, 8)
    assert 0 <= codes.table.min() < codes.table.max() < 0.05


@pytest.mark.parametrize("choice", ["linear", "nearest"])
def test_moments_of_the_capture_have_exactly_their_codes(choice: TimeCodeChoice) -> None:
    codes = some_codes(choice)
    assert torch.equal(codes(codes.times), codes.table)
    codes(torch.tensor([[0.2, 0.2]])).sum().backward()
    assert codes.table.grad is not None
    assert codes.table.grad.tolist() == [[0, 0], [2, 2], [0, 0], [0, 0]]


def test_between_moments() -> None:
    between = torch.tensor([0.3, 0.45, 0.75])
    torch.testing.assert_close(some_codes()(between), torch.tensor([[3, 1], [4.5, 1], [5.5, 2]]))
    assert some_codes("nearest")(between)[:, 0].tolist() == [2, 5, 5]


def test_outside_the_capture_the_ends_go_on() -> None:
    assert some_codes()(torch.tensor([-1.0, 2.0]))[:, 0].tolist() == [0, 6]


def test_one_moment_is_enough() -> None:
    codes = TimeCodes(torch.tensor([0.4, 0.4]), 3)
    assert torch.equal(codes(torch.tensor([0.0, 0.4, 1.0])), codes.table.expand(3, -1))
