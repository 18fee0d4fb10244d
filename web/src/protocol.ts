// What the page and its worker tell each other.

import type { Camera, Form, Model } from "./manifest";

export type Backend = "webgpu" | "wasm";

/** What is to be drawn. */
export interface Picture {
  camera: Camera;
  time: number;
  attributes: number[];
}

export interface Open {
  kind: "open";
  form: Form;
  model: Model;
  data: ArrayBuffer;
  /** What to try; null for what there is. */
  backend: Backend | null;
  /** Threads that WebAssembly is to have. */
  threads: number;
}

export interface Draw {
  kind: "draw";
  id: number;
  picture: Picture;
}

export type ToWorker = Open | Draw;

export interface Opened {
  kind: "opened";
  backend: Backend;
  threads: number;
  /** Why it is not what one would wish for; empty where it is. */
  notes: string[];
}

export type FromWorker =
  | Opened
  | { kind: "loading"; loaded: number; total: number }
  | { kind: "drawn"; id: number; width: number; height: number; rgba: ArrayBuffer; ms: number }
  | { kind: "dropped"; id: number }
  | { kind: "failed"; message: string };
