/** The conversations that the browser keeps. */

import { useState } from "preact/hooks";
import type { Conversation } from "../chat/conversation.ts";
import { begin, conversations, forget, open, rename, running, show } from "../state.ts";
import { Icon } from "./icons.tsx";
import { sheet } from "./layout.ts";

/** The list, with a button for a new conversation. */
export function Sidebar() {
  const [filter, setFilter] = useState("");
  const wanted = filter.trim().toLowerCase();
  const found = conversations.value.filter((c) => matches(c, wanted));
  return (
    <nav class="sidebar" aria-label="Chats">
      <header>
        <span class="brand">
          <img src="/icon.svg" alt="" width="24" height="24" /> moeflux
        </span>
        <button
          type="button"
          class="quiet only-small"
          title="Close"
          onClick={() => (sheet.value = "")}
        >
          <Icon name="close" />
        </button>
      </header>
      <button
        type="button"
        class="new"
        title="New chat (Alt+N)"
        onClick={() => {
          begin();
          sheet.value = "";
        }}
      >
        <Icon name="plus" /> New chat
      </button>
      {conversations.value.length > 6 && (
        <input
          type="search"
          placeholder="Search chats"
          aria-label="Search chats"
          value={filter}
          onInput={(event) => setFilter(event.currentTarget.value)}
        />
      )}
      <ul>
        {found.map((conversation) => (
          <Entry key={conversation.id} conversation={conversation} />
        ))}
      </ul>
      <footer>Chats stay in this browser.</footer>
    </nav>
  );
}

function matches(conversation: Conversation, wanted: string): boolean {
  if (!wanted || conversation.title.toLowerCase().includes(wanted)) return true;
  const messages = Object.values(conversation.messages);
  return messages.some((message) => message.text.toLowerCase().includes(wanted));
}

function Entry({ conversation }: { conversation: Conversation }) {
  const { id, title } = conversation;
  const [naming, setNaming] = useState(false);
  const current = open.value.id === id;
  const name = (text: string) => {
    setNaming(false);
    rename(id, text);
  };
  if (naming) {
    return (
      <li class="current">
        <input
          aria-label="Title"
          value={title}
          ref={(input) => input?.focus()}
          onBlur={(event) => name(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter") name(event.currentTarget.value);
            if (event.key === "Escape") setNaming(false);
          }}
        />
      </li>
    );
  }
  return (
    <li class={current ? "current" : ""}>
      <button
        type="button"
        class="title"
        aria-current={current ? "page" : undefined}
        onClick={() => {
          show(id);
          sheet.value = "";
        }}
        onDblClick={() => setNaming(true)}
      >
        {running.value?.chat === id && <i class="dot" />}
        {title}
      </button>
      <button type="button" class="quiet" title="Rename" onClick={() => setNaming(true)}>
        <Icon name="edit" />
      </button>
      <button
        type="button"
        class="quiet"
        title="Delete"
        onClick={() => confirm(`Delete “${title}”?`) && forget(id)}
      >
        <Icon name="trash" />
      </button>
    </li>
  );
}
