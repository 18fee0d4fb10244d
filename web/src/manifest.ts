// What stands in a bundle's manifest.json, as far as the player needs it, and the checks that it can be played.

export const SCHEMA = 4;

/** One message for the page: what is wrong, and what to do. */
export class PlayerError extends Error {
  constructor(what: string, todo = "") {
    const sentence = what.replace(/\.+$/, ".").replace(/[^.]$/, "$&.");
    super(todo ? `${sentence} ${todo}.` : sentence);
    this.name = "PlayerError";
  }
}

export interface Port {
  name: string;
  shape: (number | string)[];
  dtype: string;
  /** Of time and attributes. */
  range?: [number, number];
  default?: number | number[];
  names?: string[];
}

export interface StoredFile {
  file: string;
  bytes: number;
  sha256: string;
}

export interface Model extends StoredFile {
  inputs: Port[];
  outputs: Port[];
}

export interface Camera {
  width: number;
  height: number;
  focal: [number, number];
  principal: [number, number];
  /** Three rows of four; OpenCV's camera frame. */
  camera_to_world: number[][];
}

/** Within what the cameras of the capture saw: units of the capture, degrees. */
export interface OrbitLimits {
  target: number[];
  up: number[];
  east: number[];
  azimuth: [number, number] | null;
  elevation: [number, number];
  distance: [number, number];
}

/** How the player asks a model: ray by ray, at any size, or for whole pictures of one size. */
export type Form = "rays" | "view";

export interface Manifest {
  method: string;
  form: Form;
  model: Model;
  /** Whether the model computes in float16. */
  half: boolean;
  poster: StoredFile;
  camera: Camera;
  orbit: OrbitLimits;
  licence: string;
  /** Of the network as it is shipped. */
  parameters: number | null;
  scene: string;
  time: Port | null;
  attributes: Port | null;
}

const INPUTS: Record<Form, { needed: string[]; time: string }> = {
  rays: { needed: ["origins", "directions"], time: "times" },
  view: { needed: ["camera_to_world", "focal", "principal"], time: "time" },
};
/** More than any phone or browser could hold. */
const MOST_BYTES = 2 ** 31;
const AGAIN = "Export the run again with lumigraph export";

/** The manifest of a bundle, from its parsed JSON. Throws PlayerError where it is not one that can be played. */
export function readManifest(data: unknown): Manifest {
  const manifest = data as Record<string, any> | null;
  if (typeof manifest !== "object" || manifest === null || manifest.format !== "lumigraph bundle") {
    throw new PlayerError("This manifest.json is not that of a lumigraph bundle", "Make one with lumigraph export");
  }
  if (manifest.schema !== SCHEMA) {
    const older = manifest.schema < SCHEMA;
    throw new PlayerError(
      `The bundle has version ${JSON.stringify(manifest.schema)}, this player plays version ${SCHEMA}`,
      older ? AGAIN : "Use the player of the lumigraph that wrote the bundle",
    );
  }
  try {
    return parts(manifest);
  } catch (error) {
    if (error instanceof PlayerError) throw error;
    throw new PlayerError(`The manifest is not complete: ${(error as Error).message}`, AGAIN);
  }
}

function parts(manifest: Record<string, any>): Manifest {
  if (manifest.form === "lens") {
    throw new PlayerError("The page plays bundles of one graph, not the three of a lens", "Export without --form lens");
  }
  const form: Form = manifest.models.rays ? "rays" : "view";
  const model = readModel(manifest.models[form], form);
  const find = (name: string) => model.inputs.find((port) => port.name === name) ?? null;
  return {
    method: String(manifest.method),
    form,
    model,
    half: manifest.precision === "float16",
    poster: stored(manifest.poster, "poster"),
    camera: readCamera(manifest.camera),
    orbit: readOrbit(manifest.orbit),
    licence: String(manifest.licence ?? "not stated"),
    parameters: manifest.network?.parameters ?? manifest.provenance?.parameters ?? null,
    scene: String(manifest.scene?.name ?? ""),
    time: condition(find(INPUTS[form].time), 1),
    attributes: condition(find("attributes"), find("attributes")?.names?.length ?? 0),
  };
}

function readModel(data: any, form: Form): Model {
  if (!data) throw new Error("it names no model");
  const inputs = ports(data.inputs, form);
  const outputs = ports(data.outputs, form);
  const { needed, time } = INPUTS[form];
  const known = [...needed, time, "attributes"];
  const strange = inputs.find((port) => !known.includes(port.name));
  if (strange) {
    throw new PlayerError(
      `The model takes ${strange.name}, which this player does not know`,
      "Use the player of the lumigraph that wrote the bundle",
    );
  }
  const missing = needed.find((name) => !inputs.some((port) => port.name === name));
  if (missing) throw new Error(`the model has no input ${missing}`);
  if (outputs.length !== 1) throw new Error("the model has not one output");
  return { ...stored(data, form), inputs, outputs };
}

function ports(data: any, form: string): Port[] {
  if (!Array.isArray(data)) throw new Error(`the ports of ${form} are not listed`);
  for (const port of data) {
    if (typeof port?.name !== "string" || !Array.isArray(port.shape)) throw new Error(`a port of ${form} is not told`);
    if (port.dtype !== "float32") {
      throw new PlayerError(`The model has ${port.name} in ${port.dtype}, which this player does not know`);
    }
  }
  return data;
}

function stored(data: any, name: string): StoredFile {
  if (typeof data?.file !== "string" || typeof data.sha256 !== "string") {
    throw new Error(`file, bytes and sha256 of ${name} are needed`);
  }
  if (!Number.isInteger(data.bytes) || data.bytes < 0 || data.bytes > MOST_BYTES) {
    throw new Error(`the bytes of ${name} are not between 0 and ${MOST_BYTES}`);
  }
  return data;
}

function condition(port: Port | null, count: number): Port | null {
  if (!port) return null;
  const values = [port.default].flat();
  const [low, high] = numbers(port.range, 2, `the range of ${port.name}`);
  if (values.length !== count || !values.every((value) => value! >= low! && value! <= high!)) {
    throw new Error(`the default of ${port.name} is not ${count} numbers in its range`);
  }
  return port;
}

function readCamera(camera: any): Camera {
  if (![camera.width, camera.height].every((side) => Number.isInteger(side) && side > 0 && side <= 8192)) {
    throw new Error("the camera has no size");
  }
  numbers(camera.focal, 2, "the camera's focal");
  numbers(camera.principal, 2, "the camera's principal");
  numbers(camera.camera_to_world?.flat(), 12, "the camera's camera_to_world");
  return camera;
}

function readOrbit(orbit: any): OrbitLimits {
  for (const name of ["target", "up", "east"]) numbers(orbit?.[name], 3, `the orbit's ${name}`);
  for (const name of ["elevation", "distance"]) numbers(orbit[name], 2, `the orbit's ${name}`);
  if (orbit.azimuth !== null) numbers(orbit.azimuth, 2, "the orbit's azimuth");
  return orbit;
}

function numbers(values: unknown, count: number, name: string): number[] {
  if (!Array.isArray(values) || values.length !== count || !values.every(Number.isFinite)) {
    throw new Error(`${name} should be ${count} numbers`);
  }
  return values;
}

/** One of several bundles to choose among, cheapest first. */
export interface Rung {
  folder: string;
  name: string;
}

/** What stands in ladder.json. */
export function readLadder(data: unknown): Rung[] {
  const ladder = data as Record<string, any> | null;
  if (ladder?.format !== "lumigraph ladder" || ladder.schema !== 1) {
    throw new PlayerError("This ladder.json is not one that this player knows", "Make it with lumigraph view --write");
  }
  const rungs = ladder.bundles;
  const whole = (rung: any) => typeof rung?.folder === "string" && typeof rung.name === "string";
  if (!Array.isArray(rungs) || rungs.length === 0 || !rungs.every(whole)) {
    throw new PlayerError("ladder.json names no bundles", "Make it with lumigraph view --write");
  }
  return rungs;
}
