/**
 * A conversation is a tree of messages: editing a question or asking again for an answer adds a
 * sibling, and nothing that was said is lost. What is shown is the path from the root on which each
 * message names the child that was chosen last.
 */

/** A call of a tool, in OpenAI's words. `arguments` is JSON as text, maybe incomplete. */
export interface ToolCall {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

/** How an answer ended, and what it took. */
export interface Outcome {
  /** OpenAI's word for the end; `stopped` by the user, or `error`. */
  reason: string;
  error?: string;
  prompt_tokens?: number;
  cached_tokens?: number;
  answer_tokens?: number;
  /** From the request to the first piece of text, and from there to the end. */
  first_ms?: number;
  rest_ms?: number;
}

/** A message of the tree. */
export interface Message {
  id: string;
  parent: string | null;
  role: "user" | "assistant" | "tool";
  text: string;
  reasoning?: string;
  calls?: ToolCall[];
  /** Of a tool's result: the call that it answers. */
  call?: string;
  /** Of an answer that has ended. */
  outcome?: Outcome;
}

/** A conversation and where it is. */
export interface Conversation {
  id: string;
  title: string;
  /** Time of the last change, in milliseconds since 1970. */
  changed: number;
  messages: Record<string, Message>;
  /** The child chosen under each message; `""` is the root. */
  chosen: Record<string, string>;
}

/** A name that no other message or conversation has. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** An empty conversation. */
export function newConversation(now: number): Conversation {
  return { id: newId(), title: "New chat", changed: now, messages: {}, chosen: {} };
}

/** The messages from the root to the one that is shown last. */
export function path(conversation: Conversation): Message[] {
  const shown: Message[] = [];
  let id = conversation.chosen[""];
  // A stored tree may be damaged: no message is shown twice.
  const seen = new Set<string>();
  while (id !== undefined && !seen.has(id)) {
    const message = conversation.messages[id];
    if (!message) break;
    seen.add(id);
    shown.push(message);
    id = conversation.chosen[id];
  }
  return shown;
}

/** Adds a message under `parent` (`null`: at the root), and chooses it. */
export function add(conversation: Conversation, message: Message): Conversation {
  const { id, parent } = message;
  return {
    ...conversation,
    messages: { ...conversation.messages, [id]: message },
    chosen: { ...conversation.chosen, [parent ?? ""]: id },
  };
}

/** Puts a message in the place of the one with its name. */
export function replace(conversation: Conversation, message: Message): Conversation {
  const messages = { ...conversation.messages, [message.id]: message };
  return { ...conversation, messages };
}

/** The messages beside one, itself included, in the order they were made. */
export function siblings(conversation: Conversation, message: Message): Message[] {
  const all = Object.values(conversation.messages);
  return all.filter((other) => other.parent === message.parent);
}

/** Chooses a message among its siblings. */
export function choose(conversation: Conversation, message: Message): Conversation {
  const chosen = { ...conversation.chosen, [message.parent ?? ""]: message.id };
  return { ...conversation, chosen };
}

/** Takes a message out, with all below it, and chooses a sibling if there is one. */
export function remove(conversation: Conversation, message: Message): Conversation {
  const messages = { ...conversation.messages };
  const chosen = { ...conversation.chosen };
  const gone = [message.id];
  for (let id = gone.pop(); id !== undefined; id = gone.pop()) {
    delete messages[id];
    delete chosen[id];
    for (const other of Object.values(messages)) if (other.parent === id) gone.push(other.id);
  }
  const left = siblings({ ...conversation, messages }, message).at(-1);
  const place = message.parent ?? "";
  if (left) chosen[place] = left.id;
  else delete chosen[place];
  return { ...conversation, messages, chosen };
}

/** The first line of what was asked, cut to a title. */
export function titleOf(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return line.length > 60 ? `${line.slice(0, 59)}…` : line || "New chat";
}

/** The messages as a request has them. */
export function requestMessages(system: string, shown: Message[]): object[] {
  const messages: object[] = system.trim() ? [{ role: "system", content: system }] : [];
  for (const { role, text, reasoning, calls, call } of shown) {
    if (role === "tool") {
      messages.push({ role, content: text, tool_call_id: call });
    } else if (role === "user") {
      messages.push({ role, content: text });
    } else {
      const message: Record<string, unknown> = { role, content: text };
      if (reasoning) message.reasoning_content = reasoning;
      if (calls?.length) message.tool_calls = calls;
      messages.push(message);
    }
  }
  return messages;
}
