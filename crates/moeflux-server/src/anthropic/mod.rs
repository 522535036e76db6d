//! Anthropic's protocol: messages and counts of their tokens.

mod blocks;
mod conversation;
mod messages;

pub use messages::{count_tokens, messages};
