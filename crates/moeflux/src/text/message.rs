//! A chat message as templates see it: an object with a role, a content, and whatever else.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation. Every field that came in reaches the template, in its order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message {
    fields: Map<String, Value>,
}

/// Names under which reasoning is passed; the first is the one that templates read.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Message {
    /// A message of text.
    pub fn new(role: &str, content: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("role".into(), role.into());
        fields.insert("content".into(), content.into());
        Self { fields }
    }

    /// A message from its JSON object.
    pub fn from_fields(fields: Map<String, Value>) -> Self {
        Self { fields }
    }

    /// All fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Sets a field, for example `tool_calls`.
    pub fn set(&mut self, name: &str, value: Value) {
        self.fields.insert(name.into(), value);
    }

    /// The role, empty when absent.
    pub fn role(&self) -> &str {
        self.fields
            .get("role")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The content when it is text.
    pub fn content(&self) -> Option<&str> {
        self.fields.get("content").and_then(Value::as_str)
    }

    /// The object for the template: reasoning is offered under each name that templates use, as
    /// transformers does.
    pub(super) fn for_template(&self) -> Value {
        let reasoning = REASONING_FIELDS
            .iter()
            .find_map(|name| self.fields.get(*name).filter(|value| !value.is_null()));
        let Some(reasoning) = reasoning else {
            return Value::Object(self.fields.clone());
        };
        let mut fields = Map::new();
        fields.insert("thinking".into(), reasoning.clone());
        for (name, value) in &self.fields {
            fields.insert(name.clone(), value.clone());
        }
        fields.insert("reasoning_content".into(), reasoning.clone());
        Value::Object(fields)
    }
}
