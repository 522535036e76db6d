//! Warm start: what earlier processes used most is read into memory before anybody asks, and what
//! this one used is written down for the next.
//!
//! The record lies beside the model where that can be written (`.moeflux-popularity` in its
//! directory, `FILE.gguf.popularity` beside a GGUF file), else in the user's cache directory. It
//! never changes an answer, and nothing fails for lack of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use moeflux_experts::{Popularity, Residency, cache_directory};

use super::Executor;

/// Bytes that are read without looking up whether somebody wants the engine.
const READ_BYTES: u64 = 32 << 20;
/// Reading waits until nobody has wanted the engine for so long.
const QUIET: Duration = Duration::from_millis(100);
/// Uses by fewer tokens than this are not worth writing down.
const FEWEST_TOKENS: usize = 32;

/// The popularity record of a model.
pub(super) struct Record {
    /// Where it may be, the best place first.
    places: Vec<PathBuf>,
    identity: u64,
    /// Choices of experts that a token makes in all layers together.
    token_uses: usize,
    found: Option<Popularity>,
    notes: Vec<String>,
}

impl Record {
    /// Reads the record of the model at `path`, if there is one, and tells the policy.
    pub fn open(
        path: &Path,
        identity: u64,
        token_uses: usize,
        residency: &mut Residency,
    ) -> Record {
        let mut record = Record {
            places: places(path, identity),
            identity,
            token_uses,
            found: None,
            notes: Vec::new(),
        };
        for place in &record.places {
            match Popularity::read(place, identity, residency.uses().len()) {
                Ok(None) => {}
                Ok(found) => {
                    record.found = found;
                    break;
                }
                Err(error) => record.notes.push(error.to_string()),
            }
        }
        if let Some(found) = &record.found {
            residency.seed(found.uses());
        }
        record
    }

    /// Adds what was used, if memory does not hold all experts and enough was.
    fn add(&self, residency: &Residency) {
        let uses = residency.uses();
        let enough = (FEWEST_TOKENS * self.token_uses) as f32;
        if residency.slots() >= uses.len() || uses.iter().sum::<f32>() < enough {
            return;
        }
        // Others may have written since this process read it.
        let mut places = self.places.iter();
        let read = |place: &PathBuf| Popularity::read(place, self.identity, uses.len());
        let found = places.find_map(|place| read(place).ok().flatten());
        let mut found = found.unwrap_or_else(|| Popularity::new(self.identity, uses.len()));
        found.add(uses);
        let written = |place: &PathBuf| found.write(place).is_ok();
        // Where no place can be written, there will be no record.
        let _ = self.places.iter().any(written);
    }
}

/// Where the record of a model may be.
fn places(path: &Path, identity: u64) -> Vec<PathBuf> {
    let mut places = match path.is_dir() {
        true => vec![path.join(".moeflux-popularity")],
        false => {
            let mut name = path.as_os_str().to_owned();
            name.push(".popularity");
            vec![name.into()]
        }
    };
    let cache = cache_directory();
    places.extend(cache.map(|cache| cache.join(format!("popularity-{identity:016x}"))));
    places
}

/// When the engine was last wanted.
struct Clock {
    start: Instant,
    /// Milliseconds since the start; 0 if never.
    wanted: AtomicU64,
    /// The engine is going.
    ended: AtomicBool,
}

impl Clock {
    fn now(&self) -> u64 {
        1 + self.start.elapsed().as_millis() as u64
    }

    fn note(&self) {
        self.wanted.store(self.now(), Ordering::Relaxed);
    }

    /// Whether the engine has not been wanted for a while.
    fn is_quiet(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Relaxed);
        wanted == 0 || self.now().saturating_sub(wanted) >= QUIET.as_millis() as u64
    }
}

/// Somebody wants the engine until this is dropped.
pub(super) struct Demand<'a>(&'a Clock);

impl Drop for Demand<'_> {
    fn drop(&mut self) {
        self.0.note();
    }
}

/// A record, and the thread that reads what it says. Dropping it writes down what was used.
pub(super) struct WarmStart {
    record: Record,
    executor: Arc<Mutex<Executor>>,
    clock: Arc<Clock>,
    thread: Option<JoinHandle<()>>,
}

impl WarmStart {
    /// Begins to read the most popular experts, as many as there are slots.
    pub fn begin(record: Record, executor: &Arc<Mutex<Executor>>) -> WarmStart {
        let mut start = WarmStart {
            record,
            executor: Arc::clone(executor),
            clock: Arc::new(Clock {
                start: Instant::now(),
                wanted: AtomicU64::new(0),
                ended: AtomicBool::new(false),
            }),
            thread: None,
        };
        if let (Some(found), Ok(executor)) = (&start.record.found, start.executor.lock()) {
            let residency = &executor.stage.residency;
            let keys = found.popular(residency.slots());
            let at_once = (READ_BYTES / residency.slot_bytes().max(1)).max(1) as usize;
            let (executor, clock) = (Arc::clone(&start.executor), Arc::clone(&start.clock));
            let work = move || read(&keys, at_once, &executor, &clock);
            let thread = std::thread::Builder::new().name("moeflux-warm".into());
            // Without the thread experts are read when they are asked for.
            start.thread = thread.spawn(work).ok();
        }
        start
    }

    /// Nothing is read ahead while the result is there, nor for a while after.
    pub fn demand(&self) -> Demand<'_> {
        self.clock.note();
        Demand(&self.clock)
    }

    /// Whoever takes the executor after this finds no experts in it that are read from then on
    /// without being asked for.
    pub fn end(&self) {
        self.clock.ended.store(true, Ordering::Relaxed);
    }

    /// What a user may want to know.
    pub fn notes(&self) -> &[String] {
        &self.record.notes
    }
}

impl Drop for WarmStart {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing to tell.
            let _ = thread.join();
        }
        if let Ok(executor) = self.executor.lock() {
            self.record.add(&executor.stage.residency);
        }
    }
}

/// Reads experts into empty slots while nobody wants the engine.
fn read(keys: &[u32], at_once: usize, executor: &Mutex<Executor>, clock: &Clock) {
    for keys in keys.chunks(at_once) {
        loop {
            let free = match clock.is_quiet() {
                true => executor.try_lock(),
                false => Err(TryLockError::WouldBlock),
            };
            // Asked with the executor in hand: none is read after an end that came before.
            if clock.ended.load(Ordering::Relaxed) {
                return;
            }
            match free {
                Ok(mut executor) => match executor.stage.residency.fill(keys) {
                    Ok(true) => break,
                    // Memory is full, or whoever asks for the expert will be told.
                    Ok(false) | Err(_) => return,
                },
                Err(TryLockError::WouldBlock) => std::thread::sleep(QUIET / 5),
                Err(TryLockError::Poisoned(_)) => return,
            }
        }
    }
}
