// Builds the player into the Python package: index.html, and beside it a folder `player` with everything else.

import { readFileSync, statSync } from "node:fs";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// onnxruntime-web goes in as it was published: it finds its own worker threads beside itself, which no bundler may move.
const RUNTIME = [
  "ort.wasm.min.mjs",
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
  "ort.webgpu.min.mjs",
  "ort-wasm-simd-threaded.asyncify.mjs",
  "ort-wasm-simd-threaded.asyncify.wasm",
];

const published = (file: string) => new URL(`node_modules/onnxruntime-web/${file}`, import.meta.url);
const { version } = JSON.parse(readFileSync(published("package.json"), "utf-8")) as { version: string };
/** Where they lie beside the player's script: another version has another address, whatever a browser has kept. */
const FOLDER = `ort-${version}`;
const BYTES = Object.fromEntries(RUNTIME.map((file) => [file, statSync(published(`dist/${file}`)).size]));

function besideThePage(): Plugin {
  return {
    name: "beside-the-page",
    generateBundle() {
      for (const file of RUNTIME) {
        const source = readFileSync(published(`dist/${file}`));
        this.emitFile({ type: "asset", fileName: `player/${FOLDER}/${file}`, source });
      }
      const licences = readFileSync(new URL("third-party-licences.txt", import.meta.url));
      this.emitFile({ type: "asset", fileName: "player/licences.txt", source: licences });
    },
  };
}

export default defineConfig({
  base: "./",
  define: { RUNTIME: JSON.stringify({ folder: FOLDER, bytes: BYTES }) },
  publicDir: false,
  plugins: [besideThePage()],
  worker: { format: "es" },
  build: {
    outDir: "../src/lumigraph/viewers/static",
    emptyOutDir: true,
    assetsDir: "player",
    target: "es2022",
    modulePreload: false,
  },
  test: { include: ["test/**/*.test.ts"] },
});
