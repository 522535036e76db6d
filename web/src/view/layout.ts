/** What lies over the chat on a small screen, and which dialog is open. */

import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { set, settings } from "../state.ts";

/** On a small screen: the part that covers the chat. */
export const sheet = signal<"" | "chats" | "live">("");
/** Whether the settings are shown. */
export const configuring = signal(false);
/** Whether the live view takes the place of the chat. */
export const wide = signal(false);

const small = matchMedia("(max-width: 900px)");

/** Whether there is no room for more than the chat. */
export function isSmall(): boolean {
  return small.matches;
}

/** {@link isSmall}, as it changes. */
export function useSmall(): boolean {
  const [now, change] = useState(small.matches);
  useEffect(() => {
    const onChange = () => change(small.matches);
    small.addEventListener("change", onChange);
    return () => small.removeEventListener("change", onChange);
  }, []);
  return now;
}

/** Shows or hides the live view. */
export function toggleLive(): void {
  if (isSmall()) {
    sheet.value = sheet.value === "live" ? "" : "live";
    return;
  }
  wide.value = false;
  set({ live: !settings.value.live });
}

/** Puts the cursor where a question is typed. */
export function focusComposer(): void {
  document.querySelector<HTMLTextAreaElement>("#question")?.focus();
}
