// Use the page as a reader does, in a headless browser; prints what was seen, as JSON.
//   node drive.mjs '{"url": ..., "chromium": ..., "profile": ..., "noAudio": ..., "stereo": ...}'
// Of the other keys, "pictures" is a folder for screenshots.

import { createRequire } from "node:module";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const given = JSON.parse(process.argv[2]);

const seen = { texts: {}, times: {}, sizes: {}, requests: [], errors: [] };
const browser = await chromium.launchPersistentContext(given.profile, {
  executablePath: given.chromium,
  headless: true,
  permissions: ["microphone"],
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream",
  ],
});
const page = await browser.newPage();
page.on("request", (request) => seen.requests.push(request.url()));
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("console", (line) => line.type() === "error" && seen.errors.push(line.text()));

const idle = () => page.locator("#page[aria-busy=false]").waitFor();
const textOf = (id) => page.locator(`#${id}`).textContent();
const move = async (place) => {
  await page.locator("#size").evaluate((slider, value) => {
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    slider.dispatchEvent(new Event("change"));
  }, place);
  await idle();
};

async function useIt() {
  await page.goto(given.url);
  await idle();
  seen.message = await textOf("message");
  if (seen.message) return;
  const places = 1 + Number(await page.locator("#size").getAttribute("max"));
  const kinds = await page.locator("input[name=kind]").evaluateAll((all) => all.map((x) => x.value));
  seen.samples = (await page.locator("#sample option").count()) - 1;
  for (let sample = 0; sample < seen.samples; sample++) {
    await page.locator("#sample").selectOption(String(sample));
    await idle();
    for (const kind of kinds) {
      await page.locator(`input[value=${kind}]`).check();
      for (let place = 0; place < places; place++) {
        await move(place);
        const key = `${sample} ${kind} ${await textOf("layers")}`;
        seen.texts[key] = await textOf("text");
        seen.times[key] = await textOf("time");
        seen.sizes[`${kind} ${await textOf("layers")}`] = {
          params: await textOf("params"), macs: await textOf("macs"), bytes: await textOf("bytes"),
        };
      }
    }
    if (sample === 0) {
      seen.rows = await page.locator("#tried tr").count();
      seen.reference = await textOf("reference");
      seen.conversion = await textOf("conversion");
    }
  }
  await draw("text");
  await page.locator("#file").setInputFiles(given.stereo);
  await idle();
  seen.stereo = [await textOf("text"), await textOf("conversion"), await textOf("message")];
  await page.locator("#file").setInputFiles(given.noAudio);
  await idle();
  await draw("error");
  seen.noAudio = [await textOf("message"), await textOf("text")];
  await page.evaluate(() => {
    const devices = navigator.mediaDevices;
    devices.getUserMedia = async () => {
      delete devices.getUserMedia; // the next call is answered by the browser again
      throw new DOMException("", "NotFoundError");
    };
  });
  await page.locator("#record").click();
  await idle();
  seen.noMicrophone = await textOf("message");
  await page.locator("#record").click();
  await idle();
  await page.waitForTimeout(1500);
  await page.locator("#record").click();
  await page.locator("#conversion", { hasText: "The recording" }).waitFor();
  await idle();
  seen.recorded = [await textOf("conversion"), await textOf("message")];
}

async function draw(name) {
  if (!given.pictures) return;
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1100, 360]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      await page.screenshot({ path: `${given.pictures}/${name}_${colorScheme}_${width}.png`, fullPage: true });
    }
  }
}

try {
  await useIt();
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
