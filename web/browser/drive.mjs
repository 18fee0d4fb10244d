// Drives a page of the player in a real browser for the tests, step by step, and prints what each step found as JSON.
//
//     node browser/drive.mjs CHROMIUM ADDRESS '[{"do": "settle"}, {"do": "pixels"}]'
//
// Steps:
//   size {width, height, cores, touch, gpu}   the window and the machine; has to come first
//   settle                        waits for a full picture, or a message: {state, message}
//   pixels                        the canvas: {width, height, rgba (base64)}
//   go {to}                       another page, relative to the first
//   drag {x, y}, touch {x, y}     presses in the middle of the picture, moves by x, y pixels, lets go
//   key {name}, click {on}        on the picture; on an element
//   set {on, value}               of a slider or a choice, as a user would
//   wait {ms}
//   look {on}                     the text of an element, its `value`, and whether it can be seen
//   evaluate {text}               the value of an expression
//   await {text}                  waits for an expression to be true
//   screenshot {path}

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const PATIENCE_MS = 120_000;
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // A name that is not this machine's: what browsers allow to localhost only is missing there.
  "--host-resolver-rules=MAP player.test 127.0.0.1",
];

// Without a graphics processor, WebGPU is there only if it is asked to compute on the processor, slowly.
const WITHOUT_GPU = ["--disable-gpu"];
const SOFTWARE_GPU = [
  "--enable-unsafe-webgpu",
  "--enable-features=Vulkan",
  "--use-vulkan=swiftshader",
  "--use-webgpu-adapter=swiftshader",
  "--ignore-gpu-blocklist",
];

const [executablePath, address, script] = process.argv.slice(2);
const steps = JSON.parse(script);

const acts = {
  size: async () => null,
  settle: async ({ page }) => {
    await page.waitForFunction(
      () => ["settled", "failed"].includes(document.body.dataset.state),
      undefined,
      { timeout: PATIENCE_MS },
    );
    return page.evaluate(() => ({
      state: document.body.dataset.state,
      message: document.getElementById("message").textContent.trim(),
    }));
  },
  pixels: ({ page }) =>
    page.evaluate(() => {
      const canvas = document.getElementById("canvas");
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      return { width, height, rgba: btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join("")) };
    }),
  drag: async ({ page, x, y }) => {
    const box = await page.locator("#stage").boundingBox();
    const middle = [box.x + box.width / 2, box.y + box.height / 2];
    await page.mouse.move(...middle);
    await page.mouse.down();
    await page.mouse.move(middle[0] + x, middle[1] + y, { steps: 8 });
    await page.mouse.up();
    return null;
  },
  touch: async ({ page, devtools, x, y }) => {
    const box = await page.locator("#stage").boundingBox();
    const middle = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    const touch = (type, points) => devtools.send("Input.dispatchTouchEvent", { type, touchPoints: points });
    await touch("touchStart", [middle]);
    for (let i = 1; i <= 8; i++) await touch("touchMove", [{ x: middle.x + (x * i) / 8, y: middle.y + (y * i) / 8 }]);
    await touch("touchEnd", []);
    return null;
  },
  go: async ({ page, to }) => (await page.goto(new URL(to, address).href), null),
  await: async ({ page, text }) => {
    // Not waitForFunction: the page's security policy forbids the eval by which it takes a text.
    const end = Date.now() + PATIENCE_MS;
    while (!(await page.evaluate(text))) {
      if (Date.now() > end) throw new Error(`this did not become true: ${text}`);
      await page.waitForTimeout(50);
    }
    return null;
  },
  key: async ({ page, name }) => (await page.locator("#stage").press(name), null),
  click: async ({ page, on }) => (await page.locator(on).click(), null),
  set: async ({ page, on, value }) => {
    const tag = await page.locator(on).evaluate((element) => element.tagName);
    if (tag === "SELECT") await page.locator(on).selectOption(value);
    else await page.locator(on).fill(value);
    return null;
  },
  wait: async ({ page, ms }) => (await page.waitForTimeout(ms), null),
  look: ({ page, on }) =>
    page.locator(on).evaluate((element) => ({
      text: element.textContent.trim(),
      value: element.value ?? null,
      visible: element.checkVisibility(),
    })),
  evaluate: ({ page, text }) => page.evaluate(text),
  screenshot: async ({ page, path }) => (await page.screenshot({ path, fullPage: true }), null),
};

const profile = await mkdtemp(join(tmpdir(), "player-"));
const [first] = steps;
const size = { width: 1200, height: 900, cores: 1, touch: false, gpu: false, ...(first?.do === "size" ? first : {}) };
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  args: [...FLAGS, ...(size.gpu ? SOFTWARE_GPU : WITHOUT_GPU)],
  viewport: { width: size.width, height: size.height },
  hasTouch: size.touch,
});
const found = [];
const complaints = [];
try {
  const page = context.pages()[0] ?? (await context.newPage());
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  const devtools = await context.newCDPSession(page);
  await devtools.send("Emulation.setHardwareConcurrencyOverride", { hardwareConcurrency: size.cores });
  await page.goto(address);
  for (const step of steps) found.push(await acts[step.do]({ page, devtools, ...step }));
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
console.log(JSON.stringify({ found, complaints }));
