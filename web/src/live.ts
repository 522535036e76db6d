/**
 * `GET /live`: the machine at work, as server-sent events.
 *
 * The stream needs the API key like any other path, and begins with one event `machine`, which
 * holds what does not change; then come events `now`. Every event's data is one JSON object on one
 * line. An event `now` is sent when something changed since the last, at most 5 times a second,
 * and at least every 2 seconds. The first `now` has the states of all layers, the later ones of
 * those layers only that changed. Nobody listening costs nothing: states are collected for
 * listeners only.
 *
 * Counters (`total`) count from the server's start and never fall; rates are differences of two
 * events divided by the difference of their `seconds`. Sizes are bytes. Nothing of what is asked
 * or answered is in it, only numbers.
 *
 * Fields may be added; readers skip those they do not know.
 */

/** Data of the event `machine`. */
export interface Machine {
  /** Name of the model, as in `/v1/models`. */
  model: string;
  /** Version of moeflux. */
  version: string;
  /** Layers with routed experts, in the model's order. */
  layers: { layer: number; experts: number }[];
  /** Routed experts that a token uses in a layer. */
  experts_per_token: number;
  /** Bytes of one slot, which holds one expert. */
  slot_bytes: number;
  /** How experts are read, for example `ring` or `threads`. */
  reader: string;
  /** Threads that compute. */
  threads: number;
  /** Bound of the process's memory (`--memory`). */
  memory_bytes: number;
  /** Answers that are computed at a time, at most. */
  parallel: number;
}

/** Data of the event `now`. */
export interface Now {
  /** Time since the server's start, monotonic. */
  seconds: number;
  /**
   * Experts of the layers that changed: the layer's position in `machine.layers`, and one
   * character for each expert:
   *
   * - `.` not in memory
   * - `r` being read
   * - `g` read ahead of use: in memory by a guess that nobody has asked for yet
   * - `m` in memory
   * - `u` in memory or gone again, and used by an answer's token since the last event
   */
  experts: [position: number, states: string][];
  /** Slots, and how many of them hold an expert. */
  slots: number;
  resident: number;
  /** Counters since the server's start. */
  total: {
    /** Tokens of prompts that were computed, and of answers. */
    prompt_tokens: number;
    answer_tokens: number;
    /** Experts asked for that were in memory, and that were not. */
    hits: number;
    misses: number;
    /** Experts thrown out to make room. */
    evictions: number;
    /** Bytes of experts read from storage. */
    read_bytes: number;
    /**
     * Bytes of weights that steps went through in memory: the resident weights once a step and
     * each expert that a step used once; 0 where it is not counted.
     */
    memory_bytes: number;
    /** Time that steps waited for storage. */
    wait_seconds: number;
  };
  /** Requests, running ones first and then the waiting ones in their order; at most 64. */
  requests: Request[];
  /** How many requests there are in all, those not listed included. */
  request_count: number;
}

/** One request. */
export interface Request {
  phase: "waiting" | "prompt" | "answer";
  /** Tokens of the prompt, and how many of them are computed or were found computed. */
  prompt_tokens: number;
  prompt_done: number;
  /** Tokens of the answer so far. */
  answer_tokens: number;
}

/** The characters of {@link Now.experts}. */
export const STATES = ".rgmu";
