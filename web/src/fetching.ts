// Files of a bundle: found below its folder, downloaded with progress, verified by their checksums.

import { PlayerError, type StoredFile } from "./manifest";

/** The address of a file of a bundle. Throws PlayerError where its name leads out of the bundle's folder. */
export function below(folder: URL, name: string): URL {
  const url = new URL(name, folder);
  if (url.origin !== folder.origin || !url.pathname.startsWith(folder.pathname) || url.search || url.hash) {
    throw new PlayerError(`The bundle names a file outside its folder: ${name}`, "Do not trust this bundle");
  }
  return url;
}

/** Parsed JSON, or null where there is no such file. */
export async function fetchJson(url: URL): Promise<unknown> {
  const response = await answered(url, "no-cache");
  if (response.status === 404) return null;
  requireOk(response, url);
  try {
    return await response.json();
  } catch {
    throw new PlayerError(`${fileName(url)} is not valid JSON`, "Copy the bundle again");
  }
}

/**
 * The content of a file of `expected` bytes, whose length the server need not tell. Throws PlayerError where there are
 * more; fewer are told by `verify`. With `cache` "no-cache" the server is asked whether a copy still holds.
 */
export async function download(
  url: URL,
  expected: number,
  cache: "no-cache" | "default",
  progress: (loaded: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  const response = await answered(url, cache);
  requireOk(response, url);
  const data = room(expected, url);
  let length = 0;
  const reader = response.body!.getReader();
  for (;;) {
    const part = await reader.read().catch(() => {
      throw new PlayerError(`The download of ${fileName(url)} broke off`, "Check the connection and load the page again");
    });
    if (part.done) return length === expected ? data : data.slice(0, length);
    if (length + part.value.length > expected) {
      void reader.cancel().catch(() => {}); // it may be endless
      throw new PlayerError(
        `${fileName(url)} is longer than the ${expected} bytes that it should have`,
        "Copy the bundle again, or export the run again",
      );
    }
    data.set(part.value, length);
    length += part.value.length;
    progress(length);
  }
}

function room(bytes: number, url: URL): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(bytes);
  } catch {
    throw new PlayerError(
      `There is not enough memory for the ${bytes} bytes of ${fileName(url)}`,
      "Close other pages, or take a smaller model",
    );
  }
}

/** Whether this page may compute checksums: browsers allow it on https and on this machine itself only. */
export const canVerify = (): boolean => globalThis.crypto?.subtle !== undefined;

/** Throws PlayerError unless a file is the one the bundle was made with; without SubtleCrypto only its length is seen. */
export async function verify(data: Uint8Array<ArrayBuffer>, file: StoredFile): Promise<void> {
  const whole = data.length === file.bytes;
  if (whole && (!canVerify() || (await sha256(data)) === file.sha256)) return;
  const how = whole ? "its checksum differs" : `it has ${data.length} bytes instead of ${file.bytes}`;
  throw new PlayerError(
    `${file.file} is not the file the bundle was made with: ${how}`,
    "Copy the bundle again, or export the run again",
  );
}

async function sha256(data: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function answered(url: URL, cache: "no-cache" | "default"): Promise<Response> {
  try {
    return await fetch(url, { cache });
  } catch {
    throw new PlayerError(`${fileName(url)} cannot be reached`, "Check the connection and load the page again");
  }
}

function requireOk(response: Response, url: URL): void {
  if (response.status === 404) {
    throw new PlayerError(`The bundle's file ${fileName(url)} is missing`, "Copy the whole bundle again");
  }
  if (!response.ok) throw new PlayerError(`The server answers ${response.status} for ${fileName(url)}`);
}

const fileName = (url: URL): string => url.pathname.split("/").pop() ?? "";
