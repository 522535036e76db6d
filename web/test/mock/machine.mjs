/** A pretended machine: slots that hold experts, of which some are asked for more than others. */

const LAYERS = 16;
const EXPERTS = 64;
const TOP_K = 6;
const SLOT_BYTES = 1_769_472;
const SLOTS = 420;

/** The machine behind the stand-in server. */
export class MockMachine {
  constructor() {
    this.started = performance.now();
    this.held = new Map();
    this.used = Array.from({ length: LAYERS }, () => new Array(EXPERTS).fill(-1));
    this.tick = 0;
    this.running = [];
    this.total = {
      prompt_tokens: 0,
      answer_tokens: 0,
      hits: 0,
      misses: 0,
      evictions: 0,
      read_bytes: 0,
      memory_bytes: 0,
      wait_seconds: 0,
    };
  }

  about() {
    return {
      model: "mock-moe",
      version: "0.0.0",
      layers: Array.from({ length: LAYERS }, (_, layer) => ({ layer, experts: EXPERTS })),
      experts_per_token: TOP_K,
      slot_bytes: SLOT_BYTES,
      reader: "pretended",
      threads: 8,
      memory_bytes: 1_500_000_000,
      parallel: 4,
    };
  }

  begin(prompt_tokens) {
    const tokens = Math.ceil(prompt_tokens);
    const request = {
      phase: "answer",
      prompt_tokens: tokens,
      prompt_done: tokens,
      answer_tokens: 0,
    };
    this.total.prompt_tokens += tokens;
    this.running.push(request);
    return request;
  }

  end(request) {
    this.running = this.running.filter((other) => other !== request);
  }

  /** One token: each layer uses some experts, the low numbers more often. */
  token(request) {
    request.answer_tokens += 1;
    this.total.answer_tokens += 1;
    this.total.memory_bytes += 60_000_000 + LAYERS * TOP_K * SLOT_BYTES;
    for (let layer = 0; layer < LAYERS; layer += 1) {
      for (let k = 0; k < TOP_K; k += 1) {
        const skewed = Math.floor(EXPERTS * Math.random() ** 4);
        this.use(layer, (skewed * 29 + layer * 7) % EXPERTS);
      }
    }
  }

  use(layer, expert) {
    const key = layer * EXPERTS + expert;
    this.used[layer][expert] = this.tick;
    if (this.held.delete(key)) {
      this.total.hits += 1;
    } else {
      this.total.misses += 1;
      this.total.read_bytes += SLOT_BYTES;
      this.total.wait_seconds += 0.00006;
      if (this.held.size >= SLOTS) {
        this.held.delete(this.held.keys().next().value);
        this.total.evictions += 1;
      }
    }
    this.held.set(key, true);
  }

  /** The event now; `seen` keeps what a listener was told. */
  now(seen) {
    const experts = [];
    for (let layer = 0; layer < LAYERS; layer += 1) {
      const states = this.used[layer].map((used, expert) => {
        if (used === this.tick) return "u";
        return this.held.has(layer * EXPERTS + expert) ? "m" : this.idle(layer, expert);
      });
      const text = states.join("");
      if (seen[layer] !== text) experts.push([layer, text]);
      seen[layer] = text;
    }
    this.tick += 1;
    return {
      seconds: (performance.now() - this.started) / 1000,
      experts,
      slots: SLOTS,
      resident: this.held.size,
      total: { ...this.total },
      requests: this.running.map((request) => ({ ...request })),
      request_count: this.running.length,
    };
  }

  /** While something runs, some experts are on their way. */
  idle(layer, expert) {
    if (!this.running.length) return ".";
    const draw = (layer * 31 + expert * 17 + this.tick * 13) % 97;
    return draw < 2 ? "r" : draw < 4 ? "g" : ".";
  }
}
