//! What several protocols share, and the small paths.

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// How tokens are picked. What is left out is the model's own suggestion.
#[derive(ToSchema)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    #[schema(minimum = 0, maximum = 100)]
    pub temperature: Option<f32>,
    /// Keep the most likely tokens that reach this probability together.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: Option<u64>,
    /// Keep tokens at least this likely relative to the most likely one.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Penalty on tokens seen in prompt or answer; 1 is none.
    #[schema(minimum = 0.01, maximum = 100)]
    pub repetition_penalty: Option<f32>,
    /// Penalty on tokens seen in the answer; 0 is none.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// Penalty for each time that the answer holds a token; 0 is none.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// Makes drawing repeatable.
    pub seed: Option<i64>,
    /// Added to the logits of tokens, by their numbers: -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Go on behind the model's own end.
    pub ignore_eos: Option<bool>,
}

/// One text or several.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Texts {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// How to stream.
#[derive(ToSchema)]
pub struct StreamOptions {
    /// End with a chunk that counts tokens.
    pub include_usage: Option<bool>,
    /// Accepted without effect.
    pub include_obfuscation: Option<bool>,
}

/// Tokens of a request.
#[derive(ToSchema)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u64,
    /// Of all answers.
    pub completion_tokens: u64,
    /// Of both.
    pub total_tokens: u64,
    /// More about the prompt.
    pub prompt_tokens_details: PromptTokens,
    /// More about the answers.
    pub completion_tokens_details: Option<CompletionTokens>,
}

/// More about a prompt's tokens.
#[derive(ToSchema)]
pub struct PromptTokens {
    /// Those that were found computed.
    pub cached_tokens: u64,
}

/// More about answers' tokens.
#[derive(ToSchema)]
pub struct CompletionTokens {
    /// Those of reasoning.
    pub reasoning_tokens: u64,
}

/// What is wrong, as OpenAI's clients expect it.
#[derive(ToSchema)]
pub struct OpenAiError {
    /// The error.
    pub error: OpenAiProblem,
}

/// What is wrong.
#[derive(ToSchema)]
pub struct OpenAiProblem {
    /// What is wrong and what to do.
    pub message: String,
    /// The kind, by the status.
    #[serde(rename = "type")]
    pub kind: String,
    /// The parameter that is to blame.
    pub param: Option<String>,
    /// A name of the problem for programs.
    pub code: Option<String>,
}

/// The models that can be asked for.
#[derive(ToSchema)]
pub struct Models {
    /// `list`.
    pub object: String,
    /// The models: one, under each of its names.
    pub data: Vec<Model>,
}

/// A model.
#[derive(ToSchema)]
pub struct Model {
    /// The name to ask for.
    pub id: String,
    /// `model`.
    pub object: String,
    /// When it was opened, in seconds since 1970.
    pub created: u64,
    /// `moeflux`.
    pub owned_by: String,
    /// The most tokens of prompt and answer together.
    pub max_model_len: u64,
}

/// Text or messages; give one of them.
#[derive(ToSchema)]
pub struct TokenizeRequest {
    /// The model.
    pub model: Option<String>,
    /// Text.
    pub content: Option<String>,
    /// A conversation, as in chat completions.
    pub messages: Option<Vec<super::chat::Message>>,
}

/// Tokens of a text.
#[derive(ToSchema)]
pub struct Tokenized {
    /// How many.
    pub count: u64,
    /// The tokens.
    pub tokens: Vec<u32>,
}

/// Tokens.
#[derive(ToSchema)]
pub struct DetokenizeRequest {
    /// The model.
    pub model: Option<String>,
    /// The tokens.
    pub tokens: Vec<u32>,
}

/// The text of tokens.
#[derive(ToSchema)]
pub struct Detokenized {
    /// The text.
    pub content: String,
}

/// The server lives.
#[derive(ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The model.
    pub model: String,
}

/// The models that can be asked for.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, body = Models)))]
pub fn models() {}

/// One model.
#[utoipa::path(
    get,
    path = "/v1/models/{name}",
    tag = "openai",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 200, body = Model))
)]
pub fn model() {}

/// Tokens of text, or of messages as the model sees them.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "moeflux",
    request_body = TokenizeRequest,
    responses((status = 200, body = Tokenized))
)]
pub fn tokenize() {}

/// Text of tokens.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "moeflux",
    request_body = DetokenizeRequest,
    responses((status = 200, body = Detokenized))
)]
pub fn detokenize() {}

/// Whether the server lives; it needs no key.
#[utoipa::path(
    get,
    path = "/health",
    tag = "moeflux",
    security(()),
    responses((status = 200, body = Health))
)]
pub fn health() {}

/// Figures for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "moeflux",
    responses((status = 200, body = String, content_type = "text/plain; version=0.0.4"))
)]
pub fn metrics() {}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "moeflux",
    responses((status = 200, body = Value))
)]
pub fn openapi_json() {}
