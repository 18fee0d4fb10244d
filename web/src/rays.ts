// Rays of a pinhole camera, and the pixels that colours become.

import type { Camera } from "./manifest";

/** A camera of another size that sees the same. */
export function resized(camera: Camera, width: number, height: number): Camera {
  const across = width / camera.width;
  const down = height / camera.height;
  return {
    ...camera,
    width,
    height,
    focal: [camera.focal[0] * across, camera.focal[1] * down],
    principal: [camera.principal[0] * across, camera.principal[1] * down],
  };
}

/**
 * Origins and directions [count, 3] of the pixels from `first` on, row by row. Pixel centres lie at +0.5; a direction
 * goes one unit along the camera's axis.
 */
export function pinholeRays(camera: Camera, first: number, count: number): [Float32Array, Float32Array] {
  const origins = new Float32Array(3 * count);
  const directions = new Float32Array(3 * count);
  const rows = camera.camera_to_world;
  for (let i = 0; i < count; i++) {
    const pixel = first + i;
    const column = pixel % camera.width;
    const x = (column + 0.5 - camera.principal[0]) / camera.focal[0];
    const y = ((pixel - column) / camera.width + 0.5 - camera.principal[1]) / camera.focal[1];
    for (let axis = 0; axis < 3; axis++) {
      const [right, down, forward, position] = rows[axis] as [number, number, number, number];
      origins[3 * i + axis] = position;
      directions[3 * i + axis] = right * x + down * y + forward;
    }
  }
  return [origins, directions];
}

/** Writes colours, `rgb` [count, 3] in [0, 1] or, of whole numbers, 0 to 255, into `rgba` from pixel `first` on. */
export function paint(rgba: Uint8ClampedArray, first: number, rgb: ArrayLike<number>, whole: boolean): void {
  const scale = whole ? 1 : 255;
  for (let from = 0, to = 4 * first; from < rgb.length; from += 3, to += 4) {
    // A clamped array rounds halves to even, as Python does.
    rgba[to] = scale * rgb[from]!;
    rgba[to + 1] = scale * rgb[from + 1]!;
    rgba[to + 2] = scale * rgb[from + 2]!;
    rgba[to + 3] = 255;
  }
}

/** Numbers from the bits of float16, for browsers without Float16Array. */
export function fromHalf(bits: Uint16Array): Float32Array {
  return Float32Array.from(bits, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
  });
}

const WIDE = new Float32Array(1);
const WIDE_BITS = new Uint32Array(WIDE.buffer);

/** The bits of float16, rounded to the nearest; what is too large becomes infinite. */
export function toHalf(values: Float32Array): Uint16Array {
  return Uint16Array.from(values, (value) => {
    WIDE[0] = value;
    const bits = WIDE_BITS[0]!;
    const sign = (bits >> 16) & 0x8000;
    const size = Math.abs(value);
    if (Number.isNaN(value)) return 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    if (size < 2 ** -14) return sign | roundEven(size * 2 ** 24);
    const exponent = ((bits >> 23) & 255) - 127;
    return sign | (((exponent + 15) << 10) + roundEven((size / 2 ** exponent - 1) * 1024));
  });
}

function roundEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
