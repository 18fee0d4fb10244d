"""Spherical harmonics of view directions."""

import torch
from jaxtyping import Float
from torch import Tensor


def spherical_harmonics(directions: Float[Tensor, "*s 3"], degree: int = 4) -> Float[Tensor, "*s width"]:
    """Real spherical harmonics of unit `directions` below `degree` (1 to 4), degree^2 numbers.

    Constants are those of the orthonormal real basis; order and signs as in Instant-NGP's encoding.
    """
    if not 1 <= degree <= 4:
        raise ValueError(f"spherical harmonics of degree {degree}: only 1 to 4 are there")
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    basis = [torch.full_like(x, 0.28209479177387814)]
    if degree > 1:
        basis += [-0.48860251190291987 * y, 0.48860251190291987 * z, -0.48860251190291987 * x]
    if degree > 2:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.94617469575756 * zz - 0.31539156525252,
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree > 3:
        basis += [
            0.5900435899266435 * y * (yy - 3 * xx),
            2.890611442640554 * x * y * z,
            0.4570457994644657 * y * (1 - 5 * zz),
            0.3731763325901154 * z * (5 * zz - 3),
            0.4570457994644657 * x * (1 - 5 * zz),
            1.445305721320277 * z * (xx - yy),
            0.5900435899266435 * x * (3 * yy - xx),
        ]
    return torch.stack(basis, -1)
