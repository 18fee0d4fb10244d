// Runs the model beside the page, so that the page answers while a picture is computed.

import type * as Ort from "onnxruntime-web";
import { download } from "./fetching";
import { PlayerError, type Form, type Model, type Port } from "./manifest";
import { blockRays } from "./pace";
import type { Backend, Draw, FromWorker, Open, Picture, Prepare, ToWorker } from "./protocol";
import { paint, pinholeRays, resized } from "./rays";

type Runtime = typeof Ort;

/** The folder of onnxruntime-web beside this script, and the bytes of its files (see vite.config.ts). */
declare const RUNTIME: { folder: string; bytes: Record<string, number> };

const FILES: Record<Backend, { module: string; binary: string }> = {
  wasm: { module: "ort.wasm.min.mjs", binary: "ort-wasm-simd-threaded.wasm" },
  webgpu: { module: "ort.webgpu.min.mjs", binary: "ort-wasm-simd-threaded.asyncify.wasm" },
};
const HEADERS = "the server does not send the headers that make a page cross-origin isolated (COOP and COEP)";
/** Side of the picture of rays that a graphics processor is tried with. */
const TRIAL_SIDE = 16;

const say = (message: FromWorker, transfer: Transferable[] = []) => postMessage(message, { transfer });

let prepared: Promise<Prepared>;
let drawer: Drawer | null = null;
let wanted: Draw | null = null;
let drawing = false;

onmessage = async ({ data }: MessageEvent<ToWorker>) => {
  try {
    if (data.kind === "prepare") await (prepared = prepare(data));
    else if (data.kind === "open") drawer = await open(data, await prepared);
    else await draw(data);
  } catch (error) {
    say({ kind: "failed", message: error instanceof PlayerError ? error.message : sentence(error) });
  }
};

/** Only the picture that was asked for last is drawn; one in progress is dropped for it. */
async function draw(asked: Draw): Promise<void> {
  if (wanted) say({ kind: "dropped", id: wanted.id });
  wanted = asked;
  if (drawing) return;
  drawing = true;
  try {
    while (wanted) {
      const { id, picture } = wanted as Draw;
      wanted = null;
      const start = performance.now();
      const rgba = await drawer!.draw(picture, () => wanted !== null);
      if (!rgba) {
        say({ kind: "dropped", id });
        continue;
      }
      const { width, height } = picture.camera;
      const ms = performance.now() - start;
      say({ kind: "drawn", id, width, height, rgba: rgba.buffer as ArrayBuffer, ms }, [rgba.buffer as ArrayBuffer]);
    }
  } finally {
    drawing = false;
  }
}

/** A runtime without a model. */
interface Prepared {
  runtime: Runtime;
  backend: Backend;
  threads: number;
  notes: string[];
}

async function prepare({ backend, threads, half }: Prepare): Promise<Prepared> {
  if (backend === "wasm") return onProcessor(threads, []);
  const reason = await withoutGpu(half);
  if (reason) return onProcessor(threads, [`${reason}: the model runs on the processor.`]);
  try {
    return { runtime: await load("webgpu", 1), backend: "webgpu", threads, notes: [] };
  } catch (error) {
    return onProcessor(threads, [`WebGPU does not start (${firstLine(error)}): the model runs on the processor.`]);
  }
}

async function onProcessor(threads: number, notes: string[]): Promise<Prepared> {
  if (!crossOriginIsolated) notes.push(`It runs in one thread, because ${HEADERS}.`);
  return { runtime: await load("wasm", threads), backend: "wasm", threads, notes };
}

/** A graphics processor has to draw a picture first: some take a model and fail, or draw nonsense, when it runs. */
async function open(asked: Open, { runtime, backend, threads, notes }: Prepared): Promise<Drawer> {
  if (backend === "webgpu") {
    try {
      const opened = await opening(asked, runtime, backend);
      await opened.try(asked.first);
      say({ kind: "opened", backend, threads, notes });
      return opened;
    } catch (error) {
      notes.push(`WebGPU refuses the model (${firstLine(error)}): it runs on the processor.`);
      ({ runtime, backend, notes } = await onProcessor(threads, notes));
    }
  }
  const opened = await opening(asked, runtime, backend).catch((error) => {
    throw refusal(error);
  });
  say({ kind: "opened", backend, threads, notes });
  return opened;
}

async function opening({ data, form, model }: Open, runtime: Runtime, backend: Backend): Promise<Drawer> {
  const session = await runtime.InferenceSession.create(data, { executionProviders: [backend] });
  requirePorts(session, model);
  return new Drawer(runtime, session, form, model);
}

/** What to say of a model that does not open: only some of the reasons lie in the model. */
function refusal(error: unknown): PlayerError {
  if (error instanceof PlayerError) return error;
  const said = firstLine(error);
  if (said.startsWith("no available backend")) {
    const reason = said.replace(/^.*\[wasm\] /, "");
    return new PlayerError(`WebAssembly does not start here: ${reason}`, "Use a current browser, or close other pages");
  }
  if (/bad_alloc|out of memory|allocation failed/i.test(said)) {
    return new PlayerError("There is not enough memory for the model", "Close other pages, or take a smaller model");
  }
  return new PlayerError(`The model cannot be opened: ${said}`, "Export the run again");
}

interface Gpu {
  requestAdapter(): Promise<{ features: ReadonlySet<string> } | null>;
}

/** Why there is no WebGPU here for a model, computing in float16 or not; empty where there is. */
async function withoutGpu(half: boolean): Promise<string> {
  const gpu = (navigator as Navigator & { gpu?: Gpu }).gpu;
  if (!isSecureContext) return "WebGPU is there on https and on localhost only";
  if (!gpu) return "This browser has no WebGPU";
  const adapter = await gpu.requestAdapter().catch(() => null);
  if (!adapter) return "WebGPU finds no graphics processor here";
  return half && !adapter.features.has("shader-f16") ? "The graphics processor does not compute in float16" : "";
}

/** Bytes of the runtimes that were loaded: of a second one, where the first refuses the model. */
const there = { loaded: 0, total: 0 };

async function load(backend: Backend, threads: number): Promise<Runtime> {
  const folder = new URL(`${RUNTIME.folder}/`, self.location.href);
  const { module, binary } = FILES[backend];
  const before = there.loaded;
  there.total += RUNTIME.bytes[binary]!;
  // Its folder has the version in its name, so a copy that the browser has is the right one.
  const data = await download(new URL(binary, folder), RUNTIME.bytes[binary]!, "default", (loaded) => {
    there.loaded = before + loaded;
    say({ kind: "loading", ...there });
  });
  const runtime = (await import(/* @vite-ignore */ new URL(module, folder).href)) as Runtime;
  runtime.env.wasm.wasmBinary = data.buffer;
  runtime.env.wasm.wasmPaths = folder.href;
  runtime.env.wasm.numThreads = threads;
  runtime.env.logLevel = "error";
  return runtime;
}

function requirePorts(session: Ort.InferenceSession, model: Model): void {
  for (const [kind, said, has] of [
    ["inputs", model.inputs, session.inputNames],
    ["outputs", model.outputs, session.outputNames],
  ] as const) {
    const names = said.map((port) => port.name);
    if (names.join() !== has.join()) {
      throw new PlayerError(
        `The model's ${kind} are ${has.join(", ")}, but the manifest names ${names.join(", ")}`,
        "Export the run again",
      );
    }
  }
}

/** One model, asked for pictures. */
class Drawer {
  private msPerPixel: number | null = null;
  /** Whether all colours so far were numbers. */
  private finite = true;

  constructor(
    private readonly runtime: Runtime,
    private readonly session: Ort.InferenceSession,
    private readonly form: Form,
    private readonly model: Model,
  ) {}

  /** Pixels [H, W, 4], or null where `stale` said between two blocks that they are no longer wanted. */
  async draw(picture: Picture, stale: () => boolean): Promise<Uint8ClampedArray | null> {
    return this.form === "rays" ? this.drawRays(picture, stale) : this.drawView(picture);
  }

  /** Draws a picture, of rays a small one. Throws where its colours are no numbers. */
  async try(picture: Picture): Promise<void> {
    const small = { ...picture, camera: resized(picture.camera, TRIAL_SIDE, TRIAL_SIDE) };
    await this.draw(this.form === "rays" ? small : picture, () => false);
    if (!this.finite) throw new Error("its colours are not finite");
  }

  private async drawView({ camera, time, attributes }: Picture): Promise<Uint8ClampedArray> {
    const rgba = new Uint8ClampedArray(4 * camera.width * camera.height);
    const values = {
      camera_to_world: Float32Array.from(camera.camera_to_world.flat()),
      focal: Float32Array.from(camera.focal),
      principal: Float32Array.from(camera.principal),
      time: Float32Array.of(time),
      attributes: Float32Array.from(attributes),
    };
    await this.run(values, (port) => port.shape as number[], rgba, 0);
    return rgba;
  }

  private async drawRays(picture: Picture, stale: () => boolean): Promise<Uint8ClampedArray | null> {
    const { camera, time, attributes } = picture;
    const pixels = camera.width * camera.height;
    const rgba = new Uint8ClampedArray(4 * pixels);
    for (let first = 0; first < pixels; ) {
      const count = Math.min(blockRays(this.msPerPixel), pixels - first);
      const start = performance.now();
      const [origins, directions] = pinholeRays(camera, first, count);
      const each = new Float32Array(count * attributes.length).map((_, i) => attributes[i % attributes.length]!);
      const values = { origins, directions, times: new Float32Array(count).fill(time), attributes: each };
      await this.run(values, (port) => [count, ...(port.shape.slice(1) as number[])], rgba, first);
      this.measured(count, performance.now() - start);
      first += count;
      if (first < pixels) {
        await messagesRead();
        if (stale()) return null;
      }
    }
    return rgba;
  }

  private measured(count: number, ms: number): void {
    const now = ms / count;
    this.msPerPixel = this.msPerPixel === null ? now : 0.7 * this.msPerPixel + 0.3 * now;
  }

  private async run(
    values: Record<string, Float32Array>,
    shape: (port: Port) => number[],
    rgba: Uint8ClampedArray,
    first: number,
  ): Promise<void> {
    const feeds: Record<string, Ort.Tensor> = {};
    for (const port of this.model.inputs) {
      feeds[port.name] = new this.runtime.Tensor("float32", values[port.name]!, shape(port));
    }
    const output = (await this.session.run(feeds))[this.model.outputs[0]!.name]!;
    this.finite = paint(rgba, first, output.data as Float32Array) && this.finite;
    for (const tensor of [output, ...Object.values(feeds)]) tensor.dispose();
  }
}

/** Lets messages that have come in the meantime be read. */
function messagesRead(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

const firstLine = (error: unknown): string => String((error as Error)?.message ?? error).trim().split("\n")[0]!.slice(0, 300);
const sentence = (error: unknown): string => `The model stopped: ${firstLine(error)}. Load the page again.`;
