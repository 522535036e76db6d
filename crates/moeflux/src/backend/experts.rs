//! The routed experts of a layer: tokens in buckets by expert, each expert computed once for all
//! its tokens as soon as its bytes are there, results added in ascending expert id.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use moeflux_experts::{Pass, Residency};

use super::buckets::{Buckets, RoutedTokens};
use super::expert_compute::{Compute, Extras, Roundings, Scratch, resize};
use super::kernel_set::KernelSet;
use super::lookahead::Trial;
use super::squares::ExpertSquares;
use crate::options::Lookahead;
use crate::weights::ExpertLayout;
use crate::{Activations, Error};

/// Residency, and the scratch memory for computing experts.
pub struct ExpertStage {
    /// Which experts are in memory.
    pub residency: Residency,
    layouts: BTreeMap<usize, ExpertLayout>,
    buckets: Buckets,
    /// The layer whose choice of this step `buckets` holds.
    requested: Option<usize>,
    scratch: Scratch,
    guesses: Guesses,
    step: StepKind,
    trial: Trial,
    /// Where what experts are given is added up, if it is.
    pub squares: Option<ExpertSquares>,
}

/// A step as far as it matters to the experts.
#[derive(Clone, Copy)]
struct StepKind {
    started: Instant,
    /// Whether most experts of every layer are used.
    is_scan: bool,
    /// Whether another such step follows.
    again: bool,
    /// Experts that were not in memory before the step, or only by a guess.
    absent_before: u64,
    /// How long steps had waited for the disk before the step.
    waited_before: Duration,
}

/// What a layer's tokens may choose.
#[derive(Default)]
struct Guesses {
    /// By expert: the weights that it may have, added up.
    weight: Vec<f32>,
    /// Experts of some weight, the largest first.
    order: Vec<u32>,
}

/// Takes experts that have arrived: their ids and bytes.
pub type Take<'a> = &'a mut dyn FnMut(&[(u32, &[u8])]) -> Result<(), Error>;

/// Takes the result `[hidden]` of a choice, by its place among all of a step.
pub type Put<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<(), Error>;

impl ExpertStage {
    /// A stage over `residency`, whose records hold what `layouts` says.
    pub fn new(
        residency: Residency,
        layouts: BTreeMap<usize, ExpertLayout>,
        lookahead: Lookahead,
    ) -> ExpertStage {
        ExpertStage {
            residency,
            layouts,
            buckets: Buckets::default(),
            requested: None,
            scratch: Scratch::default(),
            guesses: Guesses::default(),
            step: StepKind {
                started: Instant::now(),
                is_scan: false,
                again: false,
                absent_before: 0,
                waited_before: Duration::ZERO,
            },
            trial: Trial::new(lookahead),
            squares: None,
        }
    }

    /// A step of `choices` choices of experts in each layer begins; `again`: the next one will
    /// have as many.
    pub fn begin_step(&mut self, choices: usize, again: bool) {
        let largest = self
            .layouts
            .keys()
            .map(|&l| self.residency.experts(l))
            .max();
        let is_scan = choices >= largest.unwrap_or(0) as usize;
        self.step = StepKind {
            started: Instant::now(),
            is_scan,
            again,
            absent_before: self.residency.absent(),
            waited_before: self.residency.waited(),
        };
        self.requested = None;
        self.residency.begin_pass(match is_scan {
            true => Pass::Scan { again },
            false => Pass::Sparse,
        });
    }

    /// The step has ended: how long it took, and how much of that it waited for the disk.
    pub fn end_step(&mut self) -> (Duration, Duration) {
        let time = self.step.started.elapsed();
        if !self.step.is_scan {
            let absent = self.residency.absent();
            self.trial
                .note(time, absent.saturating_sub(self.step.absent_before));
        }
        let waited = self.residency.waited();
        (time, waited.saturating_sub(self.step.waited_before))
    }

    /// Asks for the experts that the layer's tokens chose, so that [`ExpertStage::run`] finds them
    /// read or being read. `tokens.x` is not used.
    ///
    /// # Errors
    /// If a choice is not one of the layer's experts.
    pub fn request(&mut self, layer: usize, tokens: RoutedTokens<'_>) -> Result<(), Error> {
        self.buckets.sort(&tokens);
        let (ids, counts) = (self.buckets.ids(), self.buckets.counts());
        self.residency.request(layer, ids, counts)?;
        self.requested = Some(layer);
        // Where all experts of this layer are used, those of the next will be too: the disk goes
        // on while this layer computes.
        let used = ids.len() as u32;
        if self.step.is_scan
            && self.trial.is_allowed()
            && used * 10 >= self.residency.experts(layer) * 9
        {
            let mut next = self.layouts.range(layer + 1..).map(|(&layer, _)| layer);
            let first = self.layouts.keys().next().copied();
            let first = first.filter(|_| self.step.again);
            if let Some(next) = next.next().or(first) {
                self.residency.ahead(next, 0..self.residency.experts(next));
            }
        }
        Ok(())
    }

    /// Whether [`ExpertStage::guess`] would make use of a guess now. In a prompt, guesses about many
    /// tokens together are nearly always right.
    pub fn wants_guesses(&self) -> bool {
        let wants = match self.step.is_scan {
            true => self.trial.is_allowed(),
            false => self.trial.is_on(),
        };
        wants && !self.residency.is_complete()
    }

    /// Whether guesses are made at present.
    pub fn guesses(&self) -> bool {
        self.trial.is_on()
    }

    /// The layer's tokens may choose these experts, with these weights: they are read ahead of use,
    /// the likeliest first.
    pub fn guess(&mut self, layer: usize, ids: &[u32], weights: &[f32]) {
        let Guesses { weight, order } = &mut self.guesses;
        weight.clear();
        weight.resize(self.residency.experts(layer) as usize, 0.0);
        for (&id, share) in ids.iter().zip(weights) {
            weight[id as usize] += share;
        }
        order.clear();
        order.extend((0..weight.len() as u32).filter(|&id| weight[id as usize] > 0.0));
        order.sort_unstable_by(|&a, &b| weight[b as usize].total_cmp(&weight[a as usize]));
        self.residency.ahead(layer, order.iter().copied());
    }

    /// Where the layer's matrices lie in an expert's bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] if the layer has no experts.
    pub fn layout(&self, layer: usize) -> Result<&ExpertLayout, Error> {
        let none = || Error::Internal(format!("layer {layer} has no experts"));
        self.layouts.get(&layer).ok_or_else(none)
    }

    /// Layers with experts, ascending.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.layouts.keys().copied()
    }

    /// For a backend that keeps experts in memory of its own: gives it the bytes of the experts
    /// `wanted` (ascending) as they arrive. What tokens choose is noted by the residency.
    ///
    /// # Errors
    /// If an expert cannot be read or fails its checksum, or what `take` says.
    pub fn hand_out(&mut self, layer: usize, wanted: &[u32], take: Take<'_>) -> Result<(), Error> {
        self.requested = None;
        if wanted.is_empty() {
            return Ok(());
        }
        let mut lease = self.residency.lease(layer, wanted)?;
        let mut missing = wanted.len();
        while let Some(ready) = lease.next()? {
            let experts: Vec<(u32, &[u8])> = ready.iter().collect();
            take(&experts)?;
            missing -= experts.len();
        }
        match missing {
            0 => Ok(()),
            _ => Err(absent(layer, missing)),
        }
    }

    /// Bytes of scratch memory for one token that uses `top_k` experts.
    pub fn token_scratch_bytes(top_k: usize, hidden: usize, intermediate: usize) -> u64 {
        let floats = top_k * (3 * intermediate + hidden);
        let quantized = hidden + top_k * intermediate;
        (floats * 4 + quantized * 2 + top_k * 64) as u64
    }

    /// Gives back the scratch memory that large steps need; a step takes what it needs.
    pub fn give_back_scratch(&mut self) {
        (self.buckets, self.scratch) = (Buckets::default(), Scratch::default());
    }

    /// Computes the layer's routed experts: `out` `[n, hidden]` is each token's weighted sum.
    ///
    /// # Errors
    /// If an expert cannot be read or fails its checksum.
    pub fn run<K: KernelSet>(
        &mut self,
        kernels: &K,
        with: (Activations, Extras<'_>),
        layer: usize,
        tokens: RoutedTokens<'_>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        if self.requested.take() != Some(layer) {
            self.buckets.sort(&tokens);
        }
        self.residency.note(layer, tokens.ids, tokens.weights)?;
        let hidden = self.compute(kernels, with, layer, tokens, None)?;
        let results = &self.scratch.results[..tokens.ids.len() * hidden];
        let (offsets, entries) = (self.buckets.offsets(), self.buckets.entries());
        Ok(kernels.combine(results, offsets, entries, hidden, out)?)
    }

    /// For a backend that computes the layer's other experts elsewhere: computes `own` (ascending,
    /// each of which some token chose) and gives `put` the result `[hidden]` of each choice of one of
    /// them with the choice's place in `tokens.ids`. What tokens choose is noted by the residency.
    ///
    /// # Errors
    /// As [`ExpertStage::run`], or what `put` says.
    pub fn compute_some<K: KernelSet>(
        &mut self,
        kernels: &K,
        activations: Activations,
        (layer, own): (usize, &[u32]),
        tokens: RoutedTokens<'_>,
        put: Put<'_>,
    ) -> Result<(), Error> {
        self.requested = None;
        self.buckets.sort(&tokens);
        let with = (activations, Extras::default());
        let hidden = self.compute(kernels, with, layer, tokens, Some(own))?;
        for &expert in own {
            let (first, end) = self.buckets.range(expert)?;
            for at in first..end {
                if let Some(choice) = self.buckets.choice(at, tokens.top_k) {
                    put(
                        choice,
                        &self.scratch.results[at * hidden..(at + 1) * hidden],
                    )?;
                }
            }
        }
        Ok(())
    }

    /// The results of all chosen experts, or of `own` alone, in the order of the buckets; gives their
    /// width.
    fn compute<K: KernelSet>(
        &mut self,
        kernels: &K,
        (activations, extras): (Activations, Extras<'_>),
        layer: usize,
        tokens: RoutedTokens<'_>,
        own: Option<&[u32]>,
    ) -> Result<usize, Error> {
        let layout = self
            .layouts
            .get(&layer)
            .ok_or_else(|| Error::Internal(format!("layer {layer} has no experts")))?;
        let n = tokens.ids.len() / tokens.top_k;
        let hidden = tokens.x.len() / n;
        let scratch = &mut self.scratch;
        resize(&mut scratch.results, tokens.ids.len() * hidden);
        let mut compute = Compute {
            kernels,
            layout,
            tokens,
            hidden,
            extras,
            roundings: Roundings::default(),
        };
        let wanted = own.unwrap_or(self.buckets.ids());
        let mut lease = self.residency.lease(layer, wanted)?;
        if activations == Activations::Int8 {
            compute.roundings = layout.roundings();
        }
        if let Some(rounding) = compute.roundings.input {
            kernels.quantize(&mut scratch.quantized_x, tokens.x, n, hidden, rounding)?;
        }
        let mut missing = wanted.len();
        while let Some(ready) = lease.next()? {
            compute.batch(&ready, &self.buckets, scratch)?;
            missing -= ready.len();
            if let Some(squares) = &mut self.squares {
                let mut experts: Vec<u32> = ready.iter().map(|(expert, _)| expert).collect();
                experts.sort_unstable();
                let x = (tokens.x, hidden);
                squares.add(layer, &experts, &self.buckets, x, scratch.inner())?;
            }
        }
        match missing {
            0 => Ok(hidden),
            _ => Err(absent(layer, missing)),
        }
    }
}

fn absent(layer: usize, experts: usize) -> Error {
    Error::Internal(format!(
        "layer {layer}: {experts} experts asked for did not come"
    ))
}
