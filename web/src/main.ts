// The player: opens the bundle beside the page, or the best of a ladder of bundles, and draws it as the user moves.

import "./style.css";
import { Engine } from "./engine";
import { fetchJson } from "./fetching";
import { PlayerError, readLadder, type Manifest, type Rung } from "./manifest";
import { Orbit } from "./orbit";
import { climb, movingSize, scaled, type Size } from "./pace";
import * as page from "./page";
import type { Backend, Picture } from "./protocol";
import { resized } from "./rays";

const SETTLE_MS = 150;
const LOOP_SECONDS = 6;
const DETAILS = [0.5, 1, 2];

class Player {
  private engine: Engine | null = null;
  private orbit: Orbit | null = null;
  private conditions: page.Conditions = { time: 0, attributes: [] };
  private msPerPixel: number | null = null;
  private lastChange = 0;
  /** What changed since the last picture was asked for; and which one is being drawn. */
  private dirty = false;
  private drawing: "moving" | "full" | null = null;
  private scheduled = false;
  private played: number | null = null;
  /** The rung that measuring chose, once it has. */
  private auto = 0;

  constructor(
    private readonly home: URL,
    private readonly ladder: Rung[] | null,
    private readonly backend: Backend | null,
  ) {
    page.listen({
      key: (name) => this.orbit?.key(name) ?? false,
      reset: () => this.orbit?.reset(),
      play: () => this.play(!page.playing()),
      detail: () => this.changed(),
      rung: (chosen) => void this.choose(chosen).catch(page.warn),
    });
  }

  async start(): Promise<void> {
    if (!this.ladder) return this.show(await this.open(this.home));
    const first = await this.measured(0);
    this.show(first.opened);
    const { opened, rung } = await climb(
      this.ladder.length,
      first,
      (rung) => this.measured(rung).catch((error: Error) => (page.warn(error), null)),
      (engine) => engine !== this.engine && engine.close(),
    );
    this.auto = rung;
    if (opened !== this.engine) this.show(opened);
    page.showRungs(this.ladder, rung, null);
  }

  /** A bundle of the ladder, and the milliseconds that a full picture of it takes. */
  private async measured(rung: number): Promise<{ opened: Engine; ms: number }> {
    const opened = await this.open(this.folder(rung));
    return { opened, ms: await opened.measure(startPicture(opened.manifest)) };
  }

  private folder(rung: number): URL {
    return new URL(`${this.ladder![rung]!.folder}/`, this.home);
  }

  private open(folder: URL): Promise<Engine> {
    const first = this.engine === null;
    return Engine.open(
      folder,
      this.backend,
      {
        loading: page.showLoading,
        poster: (url, manifest) => first && page.showPoster(url, manifest),
      },
      page.fail,
    ).finally(page.loaded);
  }

  private async choose(chosen: number | null): Promise<void> {
    const engine = await this.open(this.folder(chosen ?? this.auto));
    this.show(engine);
    page.showRungs(this.ladder!, this.auto, chosen);
  }

  /** Draws with another engine from now on; the camera stays where it is if it moves within the same limits. */
  private show(engine: Engine): void {
    const before = this.engine;
    const { manifest } = engine;
    this.engine = engine;
    this.msPerPixel = null;
    this.drawing = null;
    before?.close();
    if (JSON.stringify(before?.manifest.orbit) !== JSON.stringify(manifest.orbit)) {
      this.orbit?.dispose();
      this.orbit = new Orbit(manifest.camera, manifest.orbit, page.stage, () => this.changed());
    }
    if (JSON.stringify(names(before?.manifest)) !== JSON.stringify(names(manifest))) {
      this.conditions = defaults(manifest);
    }
    page.showSliders(manifest, this.conditions, () => {
      this.play(false);
      this.changed();
    });
    page.showDetails(manifest, DETAILS, (factor) => scaled(manifest.camera, factor));
    page.showAbout(manifest, engine.opened.notes);
    page.stir();
    this.lastChange = -Infinity;
    this.dirty = true;
    this.pump();
  }

  private changed(): void {
    page.stir();
    this.lastChange = performance.now();
    this.dirty = true;
    this.pump();
  }

  private play(on: boolean): void {
    if (!this.engine?.manifest.time || on === page.playing()) return;
    page.setPlaying(on);
    this.played = null;
    this.changed();
  }

  /** Time goes on by what has passed since the last picture, whatever a picture takes. */
  private advance(now: number): void {
    const [first, last] = this.engine!.manifest.time!.range!;
    const share = this.played === null ? 0 : (now - this.played) / (1000 * LOOP_SECONDS);
    this.played = now;
    const length = last - first;
    this.conditions.time = first + ((((this.conditions.time - first) / length + share) % 1) + 1) % 1 * length;
    page.showTime(this.conditions.time);
    this.lastChange = now;
    this.dirty = true;
  }

  /**
   * Asks for the next picture, if one is due. Pictures of a movement are finished; a full one is given up as soon as
   * something changes.
   */
  private pump(): void {
    if (!this.engine || this.drawing === "moving" || this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame((now) => {
      this.scheduled = false;
      if (page.playing()) this.advance(now);
      if (this.dirty) this.draw();
    });
  }

  private draw(): void {
    const engine = this.engine!;
    const full = this.fullSize(engine.manifest);
    const moving = performance.now() - this.lastChange < SETTLE_MS;
    const size = moving && engine.manifest.form === "rays" ? movingSize(full, this.msPerPixel) : full;
    const whole = size.width === full.width && size.height === full.height;
    this.dirty = false;
    const drawing = whole && !moving ? "full" : "moving";
    this.drawing = drawing;
    const camera = { ...resized(engine.manifest.camera, size.width, size.height), camera_to_world: this.orbit!.pose };
    void engine.draw({ camera, ...this.conditions, attributes: [...this.conditions.attributes] }).then((frame) => {
      if (engine !== this.engine || !frame) return;
      this.drawing = null;
      this.msPerPixel = frame.ms / (frame.width * frame.height);
      page.showFrame(frame, engine.opened);
      page.setState(this.dirty || page.playing() || !whole ? "moving" : "settled");
      if (this.dirty || page.playing()) this.pump();
      else if (!whole) this.settle();
    });
  }

  /** Draws the full picture once nothing has moved for a while. */
  private settle(): void {
    const rest = SETTLE_MS - (performance.now() - this.lastChange);
    setTimeout(() => {
      if (performance.now() - this.lastChange < SETTLE_MS - 1) return;
      this.dirty = true;
      this.pump();
    }, Math.max(rest, 0));
  }

  private fullSize(manifest: Manifest): Size {
    return manifest.form === "rays" ? scaled(manifest.camera, page.chosenDetail()) : manifest.camera;
  }
}

function defaults(manifest: Manifest): page.Conditions {
  return {
    time: (manifest.time?.default as number | undefined) ?? 0,
    attributes: [...((manifest.attributes?.default as number[] | undefined) ?? [])],
  };
}

const names = (manifest: Manifest | undefined) => manifest && [manifest.time !== null, manifest.attributes?.names];

const startPicture = (manifest: Manifest): Picture => ({ camera: manifest.camera, ...defaults(manifest) });

async function main(): Promise<void> {
  page.begin();
  const home = new URL(".", document.location.href);
  const asked = new URLSearchParams(document.location.search).get("backend");
  if (asked !== null && asked !== "webgpu" && asked !== "wasm") {
    throw new PlayerError(`There is no backend ${asked}`, "Choose ?backend=webgpu or ?backend=wasm");
  }
  let ladder: Rung[] | null = null;
  if ((await fetchJson(new URL("manifest.json", home))) === null) {
    const data = await fetchJson(new URL("ladder.json", home));
    if (data === null) {
      throw new PlayerError(
        "There is neither a manifest.json nor a ladder.json beside this page",
        "Copy the bundle's files beside it, or write the folder again with lumigraph export --web",
      );
    }
    ladder = readLadder(data);
  }
  await new Player(home, ladder, asked).start();
}

main().catch(page.fail);
