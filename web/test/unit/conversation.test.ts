/** Conversations as trees, requests made of them, and the meters of the live view. */

import { describe, expect, test } from "vitest";
import * as tree from "../../src/chat/conversation.ts";
import type { Message } from "../../src/chat/conversation.ts";
import { SettingError, requestOf, toolsOf } from "../../src/chat/request.ts";
import type { Machine, Now } from "../../src/live.ts";
import { Meters, bytes, rates, short } from "../../src/live/meters.ts";
import { DEFAULTS } from "../../src/storage.ts";

function message(id: string, parent: string | null, role: Message["role"] = "user"): Message {
  return { id, parent, role, text: id };
}

function ids(conversation: tree.Conversation): string {
  return tree.path(conversation).map((m) => m.id).join(" ");
}

function built(): tree.Conversation {
  let conversation = tree.newConversation(0);
  for (const [id, parent] of [
    ["q1", null],
    ["a1", "q1"],
    ["q2", "a1"],
    ["a2", "q2"],
    ["a2b", "q2"],
  ] as const) {
    conversation = tree.add(conversation, message(id, parent));
  }
  return conversation;
}

describe("conversation", () => {
  test("what was added last is shown, and siblings can be chosen", () => {
    const conversation = built();
    expect(ids(conversation)).toBe("q1 a1 q2 a2b");
    expect(tree.siblings(conversation, message("a2b", "q2")).map((m) => m.id)).toEqual([
      "a2",
      "a2b",
    ]);
    const other = tree.choose(conversation, message("a2", "q2"));
    expect(ids(other)).toBe("q1 a1 q2 a2");
    expect(ids(conversation)).toBe("q1 a1 q2 a2b");
  });

  test("an edited question hides what followed, and choosing the old one shows it again", () => {
    const edited = tree.add(built(), message("q1b", null));
    expect(ids(edited)).toBe("q1b");
    expect(ids(tree.choose(edited, message("q1", null)))).toBe("q1 a1 q2 a2b");
  });

  test("removing takes all below and shows a sibling", () => {
    const conversation = built();
    expect(ids(tree.remove(conversation, message("a2b", "q2")))).toBe("q1 a1 q2 a2");
    const less = tree.remove(conversation, message("a1", "q1"));
    expect(ids(less)).toBe("q1");
    expect(Object.keys(less.messages)).toEqual(["q1"]);
  });

  test("a damaged tree ends", () => {
    const conversation = built();
    conversation.chosen.q2 = "q1";
    expect(ids(conversation)).toBe("q1 a1 q2");
    conversation.chosen.q2 = "gone";
    expect(ids(conversation)).toBe("q1 a1 q2");
  });

  test("titles", () => {
    expect(tree.titleOf("  One\ntwo")).toBe("One");
    expect(tree.titleOf("x".repeat(100))).toHaveLength(60);
    expect(tree.titleOf(" ")).toBe("New chat");
  });
});

describe("request", () => {
  const call = { id: "c", type: "function" as const, function: { name: "f", arguments: "{}" } };
  const shown: Message[] = [
    message("q", null),
    { ...message("a", "q", "assistant"), reasoning: "hm", calls: [call] },
    { ...message("r", "a", "tool"), call: "c" },
  ];

  test("empty settings are not sent", () => {
    expect(requestOf(DEFAULTS, "m", shown)).toEqual({
      model: "m",
      stream: true,
      stream_options: { include_usage: true },
      messages: [
        { role: "user", content: "q" },
        { role: "assistant", content: "a", reasoning_content: "hm", tool_calls: [call] },
        { role: "tool", content: "r", tool_call_id: "c" },
      ],
    });
  });

  test("settings are sent as numbers and lists", () => {
    const settings = {
      ...DEFAULTS,
      system: "Be brief.",
      temperature: " 0.5 ",
      seed: "7",
      stop: "END\n\nSTOP",
      tools: '{"name": "f"}',
    };
    expect(requestOf(settings, "m", [])).toMatchObject({
      messages: [{ role: "system", content: "Be brief." }],
      temperature: 0.5,
      seed: 7,
      stop: ["END", "STOP"],
      tools: [{ type: "function", function: { name: "f" } }],
    });
  });

  test("what cannot be sent is said", () => {
    const bad = { ...DEFAULTS, top_p: "much" };
    expect(() => requestOf(bad, "m", [])).toThrow(new SettingError("top_p must be a number, not “much”."));
    expect(() => toolsOf("[")).toThrow(SettingError);
    expect(() => toolsOf("[null]")).toThrow(SettingError);
    expect(toolsOf('[{"type":"function","function":{"name":"g"}}]')).toEqual([
      { type: "function", function: { name: "g" } },
    ]);
  });
});

const MACHINE: Machine = {
  model: "m",
  version: "0",
  layers: [
    { layer: 1, experts: 4 },
    { layer: 3, experts: 4 },
  ],
  experts_per_token: 2,
  slot_bytes: 100,
  reader: "r",
  threads: 1,
  memory_bytes: 1,
  parallel: 1,
};

function at(seconds: number, total: Partial<Now["total"]>, experts: Now["experts"] = []): Now {
  const zero = {
    prompt_tokens: 0,
    answer_tokens: 0,
    hits: 0,
    misses: 0,
    evictions: 0,
    read_bytes: 0,
    memory_bytes: 0,
    wait_seconds: 0,
  };
  const rest = { slots: 4, resident: 1, requests: [], request_count: 0 };
  return { seconds, experts, total: { ...zero, ...total }, ...rest };
}

describe("meters", () => {
  test("rates are differences by time", () => {
    const before = at(10, { answer_tokens: 5, hits: 10, misses: 10 });
    const after = at(12, {
      answer_tokens: 45,
      hits: 16,
      misses: 12,
      read_bytes: 4000,
      wait_seconds: 0.5,
    });
    expect(rates(before, after)).toMatchObject({ answer: 20, hit: 0.75, read: 2000, wait: 0.25 });
    expect(rates(after, after).hit).toBeUndefined();
  });

  test("states are kept by layer, and unknown ones are absent", () => {
    const meters = new Meters(MACHINE);
    meters.take(at(0, {}, [[1, ".rgm"]]), 5);
    meters.take(at(0.2, {}, [[0, "u?mmmmm"], [9, "u"]]), 7);
    expect(meters.layers.map((layer) => Array.from(layer.states))).toEqual([
      [4, 0, 3, 3],
      [0, 1, 2, 3],
    ]);
    expect(Array.from(meters.layers[0]?.used ?? [])).toEqual([7, 0, 0, 0]);
  });

  test("rates fall to zero when nothing happens, and a new server begins anew", () => {
    const meters = new Meters(MACHINE);
    meters.take(at(0, {}), 0);
    meters.take(at(1, { answer_tokens: 30 }), 1);
    expect(meters.rates.answer).toBe(30);
    meters.take(at(3, { answer_tokens: 30 }), 2);
    expect(meters.rates.answer).toBe(0);
    meters.take(at(0.1, { answer_tokens: 1 }), 3);
    expect(meters.rates.answer).toBe(0);
  });

  test("numbers at a glance", () => {
    expect([0, 999, 1000, 1_769_472, 999_999, 5.26e9].map(bytes)).toEqual([
      "0 B",
      "999 B",
      "1.00 kB",
      "1.77 MB",
      "1.00 MB",
      "5.26 GB",
    ]);
    expect([0, 9.14, 99.6, 1234, 12_345].map(short)).toEqual(["0", "9.1", "100", "1234", "12.3k"]);
  });
});
