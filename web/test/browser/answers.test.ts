/** The page in a browser, with answers that only the stand-in gives on demand. */

import type { Browser } from "playwright-core";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { startMock } from "../mock/server.mjs";
import { type Watched, ask, lastAnswer, openPage, startBrowser } from "./browser.ts";

let browser: Browser;
let mock: Awaited<ReturnType<typeof startMock>>;
let seen: Watched;
/** What the browser itself says when a request is refused; the page cannot keep it from it. */
let expected: RegExp[] = [];

beforeAll(async () => {
  browser = await startBrowser();
  mock = await startMock({ word_ms: 4 });
});
afterAll(async () => {
  await browser?.close();
  await mock?.close();
});
beforeEach(async () => {
  expected = [];
  seen = await openPage(browser, mock.url);
  return async () => {
    const others = seen.complaints.filter((text) => !expected.some((word) => word.test(text)));
    expect(others).toEqual([]);
    await seen.page.context().close();
  };
});

test("markup in an answer is inert, while it streams and after a reload", async () => {
  const { page } = seen;
  await ask(page, "inject");
  await lastAnswer(page);
  for (const round of ["streamed", "stored"]) {
    const markdown = page.locator(".answer .markdown");
    const text = await markdown.innerText();
    expect(text, round).toContain("<script>window.harmed = 1</script>");
    expect(text, round).toContain("After.");
    const made = "script, img, iframe, svg, a:not([href^='http']), [onload], [onerror]";
    expect(await markdown.locator(made).count(), round).toBe(0);
    expect(await markdown.locator("a").count(), round).toBe(1);
    expect(await page.evaluate(() => "harmed" in window), round).toBe(false);
    await page.reload();
    await markdown.waitFor();
  }
});

test("markdown is shown as what it means", async () => {
  const { page } = seen;
  await ask(page, "markdown");
  await lastAnswer(page);
  const markdown = page.locator(".answer .markdown");
  expect(await markdown.locator("h2").innerText()).toBe("Mixture of experts");
  expect(await markdown.locator("ol > li").count()).toBe(3);
  expect(await markdown.locator("ol ul > li").count()).toBe(2);
  expect(await markdown.locator("th").count()).toBe(3);
  expect(await markdown.locator("pre .code-keyword").first().innerText()).toBe("fn");
  expect(await markdown.locator("figcaption span").innerText()).toBe("rust");
  expect(await markdown.locator("a").getAttribute("rel")).toContain("noopener");
});

test("code is copied", async () => {
  const { page } = seen;
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await ask(page, "markdown");
  await lastAnswer(page);
  await page.click("figcaption .copy");
  await page.locator("figcaption .copy", { hasText: "Copied" }).waitFor();
  expect(await page.evaluate(() => navigator.clipboard.readText())).toContain("fn route(");
});

test("reasoning is folded, and opens", async () => {
  const { page } = seen;
  await ask(page, "think");
  expect(await lastAnswer(page)).toBe("Thought about it.");
  const reasoning = page.locator(".reasoning");
  expect(await reasoning.getAttribute("open")).toBeNull();
  await reasoning.locator("summary").click();
  expect(await reasoning.innerText()).toContain("First I look at the question");
});

test("calls of tools are shown, and their results are sent in their order", async () => {
  const { page } = seen;
  await ask(page, "tool");
  await page.locator(".calls .primary").waitFor();
  expect(await page.locator(".call h4").allInnerTexts()).toEqual(["get_weather", "get_time"]);
  expect(await page.locator(".call pre").first().innerText()).toContain('"city": "Paris"');
  await page.getByLabel("Result of get_weather").fill("12 degrees");
  await page.getByLabel("Result of get_time").fill("noon");
  await page.click(".calls .primary");
  expect(await lastAnswer(page)).toBe("The tool said: noon");
  const { messages } = mock.asked.at(-1);
  expect(messages.map((message: { role: string }) => message.role)).toEqual([
    "user",
    "assistant",
    "tool",
    "tool",
  ]);
  expect(messages[1].tool_calls[1].function.arguments).toBe('{"zone": "Europe/Paris"}');
  expect(messages[2]).toEqual({
    role: "tool",
    content: "12 degrees",
    tool_call_id: "call_get_weather",
  });
});

test("parameters are sent, and wrong ones are said and not sent", async () => {
  const { page } = seen;
  await page.keyboard.press("Alt+s");
  await page.getByLabel("System prompt").fill("Be brief.");
  await page.getByLabel("Temperature").fill("0.25");
  await page.getByLabel("Seed").fill("7");
  await page.keyboard.press("Escape");
  await ask(page, "Hello");
  await lastAnswer(page);
  expect(mock.asked.at(-1)).toMatchObject({
    model: "mock-moe",
    temperature: 0.25,
    seed: 7,
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Hello" },
    ],
  });
  expect(mock.asked.at(-1)).not.toHaveProperty("top_p");
  const before = mock.asked.length;
  await page.keyboard.press("Alt+s");
  await page.getByLabel("Temperature").fill("hot");
  await page.keyboard.press("Escape");
  await ask(page, "Again");
  await page.locator(".error", { hasText: "temperature must be a number" }).waitFor();
  expect(mock.asked.length).toBe(before);
});

test("a refusal and a broken answer are said in the server's words, as text", async () => {
  expected = [/400 \(Bad Request\)/, /ERR_INCOMPLETE_CHUNKED_ENCODING/, /ERR_CONNECTION_RESET/];
  const { page } = seen;
  await ask(page, "fail");
  await page.locator(".error", { hasText: "send <b>less</b>" }).waitFor();
  await ask(page, "break");
  await page.locator(".error").nth(1).waitFor();
  expect(await lastAnswer(page)).toBe("This breaks off in the");
});

test("the view stays where the user scrolled to", async () => {
  const { page } = seen;
  await ask(page, "long");
  const box = page.locator(".messages");
  const top = () => box.evaluate((element) => element.scrollTop);
  await expect.poll(top).toBeGreaterThan(100);
  await box.hover();
  await page.mouse.wheel(0, -5000);
  await expect.poll(top).toBe(0);
  const { length } = await page.locator(".markdown").innerText();
  const now = async () => (await page.locator(".markdown").innerText()).length;
  await expect.poll(now).toBeGreaterThan(length);
  expect(await top()).toBe(0);
  await page.click("[title^='Stop']");
  await lastAnswer(page);
});

test("a server that wants a key gets it", async () => {
  expected = [/401 \(Unauthorized\)/];
  const locked = await startMock({ key: "secret" });
  try {
    await seen.page.goto(locked.url);
    seen.complaints.length = 0;
    const { page } = seen;
    await page.locator(".banner button").click();
    await page.getByLabel("API key").fill("secret");
    await page.keyboard.press("Enter");
    await page.locator(".model", { hasText: "mock-moe" }).waitFor();
    await ask(page, "Hello");
    expect(await lastAnswer(page)).toContain("Answer 1");
    seen.complaints = seen.complaints.filter((text) => !text.startsWith("asked for"));
  } finally {
    await locked.close();
  }
});

test("colours follow the system and the setting", async () => {
  const { page } = seen;
  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.emulateMedia({ colorScheme: "light" });
  expect(await back()).toBe("rgb(255, 255, 255)");
  await page.emulateMedia({ colorScheme: "dark" });
  expect(await back()).toBe("rgb(18, 21, 27)");
  await page.keyboard.press("Alt+s");
  await page.getByLabel("Colours").selectOption("light");
  expect(await back()).toBe("rgb(255, 255, 255)");
});
