// The page's side of a worker that draws one bundle.

import { below, canVerify, download, fetchJson, verify } from "./fetching";
import { PlayerError, readManifest, type Manifest } from "./manifest";
import type { Backend, FromWorker, Open, Opened, Picture, ToWorker } from "./protocol";

const MOST_THREADS = 8;

export interface Frame {
  width: number;
  height: number;
  rgba: Uint8ClampedArray<ArrayBuffer>;
  ms: number;
}

export interface Told {
  /** Bytes of the model and the runtime that are there, and of both. */
  loading(loaded: number, total: number): void;
  /** The poster's address, before the model is there. */
  poster(url: string, manifest: Manifest): void;
}

/** One that waits for a picture. */
interface Waiting {
  resolve(frame: Frame | null): void;
  reject(error: Error): void;
}

/** The parsed manifest.json of a folder, or null where there is none. */
export const fetchManifest = (folder: URL): Promise<unknown> => fetchJson(new URL("manifest.json", folder));

/** A bundle that can be drawn. */
export class Engine {
  /** Of the last picture; null before the first. */
  msPerPixel: number | null = null;
  private next = 0;
  private readonly waiting = new Map<number, Waiting>();
  private failure: Error | null = null;

  private constructor(
    readonly manifest: Manifest,
    readonly opened: Opened,
    private readonly worker: Worker,
  ) {
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.hear(data);
    worker.onerror = (event) =>
      this.fail(new PlayerError(`The worker stopped: ${event.message}`, "Load the page again"));
  }

  /** The bundle in a folder, of which `data` is the manifest, with its files verified. Throws PlayerError. */
  static async open(folder: URL, data: unknown, backend: Backend | null, told: Told): Promise<Engine> {
    if (data === null) throw new PlayerError("The bundle's file manifest.json is missing", "Copy the whole bundle again");
    const manifest = readManifest(data);
    const { model, form } = manifest;
    told.poster(below(folder, manifest.poster.file).href, manifest);
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    const there = { model: 0, runtime: 0, ofRuntime: 0 };
    const tell = () => told.loading(there.model + there.runtime, model.bytes + there.ofRuntime);
    const fetchModel = async () => {
      const bytes = await download(below(folder, model.file), model.bytes, "no-cache", (loaded) => {
        there.model = loaded;
        tell();
      });
      await verify(bytes, model);
      const open: Open = { kind: "open", form, model, data: bytes.buffer, first: startPicture(manifest) };
      send(worker, open, [bytes.buffer]);
    };
    try {
      const answer = answered(worker, (loaded, total) => {
        [there.runtime, there.ofRuntime] = [loaded, total];
        tell();
      });
      send(worker, { kind: "prepare", backend, threads: threads(), half: manifest.half });
      const [opened] = await Promise.all([answer, fetchModel()]);
      if (!canVerify()) {
        opened.notes.push("Checksums were not verified: browsers compute them on https and on localhost only.");
      }
      return new Engine(manifest, opened, worker);
    } catch (error) {
      worker.terminate();
      throw error;
    }
  }

  /**
   * The frame of a picture, or null where a later one was asked for before it was done. Rejects where the model fails;
   * the engine is of no use then.
   */
  draw(picture: Picture): Promise<Frame | null> {
    if (this.failure) return Promise.reject(this.failure);
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      send(this.worker, { kind: "draw", id, picture });
    });
  }

  /** Milliseconds for the start picture, the second time: the first one also prepares the model. */
  async measure(): Promise<number> {
    await this.draw(startPicture(this.manifest));
    return (await this.draw(startPicture(this.manifest)))?.ms ?? Infinity;
  }

  /** Milliseconds for a full picture, by the last one; null before the first. */
  get msPerPicture(): number | null {
    const { width, height } = this.manifest.camera;
    return this.msPerPixel === null ? null : this.msPerPixel * width * height;
  }

  close(): void {
    this.worker.terminate();
    for (const { resolve } of this.waiting.values()) resolve(null);
    this.waiting.clear();
  }

  private fail(error: Error): void {
    this.failure = error;
    this.worker.terminate();
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }

  private hear(message: FromWorker): void {
    if (message.kind === "failed") this.fail(new MessageError(message.message));
    if (message.kind !== "drawn" && message.kind !== "dropped") return;
    const waiting = this.waiting.get(message.id);
    this.waiting.delete(message.id);
    if (message.kind === "dropped") return waiting?.resolve(null);
    const { width, height, rgba, ms } = message;
    this.msPerPixel = ms / (width * height);
    waiting?.resolve({ width, height, rgba: new Uint8ClampedArray(rgba), ms });
  }
}

/** Time and attributes that a bundle begins with. */
export function defaults(manifest: Manifest): { time: number; attributes: number[] } {
  return {
    time: (manifest.time?.default as number | undefined) ?? 0,
    attributes: [...((manifest.attributes?.default as number[] | undefined) ?? [])],
  };
}

const startPicture = (manifest: Manifest): Picture => ({ camera: manifest.camera, ...defaults(manifest) });

/** What a worker says once it has opened its model; rejects where it cannot. */
function answered(worker: Worker, loading: (loaded: number, total: number) => void): Promise<Opened> {
  return new Promise((resolve, reject) => {
    worker.onerror = (event) =>
      reject(new PlayerError(`The player's worker does not start${event.message ? `: ${event.message}` : ""}`));
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if (data.kind === "loading") loading(data.loaded, data.total);
      if (data.kind === "opened") resolve(data);
      if (data.kind === "failed") reject(new MessageError(data.message));
    };
  });
}

/** Only pages that are cross-origin isolated may share memory between threads. */
const threads = (): number => (crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1);

/** A worker's message, which has its final stop. */
class MessageError extends Error {}

function send(worker: Worker, message: ToWorker, transfer: Transferable[] = []): void {
  worker.postMessage(message, transfer);
}
