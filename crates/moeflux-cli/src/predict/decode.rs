//! The time of a decoded token.
//!
//! A step takes the time of its arithmetic, and waits for the disk in each layer in which an expert
//! is missing: once for the disk's latency, and for each expert's bytes. All three are taken from
//! steps of the engine itself, so that whatever it does to hide reads is counted.

use std::time::{Duration, Instant};

use moeflux::{Engine, ModelInfo, Session};

use crate::failure::Failure;

/// How long steps are taken, after the first few, before they are taken again.
const TIME: Duration = Duration::from_millis(1500);
const FEWEST_STEPS: usize = 6;
pub(super) const MOST_STEPS: usize = 400;
/// Steps of the same token, whose experts are all in memory.
const REPEATS: usize = 6;

/// Seconds of a decoded token, by the share of its experts that are not in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeModel {
    /// Layers with experts.
    pub layers: f64,
    /// Experts that a token uses in a layer.
    pub top_k: f64,
    /// Experts of a layer.
    pub experts: f64,
    /// With all experts in memory.
    pub resident_seconds: f64,
    /// More for each layer in which any expert is missing.
    pub layer_seconds: f64,
    /// More for each missing expert.
    pub expert_seconds: f64,
    /// More for each missing expert whose memory is used for the first time.
    pub touch_seconds: f64,
}

/// A step that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub seconds: f64,
    /// Experts that were not in memory when the step began.
    pub absent: f64,
    /// Experts that were brought to a device.
    pub brought: f64,
}

impl DecodeModel {
    /// Seconds of a token of whose experts the share `miss` is not in memory.
    pub fn seconds(&self, miss: f64) -> f64 {
        let [layers, experts] = self.reads(miss);
        self.resident_seconds + self.layer_seconds * layers + self.expert_seconds * experts
    }

    /// Tokens a second over the first `tokens` tokens after a cold start, where the share of
    /// experts in memory grows up to `hit_rate`.
    pub fn cold_rate(&self, tokens: usize, hit_rate: f64) -> f64 {
        let unseen = 1.0 - self.top_k / self.experts.max(self.top_k);
        let seconds = |token: usize| {
            let new = unseen.powf(token as f64);
            let miss = new.max(1.0 - hit_rate);
            // Once the arena is full, others' memory is used again.
            let touched = if new < miss { 0.0 } else { self.touch_seconds };
            self.seconds(miss) + touched * self.reads(miss)[1]
        };
        tokens as f64 / (0..tokens).map(seconds).sum::<f64>()
    }

    /// Layers with a missing expert, and missing experts.
    fn reads(&self, miss: f64) -> [f64; 2] {
        let any = 1.0 - (1.0 - miss).powf(self.top_k);
        [self.layers * any, self.layers * self.top_k * miss]
    }

    /// The two times that bring the samples nearest, in least squares, neither below zero.
    fn fit(&mut self, samples: &[Sample]) {
        let all = self.layers * self.top_k;
        let points = samples.iter().map(|sample| {
            let reads = self.reads((sample.absent / all).min(1.0));
            (reads, sample.seconds - self.resident_seconds)
        });
        [self.layer_seconds, self.expert_seconds] = least_squares(points);
    }

    /// What reading into new memory takes beyond what the model says.
    fn fit_touch(&mut self, samples: &[Sample]) {
        let all = self.layers * self.top_k;
        let over = |s: &Sample| s.seconds - self.seconds((s.absent / all).min(1.0));
        let seconds: f64 = samples.iter().map(over).sum();
        let experts: f64 = samples.iter().map(|sample| sample.absent).sum();
        self.touch_seconds = (seconds / experts.max(1.0)).max(0.0);
    }
}

/// What each of two counts takes, by what they took together: nearest in least squares, neither below
/// zero. Where the counts do not tell the two apart, all goes to the second.
pub(super) fn least_squares(points: impl Iterator<Item = ([f64; 2], f64)>) -> [f64; 2] {
    let mut sums = [[0.0_f64; 3]; 2];
    for ([a, b], y) in points {
        sums[0][0] += a * a;
        sums[0][1] += a * b;
        sums[0][2] += a * y;
        sums[1][1] += b * b;
        sums[1][2] += b * y;
    }
    let [[aa, ab, ay], [_, bb, by]] = sums;
    let determinant = aa * bb - ab * ab;
    let alone = |square: f64, product: f64| match square > 0.0 {
        true => (product / square).max(0.0),
        false => 0.0,
    };
    if determinant <= 1e-6 * aa * bb {
        return [0.0, alone(bb, by)];
    }
    let first = (ay * bb - by * ab) / determinant;
    let second = (by * aa - ay * ab) / determinant;
    match (first >= 0.0, second >= 0.0) {
        (true, true) => [first, second],
        (false, _) => [0.0, alone(bb, by)],
        (true, false) => [alone(aa, ay), 0.0],
    }
}

/// Measures an engine that has just been opened, for a few seconds: steps after a cold start, into
/// memory never used before; the same once more, into the same memory; and steps that find all
/// there.
pub fn measure(engine: &Engine) -> Result<DecodeModel, Failure> {
    let info = engine.info();
    let mut session = engine.session();
    let most = session.context_tokens().min(MOST_STEPS);
    let first = cold_steps(engine, &mut session, enough(most))?;
    session.rewind(0)?;
    let again = cold_steps(engine, &mut session, |taken, _| taken < first.len())?;
    let mut model = DecodeModel {
        layers: info.moe_layers as f64,
        top_k: info.top_k as f64,
        experts: info.experts as f64,
        resident_seconds: resident_seconds(engine, &mut session)?,
        layer_seconds: 0.0,
        expert_seconds: 0.0,
        touch_seconds: 0.0,
    };
    // The very first step also touches its buffers for the first time.
    model.fit(&again);
    model.fit_touch(&first[1..]);
    Ok(model)
}

/// Whether more steps are wanted of at most `most`: for some time, and at least a few.
pub(super) fn enough(most: usize) -> impl Fn(usize, Duration) -> bool {
    move |taken, time| taken < most && (taken < FEWEST_STEPS || time < TIME)
}

/// Steps after a cold start, while `more` of their number and time says so.
pub(super) fn cold_steps(
    engine: &Engine,
    session: &mut Session,
    more: impl Fn(usize, Duration) -> bool,
) -> Result<Vec<Sample>, Failure> {
    engine.cool();
    let mut samples = Vec::new();
    let start = Instant::now();
    while more(samples.len(), start.elapsed()) {
        let token = token(engine.info(), samples.len());
        samples.push(step(engine, session, token)?);
    }
    Ok(samples)
}

/// Seconds of a step whose experts are all in memory; or, where the arena holds too few for that, of
/// one without its waiting.
pub(super) fn resident_seconds(engine: &Engine, session: &mut Session) -> Result<f64, Failure> {
    session.rewind(0)?;
    let mut best = f64::INFINITY;
    for repeat in 0..=REPEATS {
        let before = engine.stats().experts.wait_us_total;
        let sample = step(engine, session, 0)?;
        let waited = engine.stats().experts.wait_us_total - before;
        session.rewind(0)?;
        if repeat > 0 {
            best = best.min(sample.seconds - waited as f64 * 1e-6);
        }
    }
    Ok(best)
}

fn step(engine: &Engine, session: &mut Session, token: u32) -> Result<Sample, Failure> {
    let before = engine.stats();
    let start = Instant::now();
    let logits = engine.decode(session, token)?;
    let seconds = start.elapsed().as_secs_f64();
    engine.recycle(logits);
    let after = engine.stats();
    let absent = absent(&after.experts) - absent(&before.experts);
    let brought = |stats: &moeflux::Stats| stats.tier.map_or(0, |tier| tier.brought);
    Ok(Sample {
        seconds,
        absent: absent as f64,
        brought: (brought(&after) - brought(&before)) as f64,
    })
}

/// Experts that were asked for and not in memory, or only because they were guessed in time.
pub fn absent(stats: &moeflux::experts::Stats) -> u64 {
    stats.misses + stats.ahead_used
}

/// Tokens over the whole vocabulary, so that experts are chosen as widely.
fn token(info: &ModelInfo, step: usize) -> u32 {
    let number = moeflux::sampling::uniform(u64::MAX, step as u64);
    (number * info.vocab_size as f64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: DecodeModel = DecodeModel {
        layers: 10.0,
        top_k: 4.0,
        experts: 64.0,
        resident_seconds: 0.05,
        layer_seconds: 0.002,
        expert_seconds: 0.001,
        touch_seconds: 0.0005,
    };

    #[test]
    fn a_token_waits_for_layers_and_experts() {
        assert_eq!(MODEL.seconds(0.0), 0.05);
        assert!((MODEL.seconds(1.0) - (0.05 + 0.02 + 0.04)).abs() < 1e-12);
        let half = 0.05 + 0.02 * (1.0 - 0.0625) + 0.02;
        assert!((MODEL.seconds(0.5) - half).abs() < 1e-12);
        let used_before = DecodeModel {
            touch_seconds: 0.0,
            ..MODEL
        };
        let cold = used_before.cold_rate(8, 1.0);
        assert!(MODEL.cold_rate(8, 1.0) < cold);
        assert!(cold > 1.0 / MODEL.seconds(1.0) && cold < 1.0 / MODEL.seconds(0.5));
    }

    #[test]
    fn the_times_are_found_again_from_steps() {
        let sample = |absent: f64| Sample {
            seconds: MODEL.seconds(absent / 40.0),
            absent,
            brought: 0.0,
        };
        let samples: Vec<Sample> = [40.0, 38.0, 30.0, 25.0, 12.0, 5.0].map(sample).to_vec();
        let mut fitted = DecodeModel {
            layer_seconds: 0.0,
            expert_seconds: 0.0,
            touch_seconds: 0.0,
            ..MODEL
        };
        fitted.fit(&samples);
        assert!((fitted.layer_seconds / MODEL.layer_seconds - 1.0).abs() < 1e-6);
        assert!((fitted.expert_seconds / MODEL.expert_seconds - 1.0).abs() < 1e-6);
        // Steps into new memory take longer by as much as each expert's memory does.
        let touching = samples.iter().map(|s| Sample {
            seconds: s.seconds + 0.0005 * s.absent,
            ..*s
        });
        fitted.fit_touch(&touching.collect::<Vec<_>>());
        assert!((fitted.touch_seconds / MODEL.touch_seconds - 1.0).abs() < 1e-6);
        // One kind of step cannot tell the two apart: all goes to the experts.
        fitted.fit(&samples[..1]);
        assert_eq!(fitted.layer_seconds, 0.0);
        assert!((fitted.seconds(1.0) / MODEL.seconds(1.0) - 1.0).abs() < 1e-6);
        // Steps that are all faster than with everything in memory do not make reads free of sense.
        let fast = Sample {
            seconds: 0.01,
            absent: 20.0,
            brought: 0.0,
        };
        fitted.fit(&[fast, fast]);
        assert_eq!(fitted.seconds(1.0), MODEL.resident_seconds);
    }
}
