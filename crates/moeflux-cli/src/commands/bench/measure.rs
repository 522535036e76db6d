//! Runs the tests on an engine and takes their times.

use std::time::Instant;

use moeflux::backend::TierStats;
use moeflux::cost::StepShape;
use moeflux::{Engine, Session, Want};

use super::plan::{Cache, Kind, Test};
use super::profile::{Profile, Recorder};
use super::progress::Progress;
use crate::failure::Failure;
use crate::floor::{Floor, Machine};
use crate::interrupt::Guard;
use crate::predict::absent;

/// Parts of the vocabulary that repetitions take turns with, where topics change.
const TOPICS: usize = 8;
/// Repetition 0 makes the context and warms up.
const WARM_UP: usize = 0;

/// How every test of a run is measured.
pub struct Runner<'a> {
    pub engine: &'a Engine,
    pub machine: &'a Machine,
    pub repetitions: usize,
    /// What is in memory when a repetition begins.
    pub cache: Cache,
    /// Run once more, taking the time of every operation.
    pub profile: bool,
    pub guard: &'a Guard,
}

/// What came of a test.
pub struct Measured {
    pub test: Test,
    pub cache: Cache,
    /// Tokens a second, one for each repetition.
    pub rates: Vec<f64>,
    /// Share of experts that were in memory; `None` if none was asked for.
    pub hit_rate: Option<f64>,
    /// Share of experts that were in memory before any was guessed; `None` as above.
    pub held_rate: Option<f64>,
    /// Bytes of experts read in all repetitions together.
    pub bytes_read: u64,
    /// Seconds in which at least one read was in flight.
    pub busy_seconds: f64,
    /// Seconds of all repetitions together.
    pub seconds: f64,
    /// But for the disk, whose rate the caller knows.
    pub floor: Floor,
    pub profile: Option<Profile>,
    /// What a device's memory for experts did in all repetitions together.
    pub tier: Option<TierStats>,
}

impl Runner<'_> {
    /// Measures `test` with `session` as its context, which is brought to the test's depth first
    /// and left there.
    pub fn run(&self, test: Test, session: &mut Session) -> Result<Measured, Failure> {
        self.deepen(session, test.depth)?;
        let warm_up = usize::from(self.cache != Cache::Cold);
        let passes = warm_up + self.repetitions + usize::from(self.profile);
        let mut bar = Progress::new(passes * test.tokens, format!("tokens of {}", test.name()));
        if warm_up > 0 {
            self.pass(test, session, WARM_UP, &mut bar, None)?;
        }
        self.engine.reset_stats();
        let tier_before = self.engine.stats().tier;
        let mut rates = Vec::with_capacity(self.repetitions);
        let mut total_seconds = 0.0;
        for repetition in 1..=self.repetitions {
            let seconds = self.pass(test, session, repetition, &mut bar, None)?;
            rates.push(test.tokens as f64 / seconds);
            total_seconds += seconds;
        }
        let tier = self.engine.stats().tier;
        let tier = tier
            .zip(tier_before)
            .map(|(now, before)| now.since(&before));
        let stats = self.engine.stats().experts;
        let asked = stats.hits + stats.misses;
        let experts = match tier {
            // Which ones a device uses it does not tell: no fewer than one token does.
            Some(_) => self.engine.info().top_k as f64,
            None => asked as f64 / stats.leases.max(1) as f64,
        };
        let steps: Vec<StepShape> = test.steps(self.engine.chunk_tokens(), experts).collect();
        let mut profile = None;
        if self.profile {
            let mut recorder = Recorder::new(self.engine.costs().len());
            let again = self.repetitions;
            let seconds = self.pass(test, session, again, &mut bar, Some(&mut recorder))?;
            profile = Some(recorder.finish(self.engine, test.name(), &steps, seconds));
        }
        Ok(Measured {
            test,
            cache: self.cache,
            rates,
            hit_rate: (asked > 0).then(|| stats.hit_rate()),
            held_rate: (asked > 0).then(|| 1.0 - absent(&stats) as f64 / asked as f64),
            bytes_read: stats.bytes_read,
            busy_seconds: stats.busy_us_total as f64 * 1e-6,
            seconds: total_seconds,
            floor: Floor {
                transfer_seconds: self.transfer_seconds(tier),
                ..Floor::of(self.engine, self.machine, steps.into_iter())
            },
            profile,
            tier,
        })
    }

    /// Seconds that a repetition's experts take on their way to a device.
    fn transfer_seconds(&self, tier: Option<TierStats>) -> f64 {
        let bytes = tier.map_or(0, |tier| tier.brought_bytes) as f64;
        let rate = self.machine.transfer.unwrap_or(f64::INFINITY);
        bytes / self.repetitions.max(1) as f64 / rate
    }

    /// Brings a session to `depth` tokens, and sees to it that it can come back.
    fn deepen(&self, session: &mut Session, depth: usize) -> Result<(), Failure> {
        if session.len() > depth {
            session.rewind(0)?;
        }
        let mut bar = Progress::new(depth - session.len(), "tokens of context");
        while session.len() < depth {
            let start = session.len();
            let end = depth.min(start + self.engine.chunk_tokens());
            let tokens: Vec<u32> = (start..end)
                .map(|at| token(self.engine, WARM_UP, at))
                .collect();
            self.engine.prefill(session, &tokens, Want::None)?;
            bar.advance(tokens.len());
            self.check_stopped()?;
        }
        session.checkpoint();
        Ok(())
    }

    /// Runs the test once and gives its seconds; the session is then where it was.
    fn pass(
        &self,
        test: Test,
        session: &mut Session,
        repetition: usize,
        bar: &mut Progress,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<f64, Failure> {
        if self.cache == Cache::Cold {
            self.engine.cool();
        }
        let tokens = (0..test.tokens).map(|at| {
            let token = token(self.engine, repetition, test.depth + at);
            match self.cache {
                Cache::Rotating => of_topic(token, self.engine.info().vocab_size, repetition),
                _ => token,
            }
        });
        let tokens: Vec<u32> = tokens.collect();
        let piece = match test.kind {
            Kind::Prefill => tokens.len(),
            Kind::Decode => 1,
        };
        let start = Instant::now();
        for tokens in tokens.chunks(piece) {
            let engine = self.engine;
            let logits = match (recorder.as_deref_mut(), test.kind, tokens) {
                (None, Kind::Decode, &[token]) => engine.decode(session, token)?,
                (None, ..) => engine.prefill(session, tokens, Want::Last)?,
                (Some(recorder), kind, tokens) => {
                    recorder.begin();
                    let observe = &mut |_: &_, _: &_| recorder.end();
                    match (kind, tokens) {
                        (Kind::Decode, &[token]) => {
                            engine.decode_observed(session, token, observe)?
                        }
                        _ => engine.prefill_observed(session, tokens, Want::Last, observe)?,
                    }
                }
            };
            self.engine.recycle(logits);
            bar.advance(tokens.len());
            self.check_stopped()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        session.rewind(test.depth)?;
        Ok(seconds)
    }

    fn check_stopped(&self) -> Result<(), Failure> {
        match self.guard.stopped() {
            true => Err(Failure::Interrupted),
            false => Ok(()),
        }
    }
}

/// The token of a repetition at a position: the same in every run, and as wide a choice as any
/// text makes, so that experts are chosen as widely.
pub fn token(engine: &Engine, repetition: usize, position: usize) -> u32 {
    let number = moeflux::sampling::uniform(repetition as u64, position as u64);
    (number * engine.info().vocab_size as f64) as u32
}

/// A token of the part of the vocabulary that a repetition has.
fn of_topic(token: u32, vocabulary: usize, repetition: usize) -> u32 {
    let part = (vocabulary / TOPICS).max(1);
    let start = repetition % TOPICS * part % vocabulary;
    (start + token as usize % part) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_have_parts_of_the_vocabulary_of_their_own() {
        for (vocabulary, token) in [(1000, 999), (1001, 1000), (8, 7), (3, 2), (1, 0)] {
            let tokens: Vec<u32> = (0..=TOPICS)
                .map(|repetition| of_topic(token, vocabulary, repetition))
                .collect();
            assert!(
                tokens.iter().all(|&t| (t as usize) < vocabulary),
                "{tokens:?}"
            );
            assert_eq!(tokens[0], tokens[TOPICS]);
            let mut distinct = tokens;
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), vocabulary.min(TOPICS));
        }
    }
}
