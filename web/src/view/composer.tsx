/** Where a question is typed, or an old one is changed. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { ask, editing, open, running, shown, stop } from "../state.ts";
import { Icon } from "./icons.tsx";
import { isSmall } from "./layout.ts";

/** Questions that were typed and not sent, by conversation. */
const drafts = new Map<string, string>();

/** A field as high as its text. */
export function GrowingText(props: {
  id?: string;
  value: string;
  label: string;
  placeholder?: string;
  focused?: boolean;
  onInput: (text: string) => void;
  onKeyDown: (event: KeyboardEvent) => void;
}) {
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const element = field.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight}px`;
  }, [props.value]);
  useLayoutEffect(() => {
    if (props.focused) field.current?.focus();
  }, [props.focused]);
  return (
    <textarea
      ref={field}
      id={props.id}
      rows={1}
      value={props.value}
      aria-label={props.label}
      placeholder={props.placeholder}
      onInput={(event) => props.onInput(event.currentTarget.value)}
      onKeyDown={props.onKeyDown}
    />
  );
}

/** Whether a key sends what was typed. A phone's return key begins a new line. */
export function sends(event: KeyboardEvent): boolean {
  if (event.key !== "Enter" || event.isComposing) return false;
  return event.ctrlKey || event.metaKey || (!event.shiftKey && !isSmall());
}

/** The field for the next question. */
export function Composer() {
  const chat = open.value.id;
  const [, redraw] = useState(0);
  const text = drafts.get(chat) ?? "";
  const change = (value: string) => {
    drafts.set(chat, value);
    redraw((count) => count + 1);
  };
  const busy = running.value !== null;
  const send = () => {
    if (busy || !text.trim()) return;
    ask(text);
    change("");
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (sends(event)) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !text) {
      const last = shown.value.findLast((message) => message.role === "user");
      if (last && !busy) {
        event.preventDefault();
        editing.value = last.id;
      }
    }
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <GrowingText
        id="question"
        label="Message"
        placeholder="Ask something"
        value={text}
        focused={!isSmall() || undefined}
        onInput={change}
        onKeyDown={onKeyDown}
      />
      {busy ? (
        <button type="button" class="round" title="Stop (Esc)" onClick={stop}>
          <Icon name="stop" />
        </button>
      ) : (
        <button type="submit" class="round" title="Send (Enter)" disabled={!text.trim()}>
          <Icon name="send" />
        </button>
      )}
    </form>
  );
}
