//! Traces: which experts a model used, step by step, written while it runs and read to judge
//! policies.
//!
//! # File format, version 1
//!
//! All numbers are little-endian. The file begins with the 8 bytes `moetrace` and the version as
//! u32. Frames follow: payload length as u32, the payload, and the low 32 bits of the payload's
//! xxh3. Each frame is written whole, so that of a process that was killed the last step may be
//! missing or torn, but not an earlier one.
//!
//! The first frame is the header:
//!
//! | field | type |
//! |---|---|
//! | identity of the model | u64 |
//! | bytes of an expert in memory | u64 |
//! | experts a token uses, `k` | u32 |
//! | layers with experts | u32 |
//! | for each: its number in the model, its experts | u32, u32 |
//! | name of the model | UTF-8, to the frame's end |
//!
//! Each other frame is a step:
//!
//! | field | type |
//! |---|---|
//! | what it was ([`Pass`]): 0 sparse, 1 a scan, 2 a scan before another | u8 |
//! | tokens, `n`: 1 in decode | u32 |
//! | for each layer in order: its place among those with experts | u32 |
//! | experts `[n, k]` | u8 where no layer has more than 256 experts, else u16 |
//! | weights `[n, k]` | bf16 |
//!
//! A step that failed ends with the layer that failed.

mod figures;
mod read;
mod replay;
mod write;

pub use figures::TraceFigures;
pub use replay::{Replay, ReplayPolicy, ReplayResult, Tally};
pub use write::TraceWriter;

use crate::policy::Pass;

const MAGIC: &[u8; 8] = b"moetrace";
const VERSION: u32 = 1;
/// More of any of them is a damaged header.
const MOST_LAYERS: usize = 1 << 16;
const MOST_KEYS: u64 = 1 << 26;
const MOST_TOP_K: u32 = 1 << 12;

/// What a trace is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceHeader {
    /// The model's name, for people.
    pub model: String,
    /// What tells the model from any other.
    pub identity: u64,
    /// Bytes that an expert takes in memory.
    pub slot_bytes: u64,
    /// Experts that a token uses.
    pub top_k: u32,
    /// Number in the model and experts of each layer that has experts.
    pub layers: Vec<(u32, u32)>,
}

impl TraceHeader {
    /// Experts of each layer.
    pub fn experts(&self) -> Vec<u32> {
        self.layers.iter().map(|&(_, experts)| experts).collect()
    }

    /// Experts of all layers together.
    pub fn expert_count(&self) -> usize {
        self.layers.iter().map(|layer| layer.1 as usize).sum()
    }

    /// Bytes of an expert's number.
    fn id_bytes(&self) -> usize {
        let wide = |&(_, experts): &(u32, u32)| experts > 256;
        1 + usize::from(self.layers.iter().any(wide))
    }

    fn problem(&self) -> Option<String> {
        let keys: u64 = self.layers.iter().map(|layer| u64::from(layer.1)).sum();
        let bad_layer = |&&(_, experts): &&(u32, u32)| experts == 0 || experts > 1 << 16;
        if !(1..=MOST_TOP_K).contains(&self.top_k) {
            return Some(format!("a token cannot use {} experts", self.top_k));
        }
        if self.layers.is_empty() || self.layers.len() > MOST_LAYERS || keys > MOST_KEYS {
            return Some(format!("{} layers, {keys} experts", self.layers.len()));
        }
        let bad = self.layers.iter().find(bad_layer);
        bad.map(|(layer, experts)| format!("layer {layer} cannot have {experts} experts"))
    }
}

/// The experts that a step's tokens use in one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerUse {
    /// The layer's place among those with experts.
    pub turn: u32,
    /// `[tokens, top_k]`.
    pub ids: Vec<u32>,
    /// `[tokens, top_k]`, rounded to bf16.
    pub weights: Vec<f32>,
}

/// One step of the engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceStep {
    /// What it was.
    pub pass: Pass,
    /// Tokens; 1 in decode.
    pub tokens: u32,
    /// Its layers in order; fewer than the model has if the step failed.
    pub layers: Vec<LayerUse>,
}

/// A whole trace in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// What it is of.
    pub header: TraceHeader,
    /// The steps.
    pub steps: Vec<TraceStep>,
    /// Whether the file ends within a step, which was left out.
    pub truncated: bool,
}
