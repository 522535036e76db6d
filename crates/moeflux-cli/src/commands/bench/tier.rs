//! What a device's memory for experts did in a test.

use moeflux::ModelInfo;
use moeflux::backend::TierStats;
use serde_json::{Value, json};

use crate::size;

/// The name of what computed.
pub fn backend(tier: Option<&TierStats>) -> &'static str {
    match tier {
        Some(_) => "gpu",
        None => "cpu",
    }
}

/// A device's memory for experts, in a test.
pub struct Tier {
    stats: TierStats,
    experts: usize,
    /// Share of the tokens' choices that were there.
    found: f64,
    /// Share that the processor computed.
    beside: f64,
    bytes_per_token: f64,
}

impl Tier {
    /// That of a test of so many tokens, repetitions included.
    pub fn of(stats: &TierStats, info: &ModelInfo, tokens: usize) -> Tier {
        let choices = (tokens * info.top_k * info.moe_layers).max(1) as f64;
        Tier {
            stats: *stats,
            experts: info.expert_records,
            found: (1.0 - (stats.brought + stats.beside) as f64 / choices).max(0.0),
            beside: stats.beside as f64 / choices,
            bytes_per_token: stats.brought_bytes as f64 / tokens.max(1) as f64,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        format!(
            "  on the device: room for {} of {} experts ({}); {:.1} % of choices found there, \
             {:.1} % computed by the processor, {:.3} MB a token brought over",
            self.stats.slots,
            self.experts,
            size::show(self.stats.slot_bytes),
            self.found * 100.0,
            self.beside * 100.0,
            self.bytes_per_token * 1e-6,
        )
    }

    /// For programs; nothing where the processor computed.
    pub fn fields(tier: Option<&Tier>) -> [(&'static str, Value); 4] {
        [
            ("device_slots", json!(tier.map(|t| t.stats.slots))),
            ("device_hit_rate", json!(tier.map(|t| t.found))),
            ("cpu_expert_rate", json!(tier.map(|t| t.beside))),
            (
                "device_bytes_per_token",
                json!(tier.map(|t| t.bytes_per_token)),
            ),
        ]
    }
}
