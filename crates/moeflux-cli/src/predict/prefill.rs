//! The time of a prompt.
//!
//! It is taken in chunks. Each reads, once, the experts that its tokens use and that are not in
//! memory, and computes meanwhile: a chunk takes the longer of the two, and its first layer's reads,
//! which nothing can hide.

use moeflux::cost::StepShape;
use moeflux::{Engine, ModelInfo};

use crate::floor::{Floor, Machine};

/// The share of the kernels' measured rates that whole steps reach.
const EFFICIENCY: f64 = 0.8;

/// What a prompt's time follows from.
pub struct PrefillModel<'a> {
    pub engine: &'a Engine,
    pub machine: &'a Machine,
    /// Of experts, in bytes a second.
    pub disk_rate: f64,
}

impl PrefillModel<'_> {
    /// Tokens a second of `tokens` tokens after `depth` others, in steps of at most `chunk`. The
    /// share `held` of the experts is in memory at first, and there is room for `slots`.
    pub fn rate(&self, depth: usize, tokens: usize, chunk: usize, held: f64, slots: u64) -> f64 {
        let info = self.engine.info();
        let chunk = chunk.max(1);
        let records = info.expert_records.max(1) as f64;
        let (mut seconds, mut held) = (0.0, held);
        for start in (0..tokens).step_by(chunk) {
            let len = chunk.min(tokens - start);
            let experts = distinct(info, len);
            let step = StepShape {
                start: depth + start,
                tokens: len,
                outputs: usize::from(start + len == tokens),
                experts,
            };
            let floor = Floor::of(self.engine, self.machine, std::iter::once(step));
            let compute = floor.limit().0 / EFFICIENCY;
            let used = experts * info.moe_layers as f64;
            let bytes = info.expert_bytes as f64 / records;
            let read = used * (1.0 - held) * bytes / self.disk_rate;
            seconds += compute.max(read) + read / info.moe_layers.max(1) as f64;
            // What the next chunk finds: of what was used, as much as there is room for.
            held = used.min(slots as f64) / records;
        }
        tokens as f64 / seconds
    }
}

/// Experts of a layer that `tokens` tokens use, if each is as likely as any other.
fn distinct(info: &ModelInfo, tokens: usize) -> f64 {
    let experts = info.experts.max(1) as f64;
    let unused = (1.0 - info.top_k as f64 / experts).max(0.0);
    experts * (1.0 - unused.powf(tokens as f64))
}
