//! Picking the next token from logits.
//!
//! Greedy unless asked otherwise. Otherwise the filters apply in transformers' order: repetition,
//! frequency and presence penalties, temperature, top-k, top-p, min-p; then one draw. The random
//! number is a hash of seed and position, so that a restored session draws what it would have drawn.

mod params;
mod random;
mod sampler;

pub use params::SamplingParams;
pub(crate) use random::exp_negative;
pub use random::uniform;
pub use sampler::Sampler;

/// What can go wrong in sampling.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A parameter is outside its range.
    #[error("{parameter} is {value}, but must be {allowed}; change it")]
    OutOfRange {
        /// The field of [`SamplingParams`].
        parameter: &'static str,
        /// What it was.
        value: f32,
        /// What it may be.
        allowed: &'static str,
    },
    /// The model gave a logit that is not a finite number.
    #[error(
        "the model's logit of token {token} at position {position} is {value}; the weights or the \
         state are damaged: verify the model's files"
    )]
    NonFinite {
        /// The first such token.
        token: usize,
        /// Position of the token being sampled.
        position: usize,
        /// The logit.
        value: f32,
    },
    /// There is nothing to pick from.
    #[error("no logits to sample from at position {position}; ask the engine for the last row")]
    Empty {
        /// Position of the token being sampled.
        position: usize,
    },
}
