"""The hash grid in numba: points in tiles, indices first, then gathers, so that index arithmetic vectorises.

The backward pass gives each level to one thread. No two threads write the same entry, so there are no atomics and the
sums are taken in one order: results are bit-equal for any number of threads.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba as nb
import numpy as np

TILE = 256
HALF, ONE = np.float32(0.5), np.float32(1)
SQRT8 = np.float32(math.sqrt(8))
SHARP = 1e-6
"""What is smaller than this in cells of a level has no extent there."""
Y_PRIME, Z_PRIME = np.uint32(2654435761), np.uint32(805459861)


@nb.njit(nogil=True, cache=True, fastmath=False)
def _position(coordinate, scale):
    """Where a coordinate in [0, 1] lies in the cells of a level.

    Said to be without fastmath, which it would inherit from its callers: at thousands of cells the rounding of this
    product is all that is left of the place within a cell, and fused multiply-add rounds otherwise than torch does.
    """
    return coordinate * scale + HALF


@nb.njit(nogil=True, cache=True, fastmath=True)
def _locate(points, start, count, scale, vertices, hashed, mask, offset, index, weight, fraction):
    """Of points[start : start + count]: entry index and trilinear weight [8, tile], position in the cell [3, tile]."""
    for p in range(count):
        x = _position(points[start + p, 0], scale)
        y = _position(points[start + p, 1], scale)
        z = _position(points[start + p, 2], scale)
        ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
        fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
        fraction[0, p], fraction[1, p], fraction[2, p] = fx, fy, fz
        gx, gy, gz = ONE - fx, ONE - fy, ONE - fz
        if hashed:
            x0, x1 = np.uint32(ix), np.uint32(ix) + np.uint32(1)
            y0, z0 = np.uint32(iy) * Y_PRIME, np.uint32(iz) * Z_PRIME
            y1, z1 = y0 + Y_PRIME, z0 + Z_PRIME
            index[0, p] = np.int32((x0 ^ y0 ^ z0) & mask) + offset
            index[1, p] = np.int32((x1 ^ y0 ^ z0) & mask) + offset
            index[2, p] = np.int32((x0 ^ y1 ^ z0) & mask) + offset
            index[3, p] = np.int32((x1 ^ y1 ^ z0) & mask) + offset
            index[4, p] = np.int32((x0 ^ y0 ^ z1) & mask) + offset
            index[5, p] = np.int32((x1 ^ y0 ^ z1) & mask) + offset
            index[6, p] = np.int32((x0 ^ y1 ^ z1) & mask) + offset
            index[7, p] = np.int32((x1 ^ y1 ^ z1) & mask) + offset
        else:
            low = ix + vertices * (iy + vertices * iz) + offset
            high = low + vertices * vertices
            index[0, p], index[1, p] = low, low + np.int32(1)
            index[2, p], index[3, p] = low + vertices, low + vertices + np.int32(1)
            index[4, p], index[5, p] = high, high + np.int32(1)
            index[6, p], index[7, p] = high + vertices, high + vertices + np.int32(1)
        weight[0, p], weight[1, p] = gx * gy * gz, fx * gy * gz
        weight[2, p], weight[3, p] = gx * fy * gz, fx * fy * gz
        weight[4, p], weight[5, p] = gx * gy * fz, fx * gy * fz
        weight[6, p], weight[7, p] = gx * fy * fz, fx * fy * fz


@cache
def forward_kernel(features: int) -> Callable[..., Any]:
    """The kernel for grids of `features` numbers per entry: a constant, so that its loops unroll."""

    @nb.njit(parallel=True, fastmath=True, nogil=True, cache=True)
    def forward(points, table, scales, vertices, hashed, sizes, offsets, encoded):
        count = points.shape[0]
        for tile in nb.prange((count + TILE - 1) // TILE):
            index = np.empty((8, TILE), np.int32)
            weight = np.empty((8, TILE), np.float32)
            fraction = np.empty((3, TILE), np.float32)
            start = tile * TILE
            n = min(TILE, count - start)
            for level in range(scales.shape[0]):
                _locate(points, start, n, scales[level], np.int32(vertices[level]), hashed[level],
                        np.uint32(sizes[level] - 1), np.int32(offsets[level]), index, weight, fraction)  # fmt: skip
                column = level * features
                for p in range(n):
                    # Eight scalars each rather than a loop over corners: LLVM then gathers an entry's features as one.
                    i0, i1, i2, i3 = index[0, p], index[1, p], index[2, p], index[3, p]
                    i4, i5, i6, i7 = index[4, p], index[5, p], index[6, p], index[7, p]
                    w0, w1, w2, w3 = weight[0, p], weight[1, p], weight[2, p], weight[3, p]
                    w4, w5, w6, w7 = weight[4, p], weight[5, p], weight[6, p], weight[7, p]
                    for f in range(features):
                        low = w0 * table[i0, f] + w1 * table[i1, f] + w2 * table[i2, f] + w3 * table[i3, f]
                        high = w4 * table[i4, f] + w5 * table[i5, f] + w6 * table[i6, f] + w7 * table[i7, f]
                        encoded[start + p, column + f] = low + high

    return forward


@cache
def backward_kernel(features: int) -> Callable[..., Any]:
    """Adds to the gradient of the table."""

    @nb.njit(parallel=True, fastmath=True, nogil=True, cache=True)
    def backward(points, gradient, scales, vertices, hashed, sizes, offsets, table_gradient):
        count = points.shape[0]
        for level in nb.prange(scales.shape[0]):
            index = np.empty((8, TILE), np.int32)
            weight = np.empty((8, TILE), np.float32)
            fraction = np.empty((3, TILE), np.float32)
            column = level * features
            for start in range(0, count, TILE):
                n = min(TILE, count - start)
                _locate(points, start, n, scales[level], np.int32(vertices[level]), hashed[level],
                        np.uint32(sizes[level] - 1), np.int32(offsets[level]), index, weight, fraction)  # fmt: skip
                for p in range(n):
                    for corner in range(8):
                        entry, w = index[corner, p], weight[corner, p]
                        for f in range(features):
                            table_gradient[entry, f] += w * gradient[start + p, column + f]

    return backward


@cache
def points_backward_kernel(features: int) -> Callable[..., Any]:
    """Gradient by the points themselves: what camera refinement and deformation fields need."""

    @nb.njit(parallel=True, fastmath=True, nogil=True, cache=True)
    def backward(points, gradient, table, scales, vertices, hashed, sizes, offsets, points_gradient):
        count = points.shape[0]
        for tile in nb.prange((count + TILE - 1) // TILE):
            index = np.empty((8, TILE), np.int32)
            weight = np.empty((8, TILE), np.float32)
            fraction = np.empty((3, TILE), np.float32)
            start = tile * TILE
            n = min(TILE, count - start)
            points_gradient[start : start + n] = 0
            for level in range(scales.shape[0]):
                _locate(points, start, n, scales[level], np.int32(vertices[level]), hashed[level],
                        np.uint32(sizes[level] - 1), np.int32(offsets[level]), index, weight, fraction)  # fmt: skip
                column = level * features
                for p in range(n):
                    fx, fy, fz = fraction[0, p], fraction[1, p], fraction[2, p]
                    for corner in range(8):
                        value = np.float32(0)
                        for f in range(features):
                            value += table[index[corner, p], f] * gradient[start + p, column + f]
                        value *= scales[level]
                        wx = fx if corner & 1 else ONE - fx
                        wy = fy if corner & 2 else ONE - fy
                        wz = fz if corner & 4 else ONE - fz
                        points_gradient[start + p, 0] += value * wy * wz * (ONE if corner & 1 else -ONE)
                        points_gradient[start + p, 1] += value * wx * wz * (ONE if corner & 2 else -ONE)
                        points_gradient[start + p, 2] += value * wx * wy * (ONE if corner & 4 else -ONE)

    return backward


@nb.njit(inline="always")
def encode_point(px, py, pz, table, scales, vertices, hashed, sizes, offsets, features, encoded):
    """The encoding of a single point, to be called from other kernels, for which `features` is a constant."""
    for level in range(scales.shape[0]):
        scale = scales[level]
        x, y, z = _position(px, scale), _position(py, scale), _position(pz, scale)
        ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
        fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
        gx, gy, gz = ONE - fx, ONE - fy, ONE - fz
        offset = np.int32(offsets[level])
        if hashed[level]:
            mask = np.uint32(sizes[level] - 1)
            x0, x1 = np.uint32(ix), np.uint32(ix) + np.uint32(1)
            y0, z0 = np.uint32(iy) * Y_PRIME, np.uint32(iz) * Z_PRIME
            y1, z1 = y0 + Y_PRIME, z0 + Z_PRIME
            i0, i1 = np.int32((x0 ^ y0 ^ z0) & mask) + offset, np.int32((x1 ^ y0 ^ z0) & mask) + offset
            i2, i3 = np.int32((x0 ^ y1 ^ z0) & mask) + offset, np.int32((x1 ^ y1 ^ z0) & mask) + offset
            i4, i5 = np.int32((x0 ^ y0 ^ z1) & mask) + offset, np.int32((x1 ^ y0 ^ z1) & mask) + offset
            i6, i7 = np.int32((x0 ^ y1 ^ z1) & mask) + offset, np.int32((x1 ^ y1 ^ z1) & mask) + offset
        else:
            n = np.int32(vertices[level])
            i0 = ix + n * (iy + n * iz) + offset
            i4 = i0 + n * n
            i1, i2, i3 = i0 + np.int32(1), i0 + n, i0 + n + np.int32(1)
            i5, i6, i7 = i4 + np.int32(1), i4 + n, i4 + n + np.int32(1)
        low, high = gy * gz, fy * gz
        w0, w1, w2, w3 = gx * low, fx * low, gx * high, fx * high
        low, high = gy * fz, fy * fz
        w4, w5, w6, w7 = gx * low, fx * low, gx * high, fx * high
        for f in range(features):
            near = w0 * table[i0, f] + w1 * table[i1, f] + w2 * table[i2, f] + w3 * table[i3, f]
            far = w4 * table[i4, f] + w5 * table[i5, f] + w6 * table[i6, f] + w7 * table[i7, f]
            encoded[level * features + f] = near + far


@nb.njit(inline="always")
def fade_point(size, scales, features, encoded):
    """Makes of `encoded`, the features of a point, those of a Gaussian of this standard deviation around it, and writes
    what is gone of each level behind them; see `HashGrid.faded`."""
    levels = scales.shape[0]
    for level in range(levels):
        kept = np.float32(math.erf(ONE / max(SQRT8 * size * scales[level], np.float32(SHARP))))
        for f in range(features):
            encoded[level * features + f] *= kept
        encoded[levels * features + level] = ONE - kept
