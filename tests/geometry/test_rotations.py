import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lumigraph.geometry.rotations import (
    interpolate_rotations,
    look_along,
    look_at,
    perpendicular,
    se3_exp,
    skew,
    so3_exp,
    so3_log,
)

EYE = torch.eye(3, dtype=torch.float64)
vectors = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


def vector(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_rotation(matrix: torch.Tensor, tolerance: float = 1e-9) -> None:
    assert bool(torch.isfinite(matrix).all())
    assert (
        float((matrix @ matrix.transpose(-1, -2) - torch.eye(3, dtype=matrix.dtype)).abs().max()) < tolerance
    )
    assert float((torch.linalg.det(matrix) - 1).abs().max()) < tolerance


def test_se3_golden_value():
    motion = se3_exp(vector([0.1, 0.2, -0.3]), vector([0.5, -0.4, 0.2]))
    assert motion[:, 3].tolist() == pytest.approx([0.44738969, -0.47772380, 0.13064736], abs=1e-8)
    moved = motion @ vector([0.3, 0.1, -0.2, 1.0])
    assert moved.tolist() == pytest.approx([0.72230138, -0.44214831, -0.12066508], abs=1e-8)


@settings(max_examples=80, deadline=None)
@given(vectors, st.sampled_from([0.0, 1e-20, 1e-9, 1e-4, 9.99e-3, 1.001e-2, 1.0, 3.0, math.pi - 1e-6]))
def test_so3_log_inverts_exp(axis, angle):
    axis = vector(axis)
    w = angle * axis / axis.norm() if float(axis.norm()) > 1e-3 else vector([angle, 0, 0])
    rotation = so3_exp(w)
    assert_rotation(rotation)
    assert torch.allclose(rotation, torch.linalg.matrix_exp(skew(w)), atol=1e-10)
    assert torch.allclose(so3_log(rotation), w, atol=1e-7)


def test_half_turns_come_back_up_to_sign():
    for axis in (EYE[0], EYE[1], EYE[2], vector([0.6, 0.0, -0.8])):
        w = so3_log(so3_exp(math.pi * axis))
        assert float(torch.minimum((w - math.pi * axis).norm(), (w + math.pi * axis).norm())) < 1e-6


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e-5, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite(size, dtype):
    w = torch.tensor([size, -size, 0.5 * size], dtype=dtype, requires_grad=True)
    result = se3_exp(w, torch.ones(3, dtype=dtype)).sum() + so3_log(so3_exp(w)).sum()
    result.backward()
    assert math.isfinite(float(result.detach()))
    assert bool(torch.isfinite(w.grad).all())


def test_so3_gradient_agrees_with_finite_differences():
    for w in (torch.zeros(3), torch.tensor([0.3, -0.4, 1.2]), torch.tensor([1e-3, 0.0, 2e-3])):
        assert torch.autograd.gradcheck(so3_exp, w.double().requires_grad_())


def test_interpolation_meets_its_ends():
    first, second = so3_exp(vector([0.1, 2.0, 0.3])), so3_exp(vector([-1.0, 0.2, 0.4]))
    for fraction, expected in ((0.0, first), (1.0, second)):
        got = interpolate_rotations(first[None], second[None], torch.tensor([fraction]).double())
        assert torch.allclose(got[0], expected, atol=1e-12)


def test_look_at_puts_the_target_in_the_middle_and_up_upwards():
    pose = look_at(vector([0, -4, 0]), vector([0, 0, 0]), EYE[2])
    assert torch.allclose(pose[:, 0], EYE[0])
    assert torch.allclose(pose[:, 1], -EYE[2])
    assert torch.allclose(pose[:, 2], EYE[1])
    assert torch.allclose(pose[:, 3], vector([0, -4, 0]))


@settings(max_examples=120, deadline=None)
@given(vectors, vectors, vectors, st.sampled_from([0.0, 1e-300, 1e-12, 1e-7, 1e-3, 1.0]))
def test_look_at_is_a_rotation_also_near_its_singularities(eye, up, sideways, distance):
    eye, up, sideways = vector(eye), vector(up), vector(sideways)
    for target in (eye + distance * sideways, eye + up + distance * sideways, eye - up, eye):
        pose = look_at(eye, target, up)
        assert_rotation(pose[:, :3])
        assert torch.equal(pose[:, 3], eye)


def test_look_along_accepts_extremes_in_float32():
    for size in (1e-38, 1e-20, 1e20, 3e38):
        forward = torch.tensor([size, 0.0, size])
        assert_rotation(look_along(torch.zeros(3), forward, torch.tensor([0.0, 0.0, size]))[:, :3], 1e-5)


@given(vectors)
@example([0.0, 0.0, 2.6301646370611562e-160])  # its square is not a number of full precision
def test_perpendicular_is_unit_and_at_right_angles(values):
    given_vector = vector(values)
    other = perpendicular(given_vector)
    assert float(other.norm()) == pytest.approx(1.0)
    assert abs(float(other @ given_vector)) <= 1e-9 * max(1.0, float(given_vector.norm()))
