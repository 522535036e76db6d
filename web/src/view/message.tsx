/** One message of a conversation, with what can be done to it. */

import { useState } from "preact/hooks";
import type { Message, Outcome } from "../chat/conversation.ts";
import { siblings } from "../chat/conversation.ts";
import { Copy, Markdown } from "../markdown/render.tsx";
import { ask, choose, editing, open, regenerate, removeMessage, running } from "../state.ts";
import { GrowingText, sends } from "./composer.tsx";
import { Icon } from "./icons.tsx";
import { Calls } from "./tools.tsx";

/** A message by its role. */
export function MessageView({ message, last }: { message: Message; last: boolean }) {
  if (message.role === "user") return <Question message={message} />;
  if (message.role === "tool") return null;
  return <AnswerView message={message} last={last} />;
}

function Question({ message }: { message: Message }) {
  if (editing.value === message.id) return <Editor message={message} />;
  return (
    <article class="question">
      <div class="bubble">{message.text}</div>
      <footer>
        <Versions message={message} />
        <button
          type="button"
          class="quiet"
          title="Edit"
          disabled={running.value !== null}
          onClick={() => (editing.value = message.id)}
        >
          <Icon name="edit" />
        </button>
        <Copy text={message.text} />
        <Delete message={message} />
      </footer>
    </article>
  );
}

function Delete({ message }: { message: Message }) {
  return (
    <button
      type="button"
      class="quiet"
      title="Delete this and what follows"
      disabled={running.value !== null}
      onClick={() => removeMessage(message)}
    >
      <Icon name="trash" />
    </button>
  );
}

function Editor({ message }: { message: Message }) {
  const [text, setText] = useState(message.text);
  const done = () => (editing.value = "");
  const send = () => {
    if (!text.trim()) return;
    done();
    ask(text, message);
  };
  return (
    <article class="question editing">
      <GrowingText
        label="Edit message"
        value={text}
        focused
        onInput={setText}
        onKeyDown={(event) => {
          if (sends(event)) {
            event.preventDefault();
            send();
          } else if (event.key === "Escape") {
            event.stopPropagation();
            done();
          }
        }}
      />
      <footer class="shown">
        <button type="button" onClick={done}>
          Cancel
        </button>
        <button type="button" class="primary" onClick={send}>
          Send
        </button>
      </footer>
    </article>
  );
}

/** Which of several messages at the same place is shown. */
function Versions({ message }: { message: Message }) {
  const all = siblings(open.value, message);
  if (all.length < 2) return null;
  const at = all.findIndex((other) => other.id === message.id);
  const step = (name: "left" | "right", title: string, other: Message | undefined) => (
    <button
      type="button"
      class="quiet"
      title={title}
      disabled={!other || running.value !== null}
      onClick={() => other && choose(other)}
    >
      <Icon name={name} />
    </button>
  );
  return (
    <span class="versions">
      {step("left", "Previous version", all[at - 1])}
      {at + 1}/{all.length}
      {step("right", "Next version", all[at + 1])}
    </span>
  );
}

function AnswerView({ message, last }: { message: Message; last: boolean }) {
  const growing = running.value?.message.id === message.id;
  const { text, reasoning, calls, outcome } = message;
  const empty = !text && !reasoning && !calls?.length;
  return (
    <article class="answer" aria-busy={growing}>
      {reasoning && <Reasoning text={reasoning} open={growing && !text} />}
      {text && <Markdown text={text} />}
      {calls && calls.length > 0 && <Calls message={message} open={last && !growing} />}
      {growing && empty && <p class="waiting" aria-label="Waiting for the answer" />}
      {!growing && <End outcome={outcome} />}
      {!growing && (
        <footer>
          <Versions message={message} />
          <button
            type="button"
            class="quiet"
            title="Ask again"
            disabled={running.value !== null}
            onClick={() => regenerate(message)}
          >
            <Icon name="again" />
          </button>
          {text && <Copy text={text} />}
          <Figures outcome={outcome} />
        </footer>
      )}
    </article>
  );
}

function Reasoning({ text, open: growing }: { text: string; open: boolean }) {
  return (
    <details class="reasoning">
      <summary>{growing ? "Thinking …" : "Reasoning"}</summary>
      <Markdown text={text} />
    </details>
  );
}

/** Says of an answer that did not end by itself why it ended. */
function End({ outcome }: { outcome?: Outcome }) {
  if (outcome?.error) {
    return (
      <p class="error" role="alert">
        {outcome.error}
      </p>
    );
  }
  const notes: Record<string, string> = {
    stopped: "Stopped.",
    length: "Cut at the limit of tokens.",
    content_filter: "Cut by a filter.",
  };
  const note = outcome ? notes[outcome.reason] : "Interrupted: the page was closed.";
  return note ? <p class="note">{note}</p> : null;
}

/** What an answer took. */
function Figures({ outcome }: { outcome?: Outcome }) {
  if (!outcome?.answer_tokens) return null;
  const { answer_tokens, prompt_tokens, cached_tokens, first_ms, rest_ms } = outcome;
  const parts = [`${answer_tokens} tokens`];
  if (rest_ms && rest_ms > 0 && answer_tokens > 1) {
    parts.push(`${(((answer_tokens - 1) * 1000) / rest_ms).toFixed(1)}/s`);
  }
  if (first_ms !== undefined) parts.push(`first after ${(first_ms / 1000).toFixed(2)} s`);
  const cached = cached_tokens ? `, ${cached_tokens} of them cached` : "";
  return (
    <span class="figures" title={`${prompt_tokens ?? "?"} tokens of prompt${cached}`}>
      {parts.join(" · ")}
    </span>
  );
}
