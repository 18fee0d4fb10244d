"""Losses of normals against loops and against each other."""

import pytest
import torch

from lumigraph.rendering.normal_losses import normal_loss, orientation_loss, predicted_normals_loss


def some() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def units(*shape: int) -> torch.Tensor:
        vectors = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
        return vectors / vectors.norm(dim=-1, keepdim=True)

    given = units(5)
    given[2] = torch.nan
    return torch.rand(5, 4, generator=generator, dtype=torch.float64), units(5, 4), given


@pytest.mark.parametrize("kind", ["cosine", "chord", "l1"])
def test_it_is_the_sum_of_a_loop(kind) -> None:
    weights, normals, given = some()
    wanted = 0.0
    for ray in (0, 1, 3, 4):
        for sample in range(4):
            n, m = normals[ray, sample], given[ray]
            apart = {"cosine": 1 - n @ m, "chord": (n - m).norm(), "l1": (n - m).abs().sum()}[kind]
            wanted += float(weights[ray, sample] * apart)
    assert float(normal_loss(kind, weights, normals, given)) == pytest.approx(wanted, rel=1e-12)


def test_cosine_is_half_the_squared_chord() -> None:
    _, normals, given = some()
    one = torch.ones(5, 1, dtype=torch.float64)
    for sample in range(4):
        pair = one[3:4], normals[3:4, sample : sample + 1], given[3:4]
        chord = float(normal_loss("chord", *pair))
        assert float(normal_loss("cosine", *pair)) == pytest.approx(chord**2 / 2, rel=1e-12)


@pytest.mark.parametrize("kind", ["cosine", "chord", "l1"])
def test_nothing_is_lost_where_they_agree_and_gradients_are_finite(kind) -> None:
    weights, normals, given = some()
    given = given.nan_to_num(1 / 3**0.5)
    normals = given[:, None].expand(5, 4, 3).clone().requires_grad_()
    loss = normal_loss(kind, weights, normals, given)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)
    loss.backward()
    assert normals.grad is not None
    assert bool(torch.isfinite(normals.grad).all())
    assert float(normal_loss(kind, weights, normals.detach(), given * torch.nan)) == 0


def test_predicted_normals_are_compared_where_there_are_others() -> None:
    weights, normals, _ = some()
    normals[1, 2] = 0  # hardly shows
    predicted = normals.roll(1, 0)
    wanted = 0.0
    for ray in range(5):
        for sample in range(4):
            if (ray, sample) != (1, 2):
                apart = (normals[ray, sample] - predicted[ray, sample]).square().sum()
                wanted += float(weights[ray, sample] * apart) / 5
    assert float(predicted_normals_loss(weights, normals, predicted)) == pytest.approx(wanted, rel=1e-12)


def test_normals_that_look_away_from_the_camera_cost() -> None:
    weights, normals, _ = some()
    directions = normals[:, 0]
    weights.requires_grad_()
    away, towards = directions[:, None].expand(5, 4, 3), -directions[:, None].expand(5, 4, 3)
    assert float(orientation_loss(weights, towards, directions)) == 0
    loss = orientation_loss(weights, away.clone().requires_grad_(), directions)
    assert float(loss.detach()) == pytest.approx(float(weights.detach().sum(1).mean()), rel=1e-12)
    loss.backward()
    assert weights.grad is None
