//! `POST /v1/completions`.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::chat::Finish;
use super::common::{OpenAiProblem, StreamOptions, Texts, Usage};

/// Text to be gone on with.
#[derive(ToSchema)]
pub struct CompletionRequest {
    /// The model; left out, the one that is served.
    pub model: Option<String>,
    /// The text or its tokens; or a list of such, each of which is gone on with. Answers to the
    /// first prompt come first.
    pub prompt: TextOrTokens,
    /// Text that ends an answer and is not part of it.
    pub stop: Option<Texts>,
    /// Send events instead of one object.
    pub stream: Option<bool>,
    /// How to stream.
    pub stream_options: Option<StreamOptions>,
    /// Answers; the seed of each is one above that of the one before.
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<u64>,
    /// The most tokens of an answer; 16 if nothing is said.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// The same.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u64>,
    /// Give log probabilities, and those of this many of the most likely tokens.
    #[schema(maximum = 20)]
    pub logprobs: Option<u64>,
    /// Begin with the prompt.
    pub echo: Option<bool>,
    /// Not supported but as empty text.
    pub suffix: Option<String>,
    /// Not supported but as 1 or `n`.
    pub best_of: Option<u64>,
    /// Accepted without effect.
    pub user: Option<Value>,
}

/// A prompt.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum TextOrTokens {
    /// Text.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
    /// Texts.
    Texts(Vec<String>),
    /// Tokens of texts.
    TokenLists(Vec<Vec<u32>>),
}

/// How a text goes on, whole or, as an event's data, in pieces. After the last event comes `[DONE]`.
#[derive(ToSchema)]
pub struct Completion {
    /// Its name.
    pub id: Option<String>,
    /// `text_completion`.
    pub object: Option<String>,
    /// When it began, in seconds since 1970.
    pub created: Option<u64>,
    /// The model.
    pub model: Option<String>,
    /// The answers, or pieces of them.
    pub choices: Option<Vec<TextChoice>>,
    /// Tokens; in streams in the last chunk, if asked for.
    pub usage: Option<Usage>,
    /// Always `null`.
    pub system_fingerprint: Option<String>,
    /// Why a stream broke off; the only field then.
    pub error: Option<OpenAiProblem>,
}

/// An answer, or a piece of it.
#[derive(ToSchema)]
pub struct TextChoice {
    /// Which one.
    pub index: u64,
    /// The text.
    pub text: String,
    /// Log probabilities, if asked for.
    pub logprobs: Option<TextLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<Finish>,
}

/// Log probabilities, in lists of the same length.
#[derive(ToSchema)]
pub struct TextLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Their log probabilities.
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens' log probabilities by their texts.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each token begins in the text, in characters.
    pub text_offset: Vec<u64>,
}

/// Goes on with text, without a chat template.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "openai",
    request_body = CompletionRequest,
    responses((
        status = 200,
        description = "The text, or with `stream` its pieces as they come",
        content(
            (Completion = "application/json"),
            (Completion = "text/event-stream"),
        ),
    ))
)]
pub fn completions() {}
