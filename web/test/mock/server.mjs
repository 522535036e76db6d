/**
 * A stand-in for `moeflux serve`, for work on the page and its tests: answers by what is asked
 * (see answers.mjs), a machine whose experts come and go (see machine.mjs), and the built page.
 */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { answerTo } from "./answers.mjs";
import { MockMachine } from "./machine.mjs";

const PAGE = new URL("../../../crates/moeflux-server/page/", import.meta.url);
const FILES = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/page.js": ["page.js", "text/javascript; charset=utf-8"],
  "/page.css": ["page.css", "text/css; charset=utf-8"],
  "/icon.svg": ["icon.svg", "image/svg+xml"],
};
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
  "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function json(response, status, value) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(value));
}

function refuse(response, status, message) {
  json(response, status, { error: { message, type: "invalid_request_error", code: null } });
}

async function bodyOf(request) {
  let text = "";
  for await (const piece of request) text += piece;
  return JSON.parse(text);
}

/**
 * Starts the server. `port` 0: any free one. `key`: what requests must carry. `word_ms`: the time
 * of a word. Resolves to its address, the requests it got, and a function that ends it.
 */
export async function startMock({ port = 0, key = "", word_ms = 12 } = {}) {
  const machine = new MockMachine();
  const asked = [];

  async function chat(request, response) {
    const body = await bodyOf(request);
    asked.push(body);
    const answer = answerTo(body, asked.length);
    if (answer.status) return refuse(response, answer.status, answer.message);
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    const chunk = (delta, finish_reason = null) => {
      const choices = [{ index: 0, delta, finish_reason }];
      response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", choices })}\n\n`);
    };
    const running = machine.begin(JSON.stringify(body.messages).length / 4);
    let tokens = 0;
    try {
      for (const delta of answer.deltas) {
        await pause(word_ms);
        if (response.destroyed) return undefined;
        machine.token(running);
        tokens += 1;
        chunk(delta);
      }
      if (answer.breaks) {
        await pause(100);
        return response.destroy();
      }
      chunk({}, answer.finish ?? "stop");
      const usage = { prompt_tokens: running.prompt_tokens, completion_tokens: tokens };
      response.write(`data: ${JSON.stringify({ choices: [], usage })}\n\n`);
      return response.end("data: [DONE]\n\n");
    } finally {
      machine.end(running);
    }
  }

  async function live(response) {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    const seen = {};
    response.write(`event: machine\ndata: ${JSON.stringify(machine.about())}\n\n`);
    while (!response.destroyed) {
      response.write(`event: now\ndata: ${JSON.stringify(machine.now(seen))}\n\n`);
      await pause(200);
    }
  }

  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://mock").pathname;
    const file = FILES[path];
    const given = request.headers.authorization ?? "";
    const handle = async () => {
      if (file) {
        const content = await readFile(fileURLToPath(new URL(file[0], PAGE)));
        response.writeHead(200, { "Content-Type": file[1], "Content-Security-Policy": POLICY });
        return response.end(content);
      }
      if (key && given !== `Bearer ${key}`) return refuse(response, 401, "wrong API key");
      if (path === "/v1/models") {
        return json(response, 200, { object: "list", data: [{ id: "mock-moe", object: "model" }] });
      }
      if (path === "/v1/chat/completions") return chat(request, response);
      if (path === "/live") return live(response);
      return refuse(response, 404, "there is nothing at this path");
    };
    handle().catch((error) => response.destroy(error));
  });
  await new Promise((done) => server.listen(port, "127.0.0.1", done));
  const close = () =>
    new Promise((done) => {
      server.close(done);
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${server.address().port}`, asked, close };
}
