// What the player computes without a browser.

import { Vector3 } from "three";
import { afterEach, describe, expect, it, vi } from "vitest";
import { below, download, verify } from "../src/fetching";
import { readLadder, readManifest } from "../src/manifest";
import { Orbit, upright, withinTurn } from "../src/orbit";
import { blockRays, climb, drawsMovement, MOVING_MS, movingSize, scaled } from "../src/pace";
import { paint, pinholeRays, resized } from "../src/rays";

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
    expect(paint(rgba, 1, [0.5, 1.2, -1])).toBe(true);
    expect([...rgba]).toEqual([0, 0, 0, 0, 128, 255, 0, 255]);
  });

  it("tell colours that are no numbers", () => {
    const rgba = new Uint8ClampedArray(8);
    for (const wrong of [NaN, Infinity, -Infinity]) {
      expect(paint(rgba, 0, [0, 0, 0, 0, wrong, 0])).toBe(false);
      expect(paint(rgba, 0, [wrong, -wrong, 0])).toBe(false);
    }
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

  it("lets the cheapest of a ladder draw movement where it is quicker than what is shown", () => {
    const pictures = (ms: number | null) => ({ ms, anySize: false });
    expect(drawsMovement(pictures(20), 200)).toBe(true);
    expect(drawsMovement(pictures(20), MOVING_MS)).toBe(false);
    expect(drawsMovement(pictures(300), 200)).toBe(false);
    expect(drawsMovement({ ms: 300, anySize: true }, 200)).toBe(true);
    expect(drawsMovement(pictures(20), null)).toBe(true);
    expect(drawsMovement(pictures(null), 200)).toBe(true);
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

describe("downloads", () => {
  const url = new URL("https://host.example/a/rays.onnx");
  afterEach(() => vi.unstubAllGlobals());

  /** What a server sends, in parts of 4 bytes, and whether it was told to stop. */
  function sends(parts: number) {
    const told = { stopped: false, cache: "" };
    let sent = 0;
    const body = new ReadableStream<Uint8Array>(
      {
        pull: (sink) => (sent++ < parts ? sink.enqueue(new Uint8Array(4).fill(sent)) : sink.close()),
        cancel: () => void (told.stopped = true),
      },
      { highWaterMark: 0 },
    );
    vi.stubGlobal("fetch", async (_: URL, { cache }: { cache: string }) => ((told.cache = cache), new Response(body)));
    return told;
  }

  it("tell how far they are", async () => {
    const told = sends(2);
    const loaded: number[] = [];
    const data = await download(url, 8, "default", (bytes) => loaded.push(bytes));
    expect([...data]).toEqual([1, 1, 1, 1, 2, 2, 2, 2]);
    expect([loaded, told]).toEqual([[4, 8], { stopped: false, cache: "default" }]);
  });

  it("end where there are more bytes than there should be", async () => {
    const told = sends(Infinity);
    await expect(download(url, 6, "no-cache", () => {})).rejects.toThrow("rays.onnx is longer than the 6 bytes");
    expect(told.stopped).toBe(true);
    sends(1);
    expect((await download(url, 6, "no-cache", () => {})).length).toBe(4);
  });

  it("say where there is no room for them", async () => {
    sends(1);
    await expect(download(url, 2 ** 60, "no-cache", () => {})).rejects.toThrow("not enough memory");
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

  it("tell the parameters of the network that is shipped", () => {
    const provenance = { parameters: 9 };
    expect(readManifest(manifest()).parameters).toBe(null);
    expect(readManifest({ ...manifest(), provenance }).parameters).toBe(9);
    expect(readManifest({ ...manifest(), provenance, network: { parameters: 7 } }).parameters).toBe(7);
  });

  it("tell models that compute in float16", () => {
    expect(readManifest({ ...manifest(), precision: "float16" }).half).toBe(true);
    expect(readManifest({ ...manifest(), precision: "int8" }).half).toBe(false);
  });

  it("are refused where the player could not go by them", () => {
    const wrong = (change: (data: any) => void) => () => {
      const data = manifest();
      change(data);
      readManifest(data);
    };
    expect(wrong((data) => (data.form = "lens"))).toThrow("not the three of a lens. Export without --form lens.");
    for (const bytes of [-1, 0.5, 1e15, "9"]) {
      expect(wrong((data) => (data.models.view.bytes = bytes))).toThrow("the bytes of view are not between 0 and");
    }
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

describe("upright cameras", () => {
  const UPS = [new Vector3(0, 0, 1), new Vector3(0, 1, 0), new Vector3(0.6, 0, 0.8), new Vector3(0, -1, 0)];
  const column = (matrix: number[][], i: number) => new Vector3(...(matrix.map((row) => row[i]!) as [number, number, number]));

  it("look at the target, their right level", () => {
    for (const up of UPS) {
      const target = new Vector3(1, 2, 3);
      const pose = upright(new Vector3(3, 1.5, 5), target, up);
      const [right, down, forward] = [0, 1, 2].map((i) => column(pose, i)) as [Vector3, Vector3, Vector3];
      expect(right.dot(up)).toBeCloseTo(0, 12);
      expect(down.dot(up)).toBeLessThan(0);
      expect(forward.distanceTo(target.clone().sub(new Vector3(3, 1.5, 5)).normalize())).toBeLessThan(1e-12);
      expect(right.clone().cross(down).distanceTo(forward)).toBeLessThan(1e-12);
    }
  });

  it("are whole straight above and below the target, and turn from there without a jump", () => {
    for (const up of UPS) {
      for (const side of [1, -1]) {
        const above = upright(up.clone().multiplyScalar(side * 4), new Vector3(), up);
        const [right, down] = [column(above, 0), column(above, 1)];
        expect([right.length(), down.length()]).toEqual([expect.closeTo(1, 9), expect.closeTo(1, 9)]);
        expect(right.dot(down)).toBeCloseTo(0, 9);
        // Down of a camera above shows away from the top of the picture: a step that way is a turn over the pole, not a spin.
        const step = down.clone().multiplyScalar(side * 1e-3);
        const near = upright(up.clone().multiplyScalar(side * 4).add(step), new Vector3(), up);
        expect(column(near, 0).distanceTo(right)).toBeLessThan(1e-3);
      }
    }
  });
});

describe("orbits", () => {
  /** An element as far as OrbitControls ask for one. */
  const root = { addEventListener() {}, removeEventListener() {} };
  const stage = { ...root, style: {}, getRootNode: () => root, ownerDocument: root } as unknown as HTMLElement;

  it("turn about the axis from straight above, whatever rounding leaves", () => {
    for (const target of [[0, 0, 0], [-0.027, -0.016, 0.017], [0.1, 1 / 3, -0.7]] as [number, number, number][]) {
      // Right is the world's x, down its -y.
      const camera_to_world = [[1, 0, 0, target[0]], [0, -1, 0, target[1]], [0, 0, -1, target[2] + 4]];
      const limits = { target, up: [0, 0, 1], east: [1, 0, 0], azimuth: null };
      const ends = { elevation: [0, 90] as [number, number], distance: [1, 9] as [number, number] };
      const orbit = new Orbit({ ...CAMERA, camera_to_world }, { ...limits, ...ends }, stage, () => {});
      expect(orbit.pose).toEqual(camera_to_world);
      for (let i = 0; i < 3; i++) orbit.key("ArrowRight");
      const [cos, sin] = [Math.cos(Math.PI / 15), Math.sin(Math.PI / 15)];
      const turned = [[cos, sin, 0, target[0]], [sin, -cos, 0, target[1]], [0, 0, -1, target[2] + 4]];
      orbit.pose.flat().forEach((value, i) => expect(value).toBeCloseTo(turned.flat()[i]!, 4));
      orbit.reset();
      expect(orbit.pose).toEqual(camera_to_world);
    }
  });
});

it("angles are told within one turn", () => {
  expect(withinTurn(4)).toBeCloseTo(4 - 2 * Math.PI);
  expect(withinTurn(-4)).toBeCloseTo(2 * Math.PI - 4);
});
