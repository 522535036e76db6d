//! `POST /v1/responses`.

use serde_json::Value;
use utoipa::ToSchema;

use super::chat::{Content, Effort, ResponseFormat};
use super::tools::{ToolChoice, ToolKind};

/// A conversation to be answered. Nothing is kept, so it is sent whole each time.
#[derive(ToSchema)]
pub struct ResponsesRequest {
    /// The model; left out, the one that is served.
    pub model: Option<String>,
    /// Text, or what was said and called so far.
    pub input: Input,
    /// Instructions.
    pub instructions: Option<String>,
    /// Tools that the model may call.
    #[schema(max_items = 512)]
    pub tools: Option<Vec<FlatTool>>,
    /// Which of them it must call.
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may have several calls.
    pub parallel_tool_calls: Option<bool>,
    /// What the answer's text may be.
    pub text: Option<TextFormat>,
    /// How long to reason, for templates that know of it.
    pub reasoning: Option<Reasoning>,
    /// The most tokens of the answer.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<u64>,
    /// Text that ends an answer and is not part of it.
    pub stop: Option<super::common::Texts>,
    /// Send events instead of one object.
    pub stream: Option<bool>,
    /// Not supported but as `false`.
    pub store: Option<bool>,
    /// Not supported but as `false`.
    pub background: Option<bool>,
    /// Not supported but as `disabled`.
    pub truncation: Option<String>,
    /// Not supported but as an empty list or `["reasoning.encrypted_content"]`.
    pub include: Option<Vec<String>>,
    /// Not supported but as 0.
    pub top_logprobs: Option<u64>,
    /// Accepted without effect.
    pub user: Option<Value>,
    /// Given back.
    pub metadata: Option<Value>,
    /// Accepted without effect.
    pub safety_identifier: Option<Value>,
    /// Accepted without effect.
    pub prompt_cache_key: Option<Value>,
    /// Accepted without effect.
    pub prompt_cache_retention: Option<Value>,
    /// Accepted without effect.
    pub service_tier: Option<Value>,
    /// Accepted without effect.
    pub stream_options: Option<Value>,
}

/// What is to be answered.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Input {
    /// The user's text.
    Text(String),
    /// What was said and called so far.
    Items(Vec<InputItem>),
}

/// Something said, a call, or its result.
#[derive(ToSchema)]
pub struct InputItem {
    /// `message`, which may be left out, `function_call`, `function_call_output` or `reasoning`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Who says it, of `message`.
    pub role: Option<String>,
    /// Text, of `message`.
    pub content: Option<Content>,
    /// The call's name, of calls and results.
    pub call_id: Option<String>,
    /// The function, of `function_call`.
    pub name: Option<String>,
    /// Its arguments, as text that is JSON.
    pub arguments: Option<String>,
    /// The result, of `function_call_output`.
    pub output: Option<Content>,
    /// Accepted without effect, of `reasoning`.
    pub summary: Option<Value>,
    /// Accepted without effect, of `reasoning`.
    pub encrypted_content: Option<Value>,
    /// Accepted without effect.
    pub id: Option<Value>,
    /// Accepted without effect.
    pub status: Option<Value>,
    /// Accepted without effect.
    pub phase: Option<Value>,
}

/// A tool that the model may call.
#[derive(ToSchema)]
pub struct FlatTool {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// Its name.
    #[schema(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_.-]+$")]
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether arguments must follow the schema; they do when the call is forced.
    pub strict: Option<bool>,
}

/// What the answer's text may be.
#[derive(ToSchema)]
pub struct TextFormat {
    /// The form.
    pub format: Option<ResponseFormat>,
    /// Not supported but as `medium`.
    pub verbosity: Option<String>,
}

/// How long to reason.
#[derive(ToSchema)]
pub struct Reasoning {
    /// How long.
    pub effort: Option<Effort>,
    /// Accepted without effect: reasoning is given as it is.
    pub summary: Option<Value>,
    /// Accepted without effect.
    pub generate_summary: Option<Value>,
}

/// An answer.
#[derive(ToSchema)]
pub struct Response {
    /// Its name.
    pub id: String,
    /// `response`.
    pub object: String,
    /// When it began, in seconds since 1970.
    pub created_at: u64,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: String,
    /// Why it is incomplete.
    pub incomplete_details: Option<Incomplete>,
    /// Why it failed.
    pub error: Option<ResponseError>,
    /// The model.
    pub model: String,
    /// Messages, reasoning and calls.
    pub output: Vec<OutputItem>,
    /// Tokens, when it has ended.
    pub usage: Option<ResponseUsage>,
    /// The bound of its tokens.
    pub max_output_tokens: Option<u64>,
    /// Whether it may have several calls.
    pub parallel_tool_calls: bool,
    /// As it was asked for.
    pub tool_choice: Value,
    /// As they were offered.
    pub tools: Vec<Value>,
    /// As they were given.
    pub instructions: Option<String>,
    /// As it was given.
    pub metadata: Value,
    /// As it was asked for.
    pub reasoning: Option<Value>,
    /// As it was asked for.
    pub text: Option<Value>,
    /// Always `null`.
    pub previous_response_id: Option<String>,
    /// Always `false`.
    pub store: bool,
    /// As it was asked for.
    pub temperature: Option<f64>,
    /// As it was asked for.
    pub top_p: Option<f64>,
    /// Always `disabled`.
    pub truncation: String,
}

/// Why an answer is incomplete.
#[derive(ToSchema)]
pub struct Incomplete {
    /// `max_output_tokens`.
    pub reason: String,
}

/// Why an answer failed.
#[derive(ToSchema)]
pub struct ResponseError {
    /// `server_error`.
    pub code: String,
    /// In words.
    pub message: String,
}

/// A message, reasoning, or a call.
#[derive(ToSchema)]
pub struct OutputItem {
    /// Its name.
    pub id: String,
    /// `message`, `reasoning` or `function_call`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `in_progress`, `completed` or `incomplete`.
    pub status: String,
    /// `assistant`, of messages.
    pub role: Option<String>,
    /// Text, of messages and reasoning.
    pub content: Option<Vec<OutputPart>>,
    /// Always empty, of reasoning.
    pub summary: Option<Vec<Value>>,
    /// The call's name, of calls.
    pub call_id: Option<String>,
    /// The function, of calls.
    pub name: Option<String>,
    /// Its arguments, as text that is JSON.
    pub arguments: Option<String>,
}

/// A part of an item's text.
#[derive(ToSchema)]
pub struct OutputPart {
    /// `output_text` or `reasoning_text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: String,
    /// Always empty.
    pub annotations: Option<Vec<Value>>,
    /// Always empty.
    pub logprobs: Option<Vec<Value>>,
}

/// Tokens of a request.
#[derive(ToSchema)]
pub struct ResponseUsage {
    /// Of the prompt.
    pub input_tokens: u64,
    /// More about those.
    pub input_tokens_details: InputTokens,
    /// Of the answer.
    pub output_tokens: u64,
    /// More about those.
    pub output_tokens_details: OutputTokens,
    /// Of both.
    pub total_tokens: u64,
}

/// More about a prompt's tokens.
#[derive(ToSchema)]
pub struct InputTokens {
    /// Those that were found computed.
    pub cached_tokens: u64,
    /// Always 0.
    pub cache_write_tokens: u64,
}

/// More about an answer's tokens.
#[derive(ToSchema)]
pub struct OutputTokens {
    /// Those of reasoning.
    pub reasoning_tokens: u64,
}

/// The data of an event.
#[derive(ToSchema)]
pub struct ResponseEvent {
    /// The event's name, such as `response.output_text.delta`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Events are numbered from 0.
    pub sequence_number: u64,
    /// The response so far, of events that concern it whole.
    pub response: Option<Response>,
    /// Which item.
    pub output_index: Option<u64>,
    /// The item, when it begins and when it is complete.
    pub item: Option<OutputItem>,
    /// Which item, by its name.
    pub item_id: Option<String>,
    /// Which part of the item.
    pub content_index: Option<u64>,
    /// The part, when it begins and when it is complete.
    pub part: Option<OutputPart>,
    /// A piece of text or arguments.
    pub delta: Option<String>,
    /// The whole text.
    pub text: Option<String>,
    /// The whole arguments.
    pub arguments: Option<String>,
    /// Always empty.
    pub logprobs: Option<Vec<Value>>,
}

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "openai",
    request_body = ResponsesRequest,
    responses((
        status = 200,
        description = "The answer, or with `stream` its pieces as they come",
        content(
            (Response = "application/json"),
            (ResponseEvent = "text/event-stream"),
        ),
    ))
)]
pub fn responses() {}
