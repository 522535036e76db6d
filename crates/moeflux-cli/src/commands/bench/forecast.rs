//! What speed a test should have reached, by the model of `moeflux plan`.

use super::Loaded;
use super::measure::Measured;
use super::plan::Kind;
use crate::floor::Machine;
use crate::predict::{DecodeModel, PrefillModel};

/// What speeds are predicted from.
pub struct Forecast {
    pub decode: DecodeModel,
    pub disk_rate: f64,
}

impl Forecast {
    /// Tokens a second that a test should have reached with the experts that it found in memory.
    pub fn rate(&self, loaded: &Loaded, machine: &Machine, measured: &Measured) -> f64 {
        let info = loaded.engine.info();
        let (test, held) = (measured.test, measured.held_rate.unwrap_or(1.0));
        match test.kind {
            Kind::Prefill => {
                let model = PrefillModel {
                    engine: &loaded.engine,
                    machine,
                    disk_rate: self.disk_rate,
                };
                let slots = loaded.engine.stats().experts.slots as u64;
                model.rate(
                    test.depth,
                    test.tokens,
                    loaded.engine.chunk_tokens(),
                    held,
                    slots,
                )
            }
            Kind::Decode => {
                let bytes = info.token_state_bytes as f64 * test.depth as f64;
                1.0 / (self.decode.seconds(1.0 - held) + bytes / machine.memory.median)
            }
        }
    }
}
