//! What would help most: the model evaluated with one thing changed at a time.

use super::{Budget, Outlook};
use crate::predict::DecodeModel;
use crate::size;

/// Gains smaller than this part are not worth a line.
const LEAST_GAIN: f64 = 1.03;
/// Experts of fewer bits: three quarters of the bytes, as four bits are to three.
const FEWER_BITS: f64 = 0.75;

/// One change, and the speed with it.
pub struct Advice {
    pub change: String,
    /// Tokens a second when warm.
    pub warm: f64,
    /// Over what it is now.
    pub gain: f64,
}

/// Changes that speed decoding up, the best first.
pub fn advice(budget: &Budget, outlook: &Outlook<'_>) -> Vec<Advice> {
    let info = outlook.info;
    let now = outlook.speeds(budget.slots);
    let slot = budget.memory.slot_bytes;
    let missing = (info.expert_records as u64).saturating_sub(budget.slots) * slot;
    let limit = budget.memory.limit_bytes;
    let mut all = Vec::new();
    let mut add = |change: String, warm: f64| {
        let gain = warm / now.warm;
        if gain >= LEAST_GAIN {
            all.push(Advice { change, warm, gain });
        }
    };
    // The bound keeps a little more back as it grows.
    let whole = limit + missing + missing / 100;
    for memory in [limit / 2 * 3, limit * 2]
        .into_iter()
        .filter(|&m| m < whole)
    {
        let slots = budget.slots + (memory - limit) * 99 / 100 / slot;
        let change = format!(
            "{} of memory instead of {}",
            size::show(memory),
            size::show(limit)
        );
        add(change, outlook.speeds(slots).warm);
    }
    if missing > 0 {
        let change = format!("{} of memory: all experts fit", size::show(whole));
        add(change, now.best);
    }
    let miss = 1.0 - now.hit_rate;
    let with = |scale: f64, miss: f64| {
        let decode = DecodeModel {
            layer_seconds: outlook.decode.layer_seconds * scale,
            expert_seconds: outlook.decode.expert_seconds * scale,
            ..outlook.decode
        };
        1.0 / (decode.seconds(miss) + outlook.context_seconds)
    };
    let faster = outlook.disk.bytes_per_second * 2e-9;
    add(
        format!("a disk twice as fast ({faster:.1} GB/s)"),
        with(0.5, miss),
    );
    let slots = (budget.slots as f64 / FEWER_BITS) as u64;
    let fewer = 1.0 - outlook.speeds(slots).hit_rate;
    add(
        "experts of three bits where they have four: three quarters of their bytes".to_owned(),
        with(FEWER_BITS, fewer),
    );
    all.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    all
}
