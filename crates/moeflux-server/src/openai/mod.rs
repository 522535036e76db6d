//! OpenAI's protocol: chat completions, completions, models.

mod chat;
mod chat_reply;
mod completions;
mod conversation;
mod logprobs;
mod models;
mod sampling;
mod tools;

pub use chat::{chat, effort, limit_tokens};
pub use completions::completions;
pub use conversation::{call_for_template, conversation, text_of};
pub use models::{model, models};
pub use sampling::Sampling;
pub use tools::{Choice as ToolChoice, Offer, tool, tool_choice};

use serde_json::{Value, json};

use crate::answer::Answers;
use crate::http::{ApiError, Fields};

/// Whether and how to stream.
#[derive(Clone, Copy, Debug, Default)]
struct Streaming {
    /// Send events instead of one object.
    on: bool,
    /// End with a count of tokens.
    usage: bool,
}

impl Streaming {
    fn take(fields: &mut Fields) -> Result<Streaming, ApiError> {
        let on = fields.take("stream")?.unwrap_or(false);
        let options: Option<Value> = fields.take("stream_options")?;
        let usage = match options {
            None => false,
            Some(_) if !on => {
                let problem = "is for streams; set `stream` to true, or leave it out";
                return Err(ApiError::value("stream_options", problem));
            }
            Some(options) => {
                let mut options = Fields::of_value(options, "stream_options")?;
                options.ignore(&["include_obfuscation"]);
                let usage = options.take("include_usage")?;
                options.finish()?;
                usage.unwrap_or(false)
            }
        };
        Ok(Streaming { on, usage })
    }
}

/// The count of tokens in each reply.
fn usage(prompt: usize, answers: &Answers<'_>) -> Value {
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": answers.tokens(),
        "total_tokens": prompt + answers.tokens(),
        "prompt_tokens_details": {"cached_tokens": answers.cached_tokens()},
        "completion_tokens_details": {"reasoning_tokens": answers.reasoning_tokens()},
    })
}
