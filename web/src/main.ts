// The player: opens the bundle beside the page, or the best of a ladder of bundles, and draws it as the user moves.

import "./style.css";
import { defaults, Engine, fetchManifest } from "./engine";
import { fetchJson } from "./fetching";
import { PlayerError, readLadder, type Manifest, type Rung } from "./manifest";
import { Orbit } from "./orbit";
import { climb, drawsMovement, movingSize, scaled, type Size } from "./pace";
import * as page from "./page";
import type { Backend } from "./protocol";
import { resized } from "./rays";

const SETTLE_MS = 150;
const LOOP_SECONDS = 6;
const DETAILS = [0.5, 1, 2];

class Player {
  private engine: Engine | null = null;
  /** The cheapest rung of a ladder, which stays open: it draws movement where the one that is shown is too slow. */
  private cheapest: Engine | null = null;
  private orbit: Orbit | null = null;
  private conditions: page.Conditions = { time: 0, attributes: [] };
  private lastChange = 0;
  /** What changed since the last picture was asked for; which picture that was; and for what it is drawn. */
  private dirty = false;
  private asked = 0;
  private drawing: "moving" | "full" | null = null;
  private scheduled = false;
  private playing = false;
  private played: number | null = null;
  /** The rung that measuring chose, once it has; the one chosen by hand, null for that of measuring; how often was chosen. */
  private auto = 0;
  private chosen: number | null = null;
  private choices = 0;
  private over = false;

  constructor(
    private readonly home: URL,
    private readonly ladder: Rung[] | null,
    private readonly backend: Backend | null,
  ) {
    page.listen({
      key: (name) => this.orbit?.key(name) ?? false,
      reset: () => this.orbit?.reset(),
      play: () => this.play(!this.playing),
      detail: () => this.changed(),
      rung: (chosen) => void this.choose(chosen),
    });
  }

  /** Opens the bundle beside the page, of which `data` is the manifest, or climbs the ladder. */
  async start(data: unknown): Promise<void> {
    if (!this.ladder) return this.show(await this.open(this.home, data));
    const first = await this.measured(0);
    this.cheapest = first.opened;
    this.show(first.opened);
    const { opened, rung } = await climb(
      this.ladder.length,
      first,
      (rung) => this.measured(rung).catch((error: Error) => (page.warn(error), null)),
      (engine) => this.leave(engine),
    );
    this.auto = rung;
    if (opened !== this.engine) this.show(opened);
    page.showRungs(this.ladder, rung, null);
  }

  /** A bundle of the ladder, and the milliseconds that a full picture of it takes. */
  private async measured(rung: number): Promise<{ opened: Engine; ms: number }> {
    const opened = await this.openRung(rung);
    try {
      return { opened, ms: await opened.measure() };
    } catch (error) {
      opened.close();
      throw error;
    }
  }

  private async openRung(rung: number): Promise<Engine> {
    const folder = new URL(`${this.ladder![rung]!.folder}/`, this.home);
    return this.open(folder, await fetchManifest(folder));
  }

  private open(folder: URL, data: unknown): Promise<Engine> {
    const first = this.engine === null;
    const poster = (url: string, manifest: Manifest) => first && page.showPoster(url, manifest);
    return Engine.open(folder, data, this.backend, { loading: page.showLoading, poster }).finally(page.loaded);
  }

  /** Shows a rung that the user chose, once it can draw, unless another was chosen by then. */
  private async choose(chosen: number | null): Promise<void> {
    const choice = ++this.choices;
    const rung = chosen ?? this.auto;
    try {
      const engine = rung === 0 && this.cheapest ? this.cheapest : (await this.measured(rung)).opened;
      if (choice !== this.choices) return this.leave(engine);
      this.chosen = chosen;
      page.unwarn();
      this.show(engine);
    } catch (error) {
      if (choice !== this.choices) return;
      page.warn(error as Error);
      page.showRungs(this.ladder!, this.auto, this.chosen);
    }
  }

  private leave(engine: Engine): void {
    if (engine !== this.engine && engine !== this.cheapest) engine.close();
  }

  /** Draws with another engine from now on; the camera stays where it is if it moves within the same limits. */
  private show(engine: Engine): void {
    if (this.over) return engine.close();
    const before = this.engine;
    const { manifest } = engine;
    this.engine = engine;
    this.asked++; // of what was asked before, nothing is shown
    this.drawing = null;
    if (before) this.leave(before);
    if (JSON.stringify(before?.manifest.orbit) !== JSON.stringify(manifest.orbit)) {
      this.orbit?.dispose();
      this.orbit = new Orbit(manifest.camera, manifest.orbit, page.stage, () => this.changed());
    }
    if (!before || !sameConditions(before.manifest, manifest)) this.showConditions(manifest);
    page.showDetails(manifest, DETAILS, (factor) => scaled(manifest.camera, factor));
    page.showAbout(manifest, engine.opened.notes);
    page.stir();
    this.lastChange = -Infinity;
    this.dirty = true;
    this.pump();
  }

  private showConditions(manifest: Manifest): void {
    this.conditions = defaults(manifest);
    this.playing &&= manifest.time !== null;
    page.showSliders(manifest, this.conditions, (by) => {
      if (by === "time") this.play(false);
      this.changed();
    });
    if (this.playing) page.showPlaying(true);
  }

  private changed(): void {
    page.stir();
    this.lastChange = performance.now();
    this.dirty = true;
    this.pump();
  }

  /** Whether there is time to play. */
  private play(on: boolean): boolean {
    if (!this.engine?.manifest.time) return false;
    if (on === this.playing) return true;
    this.playing = on;
    page.showPlaying(on);
    this.played = null;
    this.changed();
    return true;
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
      if (!this.engine) return;
      if (this.playing) this.advance(now);
      if (this.dirty) this.draw();
    });
  }

  private draw(): void {
    const moving = performance.now() - this.lastChange < SETTLE_MS;
    const engine = moving ? this.mover() : this.engine!;
    const full = this.fullSize(engine.manifest);
    const size = moving && engine.manifest.form === "rays" ? movingSize(full, engine.msPerPixel) : full;
    const final = engine === this.engine && size.width === full.width && size.height === full.height;
    const asked = ++this.asked;
    this.dirty = false;
    this.drawing = final && !moving ? "full" : "moving";
    const camera = { ...resized(engine.manifest.camera, size.width, size.height), camera_to_world: this.orbit!.pose };
    const picture = { camera, ...this.conditions, attributes: [...this.conditions.attributes] };
    engine.draw(picture).then(
      (frame) => {
        if (asked !== this.asked || !frame) return;
        this.drawing = null;
        page.showFrame(frame, engine.opened);
        page.setState(this.dirty || this.playing || !final ? "moving" : "settled");
        if (this.dirty || this.playing) this.pump();
        else if (!final) this.settle();
      },
      (error: Error) => this.failed(engine, error),
    );
  }

  /** Who draws while something moves: the cheapest rung, where the one shown can draw neither smaller nor quickly. */
  private mover(): Engine {
    const { engine, cheapest } = this;
    const { manifest } = engine!;
    if (!cheapest || cheapest === engine || manifest.form === "rays") return engine!;
    if (!sameConditions(cheapest.manifest, manifest)) return engine!;
    const other = { ms: cheapest.msPerPicture, anySize: cheapest.manifest.form === "rays" };
    return drawsMovement(other, engine!.msPerPicture) ? cheapest : engine!;
  }

  /** Without the one that is shown it is over; without the cheapest, movement is slower. */
  private failed(engine: Engine, error: Error): void {
    if (engine === this.engine) return this.end(error);
    if (engine !== this.cheapest) return;
    this.cheapest = null;
    page.warn(error);
    this.drawing = null;
    this.dirty = true;
    this.pump();
  }

  private end(error: Error): void {
    this.over = true;
    for (const engine of [this.engine, this.cheapest]) engine?.close();
    this.engine = this.cheapest = null;
    page.fail(error);
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

/** Whether two bundles take the same time and attributes, so that the sliders hold for both. */
function sameConditions(one: Manifest, other: Manifest): boolean {
  const taken = ({ time, attributes }: Manifest) => JSON.stringify([time?.range, attributes?.range, attributes?.names]);
  return taken(one) === taken(other);
}

async function main(): Promise<void> {
  page.begin();
  const home = new URL(".", document.location.href);
  const asked = new URLSearchParams(document.location.search).get("backend");
  if (asked !== null && asked !== "webgpu" && asked !== "wasm") {
    throw new PlayerError(`There is no backend ${asked}`, "Choose ?backend=webgpu or ?backend=wasm");
  }
  const manifest = await fetchManifest(home);
  let ladder: Rung[] | null = null;
  if (manifest === null) {
    const data = await fetchJson(new URL("ladder.json", home));
    if (data === null) {
      throw new PlayerError(
        "There is neither a manifest.json nor a ladder.json beside this page",
        "Copy the bundle's files beside it, or write the folder again with lumigraph export --web",
      );
    }
    ladder = readLadder(data);
  }
  await new Player(home, ladder, asked).start(manifest);
}

main().catch(page.fail);
