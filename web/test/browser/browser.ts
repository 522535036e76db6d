/** A headless Chromium, and a page whose complaints are kept. */

import { existsSync } from "node:fs";
import { type Browser, type Page, chromium } from "playwright-core";

const PLACES = [
  process.env.CHROMIUM ?? "",
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/** Starts the browser of this machine. */
export async function startBrowser(): Promise<Browser> {
  const executablePath = PLACES.find((place) => place && existsSync(place));
  if (!executablePath) {
    throw new Error("no Chromium found: apt install chromium, or set CHROMIUM to its path");
  }
  // As root, which containers often are, Chromium has no sandbox to start.
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath, args });
}

/** A page and what its console complained about. */
export interface Watched {
  page: Page;
  complaints: string[];
}

/** Opens a page in a browser of its own memory, with these of Playwright's options. */
export async function openPage(
  browser: Browser,
  url: string,
  options: Parameters<Browser["newContext"]>[0] = {},
): Promise<Watched> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) {
      complaints.push(`asked for ${request.url()}`);
    }
  });
  page.setDefaultTimeout(20_000);
  await page.goto(url);
  return { page, complaints };
}

/** Types a question and sends it. */
export async function ask(page: Page, text: string): Promise<void> {
  await page.fill("#question", text);
  await page.click("[title^='Send']");
}

/** Waits until no answer is coming, and gives the last one's text. */
export async function lastAnswer(page: Page): Promise<string> {
  await page.waitForSelector(".answer:last-child[aria-busy='false']");
  return page.locator(".answer").last().locator(".markdown").last().innerText();
}

/**
 * Lets answers arrive slowly, until what it gives is called: a small model's answer would be over
 * before a command from here arrives.
 */
export async function slowDown(page: Page): Promise<() => Promise<void>> {
  const tools = await page.context().newCDPSession(page);
  const limit = (bytes_per_second: number) =>
    tools.send("Network.emulateNetworkConditions", {
      offline: false,
      latency: 0,
      downloadThroughput: bytes_per_second,
      uploadThroughput: -1,
    });
  await tools.send("Network.enable");
  await limit(4000);
  return async () => {
    await limit(-1);
    await tools.detach();
  };
}
