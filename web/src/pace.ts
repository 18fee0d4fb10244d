// How large pictures may be while something moves, and which bundle of a ladder this device can play.

/** Milliseconds that a picture may take while the camera or the time moves. */
export const MOVING_MS = 60;
/** Milliseconds that a full picture may take for a larger bundle of a ladder to be worth it. */
export const FULL_MS = 150;

const SCALES = [1, 0.75, 0.5, 0.35, 0.25, 0.18, 0.125];

export interface Size {
  width: number;
  height: number;
}

export function scaled(full: Size, scale: number): Size {
  const side = (length: number) => Math.max(1, Math.round(length * scale));
  return { width: side(full.width), height: side(full.height) };
}

/** The largest size that takes no more than MOVING_MS at a pixel's cost in milliseconds; unknown at first. */
export function movingSize(full: Size, msPerPixel: number | null): Size {
  if (msPerPixel === null) return scaled(full, 0.25);
  const sizes = SCALES.map((scale) => scaled(full, scale));
  const affordable = sizes.find((size) => size.width * size.height * msPerPixel <= MOVING_MS);
  return affordable ?? sizes[sizes.length - 1]!;
}

/**
 * Whether the cheapest rung of a ladder should draw while something moves, instead of the one that is shown: that has one
 * size, and milliseconds for a picture of it, null where they are not known. `anySize`: the cheapest draws smaller pictures.
 */
export function drawsMovement(cheapest: { ms: number | null; anySize: boolean }, shownMs: number | null): boolean {
  if (shownMs === null) return true;
  return shownMs > MOVING_MS && (cheapest.anySize || cheapest.ms === null || cheapest.ms < shownMs);
}

/**
 * Rays to ask at once: as many as take about 30 ms, a power of two, so that a picture that is no longer wanted can be
 * dropped, and few sizes of tensors occur.
 */
export function blockRays(msPerPixel: number | null): number {
  const affordable = msPerPixel === null ? 2048 : 30 / msPerPixel;
  return Math.min(1 << 14, Math.max(256, 2 ** Math.floor(Math.log2(Math.max(affordable, 1)))));
}

/**
 * Climbs a ladder from its `first` rung, the cheapest: `open` opens a rung and measures milliseconds for a full picture. Stays on the
 * last rung that is quick enough, or before one that does not open (null), and gives those that were left to `close`.
 */
export async function climb<T>(
  rungs: number,
  first: { opened: T; ms: number },
  open: (rung: number) => Promise<{ opened: T; ms: number } | null>,
  close: (opened: T) => void,
): Promise<{ opened: T; rung: number }> {
  let best = { ...first, rung: 0 };
  while (best.rung + 1 < rungs && best.ms <= FULL_MS / 2) {
    const rung = best.rung + 1;
    const found = await open(rung);
    if (!found) break;
    const next = { ...found, rung };
    if (next.ms > FULL_MS) {
      close(next.opened);
      break;
    }
    close(best.opened);
    best = next;
  }
  return best;
}
