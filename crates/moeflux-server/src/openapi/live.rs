//! `GET /live`.

use utoipa::ToSchema;

/// The data of an event: `machine` at first, then `now` again and again.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum LiveEvent {
    /// What does not change.
    Machine(Machine),
    /// What does.
    Now(Now),
}

/// What does not change.
#[derive(ToSchema)]
pub struct Machine {
    /// The model.
    pub model: String,
    /// Version of moeflux.
    pub version: String,
    /// Layers with routed experts.
    pub layers: Vec<Layer>,
    /// Routed experts that a token uses in a layer.
    pub experts_per_token: u64,
    /// Bytes of a slot, which holds one expert.
    pub slot_bytes: u64,
    /// How experts are read.
    pub reader: String,
    /// Threads that compute.
    pub threads: u64,
    /// Bound of the process's memory.
    pub memory_bytes: u64,
    /// Answers that are computed at a time, at most.
    pub parallel: u64,
}

/// A layer with routed experts.
#[derive(ToSchema)]
pub struct Layer {
    /// Its number in the model.
    pub layer: u64,
    /// How many it has.
    pub experts: u64,
}

/// The machine at a moment.
#[derive(ToSchema)]
pub struct Now {
    /// Time since the server's start.
    pub seconds: f64,
    /// Layers whose experts changed: position in `machine.layers`, and a character for each expert:
    /// `.` not in memory, `r` being read, `g` read by a guess, `m` in memory, `u` used since the
    /// last event.
    pub experts: Vec<(u64, String)>,
    /// Slots for experts.
    pub slots: u64,
    /// Experts in memory.
    pub resident: u64,
    /// Counters since the server's start.
    pub total: Totals,
    /// Requests, running ones first and then the waiting ones in their order; at most 64.
    #[schema(max_items = 64)]
    pub requests: Vec<LiveRequest>,
    /// How many requests there are in all.
    pub request_count: u64,
}

/// Counters since the server's start.
#[derive(ToSchema)]
pub struct Totals {
    /// Tokens of prompts that were computed.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub answer_tokens: u64,
    /// Experts asked for and found in memory.
    pub hits: u64,
    /// Experts asked for and not found.
    pub misses: u64,
    /// Experts thrown out to make room.
    pub evictions: u64,
    /// Bytes of experts read from storage.
    pub read_bytes: u64,
    /// Bytes of weights that steps went through in memory.
    pub memory_bytes: u64,
    /// Time that steps waited for storage.
    pub wait_seconds: f64,
}

/// How far a request is.
#[derive(ToSchema)]
pub struct LiveRequest {
    /// `waiting`, `prompt` or `answer`.
    pub phase: Phase,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// How many of them are computed.
    pub prompt_done: u64,
    /// Tokens of the answer so far.
    pub answer_tokens: u64,
}

/// How far a request is.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits.
    Waiting,
    /// Its prompt is being computed.
    Prompt,
    /// Its answer is being computed.
    Answer,
}

/// The machine at work, as events without end.
#[utoipa::path(
    get,
    path = "/live",
    tag = "moeflux",
    responses((status = 200, body = LiveEvent, content_type = "text/event-stream"))
)]
pub fn live() {}
