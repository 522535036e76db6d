/** An answer of `/v1/chat/completions`, asked for and read as it comes. */

import { events } from "../sse.ts";
import type { ToolCall } from "./conversation.ts";

/** What has come of an answer. */
export interface Answer {
  text: string;
  reasoning: string;
  calls: ToolCall[];
  /** OpenAI's word for the end, once it has come. */
  finish?: string;
  usage?: { prompt_tokens: number; completion_tokens: number; cached_tokens?: number };
}

/** The server refused, or the answer broke off. */
export class ApiFailure extends Error {
  /** HTTP's status; 0 if the server could not be reached or the stream broke. */
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** An answer of which nothing has come. */
export function emptyAnswer(): Answer {
  return { text: "", reasoning: "", calls: [] };
}

interface Delta {
  content?: string | null;
  reasoning_content?: string | null;
  reasoning?: string | null;
  tool_calls?: {
    index?: number;
    id?: string;
    function?: { name?: string; arguments?: string };
  }[];
}

interface Chunk {
  error?: { message?: string };
  choices?: { delta?: Delta; finish_reason?: string | null }[];
  usage?: {
    prompt_tokens: number;
    completion_tokens: number;
    prompt_tokens_details?: { cached_tokens?: number };
  } | null;
}

/** Adds a chunk to an answer. */
export function addChunk(answer: Answer, chunk: Chunk): void {
  if (chunk.error) throw new ApiFailure(0, chunk.error.message ?? "the answer failed");
  const { usage } = chunk;
  if (usage) {
    const cached_tokens = usage.prompt_tokens_details?.cached_tokens;
    const { prompt_tokens, completion_tokens } = usage;
    answer.usage = { prompt_tokens, completion_tokens, cached_tokens };
  }
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const delta = choice.delta ?? {};
  answer.text += delta.content ?? "";
  answer.reasoning += delta.reasoning_content ?? delta.reasoning ?? "";
  for (const piece of delta.tool_calls ?? []) {
    const index = piece.index ?? answer.calls.length;
    const call = (answer.calls[index] ??= {
      id: `call_${index}`,
      type: "function",
      function: { name: "", arguments: "" },
    });
    if (piece.id) call.id = piece.id;
    call.function.name += piece.function?.name ?? "";
    call.function.arguments += piece.function?.arguments ?? "";
  }
  if (choice.finish_reason) answer.finish = choice.finish_reason;
}

/** The words of a refusal. */
export async function failureOf(response: Response): Promise<ApiFailure> {
  const text = await response.text().catch(() => "");
  let message = text.slice(0, 500) || response.statusText;
  try {
    message = (JSON.parse(text) as Chunk).error?.message ?? message;
  } catch {
    // Not the server's own words; they are shown as they are.
  }
  return new ApiFailure(response.status, message);
}

/** The headers of every request. */
export function headers(key: string): Record<string, string> {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/**
 * Asks for an answer and calls `onPiece` whenever some of it has come.
 *
 * Throws {@link ApiFailure} if it is refused or breaks off, and what `fetch` throws if `signal`
 * stops it.
 */
export async function complete(
  request: object,
  key: string,
  signal: AbortSignal,
  onPiece: (answer: Answer) => void,
): Promise<Answer> {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { ...headers(key), "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  if (!response.ok || !response.body) throw await failureOf(response);
  const answer = emptyAnswer();
  for await (const { data } of events(response.body)) {
    if (data === "[DONE]") return answer;
    addChunk(answer, JSON.parse(data) as Chunk);
    onPiece(answer);
  }
  if (!answer.finish) throw new ApiFailure(0, "the connection ended before the answer did");
  return answer;
}
