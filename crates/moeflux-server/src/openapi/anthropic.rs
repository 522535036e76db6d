//! `POST /v1/messages` and `/v1/messages/count_tokens`.

use serde_json::Value;
use utoipa::ToSchema;

/// A conversation to be answered.
#[derive(ToSchema)]
pub struct MessagesRequest {
    /// The model; left out, the one that is served.
    pub model: Option<String>,
    /// The most tokens of the answer; may be left out where the server has a bound of its own.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// What was said; the last message is the user's.
    #[schema(min_items = 1)]
    pub messages: Vec<MessageParam>,
    /// Instructions.
    pub system: Option<Blocks>,
    /// Tools that the model may call.
    #[schema(max_items = 512)]
    pub tools: Option<Vec<CustomTool>>,
    /// Which of them it must call.
    pub tool_choice: Option<CustomToolChoice>,
    /// Whether to reason first, for templates that know of it.
    pub thinking: Option<Thinking>,
    /// Text that ends an answer and is not part of it.
    pub stop_sequences: Option<Vec<String>>,
    /// Send events instead of one object.
    pub stream: Option<bool>,
    /// Accepted without effect.
    pub metadata: Option<Value>,
    /// Accepted without effect.
    pub service_tier: Option<Value>,
    /// Accepted without effect: what was computed is found again by itself.
    pub cache_control: Option<Value>,
    /// Accepted without effect.
    pub inference_geo: Option<Value>,
}

/// A conversation to be counted.
#[derive(ToSchema)]
pub struct CountRequest {
    /// The model; left out, the one that is served.
    pub model: Option<String>,
    /// What was said; the last message is the user's.
    #[schema(min_items = 1)]
    pub messages: Vec<MessageParam>,
    /// Instructions.
    pub system: Option<Blocks>,
    /// Tools that the model may call.
    #[schema(max_items = 512)]
    pub tools: Option<Vec<CustomTool>>,
    /// Which of them it must call.
    pub tool_choice: Option<CustomToolChoice>,
    /// Whether to reason first, for templates that know of it.
    pub thinking: Option<Thinking>,
    /// Accepted without effect.
    pub metadata: Option<Value>,
    /// Accepted without effect.
    pub service_tier: Option<Value>,
    /// Accepted without effect.
    pub cache_control: Option<Value>,
    /// Accepted without effect.
    pub inference_geo: Option<Value>,
}

/// Something said.
#[derive(ToSchema)]
pub struct MessageParam {
    /// `user`, `assistant` or `system`.
    pub role: String,
    /// Text, or a list of blocks.
    pub content: Blocks,
    /// Accepted without effect.
    pub id: Option<Value>,
    /// Accepted without effect.
    #[serde(rename = "type")]
    pub kind: Option<Value>,
    /// Accepted without effect.
    pub model: Option<Value>,
    /// Accepted without effect.
    pub stop_reason: Option<Value>,
    /// Accepted without effect.
    pub stop_sequence: Option<Value>,
    /// Accepted without effect.
    pub usage: Option<Value>,
}

/// Text, or a list of blocks.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Blocks {
    /// Text.
    Text(String),
    /// Blocks.
    Blocks(Vec<Block>),
}

/// A block of a message.
#[derive(ToSchema)]
pub struct Block {
    /// `text`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text, of `text`.
    pub text: Option<String>,
    /// What the model thought, of `thinking`.
    pub thinking: Option<String>,
    /// Accepted without effect.
    pub signature: Option<Value>,
    /// Accepted without effect.
    pub data: Option<Value>,
    /// The call's name, of `tool_use`.
    pub id: Option<String>,
    /// The tool, of `tool_use`.
    pub name: Option<String>,
    /// The arguments, of `tool_use`.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// Accepted without effect.
    pub caller: Option<Value>,
    /// The call that is answered, of `tool_result`.
    pub tool_use_id: Option<String>,
    /// The result, of `tool_result`: text, or parts of text.
    pub content: Option<super::chat::Content>,
    /// Whether the tool failed, of `tool_result`.
    pub is_error: Option<bool>,
    /// Accepted without effect.
    pub cache_control: Option<Value>,
    /// Accepted without effect.
    pub citations: Option<Value>,
}

/// A tool.
#[derive(ToSchema)]
pub struct CustomTool {
    /// Its name.
    #[schema(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_.-]+$")]
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
    /// `custom`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Whether arguments must follow the schema; they do when the call is forced.
    pub strict: Option<bool>,
    /// Accepted without effect.
    pub cache_control: Option<Value>,
}

/// Which tools must be called.
#[derive(ToSchema)]
pub struct CustomToolChoice {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The tool, with `tool`.
    pub name: Option<String>,
    /// Whether one answer may have one call only.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether to reason first.
#[derive(ToSchema)]
pub struct Thinking {
    /// `enabled`, `adaptive` or `disabled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Accepted without effect: the model ends its reasoning by itself.
    pub budget_tokens: Option<Value>,
    /// Accepted without effect.
    pub display: Option<Value>,
}

/// An answer.
#[derive(ToSchema)]
pub struct AnthropicMessage {
    /// Its name.
    pub id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `assistant`.
    pub role: String,
    /// The model.
    pub model: String,
    /// Text, thinking and calls of tools.
    pub content: Vec<Block>,
    /// Why it ended: `end_turn`, `stop_sequence`, `max_tokens` or `tool_use`.
    pub stop_reason: Option<String>,
    /// The sequence that ended it.
    pub stop_sequence: Option<String>,
    /// Tokens.
    pub usage: MessageUsage,
}

/// Tokens of a request.
#[derive(ToSchema)]
pub struct MessageUsage {
    /// Of the prompt, but for those found computed.
    pub input_tokens: Option<u64>,
    /// Always 0.
    pub cache_creation_input_tokens: Option<u64>,
    /// Of the prompt, those found computed.
    pub cache_read_input_tokens: Option<u64>,
    /// Of the answer.
    pub output_tokens: u64,
}

/// The data of an event.
#[derive(ToSchema)]
pub struct MessageEvent {
    /// `message_start`, `content_block_start`, `content_block_delta`, `content_block_stop`,
    /// `message_delta`, `message_stop`, `ping` or `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The message without content, of `message_start`.
    pub message: Option<AnthropicMessage>,
    /// Which block.
    pub index: Option<u64>,
    /// The block when it is empty yet, of `content_block_start`.
    pub content_block: Option<Block>,
    /// What is new.
    pub delta: Option<MessageDelta>,
    /// Tokens, of `message_delta`.
    pub usage: Option<MessageUsage>,
    /// What went wrong, of `error`.
    pub error: Option<AnthropicProblem>,
}

/// What is new of a block, or of the message.
#[derive(ToSchema)]
pub struct MessageDelta {
    /// `text_delta`, `thinking_delta` or `input_json_delta`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Text.
    pub text: Option<String>,
    /// What the model thought.
    pub thinking: Option<String>,
    /// A piece of a call's arguments.
    pub partial_json: Option<String>,
    /// Why the answer ended.
    pub stop_reason: Option<String>,
    /// The sequence that ended it.
    pub stop_sequence: Option<String>,
}

/// Tokens of a conversation.
#[derive(ToSchema)]
pub struct Count {
    /// How many.
    pub input_tokens: u64,
}

/// What is wrong, as Anthropic's clients expect it.
#[derive(ToSchema)]
pub struct AnthropicError {
    /// `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The error.
    pub error: AnthropicProblem,
}

/// What is wrong.
#[derive(ToSchema)]
pub struct AnthropicProblem {
    /// The kind, by the status.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "anthropic",
    request_body = MessagesRequest,
    responses((
        status = 200,
        description = "The answer, or with `stream` its pieces as they come",
        content(
            (AnthropicMessage = "application/json"),
            (MessageEvent = "text/event-stream"),
        ),
    ))
)]
pub fn messages() {}

/// Counts the tokens of a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "anthropic",
    request_body = CountRequest,
    responses((status = 200, body = Count))
)]
pub fn count_tokens() {}
