/** Streams: events in any pieces, and the chunks of an answer. */

import { describe, expect, test } from "vitest";
import { type Answer, ApiFailure, addChunk, emptyAnswer } from "../../src/chat/completion.ts";
import { EventParser, type ServerEvent, events } from "../../src/sse.ts";

const STREAM = `: a comment

data: {"a":1}

event: now\r
data: one\r
data:two\r
\r
id: 7
retry: 100
data

event: nothing

data: last

data: not ended`;

const EXPECTED: ServerEvent[] = [
  { name: "message", data: '{"a":1}' },
  { name: "now", data: "one\ntwo" },
  { name: "message", data: "" },
  { name: "message", data: "last" },
];

describe("events", () => {
  test("whole", () => {
    expect(new EventParser().push(STREAM)).toEqual(EXPECTED);
  });

  test("cut at every place", () => {
    for (let cut = 0; cut <= STREAM.length; cut += 1) {
      const parser = new EventParser();
      const found = [...parser.push(STREAM.slice(0, cut)), ...parser.push(STREAM.slice(cut))];
      expect(found, `cut at ${cut}`).toEqual(EXPECTED);
    }
  });

  test("in single characters", () => {
    const parser = new EventParser();
    expect(Array.from(STREAM).flatMap((character) => parser.push(character))).toEqual(EXPECTED);
  });

  test("bytes cut inside a character", async () => {
    const bytes = new TextEncoder().encode("data: fox 🦊 ü\n\n");
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      const body = new ReadableStream<Uint8Array>({
        start(control) {
          control.enqueue(bytes.slice(0, cut));
          control.enqueue(bytes.slice(cut));
          control.close();
        },
      });
      const found: ServerEvent[] = [];
      for await (const event of events(body)) found.push(event);
      expect(found).toEqual([{ name: "message", data: "fox 🦊 ü" }]);
    }
  });

  test("whoever stops reading lets go of the body", async () => {
    let cancelled = false;
    const body = new ReadableStream<Uint8Array>({
      pull(control) {
        control.enqueue(new TextEncoder().encode("data: x\n\n"));
      },
      cancel() {
        cancelled = true;
      },
    });
    for await (const event of events(body)) {
      expect(event.data).toBe("x");
      break;
    }
    expect(cancelled).toBe(true);
  });
});

function answerOf(chunks: Parameters<typeof addChunk>[1][]): Answer {
  const answer = emptyAnswer();
  for (const chunk of chunks) addChunk(answer, chunk);
  return answer;
}

const delta = (delta: object, finish_reason: string | null = null) => ({
  choices: [{ delta, finish_reason }],
});

describe("chunks", () => {
  test("text, reasoning, end and usage", () => {
    const answer = answerOf([
      delta({ role: "assistant", content: "" }),
      delta({ reasoning_content: "hm" }),
      delta({ content: "Hel" }),
      delta({ content: "lo" }),
      delta({ content: null }),
      delta({}, "stop"),
      {
        choices: [],
        usage: {
          prompt_tokens: 9,
          completion_tokens: 2,
          prompt_tokens_details: { cached_tokens: 4 },
        },
      },
    ]);
    expect(answer).toEqual({
      text: "Hello",
      reasoning: "hm",
      calls: [],
      finish: "stop",
      usage: { prompt_tokens: 9, completion_tokens: 2, cached_tokens: 4 },
    });
  });

  test("calls of tools that come in pieces and mixed", () => {
    const piece = (index: number, name?: string, json?: string) =>
      delta({
        tool_calls: [
          { index, ...(name ? { id: `id${index}` } : {}), function: { name, arguments: json } },
        ],
      });
    const answer = answerOf([
      piece(0, "first", ""),
      piece(0, undefined, '{"a"'),
      piece(1, "second", "{}"),
      piece(0, undefined, ":1}"),
    ]);
    expect(answer.calls).toEqual([
      { id: "id0", type: "function", function: { name: "first", arguments: '{"a":1}' } },
      { id: "id1", type: "function", function: { name: "second", arguments: "{}" } },
    ]);
  });

  test("an error in the stream is one", () => {
    expect(() => answerOf([{ error: { message: "no room" } }])).toThrow(ApiFailure);
  });
});
