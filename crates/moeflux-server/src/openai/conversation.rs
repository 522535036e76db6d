//! The messages of a request, as chat templates see them.

use moeflux::text::Message;
use serde_json::{Map, Value};

use crate::http::{ApiError, Fields, kind};

/// Reads a request's `messages`.
///
/// # Errors
/// There are none, or one is not as it should be.
pub fn conversation(messages: Vec<Value>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::value(
            "messages",
            "is empty; send at least one message",
        ));
    }
    let numbered = messages.into_iter().enumerate();
    numbered
        .map(|(index, value)| message(value, &format!("messages[{index}]")))
        .collect()
}

fn message(value: Value, place: &str) -> Result<Message, ApiError> {
    let mut fields = Fields::of_value(value, place)?;
    // Clients send back what they were given; the rest of these says nothing to a model.
    fields.ignore(&["id", "annotations", "refusal", "name"]);
    fields.only("audio", &[])?;
    fields.only("function_call", &[])?;
    let role: String = fields.require("role")?;
    let role = match role.as_str() {
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => &role,
        other => {
            let problem =
                format!("`{other}` is not one of system, developer, user, assistant, tool");
            return Err(ApiError::value(&fields.name("role"), problem));
        }
    };
    let content: Option<Value> = fields.take("content")?;
    let calls: Option<Vec<Value>> = fields.take("tool_calls")?;
    let reasoning: Option<String> = fields.take("reasoning_content")?;
    let reasoning = reasoning.or(fields.take("reasoning")?);
    let answers_to: Option<String> = fields.take("tool_call_id")?;
    let place_of_content = fields.name("content");
    let has_calls = calls.as_ref().is_some_and(|c| !c.is_empty());
    let text = match content {
        Some(content) => text_of(content, &place_of_content)?,
        None if role == "assistant" && (has_calls || reasoning.is_some()) => String::new(),
        None => {
            let message = format!("`{place_of_content}` is missing");
            let code = "missing_required_parameter";
            return Err(ApiError::param(&place_of_content, code, message));
        }
    };
    let mut message = Message::new(role, &text);
    if let Some(reasoning) = reasoning {
        message.set("reasoning_content", reasoning.into());
    }
    if let Some(calls) = calls.filter(|c| !c.is_empty()) {
        if role != "assistant" {
            let problem = "only messages of the assistant have these";
            return Err(ApiError::value(&fields.name("tool_calls"), problem));
        }
        let numbered = calls.into_iter().enumerate();
        let place = |index| format!("{}[{index}]", fields.name("tool_calls"));
        let calls: Result<_, _> = numbered.map(|(i, c)| tool_call(c, &place(i))).collect();
        message.set("tool_calls", Value::Array(calls?));
    }
    if role == "tool" {
        let id = answers_to.unwrap_or_default();
        message.set("tool_call_id", id.into());
    }
    fields.finish()?;
    Ok(message)
}

/// The text of a content: text, or a list of parts of text.
///
/// # Errors
/// It is something else, such as a picture.
pub fn text_of(content: Value, place: &str) -> Result<String, ApiError> {
    match content {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let mut all = String::new();
            for (index, part) in parts.into_iter().enumerate() {
                let place = format!("{place}[{index}]");
                let mut part = Fields::of_value(part, &place)?;
                let kind: String = part.require("type")?;
                if !matches!(kind.as_str(), "text" | "input_text" | "output_text") {
                    let problem = format!("parts of type `{kind}` are not supported; send text");
                    return Err(ApiError::value(&place, problem));
                }
                all.push_str(&part.require::<String>("text")?);
                part.ignore(&["annotations", "logprobs", "cache_control", "citations"]);
                part.finish()?;
            }
            Ok(all)
        }
        other => {
            let problem = format!("must be text or a list of parts, not {}", kind(&other));
            Err(ApiError::value(place, problem))
        }
    }
}

/// A call that the assistant made; templates take its arguments as an object.
fn tool_call(value: Value, place: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::of_value(value, place)?;
    let id: String = fields.take("id")?.unwrap_or_default();
    fields.only("type", &["function".into()])?;
    fields.ignore(&["index"]);
    let function: Value = fields.require("function")?;
    let mut function = Fields::of_value(function, &fields.name("function"))?;
    fields.finish()?;
    let name: String = function.require("name")?;
    let arguments: Option<Value> = function.take("arguments")?;
    let place = function.name("arguments");
    function.finish()?;
    let arguments = match arguments {
        None => Value::Object(Map::new()),
        Some(Value::String(json)) if json.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(json)) => serde_json::from_str(&json)
            .map_err(|error| ApiError::value(&place, format!("is not JSON: {error}")))?,
        Some(other) => other,
    };
    if !arguments.is_object() {
        let problem = format!("must be a JSON object, not {}", kind(&arguments));
        return Err(ApiError::value(&place, problem));
    }
    Ok(call_for_template(&id, &name, arguments))
}

/// A call as templates take it.
pub fn call_for_template(id: &str, name: &str, arguments: Value) -> Value {
    serde_json::json!({
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    })
}
