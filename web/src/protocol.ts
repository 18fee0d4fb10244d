// What the page and its worker tell each other.

import type { Camera, Form, Model } from "./manifest";

export type Backend = "webgpu" | "wasm";

/** What is to be drawn. */
export interface Picture {
  camera: Camera;
  time: number;
  attributes: number[];
}

/** Load the runtime; the model comes later. */
export interface Prepare {
  kind: "prepare";
  /** What to try; null for what there is. */
  backend: Backend | null;
  /** Threads that WebAssembly is to have. */
  threads: number;
  /** Whether the model computes in float16. */
  half: boolean;
}

export interface Open {
  kind: "open";
  form: Form;
  model: Model;
  data: ArrayBuffer;
  /** A picture to try the model with. */
  first: Picture;
}

export interface Draw {
  kind: "draw";
  id: number;
  picture: Picture;
}

export type ToWorker = Prepare | Open | Draw;

export interface Opened {
  kind: "opened";
  backend: Backend;
  threads: number;
  /** Why it is not what one would wish for; empty where it is. */
  notes: string[];
}

/** After "failed" a worker is of no use. */
export type FromWorker =
  | Opened
  | { kind: "loading"; loaded: number; total: number }
  | { kind: "drawn"; id: number; width: number; height: number; rgba: ArrayBuffer; ms: number }
  | { kind: "dropped"; id: number }
  | { kind: "failed"; message: string };
