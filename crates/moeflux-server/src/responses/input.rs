//! The instructions, items and tools of a request, as chat templates see them.

use moeflux::text::Message;
use serde_json::{Value, json};

use crate::answer::tools::Tool;
use crate::app::App;
use crate::http::{ApiError, Fields};
use crate::openai::{self, Offer, conversation, text_of};

/// Takes `instructions` and `input`.
///
/// # Errors
/// There is none, or an item is not as it should be.
pub fn take(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let mut all: Vec<Value> = Vec::new();
    if let Some(text) = fields.take::<String>("instructions")? {
        all.push(json!({"role": "system", "content": text}));
    }
    match fields.require::<Value>("input")? {
        Value::String(text) => all.push(json!({"role": "user", "content": text})),
        Value::Array(items) => {
            for (index, value) in items.into_iter().enumerate() {
                let item = Fields::of_value(value, &format!("input[{index}]"))?;
                add(item, &mut all)?;
            }
        }
        _ => return Err(ApiError::value("input", "must be text or a list of items")),
    }
    // The items were checked, so what is wrong here concerns them together.
    conversation(all).map_err(|error| ApiError {
        param: Some("input".to_owned()),
        ..error
    })
}

fn add(mut item: Fields, all: &mut Vec<Value>) -> Result<(), ApiError> {
    item.ignore(&["id", "status", "phase"]);
    let kind: Option<String> = item.take("type")?;
    match kind.as_deref().unwrap_or("message") {
        "message" => {
            let role: String = item.require("role")?;
            let place = item.name("content");
            let content = text_of(item.require("content")?, &place)?;
            all.push(json!({"role": role, "content": content}));
        }
        "function_call" => {
            let id: String = item.require("call_id")?;
            let name: String = item.require("name")?;
            let arguments: String = item.require("arguments")?;
            let function = json!({"name": name, "arguments": arguments});
            let call = json!({"id": id, "type": "function", "function": function});
            // Calls belong to the message before them, or to one without text.
            if all.last().is_none_or(|last| last["role"] != "assistant") {
                all.push(json!({"role": "assistant", "content": ""}));
            }
            if let Some(last) = all.last_mut() {
                match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                }
            }
        }
        "function_call_output" => {
            let id: String = item.require("call_id")?;
            let place = item.name("output");
            let output = text_of(item.require("output")?, &place)?;
            all.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
        }
        // What the model thought before earlier answers is not shown to it again.
        "reasoning" => item.ignore(&["summary", "content", "encrypted_content"]),
        other => {
            let problem = format!("items of type `{other}` are not supported");
            return Err(ApiError::value(&item.name("type"), problem));
        }
    }
    item.finish()
}

/// Takes `tools`, `tool_choice` and `parallel_tool_calls`.
///
/// # Errors
/// One of them is not as it should be.
pub fn take_tools(app: &App, fields: &mut Fields) -> Result<Offer, ApiError> {
    let tools: Vec<Value> = fields.take("tools")?.unwrap_or_default();
    let numbered = tools.into_iter().enumerate();
    let tools: Result<Vec<Tool>, _> = numbered
        .map(|(index, value)| {
            let mut fields = Fields::of_value(value, &format!("tools[{index}]"))?;
            let kind: String = fields.require("type")?;
            if kind != "function" {
                let problem = format!("`{kind}` is not supported; send functions");
                return Err(ApiError::value(&fields.name("type"), problem));
            }
            openai::tool(fields, "parameters")
        })
        .collect();
    let choice = openai::tool_choice(fields)?;
    let parallel = fields.take("parallel_tool_calls")?.unwrap_or(true);
    Offer::new(app, tools?, choice, parallel)
}
