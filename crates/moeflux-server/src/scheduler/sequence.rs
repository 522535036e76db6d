//! One answer in the making: its tokens, its session and how its tokens are picked.

use std::sync::Arc;
use std::time::Instant;

use moeflux::Session;
use moeflux::sampling::{Sampler, SamplingError};
use tokio::sync::mpsc::UnboundedSender;

use super::logprobs;
use super::{Constraint, End, Event, Job, JobError, Phase, Progress, Sampled, Submitted};

/// What all answers to one prompt have in common.
struct Request {
    events: UnboundedSender<Event>,
    prompt_tokens: usize,
    logit_bias: Vec<(u32, f32)>,
    max_tokens: Option<usize>,
    stop_tokens: Vec<u32>,
    logprobs: Option<usize>,
    deadline: Option<Instant>,
    arrived: Instant,
}

/// One answer. It holds prompt and answer so far; the session holds a prefix of them, so what to
/// compute next is the rest, whether the answer is new, running, or has lost its session.
pub struct Sequence {
    request: Arc<Request>,
    choice: usize,
    /// Other answers to the same prompt, which begin when the prompt is computed.
    pub forks: usize,
    pub session: Session,
    /// Where computing the prompt has to stop for its state to be kept, ascending.
    pub stops: Vec<usize>,
    /// How much the session held when its state was kept last.
    pub kept: usize,
    tokens: Vec<u32>,
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    /// When the last token was sent.
    pub last_token: Option<Instant>,
}

impl Sequence {
    /// The first answer to a job.
    pub fn new(submitted: Submitted, session: Session) -> Result<Sequence, JobError> {
        let Submitted {
            job,
            first_choice,
            events,
            arrived,
        } = submitted;
        let fail = |events: &UnboundedSender<Event>, error: JobError| {
            // Nobody is left to hear of it if this fails.
            let _ = events.send(Event::Failed(error.clone()));
            error
        };
        let (end, limit) = (job.prompt.len() + 1, session.context_tokens());
        if job.prompt.is_empty() || end > limit {
            let problem = format!(
                "the prompt has {} tokens, and the context holds 1 to {} beside the answer; send \
                 a shorter one",
                job.prompt.len(),
                limit.saturating_sub(1)
            );
            return Err(fail(&events, JobError::Prompt(problem)));
        }
        let mut sampler = Sampler::new(job.sampling.clone())
            .map_err(|e| fail(&events, JobError::Prompt(e.to_string())))?;
        sampler.set_prompt_tokens(job.prompt.len());
        let Job {
            prompt,
            choices,
            logit_bias,
            max_tokens,
            stop_tokens,
            logprobs,
            constraint,
            deadline,
            ..
        } = job;
        let cached_tokens = session.len();
        // Where nobody listens, the next look at the sequence finds that out.
        let _ = events.send(Event::Begin { cached_tokens });
        Ok(Sequence {
            request: Arc::new(Request {
                events,
                prompt_tokens: prompt.len(),
                logit_bias,
                max_tokens,
                stop_tokens,
                logprobs,
                deadline,
                arrived,
            }),
            choice: first_choice,
            forks: choices.saturating_sub(1),
            stops: Vec::new(),
            kept: session.len(),
            session,
            tokens: prompt,
            sampler,
            constraint,
            last_token: None,
        })
    }

    /// Another answer to the same prompt, in the state of this one but for the session and the seed.
    pub fn fork(&self, number: usize, session: Session) -> Result<Sequence, SamplingError> {
        let mut params = self.sampler.params().clone();
        params.seed = params.seed.wrapping_add(number as u64);
        let mut sampler = Sampler::new(params)?;
        sampler.set_prompt_tokens(self.request.prompt_tokens);
        Ok(Sequence {
            request: Arc::clone(&self.request),
            choice: self.choice + number,
            forks: 0,
            stops: Vec::new(),
            kept: session.len(),
            session,
            tokens: self.tokens.clone(),
            sampler,
            constraint: self.constraint.as_deref().map(Constraint::fork),
            last_token: None,
        })
    }

    /// Tokens that the session does not hold yet: one for an answer that is running.
    pub fn rest(&self) -> usize {
        self.tokens.len() - self.session.len()
    }

    /// Tokens up to where computing has to stop.
    pub fn rest_to_stop(&self) -> usize {
        let next = self.stops.iter().find(|stop| **stop > self.session.len());
        next.map_or(self.rest(), |stop| {
            self.rest().min(stop - self.session.len())
        })
    }

    /// The last of its tokens, which the session does not hold yet while it is decoding.
    pub fn last(&self) -> u32 {
        self.tokens.last().copied().unwrap_or(0)
    }

    /// The most tokens that may still come.
    pub fn room(&self) -> usize {
        let context = self.session.context_tokens() - self.session.len();
        let wanted = self
            .request
            .max_tokens
            .map_or(usize::MAX, |m| m - self.generated());
        context.min(wanted)
    }

    /// Prompt and answer so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether the next step gives a token of the answer.
    pub fn is_decoding(&self) -> bool {
        self.rest() == 1 && !self.session.is_empty()
    }

    /// Whether the next `count` tokens are run as a prompt: those of an answer are where its
    /// session was given up and is made again.
    pub fn is_prompt(&self, count: usize) -> bool {
        count > 1 || self.session.len() < self.request.prompt_tokens
    }

    /// Whether all that the session holds is of the prompt.
    pub fn is_within_prompt(&self) -> bool {
        self.session.len() <= self.request.prompt_tokens
    }

    /// The session and the next `count` tokens to compute.
    pub fn next_tokens(&mut self, count: usize) -> (&mut Session, &[u32]) {
        let start = self.session.len();
        let end = self.tokens.len().min(start + count);
        (&mut self.session, &self.tokens[start..end])
    }

    /// Tokens of the answer so far.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt_tokens
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let prompt_tokens = self.request.prompt_tokens;
        Progress {
            phase: match self.is_decoding() {
                true => Phase::Answer,
                false => Phase::Prompt,
            },
            prompt_tokens,
            prompt_done: self.session.len().min(prompt_tokens),
            answer_tokens: self.generated(),
        }
    }

    /// When the request came.
    pub fn arrived(&self) -> Instant {
        self.request.arrived
    }

    /// Whether nobody listens any more.
    pub fn is_abandoned(&self) -> bool {
        self.request.events.is_closed()
    }

    /// Whether the deadline has passed.
    pub fn is_late(&self, now: Instant) -> bool {
        self.request
            .deadline
            .is_some_and(|deadline| now >= deadline)
    }

    /// Tells the receiver that the job failed.
    pub fn fail(&self, error: JobError) {
        self.send(Event::Failed(error));
    }

    fn send(&self, event: Event) {
        // Where nobody listens, the next look at the sequence finds that out.
        let _ = self.request.events.send(event);
    }

    /// Picks the next token by the logits `[vocab]` of the last one and sends it. `scratch` is for
    /// changed logits. Returns whether the answer goes on.
    pub fn advance(&mut self, logits: &[f32], scratch: &mut Vec<f32>) -> Result<bool, JobError> {
        let token = self.sample(logits, scratch)?;
        let complete = match &mut self.constraint {
            Some(constraint) => constraint.accept(token).map_err(JobError::Engine)?,
            None => false,
        };
        if self.request.stop_tokens.contains(&token) {
            return Ok(self.end(End::Stop));
        }
        self.tokens.push(token);
        let (logprob, top) = match self.request.logprobs {
            None => (None, Vec::new()),
            Some(count) => {
                let (own, top) = logprobs::of(logits, token, count);
                (Some(own), top)
            }
        };
        self.send(Event::Token {
            choice: self.choice,
            sampled: Sampled {
                token,
                logprob,
                top,
            },
        });
        let most = self.request.max_tokens.unwrap_or(usize::MAX);
        if complete {
            return Ok(self.end(End::Stop));
        }
        // The last token need not be computed, so it may lie behind the context's end.
        if self.generated() >= most || self.tokens.len() > self.session.context_tokens() {
            return Ok(self.end(End::Length));
        }
        Ok(true)
    }

    fn end(&self, end: End) -> bool {
        self.send(Event::End {
            choice: self.choice,
            end,
        });
        false
    }

    fn sample(&mut self, logits: &[f32], scratch: &mut Vec<f32>) -> Result<u32, JobError> {
        let position = self.tokens.len();
        let mut used = logits;
        if !self.request.logit_bias.is_empty() || self.constraint.is_some() {
            scratch.clear();
            scratch.extend_from_slice(logits);
            for (token, bias) in &self.request.logit_bias {
                if let Some(logit) = scratch.get_mut(*token as usize) {
                    *logit = (*logit + bias).clamp(f32::MIN, f32::MAX);
                }
            }
            if let Some(constraint) = &mut self.constraint {
                constraint.restrict(scratch).map_err(JobError::Engine)?;
            }
            used = scratch;
        }
        self.sampler
            .sample(used, &self.tokens, position)
            .map_err(|e| JobError::Engine(e.to_string()))
    }
}
