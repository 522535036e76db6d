//! Tools and what must be called of them, in OpenAI's words.

use serde_json::Value;
use utoipa::ToSchema;

/// A tool that the model may call.
#[derive(ToSchema)]
pub struct Tool {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// What may be called.
    pub function: Function,
}

/// The kinds of tools.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    /// A function of the caller's.
    Function,
}

/// A function.
#[derive(ToSchema)]
pub struct Function {
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

/// Which tools must be called.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// None, any or at least one.
    Word(ToolWord),
    /// The function of this name.
    Function(NamedTool),
}

/// Which tools must be called, in a word.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolWord {
    /// No call.
    None,
    /// As the model likes.
    Auto,
    /// At least one call.
    Required,
}

/// A function by its name.
#[derive(ToSchema)]
pub struct NamedTool {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function, in chat completions.
    pub function: Option<FunctionName>,
    /// The function's name, in responses.
    pub name: Option<String>,
}

/// A function's name.
#[derive(ToSchema)]
pub struct FunctionName {
    /// The name.
    pub name: String,
}

/// A call of a tool.
#[derive(ToSchema)]
pub struct ToolCall {
    /// The call's name, to which its result refers.
    pub id: Option<String>,
    /// Its place in a stream.
    pub index: Option<u64>,
    /// The kind.
    #[serde(rename = "type")]
    pub kind: Option<ToolKind>,
    /// What is called.
    pub function: CalledFunction,
}

/// What is called. A stream gives the name first and then the arguments in pieces.
#[derive(ToSchema)]
pub struct CalledFunction {
    /// The function.
    pub name: Option<String>,
    /// Its arguments, as text that is JSON.
    #[schema(value_type = Option<String>)]
    pub arguments: Option<Value>,
}
