//! Everything goes wrong at once, for a while: reads fail, stall, end early and flip bits, the disk
//! goes away, a file is replaced, memory is taken away; readers, budgets, policies, guesses and
//! speculation change from round to round. Every answer must be the undisturbed one, bit for bit,
//! and nothing may be left behind: no memory, no thread, no open file.
//!
//! As a test it runs a few rounds; `cargo xtask soak --minutes N` runs it for longer.

#![allow(clippy::print_stdout)] // what was done

mod common;
#[path = "common/demo.rs"]
mod demo;
#[path = "common/machine.rs"]
mod machine;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::open;
use demo::{Answered, Demo, Request};
use machine::{Machine, RESIDENT_BYTES};
use moeflux::draft::Speculate;
use moeflux::experts::{ExpertError, FaultPlan, FaultTally};
use moeflux::generate::Limits;
use moeflux::sampling::{SamplingParams, uniform};
use moeflux::{
    Engine, EngineOptions, Error, Lookahead, PolicyKind, ReaderChoice, ReaderKind, Want,
};

/// Rounds of the short version.
const ROUNDS: u64 = 12;
/// Rounds before memory, threads and files are counted for the first time: one of each kind.
const FIRST_ROUNDS: u64 = 6;
/// The allocator keeps some of what it had.
const KEPT_BYTES: u64 = 32 << 20;
/// The engine looks at memory and files once a second.
const LOOK: Duration = Duration::from_millis(1100);

/// Draws that depend on a seed and on how many were made.
struct Dice {
    seed: u64,
    draws: u64,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.draws += 1;
        (uniform(self.seed, self.draws) * n as f64) as usize
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}

/// What the process holds.
#[derive(Debug)]
struct Held {
    resident_bytes: u64,
    threads: u64,
    files: usize,
}

impl Held {
    fn now() -> Option<Held> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Held {
            resident_bytes: field("VmRSS:")? * 1024,
            threads: field("Threads:")?,
            files: std::fs::read_dir("/proc/self/fd").ok()?.count(),
        })
    }
}

/// What was done to the engines, and what came of it.
#[derive(Debug, Default)]
struct Done {
    answers: AtomicU64,
    tokens: AtomicU64,
    faults: Arc<FaultTally>,
    failed_steps: AtomicU64,
    replaced_files: AtomicU64,
    memory_drops: AtomicU64,
    lasting_failures: AtomicU64,
}

/// The model, a copy of it whose files may be replaced, and requests with their right answers.
struct Soak {
    demo: Demo,
    dir: tempfile::TempDir,
    requests: Vec<(Request, Answered)>,
    done: Done,
}

impl Soak {
    fn new() -> Soak {
        let demo = Demo::open();
        let dir = tempfile::tempdir().expect("a temporary directory");
        demo::copy(&demo::dir(), &dir.path().join("model"));
        let mut requests = Vec::new();
        for skill in ["recall", "tool"] {
            for (index, prompt) in demo.prompts(skill, 4).into_iter().enumerate() {
                let request = Request {
                    prompt,
                    sampling: SamplingParams {
                        temperature: [0.0, 0.9][index % 2],
                        seed: index as u64,
                        ..SamplingParams::default()
                    },
                    limits: Limits {
                        max_tokens: Some(24),
                        stop_tokens: demo.stop_tokens.clone(),
                        answer_start: None,
                    },
                };
                let answer = request.answer(&demo.engine, Speculate::Off, &mut |_, _| {});
                assert!(answer.errors.is_empty());
                requests.push((request, answer));
            }
        }
        Soak {
            demo,
            dir,
            requests,
            done: Done::default(),
        }
    }

    /// Options of any kind under which the demo runs.
    fn options(&self, dice: &mut Dice, machine: &Machine, plan: FaultPlan) -> EngineOptions {
        let slots = dice.of(&[2, 3, 5, 9, 20, 60, 1000]);
        let kind = dice.of(&[ReaderKind::Uring, ReaderKind::Direct, ReaderKind::Buffered]);
        EngineOptions {
            expert_cache_bytes: Some(slots * self.demo.engine.stats().experts.slot_bytes),
            reader: ReaderChoice::Faulty(kind, plan),
            policy: dice.of(&[PolicyKind::Lru, PolicyKind::Frequency]),
            lookahead: dice.of(&[Lookahead::Auto, Lookahead::On, Lookahead::Off]),
            threads: Some(1 + dice.below(2)),
            chunk_tokens: dice.of(&[None, Some(1), Some(7), Some(64)]),
            ..machine.options(512 << 20)
        }
    }

    /// Faults that pass.
    fn plan(&self, dice: &mut Dice) -> FaultPlan {
        let shares = [0.0, 0.0, 0.01, 0.1, 0.3];
        let from = dice.of(&[u64::MAX, 20, 150, 400]);
        FaultPlan {
            seed: dice.below(1 << 30) as u64,
            errors: dice.of(&shares),
            short_reads: dice.of(&shares),
            flipped_bits: dice.of(&shares),
            stalls: dice.of(&[0.0, 0.001, 0.003]),
            stall: Duration::from_millis(dice.of(&[20, 100, 500])),
            max_delay: Duration::from_micros(dice.of(&[0, 50, 500])),
            away: from..from.saturating_add(dice.below(120) as u64),
            tally: Arc::clone(&self.done.faults),
            ..FaultPlan::default()
        }
    }

    fn round(&self, seed: u64, round: u64) {
        let mut dice = Dice {
            seed: seed + round,
            draws: 0,
        };
        let machine = Machine::new();
        let plan = self.plan(&mut dice);
        let options = self.options(&mut dice, &machine, plan);
        let what = format!("seed {seed}, round {round}");
        match round % FIRST_ROUNDS {
            3 => self.with_less_memory(&mut dice, &options, &machine, &what),
            4 => self.with_a_file_replaced(&mut dice, &options, &what),
            5 => self.with_lasting_failures(&mut dice, options, &what),
            _ => self.with_faults_alone(&mut dice, &options, &what),
        }
    }

    /// Answers request `index` on `engine` and compares.
    fn answer(
        &self,
        engine: &Engine,
        index: usize,
        speculate: Speculate,
        what: &str,
        between: &mut dyn FnMut(usize, Option<&Error>),
    ) {
        let (request, expected) = &self.requests[index];
        let found = request.answer(engine, speculate, between);
        assert_eq!(found.tokens, expected.tokens, "{what}, request {index}");
        assert!(
            found.session == expected.session,
            "{what}, request {index}: the session differs"
        );
        let done = &self.done;
        done.answers.fetch_add(1, Ordering::Relaxed);
        done.tokens
            .fetch_add(found.tokens.len() as u64, Ordering::Relaxed);
        done.failed_steps
            .fetch_add(found.errors.len() as u64, Ordering::Relaxed);
    }

    fn speculate(dice: &mut Dice) -> Speculate {
        dice.of(&[Speculate::Auto, Speculate::Off, Speculate::Always])
    }

    /// Two users at once, a few requests each.
    fn with_faults_alone(&self, dice: &mut Dice, options: &EngineOptions, what: &str) {
        let engine = open(&demo::dir(), options);
        let mut user = || {
            let count = 1 + dice.below(3);
            let mut one = || (dice.below(self.requests.len()), Self::speculate(dice));
            (0..count).map(|_| one()).collect::<Vec<_>>()
        };
        let users = [user(), user()];
        let engine = &engine;
        std::thread::scope(|scope| {
            for requests in &users {
                scope.spawn(move || {
                    for &(index, speculate) in requests {
                        self.answer(engine, index, speculate, what, &mut |_, _| {});
                    }
                });
            }
        });
    }

    /// Memory goes down to nothing in an answer; it comes back when the engine says that it needs
    /// it, and else after some tokens.
    fn with_less_memory(
        &self,
        dice: &mut Dice,
        options: &EngineOptions,
        machine: &Machine,
        what: &str,
    ) {
        let engine = open(&demo::dir(), options);
        let (index, down) = (dice.below(self.requests.len()), dice.below(8));
        let mut state = 0;
        let speculate = Self::speculate(dice);
        self.answer(&engine, index, speculate, what, &mut |tokens, error| {
            let needed = matches!(error, Some(Error::MemoryFull { .. }));
            match state {
                0 if tokens == down => machine.allow(RESIDENT_BYTES),
                1 if needed || tokens == down + 6 => machine.allow(1 << 40),
                _ => return,
            }
            state += 1;
            std::thread::sleep(LOOK);
        });
        self.done.memory_drops.fetch_add(1, Ordering::Relaxed);
    }

    /// Another file takes the place of a layer's, until the engine says so.
    fn with_a_file_replaced(&self, dice: &mut Dice, options: &EngineOptions, what: &str) {
        let model = self.dir.path().join("model");
        let layers = demo_layers(&model);
        let file = dice.of(&layers);
        let aside = self.dir.path().join("aside");
        let engine = open(&model, options);
        let (index, at) = (dice.below(self.requests.len()), dice.below(8));
        let mut is_replaced = false;
        let speculate = Self::speculate(dice);
        self.answer(&engine, index, speculate, what, &mut |tokens, error| {
            if tokens == at && !is_replaced {
                let mut bytes = std::fs::read(&file).expect("reads");
                bytes.iter_mut().skip(9000).for_each(|byte| *byte ^= 0x5a);
                std::fs::rename(&file, &aside).expect("renames");
                std::fs::write(&file, bytes).expect("writes");
                is_replaced = true;
                std::thread::sleep(LOOK);
            } else if let Some(Error::Expert(ExpertError::Changed { .. })) = error
                && aside.exists()
            {
                std::fs::rename(&aside, &file).expect("renames");
                self.done.replaced_files.fetch_add(1, Ordering::Relaxed);
            }
        });
        if aside.exists() {
            // Nothing had to be read any more.
            std::fs::rename(&aside, &file).expect("renames");
        }
    }

    /// The disk goes away for good; what the session held then goes on in an engine whose disk is
    /// there.
    fn with_lasting_failures(&self, dice: &mut Dice, mut options: EngineOptions, what: &str) {
        let slot = self.demo.engine.stats().experts.slot_bytes;
        options.expert_cache_bytes = Some(slot * 5);
        if let ReaderChoice::Faulty(_, plan) = &mut options.reader {
            plan.away = dice.of(&[0, 100, 300])..u64::MAX;
        }
        let engine = open(&demo::dir(), &options);
        let (request, expected) = &dice.of(&self.requests.iter().collect::<Vec<_>>());
        let all = [&request.prompt[..], &expected.tokens[..]].concat();
        let mut session = engine.session();
        let error = loop {
            let token = &all[session.len()..][..1];
            match engine.prefill(&mut session, token, Want::None) {
                Ok(_) => assert!(session.len() < all.len(), "{what}: nothing was read"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Expert(_)), "{what}: {error}");
        self.done.lasting_failures.fetch_add(1, Ordering::Relaxed);
        let well = &self.demo.engine;
        let mut session = well
            .restore(&session.to_bytes().expect("its state is here"))
            .expect("restores");
        let held = well.restore(&expected.session).expect("restores").len();
        let rest = &all[session.len()..held];
        well.prefill(&mut session, rest, Want::None).expect("runs");
        assert!(
            session.to_bytes().expect("its state is here") == expected.session,
            "{what}: the session differs"
        );
    }
}

/// The files of the layers' experts.
fn demo_layers(model: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(model.join("experts")).expect("reads");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("readable").path()).collect();
    files.sort();
    files
}

/// A number from the environment.
fn number(name: &str) -> Option<f64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn answers_stay_right_while_everything_goes_wrong_and_nothing_leaks() {
    let duration = number("MOEFLUX_SOAK_MINUTES").map(|m| Duration::from_secs_f64(m * 60.0));
    let seed = number("MOEFLUX_SOAK_SEED").map_or(1, |seed| seed as u64);
    let soak = Soak::new();
    let start = Instant::now();
    let (mut first, mut round, mut minutes) = (None, 0, 0);
    while duration.map_or(round < ROUNDS, |d| round < ROUNDS || start.elapsed() < d) {
        soak.round(seed, round);
        round += 1;
        if round == FIRST_ROUNDS {
            first = Held::now();
        }
        if start.elapsed().as_secs() / 60 > minutes {
            minutes = start.elapsed().as_secs() / 60;
            println!("{minutes} min, {round} rounds, {:?}", Held::now());
        }
    }
    let last = Held::now();
    println!("{round} rounds from seed {seed}: {:#?}", soak.done);
    println!("held after {FIRST_ROUNDS} rounds {first:?}\nheld at the end {last:?}");
    if let (Some(first), Some(last)) = (first, last) {
        assert_eq!((last.threads, last.files), (first.threads, first.files));
        assert!(
            last.resident_bytes < first.resident_bytes + KEPT_BYTES,
            "{last:?} after {first:?}"
        );
    }
    let done = &soak.done;
    for (count, what) in [
        (&done.faults.errors, "read errors"),
        (&done.faults.short_reads, "short reads"),
        (&done.faults.flipped_bits, "flipped bits"),
        (&done.faults.stalls, "stalls"),
        (&done.faults.away, "reads while the disk was away"),
        (&done.failed_steps, "failed steps"),
        (&done.memory_drops, "drops of memory"),
        (&done.replaced_files, "replaced files"),
        (&done.lasting_failures, "lasting failures"),
    ] {
        assert!(count.load(Ordering::Relaxed) > 0, "there were no {what}");
    }
}
