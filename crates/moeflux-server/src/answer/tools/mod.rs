//! Tool calls in the formats in which models write them, one file each.

mod json;
mod xml;

use std::sync::Arc;

use serde_json::Value;

use super::Delta;

/// How a model writes the calls of tools, between `<tool_call>` and `</tool_call>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// An object with `name` and `arguments`.
    Json,
    /// `<function=NAME>` around `<parameter=NAME>` for each argument.
    Xml,
}

impl ToolFormat {
    /// The format of a model that writes a call of the function `name` as `text`.
    pub fn of_call(text: &str, name: &str) -> Option<ToolFormat> {
        let call = text.split_once("<tool_call>")?.1;
        if call.contains(&format!("<function={name}>")) {
            return Some(ToolFormat::Xml);
        }
        call.contains(&format!("\"{name}\""))
            .then_some(ToolFormat::Json)
    }
}

const CALL_END: &str = "</tool_call>";

/// The tools that a model was given: objects with `name` and `parameters`.
pub type Tools = Arc<Vec<Tool>>;

/// A tool that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// The function's name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub parameters: Value,
    /// Whether arguments must follow the schema.
    pub strict: bool,
}

impl Tool {
    /// The tool as templates see it.
    pub fn for_template(&self) -> Value {
        let mut function = serde_json::Map::new();
        function.insert("name".into(), self.name.as_str().into());
        if let Some(description) = &self.description {
            function.insert("description".into(), description.as_str().into());
        }
        function.insert("parameters".into(), self.parameters.clone());
        serde_json::json!({"type": "function", "function": function})
    }
}

/// Reads one call of a tool while it is being written.
pub struct ToolParser {
    index: usize,
    begun: bool,
    state: State,
}

enum State {
    Json(json::Call),
    Xml(xml::Call),
}

impl ToolParser {
    /// A parser of the call number `index`.
    pub fn new(format: ToolFormat, index: usize, tools: Tools) -> ToolParser {
        ToolParser {
            index,
            begun: false,
            state: match format {
                ToolFormat::Json => State::Json(json::Call::default()),
                ToolFormat::Xml => State::Xml(xml::Call::new(tools)),
            },
        }
    }

    /// Whether the call has a name, so that it was shown as a call.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Adds text; once the call has ended, the text behind it, and the call's own text if it was
    /// no call.
    pub fn push(
        &mut self,
        text: &str,
        deltas: &mut Vec<Delta>,
    ) -> Option<(String, Option<String>)> {
        let mut pieces = Pieces {
            index: self.index,
            begun: &mut self.begun,
            deltas,
        };
        match &mut self.state {
            State::Json(call) => call.push(text, &mut pieces),
            State::Xml(call) => call.push(text, &mut pieces),
        }
    }

    /// The text of what was no call, when no more follows.
    pub fn finish(&mut self, held: &str) -> Option<String> {
        let text = match &mut self.state {
            State::Json(call) => call.text(),
            State::Xml(call) => call.text(),
        };
        (!self.begun).then(|| format!("{text}{held}"))
    }
}

/// Where a parser puts what it has read.
struct Pieces<'a> {
    index: usize,
    begun: &'a mut bool,
    deltas: &'a mut Vec<Delta>,
}

impl Pieces<'_> {
    fn start(&mut self, name: &str) {
        *self.begun = true;
        self.deltas.push(Delta::ToolStart {
            index: self.index,
            name: name.to_owned(),
        });
    }

    fn arguments(&mut self, json: &str) {
        if !json.is_empty() {
            self.deltas.push(Delta::ToolArguments {
                index: self.index,
                json: json.to_owned(),
            });
        }
    }
}
