/** A request for an answer, made of messages and settings. */

import type { Settings } from "../storage.ts";
import { type Message, requestMessages } from "./conversation.ts";

/** A setting cannot be used as it is. */
export class SettingError extends Error {}

const NUMBERS = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "repetition_penalty",
  "presence_penalty",
  "frequency_penalty",
  "seed",
  "max_tokens",
] as const;

/**
 * The body of a request. What the user left empty is not in it, so that the model's own suggestion
 * holds. Throws {@link SettingError} if a setting is not what it should be.
 */
export function requestOf(settings: Settings, model: string, shown: Message[]): object {
  const body: Record<string, unknown> = {
    ...(model ? { model } : {}),
    messages: requestMessages(settings.system, shown),
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const name of NUMBERS) {
    const text = settings[name].trim();
    if (!text) continue;
    const value = Number(text);
    if (!Number.isFinite(value)) throw new SettingError(`${name} must be a number, not “${text}”.`);
    body[name] = value;
  }
  const stop = settings.stop.split("\n").filter((line) => line !== "");
  if (stop.length) body.stop = stop;
  if (settings.reasoning_effort) body.reasoning_effort = settings.reasoning_effort;
  const tools = toolsOf(settings.tools);
  if (tools.length) body.tools = tools;
  return body;
}

/** The tools that the user offers: a JSON list of OpenAI's tools, or of functions alone. */
export function toolsOf(text: string): object[] {
  if (!text.trim()) return [];
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw new SettingError(`Tools are not JSON: ${(error as Error).message}`);
  }
  const list: unknown[] = Array.isArray(given) ? given : [given];
  return list.map((tool) => {
    const function_ = (tool as { function?: unknown } | null)?.function ?? tool;
    const name = (function_ as { name?: unknown } | null)?.name;
    if (typeof name !== "string" || !name) {
      throw new SettingError("Each tool needs a name: [{\"name\": …, \"parameters\": {…}}].");
    }
    return { type: "function", function: function_ as object };
  });
}
