// Builds the player into the Python package: index.html, and beside it a folder `player` with everything else.

import { readFileSync } from "node:fs";
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

function besideThePage(): Plugin {
  return {
    name: "beside-the-page",
    generateBundle() {
      for (const file of RUNTIME) {
        const source = readFileSync(new URL(`node_modules/onnxruntime-web/dist/${file}`, import.meta.url));
        this.emitFile({ type: "asset", fileName: `player/ort/${file}`, source });
      }
      const licences = readFileSync(new URL("third-party-licences.txt", import.meta.url));
      this.emitFile({ type: "asset", fileName: "player/licences.txt", source: licences });
    },
  };
}

export default defineConfig({
  base: "./",
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
