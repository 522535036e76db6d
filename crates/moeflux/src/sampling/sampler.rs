//! The sampler: penalties, filters and one draw over a row of logits.

use std::cmp::Ordering;

use super::random::{exp_negative, uniform};
use super::{SamplingError, SamplingParams};

/// Tokens looked at first when the number that top-p needs is unknown.
const FIRST_CANDIDATES: usize = 64;

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
                return Ok(argmax(logits));
            }
            self.penalize(logits, history);
            return Ok(argmax(&self.logits));
        }
        self.filter(logits, history);
        let total: f64 = self
            .candidates
            .iter()
            .map(|candidate| candidate.weight)
            .sum();
        let target = uniform(self.params.seed, position as u64) * total;
        let mut sum = 0.0;
        let chosen = self.candidates.iter().find(|candidate| {
            sum += candidate.weight;
            sum > target
        });
        // Rounding may leave the target just above the last sum; then the last token is meant.
        let chosen = chosen.or(self.candidates.iter().rev().find(|last| last.weight > 0.0));
        chosen
            .map(|candidate| candidate.token)
            .ok_or(SamplingError::Empty { position })
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

    /// Fills `candidates`: all tokens in order of id, or those that the filters keep by likelihood.
    fn filter(&mut self, logits: &[f32], history: &[u32]) {
        self.penalize(logits, history);
        let largest = f64::from(self.logits.iter().copied().fold(f32::MIN, f32::max));
        let temperature = f64::from(self.params.temperature);
        let candidate = |(token, logit): (usize, &f32)| {
            let score = (f64::from(*logit) - largest) / temperature;
            Candidate {
                token: token as u32,
                score,
                weight: exp_negative(score),
            }
        };
        self.candidates.clear();
        self.candidates
            .extend(self.logits.iter().enumerate().map(candidate));
        if self.params.top_k > 0 && self.params.top_k < self.candidates.len() {
            keep_top_k(&mut self.candidates, self.params.top_k);
        }
        if self.params.top_p < 1.0 {
            keep_top_p(&mut self.candidates, f64::from(self.params.top_p));
        }
        if self.params.min_p > 0.0 {
            let least = f64::from(self.params.min_p);
            self.candidates
                .retain(|candidate| candidate.weight >= least);
        }
    }
}

/// The index of the largest value, the lowest one among equals.
fn argmax(values: &[f32]) -> u32 {
    let first = (0, f32::NEG_INFINITY);
    let largest = values
        .iter()
        .enumerate()
        .fold(first, |best, (index, value)| {
            if *value > best.1 {
                (index, *value)
            } else {
                best
            }
        });
    largest.0 as u32
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

/// Keeps the `k` most likely and those tied with the last of them, sorted.
fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    let (_, last, _) = candidates.select_nth_unstable_by(k - 1, by_likelihood);
    let least = last.score;
    candidates.retain(|candidate| candidate.score >= least);
    candidates.sort_unstable_by(by_likelihood);
}

/// Keeps a token when those more likely than it sum to less than `p`; sorts only as far as needed.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f64) {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let mut sorted = 0;
    let mut sum = 0.0;
    let mut next = FIRST_CANDIDATES;
    while sorted < candidates.len() {
        let end = next.min(candidates.len());
        let tail = &mut candidates[sorted..];
        if end - sorted < tail.len() {
            tail.select_nth_unstable_by(end - sorted - 1, by_likelihood);
        }
        tail[..end - sorted].sort_unstable_by(by_likelihood);
        for index in sorted..end {
            if index > 0 && sum >= p * total {
                candidates.truncate(index);
                return;
            }
            sum += candidates[index].weight;
        }
        sorted = end;
        next = end * 4;
    }
}
