/** What the page knows and shows, and what a user can do. */

import { computed, effect, signal } from "@preact/signals";
import * as tree from "./chat/conversation.ts";
import { ApiFailure, type Answer, complete, headers } from "./chat/completion.ts";
import { SettingError, requestOf } from "./chat/request.ts";
import type { Conversation, Message, Outcome } from "./chat/conversation.ts";
import * as storage from "./storage.ts";

/** How often an answer that grows is shown and kept, in milliseconds. */
const SHOW_MS = 40;
const KEEP_MS = 2000;

export const settings = signal(storage.loadSettings());
export const conversations = signal(storage.loadConversations());
export const open = signal<Conversation>(firstOpen());
/** Names of the served models, and what is wrong with the server. */
export const models = signal<string[]>([]);
export const trouble = signal("");
/** Whether the server wants a key that it did not get. */
export const locked = signal(false);
/** The conversation and message that are being answered, as far as the answer has come. */
export const running = signal<{ chat: string; message: Message; stop: AbortController } | null>(
  null,
);

export const shown = computed(() => {
  const growing = running.value;
  return tree
    .path(open.value)
    .map((message) => (message.id === growing?.message.id ? growing.message : message));
});
/** The message that is being edited. */
export const editing = signal("");

function firstOpen(): Conversation {
  const last = storage.loadOpen();
  return conversations.peek().find((c) => c.id === last) ?? tree.newConversation(Date.now());
}

effect(() => {
  const refused = storage.saveSettings(settings.value);
  if (refused) trouble.value = refused;
});
effect(() => storage.saveOpen(open.value.id));
addEventListener("storage", (event) => {
  if (running.peek() || !storage.isConversationKey(event.key)) return;
  conversations.value = storage.loadConversations();
  const same = conversations.value.find((c) => c.id === open.peek().id);
  if (same) open.value = same;
});

/** Changes settings. */
export function set(change: Partial<storage.Settings>): void {
  settings.value = { ...settings.peek(), ...change };
}

/** Asks the server which models it has. */
export async function askModels(): Promise<void> {
  try {
    const response = await fetch("/v1/models", { headers: headers(settings.peek().key) });
    locked.value = response.status === 401;
    if (!response.ok) return;
    const list = (await response.json()) as { data: { id: string }[] };
    models.value = list.data.map((model) => model.id);
    trouble.value = "";
  } catch {
    trouble.value = "The server does not answer. Is `moeflux serve` running?";
  }
}

/** The model that requests name. */
export const model = computed(() => {
  const chosen = settings.value.model;
  return models.value.includes(chosen) ? chosen : (models.value[0] ?? "");
});

/** Keeps a conversation as it is now, wherever it is shown. */
function keep(conversation: Conversation): void {
  const refused = storage.saveConversation(conversation);
  if (refused) trouble.value = refused;
  const others = conversations.peek().filter((c) => c.id !== conversation.id);
  conversations.value = [conversation, ...others].sort((a, b) => b.changed - a.changed);
  if (open.peek().id === conversation.id) open.value = conversation;
}

/** Shows a conversation. */
export function show(id: string): void {
  editing.value = "";
  open.value = conversations.peek().find((c) => c.id === id) ?? open.peek();
}

/** Begins a conversation. */
export function begin(): void {
  editing.value = "";
  open.value = tree.newConversation(Date.now());
}

/** Forgets a conversation. */
export function forget(id: string): void {
  if (running.peek()?.chat === id) stop();
  storage.deleteConversation(id);
  conversations.value = conversations.peek().filter((c) => c.id !== id);
  if (open.peek().id === id) open.value = conversations.value[0] ?? tree.newConversation(Date.now());
}

/** Gives a conversation another title. */
export function rename(id: string, title: string): void {
  const found = conversations.peek().find((c) => c.id === id);
  if (found && title.trim()) keep({ ...found, title: title.trim() });
}

/** Asks a question below the last message, or in the place of `instead`, and gets its answer. */
export function ask(text: string, instead?: Message): void {
  if (running.peek() || !text.trim()) return;
  const parent = instead ? instead.parent : (tree.path(open.peek()).at(-1)?.id ?? null);
  const message: Message = { id: tree.newId(), parent, role: "user", text };
  const first = Object.keys(open.peek().messages).length === 0;
  const title = first ? tree.titleOf(text) : open.peek().title;
  keep({ ...tree.add(open.peek(), message), title, changed: Date.now() });
  void answer(message);
}

/** Gives the results of the last answer's calls, in their order, and gets the next answer. */
export function giveResults(results: { call: string; text: string }[]): void {
  if (running.peek()) return;
  let last = tree.path(open.peek()).at(-1);
  let conversation = open.peek();
  for (const { call, text } of results) {
    const parent = last?.id ?? null;
    last = { id: tree.newId(), parent, role: "tool", text, call };
    conversation = tree.add(conversation, last);
  }
  keep({ ...conversation, changed: Date.now() });
  if (last) void answer(last);
}

/** Gets another answer beside this one. */
export function regenerate(message: Message): void {
  const { messages } = open.peek();
  const question = messages[message.parent ?? ""];
  if (!running.peek() && question) void answer(question);
}

/** Takes a message out, with all below it. */
export function removeMessage(message: Message): void {
  if (!running.peek()) keep(tree.remove(open.peek(), message));
}

/** Shows another message in the place of one beside it. */
export function choose(message: Message): void {
  keep(tree.choose(open.peek(), message));
}

/** Ends the answer that is coming; what has come stays. */
export function stop(): void {
  running.peek()?.stop.abort();
}

/** The conversation of a running answer, which may not be the open one any more. */
function conversationOf(id: string): Conversation | undefined {
  if (open.peek().id === id) return open.peek();
  return conversations.peek().find((c) => c.id === id);
}

/** Gets the answer that follows a message. */
async function answer(question: Message): Promise<void> {
  const chat = open.peek().id;
  const before = tree.path(open.peek());
  const until = before.findIndex((m) => m.id === question.id);
  let message: Message = { id: tree.newId(), parent: question.id, role: "assistant", text: "" };
  keep(tree.add(open.peek(), message));
  const control = new AbortController();
  running.value = { chat, message, stop: control };
  const started = performance.now();
  const times: { first?: number; shown: number; kept: number } = { shown: 0, kept: started };
  const keepMessage = () => {
    const conversation = conversationOf(chat);
    if (conversation?.messages[message.id]) {
      keep({ ...tree.replace(conversation, message), changed: Date.now() });
    }
  };
  let latest: Answer | undefined;
  const update = (now: number) => {
    if (!latest) return;
    message = withAnswer(message, latest);
    running.value = { chat, message, stop: control };
    times.shown = now;
    if (now - times.kept < KEEP_MS) return;
    times.kept = now;
    keepMessage();
  };
  const onPiece = (answer: Answer) => {
    const now = performance.now();
    latest = answer;
    if (answer.text || answer.reasoning || answer.calls.length) times.first ??= now;
    if (now - times.shown >= SHOW_MS) update(now);
  };
  // The last pieces of a burst are shown too, though no other comes behind them.
  const timer = setInterval(() => update(performance.now()), SHOW_MS * 3);
  // A page that is left keeps what has come.
  addEventListener("pagehide", keepMessage);
  let outcome: Outcome;
  try {
    const request = requestOf(settings.peek(), model.peek(), before.slice(0, until + 1));
    latest = await complete(request, settings.peek().key, control.signal, onPiece);
    outcome = { reason: latest.finish ?? "stop" };
    trouble.value = "";
  } catch (error) {
    outcome = failed(error, control.signal.aborted);
  }
  clearInterval(timer);
  removeEventListener("pagehide", keepMessage);
  const ended = performance.now();
  message = withAnswer(message, latest);
  if (!leaving) message.outcome = { ...outcome, ...figuresOf(latest, started, times.first, ended) };
  keepMessage();
  running.value = null;
}

function figuresOf(
  answer: Answer | undefined,
  started: number,
  first: number | undefined,
  ended: number,
): Partial<Outcome> {
  return {
    prompt_tokens: answer?.usage?.prompt_tokens,
    cached_tokens: answer?.usage?.cached_tokens,
    answer_tokens: answer?.usage?.completion_tokens,
    first_ms: first && first - started,
    rest_ms: first && ended - first,
  };
}

/** Whether the page is being left: what breaks then was not the server's fault. */
let leaving = false;
addEventListener("beforeunload", () => {
  leaving = true;
  // If the page stays after all, what fails later is a failure.
  setTimeout(() => (leaving = false), 3000);
});

function withAnswer(message: Message, answer: Answer | undefined): Message {
  if (!answer) return { ...message };
  const { text, reasoning } = answer;
  const calls = answer.calls.filter(Boolean).map((call) => ({
    ...call,
    function: { ...call.function },
  }));
  return { ...message, text, reasoning, calls };
}

function failed(error: unknown, stopped: boolean): Outcome {
  if (stopped) return { reason: "stopped" };
  if (error instanceof SettingError) return { reason: "error", error: error.message };
  if (!(error instanceof ApiFailure)) {
    return { reason: "error", error: "The server could not be reached. Is it still running?" };
  }
  if (error.status === 401) locked.value = true;
  return { reason: "error", error: error.message };
}
