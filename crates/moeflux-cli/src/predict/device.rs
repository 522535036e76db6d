//! The time of a decoded token on a graphics processor: of its experts some are in the device's
//! memory, some are brought there from the host's, and the rest are read from disk first.

use moeflux::Engine;

use super::decode::{self, Sample};
use crate::failure::Failure;

/// Seconds of a decoded token, by where its experts are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceModel {
    /// Experts that a token uses in all layers.
    pub experts: f64,
    /// With all experts on the device.
    pub resident_seconds: f64,
    /// More for each expert that is brought to the device.
    pub bring_seconds: f64,
    /// More for each that has to be read from disk before.
    pub read_seconds: f64,
}

impl DeviceModel {
    /// Seconds of a token whose experts are on the device, or else in memory, with these shares.
    pub fn seconds(&self, on_device: f64, in_memory: f64) -> f64 {
        let brought = self.experts * (1.0 - on_device);
        let read = self.experts * (1.0 - on_device - in_memory).max(0.0);
        self.resident_seconds + self.bring_seconds * brought + self.read_seconds * read
    }

    fn fit(&mut self, samples: &[Sample]) {
        let points = samples.iter().map(|sample| {
            let more = sample.seconds - self.resident_seconds;
            ([sample.absent, sample.brought], more)
        });
        [self.read_seconds, self.bring_seconds] = decode::least_squares(points);
    }
}

/// Measures an engine on a device for a few seconds: steps that read their experts, the same steps
/// again, and steps that find all of them on the device.
pub fn measure(engine: &Engine) -> Result<DeviceModel, Failure> {
    let info = engine.info();
    let mut session = engine.session();
    let most = session.context_tokens().min(decode::MOST_STEPS);
    let first = decode::cold_steps(engine, &mut session, decode::enough(most))?;
    session.rewind(0)?;
    let again = decode::cold_steps(engine, &mut session, |taken, _| taken < first.len())?;
    let mut model = DeviceModel {
        experts: (info.moe_layers * info.top_k) as f64,
        resident_seconds: decode::resident_seconds(engine, &mut session)?,
        bring_seconds: 0.0,
        read_seconds: 0.0,
    };
    // The very first steps have kernels compiled.
    let rest = first.len().min(2);
    model.fit(&[&first[rest..], &again[..]].concat());
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_waits_for_what_is_brought_and_read() {
        let model = DeviceModel {
            experts: 40.0,
            resident_seconds: 0.01,
            bring_seconds: 0.001,
            read_seconds: 0.002,
        };
        assert_eq!(model.seconds(1.0, 0.0), 0.01);
        assert!((model.seconds(0.5, 0.5) - 0.03).abs() < 1e-12);
        assert!((model.seconds(0.5, 0.25) - 0.05).abs() < 1e-12);
        let sample = |brought: f64, absent: f64| Sample {
            seconds: 0.01 + brought * 0.001 + absent * 0.002,
            absent,
            brought,
        };
        let mut fitted = DeviceModel {
            bring_seconds: 0.0,
            read_seconds: 0.0,
            ..model
        };
        fitted.fit(&[sample(40.0, 40.0), sample(30.0, 10.0), sample(5.0, 0.0)]);
        assert!(
            (fitted.bring_seconds / 0.001 - 1.0).abs() < 1e-6,
            "{fitted:?}"
        );
        assert!(
            (fitted.read_seconds / 0.002 - 1.0).abs() < 1e-6,
            "{fitted:?}"
        );
    }
}
