// The camera, its limits and its controls. three's OrbitControls turn a camera about a point; what they move becomes the
// pose that a model takes.

import { PerspectiveCamera, Quaternion, Vector3 } from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
import type { Camera, OrbitLimits } from "./manifest";

const DEGREES = Math.PI / 180;
const STEP = 4 * DEGREES;
const ZOOM = 1.05;

type Matrix = number[][];

export class Orbit {
  /** Moved since the start, whose pose is drawn as the manifest has it. */
  private moved = false;
  private readonly camera = new PerspectiveCamera();
  private readonly controls: OrbitControls;
  private readonly target: Vector3;
  private readonly aside: Matrix;

  constructor(
    private readonly start: Camera,
    limits: OrbitLimits,
    stage: HTMLElement,
    private readonly changed: () => void,
  ) {
    this.target = new Vector3(...limits.target);
    this.camera.up.set(...(limits.up as [number, number, number])).normalize();
    this.controls = new OrbitControls(this.camera, stage);
    this.controls.enablePan = false;
    this.controls.rotateSpeed = 0.7;
    this.controls.target.copy(this.target);
    this.camera.position.copy(this.startPosition()); // now, because new controls turn about the origin first
    // The start camera need not look at the target exactly. What it looks aside is kept, so that nothing jumps.
    this.aside = transposedTimes(this.towardsTarget(), rotationOf(start));
    this.limit(limits);
    this.controls.update();
    this.controls.addEventListener("change", () => {
      this.moved = true;
      this.changed();
    });
  }

  /** The pose [3][4] to draw. */
  get pose(): Matrix {
    if (!this.moved) return this.start.camera_to_world;
    const rotation = times(this.towardsTarget(), this.aside);
    const position = this.camera.position.toArray();
    return rotation.map((row, axis) => [...row, position[axis]!]);
  }

  /** Turns or moves by a key; whether it was one of ours. */
  key(name: string): boolean {
    const act = this.keys[name];
    act?.();
    return act !== undefined;
  }

  reset(): void {
    this.camera.position.copy(this.startPosition());
    this.controls.update();
    this.moved = false;
    this.changed();
  }

  dispose(): void {
    this.controls.dispose();
  }

  private readonly keys: Record<string, () => void> = {
    ArrowLeft: () => this.controls.rotateLeft(STEP),
    ArrowRight: () => this.controls.rotateLeft(-STEP),
    ArrowUp: () => this.controls.rotateUp(STEP),
    ArrowDown: () => this.controls.rotateUp(-STEP),
    "+": () => this.controls.dollyIn(1 / ZOOM),
    "=": () => this.controls.dollyIn(1 / ZOOM),
    "-": () => this.controls.dollyOut(1 / ZOOM),
    Home: () => this.reset(),
  };

  private limit(limits: OrbitLimits): void {
    const { controls } = this;
    [controls.minDistance, controls.maxDistance] = limits.distance;
    controls.minPolarAngle = Math.PI / 2 - limits.elevation[1] * DEGREES;
    controls.maxPolarAngle = Math.PI / 2 - limits.elevation[0] * DEGREES;
    if (!limits.azimuth) return;
    // OrbitControls count from an axis of their own, in the same sense about `up`.
    const east = new Vector3(...limits.east).applyQuaternion(upToY(this.camera.up));
    const zero = Math.atan2(east.x, east.z);
    [controls.minAzimuthAngle, controls.maxAzimuthAngle] = limits.azimuth.map((angle) =>
      withinTurn(zero + angle * DEGREES),
    ) as [number, number];
  }

  private startPosition(): Vector3 {
    return new Vector3(...(this.start.camera_to_world.map((row) => row[3]!) as [number, number, number]));
  }

  private towardsTarget(): Matrix {
    return upright(this.camera.position, this.target, this.camera.up);
  }
}

/**
 * Columns right, down, forward of an upright camera at `position` that looks at the target. Straight above or below it, where
 * any direction would do for its right, it is that of the azimuth that OrbitControls compute there.
 */
export function upright(position: Vector3, target: Vector3, up: Vector3): Matrix {
  const forward = target.clone().sub(position).normalize();
  const toY = upToY(up);
  const level = position.clone().sub(target).applyQuaternion(toY); // step by step as they do, for what is left of rounding
  const azimuth = Math.atan2(level.x, level.z);
  const right = new Vector3(Math.cos(azimuth), 0, -Math.sin(azimuth)).applyQuaternion(toY.invert());
  const down = forward.clone().cross(right);
  return [0, 1, 2].map((axis) => [right, down, forward].map((column) => column.getComponent(axis)));
}

/** The turn by which OrbitControls bring `up` to their own. */
const upToY = (up: Vector3): Quaternion => new Quaternion().setFromUnitVectors(up, new Vector3(0, 1, 0));

/** The same angle between -pi and pi. */
export function withinTurn(angle: number): number {
  return Math.atan2(Math.sin(angle), Math.cos(angle));
}

const rotationOf = (camera: Camera): Matrix => camera.camera_to_world.map((row) => row.slice(0, 3));

const times = (left: Matrix, right: Matrix): Matrix =>
  left.map((row) => [0, 1, 2].map((column) => row.reduce((sum, value, k) => sum + value * right[k]![column]!, 0)));

const transposedTimes = (left: Matrix, right: Matrix): Matrix =>
  times([0, 1, 2].map((row) => left.map((values) => values[row]!)), right);
