//! `POST /v1/chat/completions`.

use serde_json::Value;
use utoipa::ToSchema;

use super::common::{OpenAiProblem, StreamOptions, Texts, Usage};
use super::tools::{Tool, ToolCall, ToolChoice};

/// A conversation to be answered.
#[derive(ToSchema)]
pub struct ChatRequest {
    /// The model; left out, the one that is served.
    pub model: Option<String>,
    /// What was said.
    #[schema(min_items = 1)]
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    #[schema(max_items = 512)]
    pub tools: Option<Vec<Tool>>,
    /// Which of them it must call.
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may have several calls.
    pub parallel_tool_calls: Option<bool>,
    /// Text that ends an answer and is not part of it.
    pub stop: Option<Texts>,
    /// Send events instead of one object.
    pub stream: Option<bool>,
    /// How to stream.
    pub stream_options: Option<StreamOptions>,
    /// Answers; the seed of each is one above that of the one before.
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<u64>,
    /// The most tokens of an answer.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// The same.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u64>,
    /// Give the log probability of each token.
    pub logprobs: Option<bool>,
    /// And those of this many of the most likely ones.
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u64>,
    /// What the answer may be.
    pub response_format: Option<ResponseFormat>,
    /// How long to reason, for templates that know of it.
    pub reasoning_effort: Option<Effort>,
    /// Variables for the chat template.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Value>,
    /// Not supported but as `false`.
    pub store: Option<bool>,
    /// Not supported but as `["text"]`.
    pub modalities: Option<Vec<String>>,
    /// Not supported but as `medium`.
    pub verbosity: Option<String>,
    /// Accepted without effect.
    pub user: Option<Value>,
    /// Accepted without effect.
    pub metadata: Option<Value>,
    /// Accepted without effect.
    pub safety_identifier: Option<Value>,
    /// Accepted without effect.
    pub prompt_cache_key: Option<Value>,
    /// Accepted without effect.
    pub prompt_cache_retention: Option<Value>,
    /// Accepted without effect.
    pub service_tier: Option<Value>,
}

/// How long to reason.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// As usual.
    Medium,
    /// Long.
    High,
    /// Very long.
    Xhigh,
}

/// Something said.
#[derive(ToSchema)]
pub struct Message {
    /// By whom: `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: Role,
    /// Text, or a list of parts of text. An assistant's message with calls or reasoning may have
    /// none.
    pub content: Option<Content>,
    /// The calls of an assistant's message.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// What the assistant thought before.
    pub reasoning_content: Option<String>,
    /// The same.
    pub reasoning: Option<String>,
    /// The call that a tool's message answers to.
    pub tool_call_id: Option<String>,
    /// Accepted without effect.
    pub id: Option<Value>,
    /// Accepted without effect.
    pub annotations: Option<Value>,
    /// Accepted without effect.
    pub refusal: Option<Value>,
    /// Accepted without effect.
    pub name: Option<Value>,
}

/// Who says something.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The same.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// Text, whole or in parts.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Whole.
    Text(String),
    /// In parts.
    Parts(Vec<Part>),
}

/// A part of text.
#[derive(ToSchema)]
pub struct Part {
    /// `text`, `input_text` or `output_text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: String,
    /// Accepted without effect.
    pub annotations: Option<Value>,
    /// Accepted without effect.
    pub logprobs: Option<Value>,
    /// Accepted without effect.
    pub cache_control: Option<Value>,
    /// Accepted without effect.
    pub citations: Option<Value>,
}

/// What an answer may be.
#[derive(ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The schema, with `json_schema`.
    pub json_schema: Option<NamedSchema>,
    /// The schema, in responses.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Accepted without effect.
    pub name: Option<String>,
    /// Accepted without effect.
    pub description: Option<String>,
    /// Accepted without effect: schemas always hold.
    pub strict: Option<bool>,
}

/// A JSON schema.
#[derive(ToSchema)]
pub struct NamedSchema {
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Value,
    /// Accepted without effect.
    pub name: Option<String>,
    /// Accepted without effect.
    pub description: Option<String>,
    /// Accepted without effect: schemas always hold.
    pub strict: Option<bool>,
}

/// The answers to a conversation.
#[derive(ToSchema)]
pub struct ChatCompletion {
    /// Its name.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The answers.
    pub choices: Vec<Choice>,
    /// Tokens.
    pub usage: Usage,
    /// Always `null`.
    pub system_fingerprint: Option<String>,
}

/// An answer.
#[derive(ToSchema)]
pub struct Choice {
    /// Which one.
    pub index: u64,
    /// The answer.
    pub message: Answer,
    /// Log probabilities, if asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended: `stop`, `length` or `tool_calls`.
    pub finish_reason: Finish,
}

/// Why an answer ended.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// By itself, or by a stop sequence.
    Stop,
    /// It has as many tokens as allowed.
    Length,
    /// To have tools called.
    ToolCalls,
}

/// What the model says, or a piece of it.
#[derive(ToSchema)]
pub struct Answer {
    /// `assistant`; in a stream only at first.
    pub role: Option<Role>,
    /// Text.
    pub content: Option<String>,
    /// What the model thought before.
    pub reasoning_content: Option<String>,
    /// Calls of tools.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Always `null`.
    pub refusal: Option<String>,
}

/// Log probabilities of an answer.
#[derive(ToSchema)]
pub struct Logprobs {
    /// Of each token.
    pub content: Vec<TokenLogprob>,
    /// Always `null`.
    pub refusal: Option<String>,
}

/// The log probability of a token: the model's own, before penalties, biases and temperature.
#[derive(ToSchema)]
pub struct TokenLogprob {
    /// Its text.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most likely tokens, most likely first.
    pub top_logprobs: Option<Vec<TopLogprob>>,
}

/// One of the most likely tokens.
#[derive(ToSchema)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The data of an event. After the last one comes `[DONE]`.
#[derive(ToSchema)]
pub struct ChatChunk {
    /// The completion's name.
    pub id: Option<String>,
    /// `chat.completion.chunk`.
    pub object: Option<String>,
    /// When it began, in seconds since 1970.
    pub created: Option<u64>,
    /// The model.
    pub model: Option<String>,
    /// Pieces of answers; none in the chunk that counts tokens.
    pub choices: Option<Vec<ChunkChoice>>,
    /// Tokens, in the last chunk, if asked for.
    pub usage: Option<Usage>,
    /// Always `null`.
    pub system_fingerprint: Option<String>,
    /// Why the stream broke off; the only field then.
    pub error: Option<OpenAiProblem>,
}

/// A piece of an answer.
#[derive(ToSchema)]
pub struct ChunkChoice {
    /// Which answer.
    pub index: u64,
    /// What is new.
    pub delta: Answer,
    /// Log probabilities, if asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended, in its last chunk.
    pub finish_reason: Option<Finish>,
}

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "openai",
    request_body = ChatRequest,
    responses((
        status = 200,
        description = "The answer, or with `stream` its pieces as they come",
        content(
            (ChatCompletion = "application/json"),
            (ChatChunk = "text/event-stream"),
        ),
    ))
)]
pub fn chat_completions() {}
