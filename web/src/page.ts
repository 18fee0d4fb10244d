// The page's elements: what they show, and what the user does with them.

import type { Manifest, Port, Rung } from "./manifest";
import type { Size } from "./pace";
import type { Opened } from "./protocol";
import type { Frame } from "./engine";

export type State = "starting" | "loading" | "moving" | "settled" | "failed";

const element = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

export const stage = element("stage");
const canvas = element<HTMLCanvasElement>("canvas");
const rungs = element<HTMLSelectElement>("rung");
const detail = element<HTMLSelectElement>("detail");

export function setState(state: State): void {
  document.body.dataset.state = state;
}

/** The one message about what went wrong; nothing else is left to use. */
export function fail(error: Error): void {
  setState("failed");
  warn(error);
}

/** Takes what `warn` said away. */
export function unwarn(): void {
  element("message").hidden = true;
  element("message").textContent = "";
}

/** Says what went wrong where the player goes on with what it has. */
export function warn(error: Error): void {
  element("message").hidden = false;
  element("message").textContent = error.message;
}

/** What is shown is no longer what was asked for. */
export function stir(): void {
  if (document.body.dataset.state === "settled") setState("moving");
}

export function begin(): void {
  unwarn();
  setState("loading");
}

export function showPoster(url: string, manifest: Manifest): void {
  const title = manifest.scene || "Light field";
  document.title = title;
  element("title").textContent = title;
  const { width, height } = manifest.camera;
  stage.style.setProperty("--across", String(width));
  stage.style.setProperty("--down", String(height));
  stage.hidden = false;
  element<HTMLImageElement>("poster").src = url;
}

export function showLoading(loaded: number, total: number): void {
  element("loading").hidden = false;
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
  element("loading-what").textContent = `Loading: ${megabytes(loaded)} of ${megabytes(total)} MB`;
  const progress = element<HTMLProgressElement>("progress");
  progress.max = total;
  progress.value = loaded;
}

export function loaded(): void {
  element("loading").hidden = true;
}

export function showFrame(frame: Frame, opened: Opened): void {
  canvas.width = frame.width;
  canvas.height = frame.height;
  canvas.getContext("2d")!.putImageData(new ImageData(frame.rgba, frame.width, frame.height), 0, 0);
  const threads = opened.threads === 1 ? "1 thread" : `${opened.threads} threads`;
  const by = opened.backend === "webgpu" ? "WebGPU" : `WebAssembly, ${threads}`;
  const ms = frame.ms < 10 ? frame.ms.toFixed(1) : Math.round(frame.ms);
  element("readout").textContent = `${frame.width} × ${frame.height} pixels in ${ms} ms (${by})`;
}

export function showAbout(manifest: Manifest, notes: string[]): void {
  element("notes").replaceChildren(
    ...notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })),
  );
  const size = manifest.parameters === null ? "" : `, ${manifest.parameters.toLocaleString("en")} parameters`;
  const megabytes = (manifest.model.bytes / 1e6).toFixed(2);
  element("about").textContent = `${manifest.method}${size}, ${megabytes} MB. Licence: ${manifest.licence}.`;
}

// ------------------------------------------------------------------------------------------ time and attributes

export interface Conditions {
  time: number;
  attributes: number[];
}

/** Sliders for what the model knows beside the camera; `values` are changed by them, and `changed` is told by which. */
export function showSliders(
  manifest: Manifest,
  values: Conditions,
  changed: (by: "time" | "attribute") => void,
): void {
  const { time, attributes } = manifest;
  const rows: HTMLElement[] = [];
  if (time) {
    const set = (value: number) => {
      values.time = value;
      changed("time");
    };
    rows.push(slider("time", "Time", time, values.time, set, playButton()));
  }
  attributes?.names!.forEach((name, i) => {
    const set = (value: number) => {
      values.attributes[i] = value;
      changed("attribute");
    };
    rows.push(slider(`attribute-${i}`, name, attributes, values.attributes[i]!, set));
  });
  element("sliders").replaceChildren(...rows);
  element("play-key").hidden = !time;
  element("controls").hidden = false;
}

function slider(
  id: string,
  name: string,
  port: Port,
  value: number,
  set: (value: number) => void,
  ...more: HTMLElement[]
): HTMLElement {
  const [low, high] = port.range!;
  const row = Object.assign(document.createElement("div"), { className: "slider" });
  const label = Object.assign(document.createElement("label"), { htmlFor: id, textContent: name });
  const input = Object.assign(document.createElement("input"), { id, type: "range" });
  Object.assign(input, { min: String(low), max: String(high), step: String((high - low) / 200) });
  input.value = String(value);
  const output = document.createElement("output");
  output.htmlFor.add(id);
  output.textContent = value.toFixed(2);
  // The number beside it is read out with the slider already.
  output.setAttribute("aria-live", "off");
  input.addEventListener("input", () => {
    output.textContent = Number(input.value).toFixed(2);
    set(Number(input.value));
  });
  row.append(label, input, output, ...more);
  return row;
}

function playButton(): HTMLButtonElement {
  return Object.assign(document.createElement("button"), { id: "play", type: "button", textContent: "Play" });
}

export function showPlaying(on: boolean): void {
  element("play").textContent = on ? "Pause" : "Play";
}

export function showTime(value: number): void {
  const input = element<HTMLInputElement>("time");
  input.value = String(value);
  input.nextElementSibling!.textContent = value.toFixed(2);
}

// ----------------------------------------------------------------------------------------------------- choices

/** Sizes of pictures to choose from, where the model has more than one. */
export function showDetails(manifest: Manifest, factors: readonly number[], sizeOf: (factor: number) => Size): void {
  const before = detail.value;
  detail.replaceChildren(
    ...factors.map((factor) => {
      const { width, height } = sizeOf(factor);
      return new Option(`${width} × ${height}`, String(factor), factor === 1, factor === 1);
    }),
  );
  if (factors.map(String).includes(before)) detail.value = before;
  element("detail-label").hidden = manifest.form === "view";
}

export const chosenDetail = (): number => Number(detail.value);

/** The bundles of a ladder; `auto` is the one that measuring chose. */
export function showRungs(ladder: Rung[], auto: number, chosen: number | null): void {
  rungs.replaceChildren(
    new Option(`Chosen by speed: ${ladder[auto]!.name}`, "auto", true, chosen === null),
    ...ladder.map((rung, i) => new Option(rung.name, String(i), false, chosen === i)),
  );
  element("rung-label").hidden = ladder.length < 2;
}

export interface Actions {
  key(name: string): boolean;
  reset(): void;
  /** Whether there is something to play. */
  play(): boolean;
  detail(): void;
  rung(chosen: number | null): void;
}

export function listen(actions: Actions): void {
  stage.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const ours = event.key === " " ? actions.play() : actions.key(event.key);
    if (ours) event.preventDefault();
  });
  element("reset").addEventListener("click", actions.reset);
  element("sliders").addEventListener("click", (event) => {
    if ((event.target as HTMLElement).id === "play") actions.play();
  });
  detail.addEventListener("change", actions.detail);
  rungs.addEventListener("change", () => actions.rung(rungs.value === "auto" ? null : Number(rungs.value)));
  element<HTMLFormElement>("controls").addEventListener("submit", (event) => event.preventDefault());
}
