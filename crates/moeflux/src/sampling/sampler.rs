//! The sampler: penalties, filters and one draw over a row of logits.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::evaluate::best;

use super::random::{exp_negative, uniform};
use super::{SamplingError, SamplingParams};

/// Scores down to which top-p looks for the tokens that it keeps, before it looks at all.
const NUCLEUS_SCORES: [f64; 3] = [-3.0, -6.0, -12.0];

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    token: u32,
    /// Logit after penalties, minus the largest, over temperature: at most 0.
    score: f64,
    /// exp(score), relative to the most likely token's 1.
    weight: f64,
}

/// Picks tokens by [`SamplingParams`]; its buffers are reused from token to token.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    prompt_tokens: usize,
    logits: Vec<f32>,
    weights: Vec<f64>,
    largest: BinaryHeap<Reverse<Ordered>>,
    candidates: Vec<Candidate>,
    counts: Vec<u32>,
    seen: Vec<u32>,
}

impl Sampler {
    /// A sampler with checked parameters.
    ///
    /// # Errors
    /// A parameter is outside its range.
    pub fn new(params: SamplingParams) -> Result<Self, SamplingError> {
        params.validate()?;
        Ok(Self {
            params,
            prompt_tokens: 0,
            logits: Vec::new(),
            weights: Vec::new(),
            largest: BinaryHeap::new(),
            candidates: Vec::new(),
            counts: Vec::new(),
            seen: Vec::new(),
        })
    }

    /// Says how many of the history's first tokens are the prompt: presence and frequency
    /// penalties count the answer alone, the repetition penalty counts both.
    pub fn set_prompt_tokens(&mut self, tokens: usize) {
        self.prompt_tokens = tokens;
    }

    /// The parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Picks a token.
    ///
    /// `logits` is one row `[vocab]`, `history` prompt and answer so far (read only when a penalty is
    /// on), `position` the place in the session that the token will have.
    ///
    /// # Errors
    /// No logits, or one that is not finite.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &[u32],
        position: usize,
    ) -> Result<u32, SamplingError> {
        check(logits, position)?;
        if self.params.temperature == 0.0 {
            if !self.params.has_penalties() {
                return Ok(best(logits) as u32);
            }
            self.penalize(logits, history);
            return Ok(best(&self.logits) as u32);
        }
        let random = uniform(self.params.seed, position as u64);
        let chosen = if self.params.keeps_all() {
            self.penalize(logits, history);
            self.weigh();
            draw(self.weights.iter().copied(), random).map(|index| index as u32)
        } else {
            self.filter(logits, history);
            let weights = self.candidates.iter().map(|candidate| candidate.weight);
            draw(weights, random).map(|index| self.candidates[index].token)
        };
        chosen.ok_or(SamplingError::Empty { position })
    }

    /// The tokens that may be drawn and their probabilities, which sum to 1. With temperature 0 that
    /// is one token.
    ///
    /// # Errors
    /// As for [`Sampler::sample`].
    pub fn distribution(
        &mut self,
        logits: &[f32],
        history: &[u32],
        position: usize,
    ) -> Result<Vec<(u32, f64)>, SamplingError> {
        if self.params.temperature == 0.0 {
            return Ok(vec![(self.sample(logits, history, position)?, 1.0)]);
        }
        check(logits, position)?;
        self.filter(logits, history);
        let total: f64 = self
            .candidates
            .iter()
            .map(|candidate| candidate.weight)
            .sum();
        Ok(self
            .candidates
            .iter()
            .map(|c| (c.token, c.weight / total))
            .collect())
    }

    /// Copies the logits and applies the penalties: repetition, then frequency and presence.
    fn penalize(&mut self, logits: &[f32], history: &[u32]) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        if !self.params.has_penalties() {
            return;
        }
        // A mark for "seen", plus the count in the answer above it.
        const SEEN: u32 = 1 << 31;
        self.counts.resize(logits.len(), 0);
        for (index, token) in history.iter().enumerate() {
            let Some(count) = self.counts.get_mut(*token as usize) else {
                continue;
            };
            if *count == 0 {
                self.seen.push(*token);
            }
            *count |= SEEN;
            if index >= self.prompt_tokens {
                *count += 1;
            }
        }
        let params = &self.params;
        for token in self.seen.drain(..) {
            let count = std::mem::take(&mut self.counts[token as usize]) & !SEEN;
            let logit = &mut self.logits[token as usize];
            let penalty = params.repetition_penalty;
            let mut value = if *logit < 0.0 {
                *logit * penalty
            } else {
                *logit / penalty
            };
            if count > 0 {
                value -= params.frequency_penalty * count as f32 + params.presence_penalty;
            }
            *logit = value.clamp(f32::MIN, f32::MAX);
        }
    }

    /// Turns a logit after penalties into a score: its distance from the largest over temperature.
    fn scorer(&self) -> impl Fn(f32) -> f64 + use<> {
        let largest = f64::from(self.logits.iter().copied().fold(f32::MIN, f32::max));
        let scale = 1.0 / f64::from(self.params.temperature);
        move |logit| (f64::from(logit) - largest) * scale
    }

    /// Fills `weights` with all tokens' weights.
    fn weigh(&mut self) {
        let score = self.scorer();
        self.weights.clear();
        self.weights
            .extend(self.logits.iter().map(|logit| exp_negative(score(*logit))));
    }

    /// Fills `candidates`: all tokens in order of id, or those that the filters keep by likelihood.
    fn filter(&mut self, logits: &[f32], history: &[u32]) {
        self.penalize(logits, history);
        let params = self.params.clone();
        let score = self.scorer();
        self.candidates.clear();
        if params.top_k > 0 && params.top_k < self.logits.len() {
            let least = least_of_top(&self.logits, params.top_k, &mut self.largest);
            for (token, logit) in self.logits.iter().enumerate().filter(|(_, l)| **l >= least) {
                let score = score(*logit);
                let weight = exp_negative(score);
                self.candidates.push(Candidate {
                    token: token as u32,
                    score,
                    weight,
                });
            }
            self.candidates.sort_unstable_by(by_likelihood);
            if params.top_p < 1.0 {
                let total = self
                    .candidates
                    .iter()
                    .map(|candidate| candidate.weight)
                    .sum();
                keep_top_p(&mut self.candidates, f64::from(params.top_p), total);
            }
        } else {
            self.weigh();
            let nucleus = (params.top_p < 1.0).then_some(f64::from(params.top_p));
            let total = self.weights.iter().sum();
            let least = nucleus.map_or(0.0, |p| nucleus_weight(&self.weights, p, total));
            for (token, weight) in self
                .weights
                .iter()
                .enumerate()
                .filter(|(_, w)| **w >= least)
            {
                let score = score(self.logits[token]);
                self.candidates.push(Candidate {
                    token: token as u32,
                    score,
                    weight: *weight,
                });
            }
            if let Some(p) = nucleus {
                self.candidates.sort_unstable_by(by_likelihood);
                keep_top_p(&mut self.candidates, p, total);
            }
        }
        if params.min_p > 0.0 {
            let least = f64::from(params.min_p);
            self.candidates
                .retain(|candidate| candidate.weight >= least);
        }
    }
}

/// The index that a random number in [0, 1) falls on when each has its weight's share.
fn draw(weights: impl Iterator<Item = f64> + Clone, random: f64) -> Option<usize> {
    let target = random * weights.clone().sum::<f64>();
    let mut sum = 0.0;
    let mut last = None;
    for (index, weight) in weights.enumerate() {
        sum += weight;
        if sum > target {
            return Some(index);
        }
        if weight > 0.0 {
            last = Some(index);
        }
    }
    // Rounding may leave the target just above the last sum; then the last one is meant.
    last
}

/// A finite number that can be put in order.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The `k`-th largest value (`k` at least 1 and at most their number); `heap` is for reuse.
fn least_of_top(values: &[f32], k: usize, heap: &mut BinaryHeap<Reverse<Ordered>>) -> f32 {
    heap.clear();
    let (first, rest) = values.split_at(k);
    heap.extend(first.iter().map(|value| Reverse(Ordered(*value))));
    for value in rest {
        if let Some(mut least) = heap.peek_mut()
            && *value > least.0.0
        {
            *least = Reverse(Ordered(*value));
        }
    }
    heap.peek().map_or(f32::MIN, |least| least.0.0)
}

/// A weight below which no token belongs to the most likely ones that reach `p` together.
fn nucleus_weight(weights: &[f64], p: f64, total: f64) -> f64 {
    let enough = NUCLEUS_SCORES
        .iter()
        .map(|score| exp_negative(*score))
        .find(|least| {
            weights
                .iter()
                .map(|w| if w >= least { *w } else { 0.0 })
                .sum::<f64>()
                >= p * total
        });
    enough.unwrap_or(0.0)
}

fn check(logits: &[f32], position: usize) -> Result<(), SamplingError> {
    if logits.is_empty() {
        return Err(SamplingError::Empty { position });
    }
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(token) => Err(SamplingError::NonFinite {
            token,
            position,
            value: logits[token],
        }),
    }
}

/// By likelihood, the lower id first among equals.
fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.token.cmp(&b.token))
}

/// Keeps a token when those more likely than it sum to less than `p` of `total`; sorted already.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f64, total: f64) {
    let mut sum = 0.0;
    let mut kept = 0;
    for candidate in candidates.iter() {
        if kept > 0 && sum >= p * total {
            break;
        }
        sum += candidate.weight;
        kept += 1;
    }
    candidates.truncate(kept);
}
