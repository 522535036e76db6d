/** The page: chats, the open chat, and the live view. */

import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { Live } from "./live/view.tsx";
import {
  askModels,
  ask,
  begin,
  locked,
  model,
  open,
  regenerate,
  running,
  settings,
  shown,
  stop,
  trouble,
} from "./state.ts";
import { Composer } from "./view/composer.tsx";
import { Icon } from "./view/icons.tsx";
import { configuring, focusComposer, sheet, toggleLive, useSmall, wide } from "./view/layout.ts";
import { MessageView } from "./view/message.tsx";
import { SettingsDialog } from "./view/settings.tsx";
import { Sidebar } from "./view/sidebar.tsx";

/** What the empty page offers to ask. */
const STARTERS = [
  "Tell me a story about a fox.",
  "What is the capital of France?",
  "Explain mixture of experts in three sentences.",
];

/** The whole page. */
export function App() {
  useKeys();
  useEffect(() => void askModels(), []);
  useLayoutEffect(() => {
    document.documentElement.dataset.theme = settings.value.theme;
  }, [settings.value.theme]);
  // On a small screen the live view is there, and listens, only while it is asked for.
  const live = useSmall() ? sheet.value === "live" : settings.value.live;
  const parts = `page ${live ? "with-live" : ""} ${wide.value ? "wide" : ""} sheet-${sheet.value}`;
  return (
    <div class={parts}>
      <Sidebar />
      <Chat />
      {live && <Live />}
      {sheet.value && <div class="shade" onClick={() => (sheet.value = "")} />}
      <SettingsDialog />
    </div>
  );
}

function Chat() {
  return (
    <main>
      <header class="bar-top">
        <button
          type="button"
          class="quiet only-small"
          title="Chats"
          onClick={() => (sheet.value = "chats")}
        >
          <Icon name="menu" />
        </button>
        <h1>{open.value.title}</h1>
        <span class="model">{model.value}</span>
        <button type="button" class="quiet" title="Live view (Alt+L)" onClick={toggleLive}>
          <Icon name="live" />
        </button>
        <button
          type="button"
          class="quiet"
          title="Settings (Alt+S)"
          onClick={() => (configuring.value = true)}
        >
          <Icon name="gear" />
        </button>
      </header>
      <Trouble />
      <Messages />
      <Composer />
    </main>
  );
}

function Trouble() {
  if (locked.value) {
    return (
      <p class="banner" role="alert">
        This server wants its API key.{" "}
        <button type="button" onClick={() => (configuring.value = true)}>
          Enter it
        </button>
      </p>
    );
  }
  if (!trouble.value) return null;
  return (
    <p class="banner" role="alert">
      {trouble.value}{" "}
      <button type="button" onClick={() => void askModels()}>
        Try again
      </button>
    </p>
  );
}

/** Keys that scroll up. */
const UPWARD = ["ArrowUp", "PageUp", "Home"];
/** A browser scrolls by and by, and stops if the page scrolls meanwhile; this is time enough. */
const LEAVING_MS = 400;

/** The messages; the view stays at the end while the user does not scroll away from it. */
function Messages() {
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  /** Where this put the view last. */
  const put = useRef({ top: 0, height: 0 });
  /** When the user last began to scroll away. */
  const left = useRef(-Infinity);
  const messages = shown.value;
  useLayoutEffect(() => {
    atEnd.current = true;
    put.current = { top: 0, height: 0 };
  }, [open.value.id, messages.length]);
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const { top, height } = put.current;
    // The user's scrolling may be seen here before its event comes.
    if (element.scrollTop < top - 1 && element.scrollHeight >= height) atEnd.current = false;
    const leaving = performance.now() - left.current < LEAVING_MS;
    if (atEnd.current && !leaving) element.scrollTop = element.scrollHeight;
    put.current = { top: element.scrollTop, height: element.scrollHeight };
  });
  const onScroll = () => {
    const element = box.current;
    if (!element) return;
    atEnd.current = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  };
  const leave = () => (left.current = performance.now());
  return (
    <div
      class="messages"
      ref={box}
      tabIndex={-1}
      onScroll={onScroll}
      onWheel={(event) => event.deltaY < 0 && leave()}
      onTouchMove={leave}
      onKeyDown={(event) => UPWARD.includes(event.key) && leave()}
    >
      <div class="column" role="log" aria-label="Conversation">
        {messages.length === 0 && <Welcome />}
        {messages.map((message, at) => (
          <MessageView key={message.id} message={message} last={at === messages.length - 1} />
        ))}
      </div>
    </div>
  );
}

function Welcome() {
  return (
    <section class="welcome">
      <img src="/icon.svg" alt="" width="56" height="56" />
      <h2>What shall we talk about?</h2>
      <div>
        {STARTERS.map((text) => (
          <button key={text} type="button" onClick={() => ask(text)}>
            {text}
          </button>
        ))}
      </div>
    </section>
  );
}

function useKeys(): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (configuring.value) return;
      const target = event.target as HTMLElement;
      const typing = target.matches("input, textarea, select");
      const act = actionOf(event, typing);
      if (!act) return;
      event.preventDefault();
      act();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}

function actionOf(event: KeyboardEvent, typing: boolean): (() => void) | undefined {
  if (event.key === "Escape") {
    if (sheet.value) return () => (sheet.value = "");
    if (wide.value) return () => (wide.value = false);
    return running.value ? stop : undefined;
  }
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) return focusComposer;
  if (!event.altKey || event.ctrlKey || event.metaKey) return undefined;
  // `code`: with Alt some layouts give another letter.
  switch (event.code) {
    case "KeyN":
      return () => {
        begin();
        focusComposer();
      };
    case "KeyL":
      return toggleLive;
    case "KeyS":
      return () => (configuring.value = true);
    case "KeyR": {
      const last = shown.value.at(-1);
      return () => last?.role === "assistant" && regenerate(last);
    }
    default:
      return undefined;
  }
}
