/** What the live view shows, kept up to date by events: experts' states and rates over time. */

import { type Machine, type Now, STATES } from "../live.ts";

/** How many past points the small charts have. */
export const POINTS = 120;
/** Rates are over about this many seconds, so that they can be read. */
const WINDOW_SECONDS = 1.2;

/** Rates of the last second, and shares. */
export interface Rates {
  prompt: number;
  answer: number;
  /** Share of experts found in memory; `undefined` where none was asked for. */
  hit: number | undefined;
  read: number;
  memory: number;
  /** Share of time that steps waited for storage. */
  wait: number;
  evictions: number;
}

/** A layer's experts. */
export interface Layer {
  layer: number;
  /** By expert: the index of its state in {@link STATES}. */
  states: Uint8Array;
  /** By expert: when it was used last, in milliseconds of the page's clock; 0: never seen. */
  used: Float64Array;
}

const NOTHING: Rates = {
  prompt: 0,
  answer: 0,
  hit: undefined,
  read: 0,
  memory: 0,
  wait: 0,
  evictions: 0,
};

/** The machine as the last events say. */
export class Meters {
  readonly machine: Machine;
  readonly layers: Layer[];
  now: Now | undefined;
  rates: Rates = NOTHING;
  /** Rates of the last {@link POINTS} events, oldest first. */
  history: Rates[] = [];
  private recent: Now[] = [];

  constructor(machine: Machine) {
    this.machine = machine;
    this.layers = machine.layers.map(({ layer, experts }) => ({
      layer,
      states: new Uint8Array(experts),
      used: new Float64Array(experts),
    }));
  }

  /** Takes an event that came at `clock`, in milliseconds. */
  take(now: Now, clock: number): void {
    for (const [position, states] of now.experts) this.place(position, states, clock);
    const last = this.recent.at(-1);
    // Another server at the same place counts from zero again.
    if (last && now.seconds < last.seconds) this.recent = [];
    this.recent.push(now);
    while (this.recent.length > 2 && this.old(now)) this.recent.shift();
    this.now = now;
    this.rates = rates(this.recent[0] ?? now, now);
    this.history = [...this.history, this.rates].slice(-POINTS);
  }

  private old(now: Now): boolean {
    return now.seconds - (this.recent[1]?.seconds ?? now.seconds) >= WINDOW_SECONDS;
  }

  private place(position: number, states: string, clock: number): void {
    const layer = this.layers[position];
    if (!layer) return;
    const count = Math.min(states.length, layer.states.length);
    for (let expert = 0; expert < count; expert += 1) {
      const state = Math.max(0, STATES.indexOf(states[expert] ?? "."));
      if (STATES[state] === "u") layer.used[expert] = clock;
      layer.states[expert] = state;
    }
  }
}

/** Rates between two events. */
export function rates(before: Now, after: Now): Rates {
  const seconds = after.seconds - before.seconds;
  if (!(seconds > 0)) return NOTHING;
  const grown = (name: keyof Now["total"]) =>
    Math.max(0, after.total[name] - before.total[name]);
  const asked = grown("hits") + grown("misses");
  return {
    prompt: grown("prompt_tokens") / seconds,
    answer: grown("answer_tokens") / seconds,
    hit: asked ? grown("hits") / asked : undefined,
    read: grown("read_bytes") / seconds,
    memory: grown("memory_bytes") / seconds,
    wait: Math.min(1, grown("wait_seconds") / seconds),
    evictions: grown("evictions") / seconds,
  };
}

/** A number of bytes, in units of 1000. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let [value, unit] = [count, 0];
  while (value >= 999.5 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  const digits = unit === 0 || value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** A number with as many digits as can be read at a glance. */
export function short(value: number): string {
  if (value >= 9999.5) return `${(value / 1000).toFixed(value >= 99_950 ? 0 : 1)}k`;
  return value >= 99.5 || value === 0 ? value.toFixed(0) : value.toFixed(1);
}
