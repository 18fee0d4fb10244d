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

/** Writes colours, `rgb` [count, 3] in [0, 1], into `rgba` from pixel `first` on; says whether all were finite. */
export function paint(rgba: Uint8ClampedArray, first: number, rgb: ArrayLike<number>): boolean {
  let sum = 0; // finite float32 do not overflow it
  for (let from = 0, to = 4 * first; from < rgb.length; from += 3, to += 4) {
    // A clamped array rounds halves to even, as Python does.
    rgba[to] = 255 * rgb[from]!;
    rgba[to + 1] = 255 * rgb[from + 1]!;
    rgba[to + 2] = 255 * rgb[from + 2]!;
    rgba[to + 3] = 255;
    sum += rgb[from]! + rgb[from + 1]! + rgb[from + 2]!;
  }
  return Number.isFinite(sum);
}
