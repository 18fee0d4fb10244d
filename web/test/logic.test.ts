// What the player computes without a browser.

import { describe, expect, it } from "vitest";
import { below, verify } from "../src/fetching";
import { readLadder, readManifest } from "../src/manifest";
import { withinTurn } from "../src/orbit";
import { blockRays, climb, MOVING_MS, movingSize, scaled } from "../src/pace";
import { fromHalf, paint, pinholeRays, resized, toHalf } from "../src/rays";

const CAMERA = {
  width: 4,
  height: 2,
  focal: [2, 4] as [number, number],
  principal: [2, 1] as [number, number],
  camera_to_world: [
    [0, 0, 1, 10],
    [1, 0, 0, 20],
    [0, 1, 0, 30],
  ],
};

describe("rays", () => {
  it("go through the centres of pixels, row by row", () => {
    const [origins, directions] = pinholeRays(CAMERA, 5, 2);
    expect([...origins]).toEqual([10, 20, 30, 10, 20, 30]);
    // Pixels (1, 1) and (2, 1): x = -0.25, 0.25; y = 0.125 in the camera, whose right is the world's y, down its z.
    expect([...directions]).toEqual([1, -0.25, 0.125, 1, 0.25, 0.125]);
  });

  it("see the same at another size", () => {
    const double = resized(CAMERA, 8, 4);
    const [, coarse] = pinholeRays(CAMERA, 0, 1);
    const [, fine] = pinholeRays(double, 0, 10);
    for (let axis = 0; axis < 3; axis++) {
      // A coarse pixel's centre is the middle of the four fine ones it covers.
      const mean = [0, 1, 8, 9].reduce((sum, pixel) => sum + fine[3 * pixel + axis]!, 0) / 4;
      expect(mean).toBeCloseTo(coarse[axis]!, 6);
    }
  });

  it("become pixels by rounding, and what is out of range is cut", () => {
    const rgba = new Uint8ClampedArray(8);
    paint(rgba, 1, [0.5, 1.2, -1], false);
    expect([...rgba]).toEqual([0, 0, 0, 0, 128, 255, 0, 255]);
    paint(rgba, 0, [7, 8, 9], true);
    expect([...rgba.subarray(0, 4)]).toEqual([7, 8, 9, 255]);
  });
});

describe("float16", () => {
  it("goes there and back", () => {
    const values = Float32Array.of(0, -0, 1, -2.5, 65504, 2 ** -14, 2 ** -24, -(2 ** -20), 0.333251953125);
    expect([...fromHalf(toHalf(values))]).toEqual([...values]);
    expect([...toHalf(Float32Array.of(1, 65536, -1e9, NaN))]).toEqual([0x3c00, 0x7c00, 0xfc00, 0x7e00]);
  });

  it("rounds to the nearest, halves to even, also up to the next power of two", () => {
    const step = 2 ** -10;
    const near = Float32Array.of(1 + 0.4 * step, 1 + 0.6 * step, 1 + 0.5 * step, 1 + 1.5 * step, 2 - 0.1 * step);
    expect([...fromHalf(toHalf(near))]).toEqual([1, 1 + step, 1, 1 + 2 * step, 2]);
  });
});

describe("pace", () => {
  const full = { width: 400, height: 300 };

  it("draws as large as there is time for while something moves", () => {
    expect(movingSize(full, 1e-6)).toEqual(full);
    const size = movingSize(full, 0.01);
    expect(size.width * size.height * 0.01).toBeLessThanOrEqual(MOVING_MS);
    expect(movingSize(full, 1e9)).toEqual({ width: 50, height: 38 });
    expect(movingSize(full, null)).toEqual({ width: 100, height: 75 });
    expect(scaled({ width: 3, height: 1 }, 0.1)).toEqual({ width: 1, height: 1 });
  });

  it("asks for blocks that take little time", () => {
    expect(blockRays(null)).toBe(2048);
    expect(blockRays(0.01)).toBe(2048);
    expect(blockRays(1e-9)).toBe(16384);
    expect(blockRays(1e9)).toBe(256);
  });

  async function climbed(ms: (number | null)[]) {
    const closed: number[] = [];
    const open = async (rung: number) => (ms[rung] === null ? null : { opened: rung, ms: ms[rung]! });
    const { rung } = await climb(ms.length, { opened: 0, ms: ms[0]! }, open, (opened) => closed.push(opened));
    return { rung, closed };
  }

  it("climbs a ladder while pictures are quick", async () => {
    expect(await climbed([5, 20, 140, 10])).toEqual({ rung: 2, closed: [0, 1] });
    expect(await climbed([5, 900])).toEqual({ rung: 0, closed: [1] });
    expect(await climbed([100, 110])).toEqual({ rung: 0, closed: [] });
    expect(await climbed([5, null, 5])).toEqual({ rung: 0, closed: [] });
  });
});

describe("files", () => {
  const folder = new URL("https://host.example/site/a/");

  it("stay below the folder of their bundle", () => {
    expect(below(folder, "rays.onnx").href).toBe("https://host.example/site/a/rays.onnx");
    for (const name of ["../b/rays.onnx", "/etc/passwd", "//evil.example/x", "https://evil.example/x", "x?y", "%2e%2e/x"]) {
      expect(() => below(folder, name), name).toThrow("outside its folder");
    }
  });

  it("are those the bundle was made with", async () => {
    const file = {
      file: "x",
      bytes: 3,
      sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };
    await verify(new TextEncoder().encode("abc"), file);
    await expect(verify(new TextEncoder().encode("abd"), file)).rejects.toThrow("its checksum differs");
    await expect(verify(new TextEncoder().encode("ab"), file)).rejects.toThrow("it has 2 bytes instead of 3");
  });
});

describe("manifests", () => {
  const port = (name: string, shape: (string | number)[], more = {}) => ({ name, shape, dtype: "float32", ...more });
  const manifest = () => ({
    format: "lumigraph bundle",
    schema: 4,
    method: "dylin",
    models: {
      view: {
        file: "view.onnx",
        bytes: 1,
        sha256: "0",
        inputs: [
          port("camera_to_world", [3, 4]),
          port("focal", [2]),
          port("principal", [2]),
          port("time", [], { range: [0, 1], default: 0.5 }),
        ],
        outputs: [port("image", [2, 4, 3])],
      },
    },
    poster: { file: "poster.png", bytes: 1, sha256: "0" },
    camera: CAMERA,
    orbit: { target: [0, 0, 0], up: [0, 0, 1], east: [1, 0, 0], azimuth: null, elevation: [0, 9], distance: [1, 2] },
  });

  it("may name a model of whole pictures alone", () => {
    const read = readManifest(manifest());
    expect([read.form, read.time?.default, read.attributes]).toEqual(["view", 0.5, null]);
  });

  it("are refused where the player could not go by them", () => {
    const wrong = (change: (data: any) => void) => () => {
      const data = manifest();
      change(data);
      readManifest(data);
    };
    expect(wrong((data) => (data.models = {}))).toThrow("it names no model");
    expect(wrong((data) => (data.models.view.inputs[3].default = 2))).toThrow("the default of time");
    expect(wrong((data) => (data.models.view.inputs[3].dtype = "int4"))).toThrow("time in int4");
    expect(wrong((data) => (data.orbit.azimuth = [0]))).toThrow("the orbit's azimuth should be 2 numbers");
    expect(wrong((data) => (data.camera.width = 1e9))).toThrow("the camera has no size");
    expect(wrong((data) => delete data.poster.sha256)).toThrow("of poster are needed");
    for (const data of [null, [], "x", { format: "x" }]) expect(() => readManifest(data)).toThrow("not that of");
  });

  it("of ladders name folders", () => {
    const ladder = { format: "lumigraph ladder", schema: 1, bundles: [{ folder: "0-a", name: "a" }] };
    expect(readLadder(ladder)).toEqual(ladder.bundles);
    expect(() => readLadder({ ...ladder, schema: 2 })).toThrow("ladder.json");
    expect(() => readLadder({ ...ladder, bundles: [] })).toThrow("names no bundles");
  });
});

it("angles are told within one turn", () => {
  expect(withinTurn(4)).toBeCloseTo(4 - 2 * Math.PI);
  expect(withinTurn(-4)).toBeCloseTo(2 * Math.PI - 4);
});
