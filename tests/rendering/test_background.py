"""Backgrounds: one meaning of premultiplied alpha everywhere."""

import pytest
import torch

from lumigraph.rendering.background import (
    as_rgba,
    background_rgb,
    display_target,
    over,
    training_background,
    training_target,
)


def test_over_by_hand():
    rgb, alpha = torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]), torch.tensor([0.5, 0.0])
    expected = torch.tensor([[0.6, 0.7, 0.8], [1.0, 1.0, 1.0]])
    assert torch.allclose(over(rgb, alpha, torch.ones(3)), expected)


@pytest.mark.parametrize(("policy", "shown"), [("white", 1), ("random", 1), ("black", 0), ("opaque", 0)])
def test_display(policy, shown):
    assert torch.equal(background_rgb(policy), torch.full((3,), float(shown)))
    clear = torch.zeros(2, 2, 4)
    assert torch.equal(display_target(clear, policy), torch.full((2, 2, 3), float(shown)))


def test_random_is_a_function_of_seed_and_step():
    one = training_background("random", 1000, seed=1, step=2)
    assert one.shape == (1000, 3)
    assert torch.equal(one, training_background("random", 1000, seed=1, step=2))
    assert not torch.equal(one, training_background("random", 1000, seed=1, step=3))
    assert not torch.equal(one, training_background("random", 1000, seed=2, step=2))
    assert abs(float(one.mean()) - 0.5) < 0.03
    before = torch.get_rng_state()
    training_background("random", 10, seed=1, step=2)
    assert torch.equal(before, torch.get_rng_state())


def test_opaque_pixels_hide_every_background():
    rgba = torch.cat([torch.rand(5, 3), torch.ones(5, 1)], -1)
    for policy in ("white", "black", "random", "opaque"):
        target, _ = training_target(rgba, policy, seed=0, step=0)
        assert torch.equal(target, rgba[:, :3])


def test_stored_images_without_alpha_are_opaque():
    image = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    assert torch.allclose(as_rgba(image), torch.tensor([[[0.0, 0.2, 1.0, 1.0]]]))
    image = torch.tensor([[[0, 51, 51, 102]]], dtype=torch.uint8)
    assert torch.allclose(as_rgba(image), torch.tensor([[[0.0, 0.2, 0.2, 0.4]]]))
