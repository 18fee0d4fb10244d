// The page's side of a worker that draws one bundle.

import { below, canVerify, download, fetchJson, verify } from "./fetching";
import { PlayerError, readManifest, type Manifest } from "./manifest";
import type { Backend, FromWorker, Opened, Picture, ToWorker } from "./protocol";

const MOST_THREADS = 8;

export interface Frame {
  width: number;
  height: number;
  rgba: Uint8ClampedArray<ArrayBuffer>;
  ms: number;
}

export interface Told {
  /** What is being loaded, and how much of it there is; 0 of 0 where it is not known. */
  loading(what: string, loaded: number, total: number): void;
  /** The poster's address, before the model is there. */
  poster(url: string, manifest: Manifest): void;
}

/** A bundle that can be drawn. */
export class Engine {
  private next = 0;
  private readonly waiting = new Map<number, (frame: Frame | null) => void>();

  private constructor(
    readonly manifest: Manifest,
    readonly opened: Opened,
    private readonly worker: Worker,
    private readonly failed: (error: Error) => void,
  ) {
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.hear(data);
    worker.onerror = (event) => failed(new PlayerError(`The worker stopped: ${event.message}`, "Load the page again"));
  }

  /** The bundle in a folder, with its files verified. Throws PlayerError; `failed` gets what goes wrong later. */
  static async open(
    folder: URL,
    backend: Backend | null,
    told: Told,
    failed: (error: Error) => void,
  ): Promise<Engine> {
    const data = await fetchJson(new URL("manifest.json", folder));
    if (data === null) throw new PlayerError("The bundle's file manifest.json is missing", "Copy the whole bundle again");
    const manifest = readManifest(data);
    const { model, form } = manifest;
    told.poster(below(folder, manifest.poster.file).href, manifest);
    const bytes = await download(below(folder, model.file), model.bytes, (loaded, total) =>
      told.loading("Model", loaded, total),
    );
    await verify(bytes, model);
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    try {
      const opened = await new Promise<Opened>((resolve, reject) => {
        worker.onerror = (event) =>
          reject(new PlayerError(`The player's worker does not start${event.message ? `: ${event.message}` : ""}`));
        worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
          if (data.kind === "loading") told.loading("Runtime", data.loaded, data.total);
          if (data.kind === "opened") resolve(data);
          if (data.kind === "failed") reject(new MessageError(data.message));
        };
        const asked = { form, model, data: bytes.buffer, backend, threads: threads() };
        send(worker, { kind: "open", ...asked }, [bytes.buffer]);
      });
      if (!canVerify()) {
        opened.notes.push("Checksums were not verified: browsers compute them on https and on localhost only.");
      }
      return new Engine(manifest, opened, worker, failed);
    } catch (error) {
      worker.terminate();
      throw error;
    }
  }

  /** The frame of a picture, or null where a later one was asked for before it was done. */
  draw(picture: Picture): Promise<Frame | null> {
    const id = this.next++;
    return new Promise((resolve) => {
      this.waiting.set(id, resolve);
      send(this.worker, { kind: "draw", id, picture });
    });
  }

  /** Milliseconds for one picture, the second: the first one also prepares the model. */
  async measure(picture: Picture): Promise<number> {
    await this.draw(picture);
    return (await this.draw(picture))?.ms ?? Infinity;
  }

  close(): void {
    this.worker.terminate();
    for (const resolve of this.waiting.values()) resolve(null);
    this.waiting.clear();
  }

  private hear(message: FromWorker): void {
    if (message.kind === "failed") this.failed(new MessageError(message.message));
    if (message.kind !== "drawn" && message.kind !== "dropped") return;
    const resolve = this.waiting.get(message.id);
    this.waiting.delete(message.id);
    if (message.kind === "dropped") return resolve?.(null);
    const { width, height, rgba, ms } = message;
    resolve?.({ width, height, rgba: new Uint8ClampedArray(rgba), ms });
  }
}

/** Only pages that are cross-origin isolated may share memory between threads. */
const threads = (): number => (crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1);

/** A worker's message, which has its final stop. */
class MessageError extends Error {}

function send(worker: Worker, message: ToWorker, transfer: Transferable[] = []): void {
  worker.postMessage(message, transfer);
}
