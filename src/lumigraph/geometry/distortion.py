"""Lens distortion of normalised image coordinates, and its inverse by Newton's method.

Notation: (x, y) are undistorted coordinates X/Z, Y/Z in the camera frame; (x_d, y_d) the distorted ones, pixel =
focal * (x_d, y_d) + principal. Coefficients are ordered k1 k2 k3 k4 p1 p2. Perspective model (OpenCV, with the
polynomial continued to k4), with r = x^2 + y^2 and D = 1 + k1 r + k2 r^2 + k3 r^3 + k4 r^4:

    x_d = x D + 2 p1 x y + p2 (r + 2 x^2),    y_d = y D + 2 p2 x y + p1 (r + 2 y^2).

Fisheye model (OpenCV ``fisheye``): theta = atan(rho), rho = |(x, y)|,
theta_d = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8), (x_d, y_d) = (theta_d / rho) (x, y);
p1 and p2 are unused.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

NEWTON_STEPS = 10
SMALLEST_DETERMINANT = 1e-9
FISHEYE_LIMIT = math.radians(89.0)
"""Largest angle from the optical axis: from 90 degrees on there is no depth along the axis, the ray parameter here."""

Coordinates = Float[Tensor, "*shape 2"]
Coefficients = Float[Tensor, "*#shape 6"]
Jacobian = tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]
_Symmetric = tuple[Tensor, Tensor, Tensor]
"""Both models have symmetric Jacobians: entries (dx/dx, dx/dy = dy/dx, dy/dy)."""


def distort(xy: Coordinates, coefficients: Coefficients, fisheye: bool = False) -> Coordinates:
    """Undistorted to distorted normalised coordinates."""
    model = _fisheye if fisheye else _perspective
    return torch.stack(model(xy[..., 0], xy[..., 1], coefficients)[:2], dim=-1)


def undistort(xy: Coordinates, coefficients: Coefficients, fisheye: bool = False) -> Coordinates:
    """Distorted to undistorted normalised coordinates; see `undistort_with_jacobian`."""
    return undistort_with_jacobian(xy, coefficients, fisheye)[0]


@torch.no_grad()
def undistort_with_jacobian(
    xy: Coordinates, coefficients: Coefficients, fisheye: bool = False
) -> tuple[Coordinates, Jacobian]:
    """Invert the distortion; also return the entries of the symmetric matrix d(undistorted)/d(distorted).

    At most ten Newton steps on the 2x2 Jacobian, none where its determinant is below 1e-9. Each coordinate stops by
    itself once it has converged, so a result never depends on the others in the batch. Where the model folds over and
    no inverse exists, the iterate with the smallest residual is returned; results are always finite. Fisheye angles
    end at 89 degrees.
    """
    if fisheye:
        return _undistort_fisheye(xy, coefficients)
    target_x, target_y = xy[..., 0].contiguous(), xy[..., 1].contiguous()
    # One contiguous plane per coefficient: the loop is memory bound.
    coefficients = coefficients.movedim(-1, 0).contiguous().movedim(0, -1)
    tolerance = 4 * torch.finfo(xy.dtype).eps
    x, y = target_x, target_y
    best_x, best_y = x, y
    best_error = torch.full_like(x, math.inf)
    limit = tolerance * (1.0 + target_x.abs() + target_y.abs())
    for step in range(NEWTON_STEPS + 1):
        x_d, y_d, (a, b, c) = _perspective(x, y, coefficients)
        error_x, error_y = x_d - target_x, y_d - target_y
        error = error_x.abs() + error_y.abs()
        better = error < best_error
        best_x, best_y = torch.where(better, x, best_x), torch.where(better, y, best_y)
        best_error = torch.where(better, error, best_error)
        determinant = a * c - b * b
        active = (error > limit) & (determinant.abs() > SMALLEST_DETERMINANT) & torch.isfinite(error)
        if step == NEWTON_STEPS or not bool(active.any()):
            break
        scale = torch.where(active, 1.0 / torch.where(active, determinant, 1.0), 0.0)
        x = x - torch.where(active, scale * (c * error_x - b * error_y), 0.0)
        y = y - torch.where(active, scale * (a * error_y - b * error_x), 0.0)
    _, _, (a, b, c) = _perspective(best_x, best_y, coefficients)
    return torch.stack((best_x, best_y), dim=-1), _inverse_symmetric(a, b, c)


def _perspective(x: Tensor, y: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, _Symmetric]:
    """Distorted coordinates and the (symmetric) Jacobian's entries dx_d/dx, dx_d/dy = dy_d/dx, dy_d/dy."""
    k1, k2, k3, k4, p1, p2 = coefficients.unbind(-1)
    r = x * x + y * y
    radial = 1.0 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    slope = 2.0 * (k1 + r * (2.0 * k2 + r * (3.0 * k3 + r * (4.0 * k4))))  # dD/dx = slope * x
    x_d = x * radial + 2.0 * p1 * x * y + p2 * (r + 2.0 * x * x)
    y_d = y * radial + 2.0 * p2 * x * y + p1 * (r + 2.0 * y * y)
    a = radial + slope * x * x + 2.0 * p1 * y + 6.0 * p2 * x
    b = slope * x * y + 2.0 * p1 * x + 2.0 * p2 * y
    c = radial + slope * y * y + 2.0 * p2 * x + 6.0 * p1 * y
    return x_d, y_d, (a, b, c)


def _fisheye(x: Tensor, y: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Distorted coordinates; smooth through the centre."""
    squared = x * x + y * y
    centre = squared < 1e-16
    rho = torch.where(centre, 1.0, squared).sqrt()
    theta_d, _ = _fisheye_angle(torch.atan(rho), coefficients)
    scale = torch.where(centre, 1.0, theta_d / rho)
    return x * scale, y * scale


def _fisheye_angle(theta: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """theta_d and d theta_d / d theta."""
    k1, k2, k3, k4, _, _ = coefficients.unbind(-1)
    s = theta * theta
    polynomial = 1.0 + s * (k1 + s * (k2 + s * (k3 + s * k4)))
    slope = 1.0 + s * (3.0 * k1 + s * (5.0 * k2 + s * (7.0 * k3 + s * (9.0 * k4))))
    return theta * polynomial, slope


def _undistort_fisheye(xy: Tensor, coefficients: Tensor) -> tuple[Tensor, _Symmetric]:
    target = xy.norm(dim=-1)
    theta = target.clamp(max=FISHEYE_LIMIT)
    best, best_error = theta, torch.full_like(theta, math.inf)
    for _ in range(NEWTON_STEPS + 1):
        theta_d, slope = _fisheye_angle(theta, coefficients)
        error = theta_d - target
        better = error.abs() < best_error
        best, best_error = torch.where(better, theta, best), torch.where(better, error.abs(), best_error)
        usable = (slope.abs() > SMALLEST_DETERMINANT) & better
        step = torch.where(usable, error / torch.where(usable, slope, 1.0), 0.0)
        theta = (theta - step).clamp(0.0, FISHEYE_LIMIT)
    centre = target < 1e-8
    safe = torch.where(centre, 1.0, target)
    direction = xy / safe[..., None]
    rho = torch.where(centre, target, torch.tan(best))
    _, slope = _fisheye_angle(best, coefficients)
    safe_slope = torch.where(slope.abs() > SMALLEST_DETERMINANT, slope, 1.0)
    radial = torch.where(centre, 1.0, (1.0 + rho * rho) / safe_slope)
    tangential = torch.where(centre, 1.0, rho / safe)
    a, b, c = _radial_jacobian(direction[..., 0], direction[..., 1], radial, tangential)
    return torch.where(centre[..., None], xy, direction * rho[..., None]), (a, b, c)


def _radial_jacobian(u: Tensor, v: Tensor, radial: Tensor, tangential: Tensor) -> _Symmetric:
    """Entries of tangential * I + (radial - tangential) * n n^T with the unit radial direction n = (u, v)."""
    difference = radial - tangential
    return tangential + difference * u * u, difference * u * v, tangential + difference * v * v


def _inverse_symmetric(a: Tensor, b: Tensor, c: Tensor) -> _Symmetric:
    """Entries of the inverse; of the identity where there is none."""
    determinant = a * c - b * b
    usable = determinant.abs() > SMALLEST_DETERMINANT
    scale = 1.0 / torch.where(usable, determinant, 1.0)
    entries = ((c * scale, 1.0), (-b * scale, 0.0), (a * scale, 1.0))
    a, b, c = (torch.where(usable, inverse, otherwise) for inverse, otherwise in entries)
    return a, b, c
