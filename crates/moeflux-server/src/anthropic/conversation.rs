//! The system prompt, messages and tools of a request, as chat templates see them.

use moeflux::text::Message;
use serde_json::Value;

use crate::answer::tools::Tool;
use crate::app::App;
use crate::http::{ApiError, Fields, kind};
use crate::openai::{self, Offer, ToolChoice, text_of};

/// Takes `system` and `messages`.
///
/// # Errors
/// There are none, or one is not as it should be.
pub fn take(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let mut all = Vec::new();
    if let Some(system) = fields.take::<Value>("system")? {
        all.push(Message::new("system", &text_of(system, "system")?));
    }
    let messages: Vec<Value> = fields.require("messages")?;
    if messages.is_empty() {
        return Err(ApiError::value(
            "messages",
            "is empty; send at least one message",
        ));
    }
    for (index, value) in messages.into_iter().enumerate() {
        let mut fields = Fields::of_value(value, &format!("messages[{index}]"))?;
        let role: String = fields.require("role")?;
        let content: Value = fields.require("content")?;
        let place = fields.name("content");
        fields.ignore(&[
            "id",
            "type",
            "model",
            "stop_reason",
            "stop_sequence",
            "usage",
        ]);
        let role_place = fields.name("role");
        fields.finish()?;
        match role.as_str() {
            "user" => user(content, &place, &mut all)?,
            "assistant" => all.push(assistant(content, &place)?),
            "system" => all.push(Message::new("system", &text_of(content, &place)?)),
            other => {
                let problem = format!("`{other}` is not one of user, assistant, system");
                return Err(ApiError::value(&role_place, problem));
            }
        }
    }
    Ok(all)
}

/// The blocks of a content, each with its place; text counts as one block.
fn blocks(content: Value, place: &str) -> Result<Vec<(String, Fields)>, ApiError> {
    match content {
        Value::String(text) => {
            let block = serde_json::json!({"text": text});
            Ok(vec![("text".to_owned(), Fields::of_value(block, place)?)])
        }
        Value::Array(list) => {
            let numbered = list.into_iter().enumerate();
            let block = |(index, value)| {
                let mut block = Fields::of_value(value, &format!("{place}[{index}]"))?;
                block.ignore(&["cache_control", "citations"]);
                Ok((block.require("type")?, block))
            };
            numbered.map(block).collect()
        }
        other => {
            let problem = format!("must be text or a list of blocks, not {}", kind(&other));
            Err(ApiError::value(place, problem))
        }
    }
}

fn unsupported(kind: &str, block: &Fields) -> ApiError {
    let problem = format!("blocks of type `{kind}` are not supported here");
    ApiError::value(&block.name("type"), problem)
}

/// A user's message: results of tools become messages of their own, before the text.
fn user(content: Value, place: &str, all: &mut Vec<Message>) -> Result<(), ApiError> {
    let mut text = String::new();
    let mut results = 0;
    for (kind, mut block) in blocks(content, place)? {
        match kind.as_str() {
            "text" => text.push_str(&block.require::<String>("text")?),
            "tool_result" => {
                let id: String = block.require("tool_use_id")?;
                let place = block.name("content");
                let content: Option<Value> = block.take("content")?;
                let mut content = content.map_or(Ok(String::new()), |c| text_of(c, &place))?;
                if block.take("is_error")?.unwrap_or(false) {
                    content.insert_str(0, "Error: ");
                }
                let mut message = Message::new("tool", &content);
                message.set("tool_call_id", id.into());
                all.push(message);
                results += 1;
            }
            other => return Err(unsupported(other, &block)),
        }
        block.finish()?;
    }
    if results == 0 || !text.is_empty() {
        all.push(Message::new("user", &text));
    }
    Ok(())
}

fn assistant(content: Value, place: &str) -> Result<Message, ApiError> {
    let (mut text, mut thinking, mut calls) = (String::new(), String::new(), Vec::new());
    for (kind, mut block) in blocks(content, place)? {
        match kind.as_str() {
            "text" => text.push_str(&block.require::<String>("text")?),
            "thinking" => {
                thinking.push_str(&block.require::<String>("thinking")?);
                block.ignore(&["signature"]);
            }
            "redacted_thinking" => block.ignore(&["data"]),
            "tool_use" => {
                let id: String = block.require("id")?;
                let name: String = block.require("name")?;
                let input: Value = block.require("input")?;
                if !input.is_object() {
                    let problem = "must be a JSON object";
                    return Err(ApiError::value(&block.name("input"), problem));
                }
                block.ignore(&["caller"]);
                calls.push(openai::call_for_template(&id, &name, input));
            }
            other => return Err(unsupported(other, &block)),
        }
        block.finish()?;
    }
    let mut message = Message::new("assistant", &text);
    if !thinking.is_empty() {
        message.set("reasoning_content", thinking.into());
    }
    if !calls.is_empty() {
        message.set("tool_calls", Value::Array(calls));
    }
    Ok(message)
}

/// Takes `tools` and `tool_choice`.
///
/// # Errors
/// One of them is not as it should be.
pub fn take_tools(app: &App, fields: &mut Fields) -> Result<Offer, ApiError> {
    let tools: Vec<Value> = fields.take("tools")?.unwrap_or_default();
    let numbered = tools.into_iter().enumerate();
    let tools: Result<Vec<Tool>, _> = numbered
        .map(|(index, value)| {
            let mut fields = Fields::of_value(value, &format!("tools[{index}]"))?;
            fields.only("type", &["custom".into()])?;
            fields.ignore(&["cache_control"]);
            openai::tool(fields, "input_schema")
        })
        .collect();
    let (mut choice, mut parallel) = (ToolChoice::Auto, true);
    if let Some(value) = fields.take::<Value>("tool_choice")? {
        let mut fields = Fields::of_value(value, "tool_choice")?;
        let kind: String = fields.require("type")?;
        choice = match kind.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "any" => ToolChoice::Required,
            "tool" => ToolChoice::Named(fields.require("name")?),
            other => {
                let problem = format!("`{other}` is not one of auto, any, tool, none");
                return Err(ApiError::value("tool_choice.type", problem));
            }
        };
        parallel = !fields.take("disable_parallel_tool_use")?.unwrap_or(false);
        fields.finish()?;
    }
    Offer::new(app, tools?, choice, parallel)
}
