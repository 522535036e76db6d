//! What a policy would have done: a trace's leases, taken by the very policies that residency
//! uses, on any number of slots.

use std::fmt;

use crate::error::ExpertError;
use crate::policy::{Pass, PolicyKind, Victims, belady};
use crate::residency::NO_SLOT;

use super::{Trace, TraceStep};

/// Who decides in a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplayPolicy {
    /// As residency would.
    Online(PolicyKind),
    /// Belady's rule: the expert whose next use is farthest goes first. It knows the future, so
    /// it bounds all others.
    Belady,
}

impl fmt::Display for ReplayPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayPolicy::Online(kind) => kind.fmt(f),
            ReplayPolicy::Belady => f.pad("belady"),
        }
    }
}

/// Experts asked for, found and not found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Found in memory.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
}

impl Tally {
    /// Share found, 0 to 1; 0 when none was asked for.
    pub fn hit_rate(&self) -> f64 {
        match self.hits + self.misses {
            0 => 0.0,
            all => self.hits as f64 / all as f64,
        }
    }

    fn add(&mut self, hits: u64, misses: u64) {
        self.hits += hits;
        self.misses += misses;
    }
}

/// What a replay counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayResult {
    /// In all steps.
    pub all: Tally,
    /// In steps of one token.
    pub decode: Tally,
    /// In the second half of the steps of one token, when memory is warm.
    pub warm: Tally,
    /// Misses of experts that had never been used before.
    pub cold_misses: u64,
}

/// What residency is asked for at once: the distinct experts of a layer of a step.
struct Lease {
    /// For the first of a step: what was said of that step.
    step: Option<Pass>,
    decode: bool,
    warm: bool,
    /// Range in the keys.
    start: usize,
    end: usize,
}

/// Traces as leases.
pub struct Replay {
    /// By layer.
    experts: Vec<u32>,
    leases: Vec<Lease>,
    keys: Vec<u32>,
    /// Tokens that use each of the keys.
    tokens: Vec<u32>,
}

impl Replay {
    /// The leases of traces one after another, as if one process had made them. None: no leases.
    ///
    /// # Errors
    /// [`ExpertError::MixedTraces`] unless all are of the same model.
    pub fn new(traces: &[Trace]) -> Result<Replay, ExpertError> {
        let header = traces.first().map(|trace| trace.header.clone());
        let header = header.unwrap_or_default();
        let same = |trace: &&Trace| {
            trace.header.identity == header.identity && trace.header.layers == header.layers
        };
        if let Some(other) = traces.iter().find(|trace| !same(trace)) {
            return Err(ExpertError::MixedTraces {
                first: header.model,
                other: other.header.model.clone(),
            });
        }
        let mut replay = Replay {
            experts: header.experts(),
            leases: Vec::new(),
            keys: Vec::new(),
            tokens: Vec::new(),
        };
        let steps = || traces.iter().flat_map(|trace| &trace.steps);
        let decode_steps = steps().filter(|step| step.tokens == 1).count();
        let mut decoded = 0;
        for step in steps() {
            let decode = step.tokens == 1;
            let warm = decode && 2 * decoded >= decode_steps;
            decoded += usize::from(decode);
            replay.add(step, decode, warm);
        }
        Ok(replay)
    }

    fn add(&mut self, step: &TraceStep, decode: bool, warm: bool) {
        for (place, layer) in step.layers.iter().enumerate() {
            let first_key: u32 = self.experts[..layer.turn as usize].iter().sum();
            let start = self.keys.len();
            self.keys.extend(layer.ids.iter().map(|id| first_key + id));
            self.keys[start..].sort_unstable();
            for uses in self.keys[start..].chunk_by(|a, b| a == b) {
                self.tokens.push(uses.len() as u32);
            }
            let mut end = start;
            for at in start..self.keys.len() {
                if end == start || self.keys[end - 1] != self.keys[at] {
                    self.keys[end] = self.keys[at];
                    end += 1;
                }
            }
            self.keys.truncate(end);
            self.leases.push(Lease {
                step: (place == 0).then_some(step.pass),
                decode,
                warm,
                start,
                end,
            });
        }
    }

    /// Experts of all layers together.
    pub fn expert_count(&self) -> usize {
        self.experts.iter().map(|&experts| experts as usize).sum()
    }

    /// Uses of each expert in the first half of the leases.
    fn early_uses(&self) -> Vec<f32> {
        let mut uses = vec![0.0; self.expert_count()];
        for lease in &self.leases[..self.leases.len() / 2] {
            for &key in &self.keys[lease.start..lease.end] {
                uses[key as usize] += 1.0;
            }
        }
        uses
    }

    /// Runs the trace on `slots` slots (0 counts as 1), empty at first. The pinned set is of the
    /// experts most used in the first half of the trace, as a popularity record would say.
    pub fn run(&self, policy: ReplayPolicy, slots: usize) -> ReplayResult {
        let slots = slots.max(1);
        let chosen = match policy {
            ReplayPolicy::Online(kind) => kind.create(slots, &self.experts),
            ReplayPolicy::Belady => {
                let uses = self.leases.iter().zip(0..).flat_map(|(lease, time)| {
                    let keys = &self.keys[lease.start..lease.end];
                    keys.iter().map(move |&key| (time, key))
                });
                belady(slots, self.expert_count(), &uses.collect::<Vec<_>>())
            }
        };
        let mut victims = Victims::new(chosen, slots);
        if policy == ReplayPolicy::Online(PolicyKind::Pinned) {
            victims.seed(&self.early_uses());
        }
        let mut memory = Memory::new(victims, slots, self.expert_count());
        let mut result = ReplayResult::default();
        for lease in &self.leases {
            // Belady's rule holds in a scan as elsewhere.
            if let (Some(pass), ReplayPolicy::Online(_)) = (lease.step, policy) {
                memory.victims.begin(pass);
            }
            let keys = &self.keys[lease.start..lease.end];
            let (hits, cold) = memory.lease(keys, &self.tokens[lease.start..lease.end]);
            let misses = keys.len() as u64 - hits;
            result.cold_misses += cold;
            result.all.add(hits, misses);
            if lease.decode {
                result.decode.add(hits, misses);
            }
            if lease.warm {
                result.warm.add(hits, misses);
            }
        }
        result
    }
}

/// What residency does with slots, without their bytes and as if all reads took equally long.
struct Memory {
    victims: Victims,
    free: Vec<u32>,
    key_of: Vec<u32>,
    slot_of: Vec<u32>,
    used: Vec<bool>,
    /// By key: tokens of the lease that use it.
    tokens: Vec<u32>,
    in_use: Vec<u32>,
    missing: Vec<u32>,
}

impl Memory {
    fn new(victims: Victims, slots: usize, keys: usize) -> Memory {
        Memory {
            victims,
            free: (0..slots as u32).rev().collect(),
            key_of: vec![0; slots],
            slot_of: vec![NO_SLOT; keys],
            used: vec![false; keys],
            tokens: vec![1; keys],
            in_use: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Returns how many of the keys were found, and how many were wanted for the first time.
    fn lease(&mut self, keys: &[u32], tokens: &[u32]) -> (u64, u64) {
        for (&key, &tokens) in keys.iter().zip(tokens) {
            self.tokens[key as usize] = tokens;
        }
        let mut cold = 0;
        for &key in keys {
            cold += u64::from(!std::mem::replace(&mut self.used[key as usize], true));
            match self.slot_of[key as usize] {
                NO_SLOT => self.missing.push(key),
                slot => {
                    self.victims.touch(slot);
                    self.in_use.push(slot);
                }
            }
        }
        let hits = self.in_use.len() as u64;
        // Where the lease does not fit, what has been used makes room for the rest.
        self.missing.reverse();
        let mut batch = std::mem::take(&mut self.in_use);
        loop {
            self.start_reads();
            self.release(&batch);
            batch.clear();
            self.start_reads();
            if self.in_use.is_empty() {
                break;
            }
            std::mem::swap(&mut batch, &mut self.in_use);
        }
        self.in_use = batch;
        (hits, cold)
    }

    fn release(&mut self, batch: &[u32]) {
        for &slot in batch.iter().rev() {
            let tokens = self.tokens[self.key_of[slot as usize] as usize];
            self.victims.release(slot, tokens);
        }
    }

    fn start_reads(&mut self) {
        while let Some(&key) = self.missing.last() {
            let Some(slot) = self.free.pop().or_else(|| self.evict()) else {
                break;
            };
            self.missing.pop();
            self.key_of[slot as usize] = key;
            self.slot_of[key as usize] = slot;
            self.victims.admit(slot, key);
            self.in_use.push(slot);
        }
    }

    fn evict(&mut self) -> Option<u32> {
        let slot = self.victims.victim()?;
        self.slot_of[self.key_of[slot as usize] as usize] = NO_SLOT;
        Some(slot)
    }
}
