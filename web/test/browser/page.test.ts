/**
 * The page in a browser, with any server: what a user does all day. `PAGE_SERVER` is the address of
 * a running `moeflux serve`; without it the stand-in answers.
 */

import type { Browser } from "playwright-core";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { startMock } from "../mock/server.mjs";
import { type Watched, ask, lastAnswer, openPage, slowDown, startBrowser } from "./browser.ts";

const STORY = "Tell me a story about a fox.";

let browser: Browser;
let mock: Awaited<ReturnType<typeof startMock>> | undefined;
let url = process.env.PAGE_SERVER ?? "";
let seen: Watched;

beforeAll(async () => {
  browser = await startBrowser();
  if (!url) {
    mock = await startMock({ word_ms: 60 });
    url = mock.url;
  }
});
afterAll(async () => {
  await browser?.close();
  await mock?.close();
});
beforeEach(async () => {
  seen = await openPage(browser, url);
  return async () => {
    expect(seen.complaints).toEqual([]);
    await seen.page.context().close();
  };
});

test("a question is answered as a stream, and is there after a reload", async () => {
  const { page } = seen;
  const atFullSpeed = await slowDown(page);
  await page.fill("#question", STORY);
  await page.keyboard.press("Enter");
  const growing = page.locator(".answer[aria-busy='true'] .markdown");
  await growing.waitFor();
  const early = await growing.innerText();
  await atFullSpeed();
  const whole = await lastAnswer(page);
  expect(whole.length).toBeGreaterThan(early.length);
  expect(await page.locator(".answer .figures").innerText()).toMatch(/\d+ tokens · [\d.]+\/s/);
  await page.reload();
  expect(await lastAnswer(page)).toBe(whole);
  expect(await page.locator(".bubble").innerText()).toBe(STORY);
  expect(await page.locator(".sidebar .title").innerText()).toBe(STORY);
});

test("an answer is stopped, what has come stays, and the next one can be asked for", async () => {
  const { page } = seen;
  const atFullSpeed = await slowDown(page);
  await ask(page, STORY);
  await page.locator(".answer[aria-busy='true'] .markdown").waitFor();
  await page.keyboard.press("Escape");
  await atFullSpeed();
  await page.locator(".answer .note", { hasText: "Stopped." }).waitFor();
  const part = await lastAnswer(page);
  expect(part.length).toBeGreaterThan(0);
  await page.reload();
  expect(await lastAnswer(page)).toBe(part);
  await ask(page, "What is the capital of France?");
  await page.locator(".answer").nth(1).waitFor();
  expect((await lastAnswer(page)).length).toBeGreaterThan(0);
});

test("an answer that leaving the page cuts off says so", async () => {
  const { page } = seen;
  const atFullSpeed = await slowDown(page);
  await ask(page, STORY);
  await page.locator(".answer[aria-busy='true'] .markdown").waitFor();
  // Leaving the page ends the answer, before there is time for the rest of it.
  await page.goto("about:blank");
  await atFullSpeed();
  await page.goto(url);
  await page.locator(".answer .note", { hasText: "Interrupted" }).waitFor();
  expect((await lastAnswer(page)).length).toBeGreaterThan(0);
});

test("another answer, and both stay", async () => {
  const { page } = seen;
  await ask(page, "What is the capital of France?");
  const first = await lastAnswer(page);
  await page.click("[title='Ask again']");
  await page.locator(".versions", { hasText: "2/2" }).waitFor();
  await lastAnswer(page);
  await page.click("[title='Previous version']");
  await page.locator(".versions", { hasText: "1/2" }).waitFor();
  expect(await lastAnswer(page)).toBe(first);
});

test("a question is edited, and the old one stays beside it", async () => {
  const { page } = seen;
  await ask(page, "What is the capital of France?");
  const first = await lastAnswer(page);
  await page.locator("#question").press("ArrowUp");
  const editor = page.getByLabel("Edit message");
  expect(await editor.inputValue()).toBe("What is the capital of France?");
  await editor.fill("What is the capital of Italy?");
  await editor.press("Enter");
  await page.locator(".bubble", { hasText: "Italy" }).waitFor();
  expect(await lastAnswer(page)).not.toBe(first);
  expect(await page.locator(".question").count()).toBe(1);
  await page.click(".question [title='Previous version']");
  expect(await page.locator(".bubble").innerText()).toContain("France");
  expect(await lastAnswer(page)).toBe(first);
});

test("the live view moves while an answer comes", async () => {
  const { page } = seen;
  await page.locator(".live .machine").waitFor();
  const canvas = page.locator(".map canvas");
  const picture = () => canvas.evaluate((element: HTMLCanvasElement) => element.toDataURL());
  const before = await picture();
  await ask(page, STORY);
  await page.locator(".queue li").waitFor();
  const speed = page.locator(".tiles dd").first();
  await expect.poll(async () => Number(await speed.innerText())).toBeGreaterThan(0);
  // It is drawn at the next frame, which may come later than the text.
  await expect.poll(picture).not.toBe(before);
  await lastAnswer(page);
  await expect.poll(async () => speed.innerText(), { timeout: 10_000 }).toBe("0");
  expect(await page.locator(".queue li").count()).toBe(0);
});

test("markup in a question is text", async () => {
  const { page } = seen;
  const text = `<img src=x onerror="window.harmed=1"><script>window.harmed=2</script>`;
  await ask(page, text);
  await lastAnswer(page);
  expect(await page.locator(".bubble").innerText()).toBe(text);
  await page.reload();
  await page.locator(".bubble").waitFor();
  expect(await page.locator(".bubble *, .markdown img, .markdown script").count()).toBe(0);
  expect(await page.evaluate(() => "harmed" in window)).toBe(false);
});

test("chats are kept apart, renamed and deleted", async () => {
  const { page } = seen;
  await ask(page, "What is the capital of France?");
  await lastAnswer(page);
  await page.keyboard.press("Alt+n");
  await page.locator(".welcome").waitFor();
  await ask(page, "What is the capital of Italy?");
  await lastAnswer(page);
  const titles = page.locator(".sidebar .title");
  expect(await titles.allInnerTexts()).toEqual([
    "What is the capital of Italy?",
    "What is the capital of France?",
  ]);
  await titles.nth(1).dblclick();
  await page.getByLabel("Title").fill("Paris");
  await page.keyboard.press("Enter");
  await titles.filter({ hasText: "Paris" }).click();
  expect(await page.locator(".bubble").innerText()).toContain("France");
  page.on("dialog", (dialog) => void dialog.accept());
  await page.locator(".sidebar li.current").hover();
  await page.click(".sidebar li.current [title='Delete']");
  await expect.poll(() => titles.count()).toBe(1);
  expect(await page.locator(".bubble").innerText()).toContain("Italy");
});

test("on a phone everything is in reach and nothing is wider than the screen", async () => {
  await seen.page.context().close();
  const phone = { viewport: { width: 360, height: 700 }, isMobile: true, hasTouch: true };
  seen = await openPage(browser, url, { ...phone, deviceScaleFactor: 2 });
  const { page } = seen;
  const fits = () =>
    page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth);
  await page.fill("#question", "What is the capital of France?");
  await page.tap("[title^='Send']");
  await lastAnswer(page);
  expect(await fits()).toBe(true);
  await page.tap("[title^='Live view']");
  await page.locator(".live .machine").waitFor();
  expect(await page.locator(".map canvas").isVisible()).toBe(true);
  expect(await fits()).toBe(true);
  await page.tap(".live [title^='Close']");
  await page.tap("[title='Chats']");
  await page.locator(".sidebar .title").first().waitFor();
  await page.tap(".sidebar .new");
  await page.locator(".welcome").waitFor();
  await page.tap("[title^='Settings']");
  await page.getByLabel("System prompt").fill("Be brief.");
  expect(await fits()).toBe(true);
  await page.tap(".settings .primary");
  await page.reload();
  await page.tap("[title^='Settings']");
  expect(await page.getByLabel("System prompt").inputValue()).toBe("Be brief.");
});
