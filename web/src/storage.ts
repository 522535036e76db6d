/** What the browser keeps: conversations, one entry each, and settings. Nothing leaves it. */

import type { Conversation } from "./chat/conversation.ts";

const CHAT = "moeflux.chat.";
const SETTINGS = "moeflux.settings";
const OPEN = "moeflux.open";

/** Parameters of requests; what is empty is not sent. */
export interface Settings {
  key: string;
  model: string;
  system: string;
  temperature: string;
  top_p: string;
  top_k: string;
  min_p: string;
  repetition_penalty: string;
  presence_penalty: string;
  frequency_penalty: string;
  seed: string;
  max_tokens: string;
  stop: string;
  reasoning_effort: string;
  tools: string;
  theme: string;
  /** Whether the live view is open beside the chat. */
  live: boolean;
}

/** Nothing set. */
export const DEFAULTS: Settings = {
  key: "",
  model: "",
  system: "",
  temperature: "",
  top_p: "",
  top_k: "",
  min_p: "",
  repetition_penalty: "",
  presence_penalty: "",
  frequency_penalty: "",
  seed: "",
  max_tokens: "",
  stop: "",
  reasoning_effort: "",
  tools: "",
  theme: "",
  live: true,
};

function read(key: string): unknown {
  try {
    return JSON.parse(localStorage.getItem(key) ?? "null");
  } catch {
    return null;
  }
}

function write(key: string, value: unknown): string | undefined {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return undefined;
  } catch {
    return "The browser keeps no more: delete old chats, or allow this page to store data.";
  }
}

/** The settings, with defaults for what is not set. */
export function loadSettings(): Settings {
  const stored = read(SETTINGS);
  const settings: Settings = { ...DEFAULTS };
  if (typeof stored !== "object" || stored === null) return settings;
  for (const [name, value] of Object.entries(stored)) {
    const known = name as keyof Settings;
    if (typeof value === typeof DEFAULTS[known]) Object.assign(settings, { [known]: value });
  }
  return settings;
}

/** Keeps the settings. Returns why it could not. */
export function saveSettings(settings: Settings): string | undefined {
  return write(SETTINGS, settings);
}

function isConversation(value: unknown): value is Conversation {
  const given = value as Conversation | null;
  return (
    typeof given === "object" &&
    typeof given?.id === "string" &&
    typeof given.title === "string" &&
    typeof given.changed === "number" &&
    typeof given.messages === "object" &&
    typeof given.chosen === "object"
  );
}

/** All conversations, the last changed first. */
export function loadConversations(): Conversation[] {
  const found: Conversation[] = [];
  try {
    for (let at = 0; at < localStorage.length; at += 1) {
      const key = localStorage.key(at) ?? "";
      const value = key.startsWith(CHAT) ? read(key) : undefined;
      if (isConversation(value)) found.push(value);
    }
  } catch {
    return [];
  }
  return found.sort((a, b) => b.changed - a.changed);
}

/** Keeps a conversation. Returns why it could not. */
export function saveConversation(conversation: Conversation): string | undefined {
  return write(CHAT + conversation.id, conversation);
}

/** Forgets a conversation. */
export function deleteConversation(id: string): void {
  localStorage.removeItem(CHAT + id);
}

/** Whether a change of the browser's store, made by another tab, is one of a conversation. */
export function isConversationKey(key: string | null): boolean {
  return key === null || key.startsWith(CHAT);
}

/** The conversation that was open last. */
export function loadOpen(): string {
  const id = read(OPEN);
  return typeof id === "string" ? id : "";
}

/** Keeps which conversation is open. */
export function saveOpen(id: string): void {
  write(OPEN, id);
}
