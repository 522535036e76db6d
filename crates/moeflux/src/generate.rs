//! One generation: a prompt in, tokens out one by one, with the reason of its end and its times.
//!
//! **What the session holds.** A token that was returned is fed to the model only when the next one is
//! asked for, and a stop token is neither returned nor fed. After a stop the session therefore holds
//! the prompt and the whole answer; after any other end the answer's last token is missing:
//! [`Generation::pending`]. Both are a prefix of what a chat template renders for the finished turn,
//! so a chat goes on with the rest of the rendering, and a saved generation goes on by feeding the
//! pending token.
//!
//! **With speculation** ([`Generation::speculate`]) a step may give several tokens; the session then
//! runs ahead of what was returned. Whoever looks at it sees it as it would be without: it is taken
//! back to the last token returned when the generation is dropped or [`Generation::session`] is
//! called.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::draft::{Draft, Speculation};
use crate::sampling::Sampler;
use crate::{Best, Engine, Error, Logits, Session, Want};

/// When to end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most tokens to generate; `None` for as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Tokens that end the generation.
    pub stop_tokens: Vec<u32>,
    /// Position of the answer's first token, for penalties that count the answer alone; `None` for
    /// the end of this prompt. A generation that is continued passes where it once began.
    pub answer_start: Option<usize>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The model gave this stop token.
    Stop(u32),
    /// [`Limits::max_tokens`] were generated.
    MaxTokens,
    /// The session holds as many tokens as its context allows.
    ContextFull,
}

/// What a generation took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// Tokens of the prompt that were computed (not those that the session held already).
    pub prompt_tokens: usize,
    /// Time to compute them.
    pub prefill: Duration,
    /// Tokens returned.
    pub generated_tokens: usize,
    /// Tokens that came from steps after the prompt's: the first comes from the prompt.
    pub decode_tokens: usize,
    /// Time of those steps with their sampling.
    pub decode: Duration,
}

impl Timings {
    /// Prompt tokens a second; 0 when there were none.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill)
    }

    /// Generated tokens a second; 0 when there were none.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decode_tokens, self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        tokens as f64 / time.as_secs_f64()
    }
}

/// A running generation.
pub struct Generation<'a> {
    engine: &'a Engine,
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    speculation: Option<&'a mut Speculation>,
    limits: Limits,
    /// Prompt tokens not computed yet, last first.
    prompt: Vec<u32>,
    /// Logits of the session's last token, once the prompt is computed.
    logits: Logits,
    /// Tokens sampled and not returned yet; the session holds all returned ones and all of these
    /// but the last.
    sampled: VecDeque<u32>,
    pending: Option<u32>,
    end: Option<End>,
    timings: Timings,
}

impl<'a> Generation<'a> {
    /// Prepares a generation that continues `session` with `prompt` (at least one token). Nothing
    /// is computed yet.
    ///
    /// # Errors
    /// The prompt is empty, does not fit the context, or has tokens that the model does not know.
    pub fn new(
        engine: &'a Engine,
        session: &'a mut Session,
        prompt: &[u32],
        sampler: &'a mut Sampler,
        limits: Limits,
    ) -> Result<Self, Error> {
        let (end, limit) = (session.len() + prompt.len(), session.context_tokens());
        if end > limit {
            return Err(Error::ContextExceeded { tokens: end, limit });
        }
        if prompt.is_empty() {
            return Err(Error::StepSize {
                tokens: 0,
                limit: engine.chunk_tokens(),
            });
        }
        let vocab = engine.info().vocab_size;
        if let Some(at) = prompt.iter().position(|token| *token as usize >= vocab) {
            return Err(Error::Token {
                token: prompt[at],
                position: session.len() + at,
                vocab,
            });
        }
        sampler.set_prompt_tokens(limits.answer_start.unwrap_or(end));
        Ok(Self {
            engine,
            session,
            sampler,
            speculation: None,
            limits,
            prompt: prompt.iter().rev().copied().collect(),
            logits: Logits::default(),
            sampled: VecDeque::new(),
            pending: None,
            end: None,
            timings: Timings::default(),
        })
    }

    /// Drafts tokens with `speculation` from now on. The tokens stay the same.
    #[must_use]
    pub fn speculate(mut self, speculation: &'a mut Speculation) -> Self {
        self.speculation = Some(speculation);
        self
    }

    /// Computes the next part of the prompt and returns how many of its tokens are left; 0 when
    /// the prompt is done. Calling it is optional: [`Generation::next_token`] does what is left.
    ///
    /// # Errors
    /// The engine failed; the session holds the parts before this one, and a new call tries again.
    pub fn prefill_step(&mut self) -> Result<usize, Error> {
        let count = self.prompt.len().min(self.engine.chunk_tokens());
        if count == 0 {
            return Ok(0);
        }
        let rest = self.prompt.len() - count;
        let part: Vec<u32> = self.prompt[rest..].iter().rev().copied().collect();
        let want = if rest == 0 { Want::Last } else { Want::None };
        let start = Instant::now();
        self.logits = self.engine.prefill(self.session, &part, want)?;
        self.timings.prefill += start.elapsed();
        self.timings.prompt_tokens += count;
        self.prompt.truncate(rest);
        Ok(rest)
    }

    /// The next token, or `None` once the generation has ended.
    ///
    /// # Errors
    /// The engine or the sampler failed; a new call tries the same step again.
    pub fn next_token(&mut self) -> Result<Option<u32>, Error> {
        while self.prefill_step()? > 0 {}
        if self.end.is_some() {
            return Ok(None);
        }
        if self
            .limits
            .max_tokens
            .is_some_and(|most| self.timings.generated_tokens >= most)
        {
            return Ok(self.finish(End::MaxTokens));
        }
        if self.sampled.is_empty() {
            if self.pending.is_some() && self.session.len() >= self.session.context_tokens() {
                return Ok(self.finish(End::ContextFull));
            }
            self.step()?;
        }
        let next = self.sampled.pop_front();
        if let Some(token) = next.filter(|token| self.limits.stop_tokens.contains(token)) {
            return Ok(self.finish(End::Stop(token)));
        }
        self.pending = next;
        self.timings.generated_tokens += usize::from(next.is_some());
        Ok(next)
    }

    /// Samples at least one token, computing what that takes.
    fn step(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        let Some(token) = self.pending else {
            // The prompt's logits, or those of a step whose sampling failed.
            return self.sample();
        };
        if let Some(draft) = self.draft(token) {
            self.try_draft(token, &draft)?;
        }
        if self.sampled.is_empty() {
            let start = Instant::now();
            self.engine.recycle(std::mem::take(&mut self.logits));
            self.single_step(token)?;
            if let Some(speculation) = &mut self.speculation {
                speculation.single_step(start.elapsed());
            }
        }
        self.timings.decode += start.elapsed();
        self.timings.decode_tokens += self.sampled.len();
        Ok(())
    }

    /// Computes `token` and samples what follows it.
    fn single_step(&mut self, token: u32) -> Result<(), Error> {
        let params = self.sampler.params();
        if params.temperature != 0.0 || params.has_penalties() {
            self.logits = self.engine.decode(self.session, token)?;
        } else {
            match self.engine.decode_best(self.session, token)? {
                Best::Logits(logits) => self.logits = logits,
                Best::Token(next) => {
                    self.pending = None;
                    self.sampled.push_back(next);
                    return Ok(());
                }
            }
        }
        self.pending = None;
        self.sample()
    }

    fn sample(&mut self) -> Result<(), Error> {
        let (logits, tokens) = (self.logits.last(), self.session.tokens());
        let token = self.sampler.sample(logits, tokens, tokens.len())?;
        self.sampled.push_back(token);
        Ok(())
    }

    /// What may follow `token`, as far as context and limits allow.
    fn draft(&mut self, token: u32) -> Option<Draft> {
        let speculation = self.speculation.as_deref_mut()?;
        if self.timings.decode_tokens == 0 {
            speculation.start(self.session.tokens());
        }
        let room = self.session.context_tokens() - self.session.len();
        let generated = self.timings.generated_tokens;
        let wanted = self.limits.max_tokens.map_or(usize::MAX, |m| m - generated);
        // One row is for `token`, which gives one more token than is drafted.
        let rows = self.engine.trial_tokens().min(room).min(wanted);
        speculation.draft(self.session.tokens(), token, rows.saturating_sub(1))
    }

    /// Computes `token` and what may follow it in one step, samples as far as the draft is right, and
    /// takes the rest back. Samples nothing where that fails: a step without draft may still do.
    fn try_draft(&mut self, token: u32, draft: &Draft) -> Result<(), Error> {
        let Some(speculation) = self.speculation.as_deref_mut() else {
            return Ok(());
        };
        let (start, before) = (Instant::now(), self.session.len());
        let rows = [&[token], &draft.tokens[..]].concat();
        let Ok(logits) = self.engine.forward_trial(self.session, &rows) else {
            speculation.failed_step();
            return Ok(());
        };
        for row in 0..rows.len() {
            let tokens = &self.session.tokens()[..before + row + 1];
            // A failure belongs to the single step that comes to the same place.
            let Ok(next) = self.sampler.sample(logits.row(row), tokens, tokens.len()) else {
                break;
            };
            self.sampled.push_back(next);
            if rows.get(row + 1) != Some(&next) || self.limits.stop_tokens.contains(&next) {
                break;
            }
        }
        self.engine.recycle(logits);
        let kept = before + self.sampled.len();
        if let Err(error) = self.engine.retract(self.session, kept) {
            self.sampled.clear();
            return Err(error);
        }
        let right = self.sampled.len().saturating_sub(1);
        speculation.drafted_step(draft, right, start.elapsed());
        Ok(())
    }

    /// Takes the session back to the token returned last. Tokens sampled beyond it are forgotten;
    /// they would be sampled again.
    fn settle(&mut self) -> Result<(), Error> {
        let ahead = self.sampled.len();
        self.timings.decode_tokens -= ahead;
        self.sampled.clear();
        if ahead > 0 {
            self.engine
                .retract(self.session, self.session.len() - ahead)?;
        }
        self.session.end_trial();
        Ok(())
    }

    fn finish(&mut self, end: End) -> Option<u32> {
        if let End::Stop(_) = end {
            self.pending = None;
        }
        self.end = Some(end);
        None
    }

    /// Why the generation ended; `None` while it has not.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The token returned last, if the session does not hold it yet.
    pub fn pending(&self) -> Option<u32> {
        self.pending
    }

    /// Counts and times so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The session, for example to set a checkpoint when the prompt is done.
    ///
    /// # Errors
    /// Only by a defect: the session ran ahead of the tokens returned and cannot be taken back.
    pub fn session(&mut self) -> Result<&mut Session, Error> {
        self.settle()?;
        Ok(self.session)
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        // It fails by a defect only, and leaves a session that is whole, but shorter.
        let _ = self.settle();
    }
}
