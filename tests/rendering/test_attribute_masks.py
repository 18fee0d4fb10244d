"""What is learnt of the share of a pixel that each attribute moves."""

import pytest
import torch

from lumigraph.rendering.attribute_masks import mask_cross_entropy

NAN = float("nan")


def test_it_is_the_mean_over_what_is_told() -> None:
    masks = torch.tensor([[0.2, 0.9], [0.5, 0.5], [0.7, 0.1]])
    wanted = torch.tensor([[0.0, NAN], [1.0, 0.0], [1.0, 1.0]])
    known = torch.tensor([True, True, False])
    expected = -torch.tensor([0.8, 0.5, 0.5]).log().mean()
    assert float(mask_cross_entropy(masks, wanted, known)) == pytest.approx(float(expected), rel=0.01)
    assert float(mask_cross_entropy(masks, torch.full_like(masks, NAN))) == 0


@pytest.mark.parametrize("share", [0.0, 1.0, 1.0000001])
@pytest.mark.parametrize("wanted", [0.0, 1.0])
def test_the_surest_error_is_learnt_from_and_does_not_outweigh_all_others(
    share: float, wanted: float
) -> None:
    """The sum of a ray's weights may round to just above 1."""
    masks = torch.full((1000, 1), 0.5)
    masks[0] = share
    masks.requires_grad_()
    mask_cross_entropy(masks, torch.full((1000, 1), wanted)).backward()
    assert masks.grad is not None
    wrong = abs(share - wanted) > 0.5
    assert (float(masks.grad[0]) > 0) == (wanted == 0)
    assert float(masks.grad[0].abs()) < 1000 * float(masks.grad[1].abs())
    assert float(masks.grad[0].abs()) > (100 if wrong else 0.1) * float(masks.grad[1].abs())
