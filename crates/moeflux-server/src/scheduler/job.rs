//! What is asked of the scheduler, and what it tells.

use std::fmt;
use std::time::Instant;

use moeflux::sampling::SamplingParams;

/// Restricts which tokens an answer may have.
pub trait Constraint: Send {
    /// Another one in the same state, for another answer to the same prompt.
    fn fork(&self) -> Box<dyn Constraint>;

    /// Lowers the logits `[vocab]` of tokens that may not follow to [`f32::MIN`].
    ///
    /// # Errors
    /// The grammar cannot go on; the answer then fails with this text.
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String>;

    /// Takes note of the token that was picked; returns whether the answer is complete.
    ///
    /// # Errors
    /// As [`Constraint::restrict`].
    fn accept(&mut self, token: u32) -> Result<bool, String>;
}

/// A prompt to be answered.
pub struct Job {
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// Answers to the prompt; the seed of each is one above that of the one before.
    pub choices: usize,
    /// How tokens are picked.
    pub sampling: SamplingParams,
    /// Added to the logits of these tokens before they are used otherwise.
    pub logit_bias: Vec<(u32, f32)>,
    /// The most tokens of an answer; `None` for as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Tokens that end an answer; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Give the log probability of each token, and of this many of the most likely ones.
    pub logprobs: Option<usize>,
    /// What the answers may be.
    pub constraint: Option<Box<dyn Constraint>>,
    /// When to give up.
    pub deadline: Option<Instant>,
}

impl Job {
    /// A job of one greedy answer without limits.
    pub fn new(prompt: Vec<u32>) -> Job {
        Job {
            prompt,
            choices: 1,
            sampling: SamplingParams::default(),
            logit_bias: Vec::new(),
            max_tokens: None,
            stop_tokens: Vec::new(),
            logprobs: None,
            constraint: None,
            deadline: None,
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("prompt_tokens", &self.prompt.len())
            .field("choices", &self.choices)
            .field("sampling", &self.sampling)
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

/// The natural logarithm of a token's probability, by the model's own logits: before penalties,
/// biases, temperature and filters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// The logarithm.
    pub logprob: f32,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Its log probability, if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens, most likely first, as many as asked for.
    pub top: Vec<TokenLogprob>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By a stop token, or since its grammar was complete.
    Stop,
    /// It has as many tokens as asked for, or as the context holds.
    Length,
}

/// What a receiver is told. After an end of each choice, or a failure, nothing follows.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The job has its turn. It is told once, before all others.
    Begin {
        /// Tokens of the prompt that need not be computed.
        cached_tokens: usize,
    },
    /// A choice has one more token.
    Token {
        /// Which choice, from 0.
        choice: usize,
        /// The token.
        sampled: Sampled,
    },
    /// A choice has ended.
    End {
        /// Which choice, from 0.
        choice: usize,
        /// Why.
        end: End,
    },
    /// The job failed.
    Failed(JobError),
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// Its deadline passed.
    #[error(
        "the answer took longer than allowed; ask for fewer tokens, or start the server with a longer --request-timeout"
    )]
    Deadline,
    /// The server stopped.
    #[error("the server stopped before the answer was complete; ask again once it is back")]
    Stopped,
    /// The memory bound does not hold this job even when it is alone.
    #[error("{0}")]
    Memory(String),
    /// The prompt cannot be used.
    #[error("{0}")]
    Prompt(String),
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
}
