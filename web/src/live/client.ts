/** The connection to `GET /live`: held while somebody looks, taken up again when it breaks. */

import { signal } from "@preact/signals";
import { headers } from "../chat/completion.ts";
import type { Machine, Now } from "../live.ts";
import { events } from "../sse.ts";
import { Meters } from "./meters.ts";

/** How long to wait before a connection is tried again, in milliseconds: at first and at most. */
const RETRY_MS = [500, 8000] as const;

/** The machine; `null` until it is known. */
export const meters = signal<Meters | null>(null);
/** Counts events, so that views of the meters know when to draw. */
export const beat = signal(0);
/** Why there is no connection; empty while there is one. */
export const disconnected = signal("");

/** Follows the machine until `signal` says to stop. */
export async function follow(key: string, stop: AbortSignal): Promise<void> {
  let wait: number = RETRY_MS[0];
  while (!stop.aborted) {
    try {
      const response = await fetch("/live", { headers: headers(key), signal: stop });
      if (response.status === 404) {
        disconnected.value = "This server has no live view.";
        return;
      }
      if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
      for await (const { name, data } of events(response.body)) {
        wait = RETRY_MS[0];
        disconnected.value = "";
        take(name, data);
      }
    } catch {
      if (stop.aborted) return;
    }
    disconnected.value = "Not connected; trying again.";
    await pause(wait, stop);
    wait = Math.min(wait * 2, RETRY_MS[1]);
  }
}

function take(name: string, data: string): void {
  if (name === "machine") meters.value = new Meters(JSON.parse(data) as Machine);
  else if (name === "now") meters.peek()?.take(JSON.parse(data) as Now, performance.now());
  else return;
  beat.value += 1;
}

function pause(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    stop.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    });
  });
}
