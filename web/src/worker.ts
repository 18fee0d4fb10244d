// Runs the model beside the page, so that the page answers while a picture is computed.

import type * as Ort from "onnxruntime-web";
import { download } from "./fetching";
import { PlayerError, type Model, type Port } from "./manifest";
import { blockRays } from "./pace";
import type { Backend, Draw, FromWorker, Open, Picture, ToWorker } from "./protocol";
import { fromHalf, paint, pinholeRays, toHalf } from "./rays";

type Runtime = typeof Ort;
type Element = "float32" | "float16" | "uint8";

const RUNTIME: Record<Backend, { module: string; binary: string }> = {
  wasm: { module: "ort.wasm.min.mjs", binary: "ort-wasm-simd-threaded.wasm" },
  webgpu: { module: "ort.webgpu.min.mjs", binary: "ort-wasm-simd-threaded.asyncify.wasm" },
};
const HEADERS = "the server does not send the headers that make a page cross-origin isolated (COOP and COEP)";

const say = (message: FromWorker, transfer: Transferable[] = []) => postMessage(message, { transfer });

let drawer: Drawer | null = null;
let wanted: Draw | null = null;
let drawing = false;

onmessage = async ({ data }: MessageEvent<ToWorker>) => {
  try {
    if (data.kind === "open") drawer = await open(data);
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

async function open(asked: Open): Promise<Drawer> {
  const notes: string[] = [];
  let backend: Backend = asked.backend ?? "webgpu";
  if (backend === "webgpu") {
    const reason = await withoutGpu();
    if (reason) {
      backend = "wasm";
      notes.push(`${reason}: the model runs on the processor.`);
    }
  }
  let session: Ort.InferenceSession | null = null;
  let runtime: Runtime | null = null;
  if (backend === "webgpu") {
    try {
      runtime = await load("webgpu", 1);
      session = await runtime.InferenceSession.create(asked.data, { executionProviders: ["webgpu"] });
    } catch (error) {
      backend = "wasm";
      notes.push(`WebGPU refuses the model (${firstLine(error)}): it runs on the processor.`);
    }
  }
  if (!session || !runtime) {
    if (!crossOriginIsolated) notes.push(`It runs in one thread, because ${HEADERS}.`);
    runtime = await load("wasm", asked.threads);
    try {
      session = await runtime.InferenceSession.create(asked.data, { executionProviders: ["wasm"] });
    } catch (error) {
      throw new PlayerError(`The model cannot be opened: ${firstLine(error)}`, "Export the run again");
    }
  }
  requirePorts(session, asked.model);
  say({ kind: "opened", backend, threads: asked.threads, notes });
  return new Drawer(runtime, session, asked);
}

/** Why there is no WebGPU here; empty where there is. */
async function withoutGpu(): Promise<string> {
  const gpu = (navigator as Navigator & { gpu?: { requestAdapter(): Promise<unknown> } }).gpu;
  if (!isSecureContext) return "WebGPU is there on https and on localhost only";
  if (!gpu) return "This browser has no WebGPU";
  const adapter = await gpu.requestAdapter().catch(() => null);
  return adapter ? "" : "WebGPU finds no graphics processor here";
}

async function load(backend: Backend, threads: number): Promise<Runtime> {
  const folder = new URL("ort/", self.location.href);
  const { module, binary } = RUNTIME[backend];
  const data = await download(new URL(binary, folder), 0, (loaded) => say({ kind: "loading", loaded, total: 0 }));
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

  constructor(
    private readonly runtime: Runtime,
    private readonly session: Ort.InferenceSession,
    private readonly bundle: Open,
  ) {}

  /** Pixels [H, W, 4], or null where `stale` said between two blocks that they are no longer wanted. */
  async draw(picture: Picture, stale: () => boolean): Promise<Uint8ClampedArray | null> {
    return this.bundle.form === "rays" ? this.drawRays(picture, stale) : this.drawView(picture);
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
    for (const port of this.bundle.model.inputs) feeds[port.name] = this.tensor(values[port.name]!, port, shape(port));
    const output = (await this.session.run(feeds))[this.bundle.model.outputs[0]!.name]!;
    const data = output.data as Float32Array | Uint16Array | Uint8Array;
    const half = output.type === "float16" && data instanceof Uint16Array;
    paint(rgba, first, half ? fromHalf(data) : data, output.type === "uint8");
    for (const tensor of [output, ...Object.values(feeds)]) tensor.dispose();
  }

  private tensor(values: Float32Array, port: Port, shape: number[]): Ort.Tensor {
    const dtype = port.dtype as Element;
    if (dtype === "float16") return new this.runtime.Tensor("float16", toHalf(values), shape);
    return new this.runtime.Tensor("float32", values, shape);
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
