//! The tools of a request, and which of them must be called.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::answer::tools::{Tool, Tools};
use crate::app::App;
use crate::http::{ApiError, Fields};

/// The most tools of a request.
const MOST_TOOLS: usize = 512;

/// Which tools must be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// As the model likes.
    #[default]
    Auto,
    /// None: they are not even shown.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// The tools that a request offers.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// The tools, those that the choice leaves.
    pub tools: Tools,
    /// Which must be called.
    pub choice: Choice,
    /// Whether one answer may have several calls.
    pub parallel: bool,
}

impl Offer {
    /// Puts tools and choice together.
    ///
    /// # Errors
    /// They contradict each other, or the model cannot call tools.
    pub fn new(
        app: &App,
        tools: Vec<Tool>,
        choice: Choice,
        parallel: bool,
    ) -> Result<Offer, ApiError> {
        if tools.len() > MOST_TOOLS {
            let problem = format!("has {} tools; at most {MOST_TOOLS}", tools.len());
            return Err(ApiError::value("tools", problem));
        }
        for (index, tool) in tools.iter().enumerate() {
            if tools[..index].iter().any(|other| other.name == tool.name) {
                let problem = format!("two tools are called `{}`", tool.name);
                return Err(ApiError::value(&format!("tools[{index}]"), problem));
            }
        }
        match &choice {
            Choice::Required if tools.is_empty() => {
                return Err(ApiError::value("tool_choice", "there are no tools to call"));
            }
            Choice::Named(name) if !tools.iter().any(|t| t.name == *name) => {
                let problem = format!("there is no tool `{name}`");
                return Err(ApiError::value("tool_choice", problem));
            }
            _ => {}
        }
        let tools = match choice {
            Choice::None => Vec::new(),
            _ => tools,
        };
        if !tools.is_empty() && app.model.tool_format.is_none() {
            let problem = "this model's chat template has no calls of tools in a known format";
            return Err(ApiError::value("tools", problem));
        }
        Ok(Offer {
            tools: Arc::new(tools),
            choice,
            parallel,
        })
    }

    /// Takes the parameters of a chat completion.
    ///
    /// # Errors
    /// One of them is not as it should be.
    pub fn take(app: &App, fields: &mut Fields) -> Result<Offer, ApiError> {
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
                let function: Value = fields.require("function")?;
                let function = Fields::of_value(function, &fields.name("function"))?;
                fields.finish()?;
                tool(function, "parameters")
            })
            .collect();
        let choice = tool_choice(fields)?;
        let parallel = fields.take("parallel_tool_calls")?.unwrap_or(true);
        Offer::new(app, tools?, choice, parallel)
    }
}

/// Reads a tool whose schema is the field `schema`.
///
/// # Errors
/// Name or schema are not as they should be.
pub fn tool(mut fields: Fields, schema: &str) -> Result<Tool, ApiError> {
    let name: String = fields.require("name")?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(is_name) {
        let problem = format!("`{name}` must have 1 to 128 letters, digits, `_`, `-` or `.`");
        return Err(ApiError::value(&fields.name("name"), problem));
    }
    let description: Option<String> = fields.take("description")?;
    let parameters: Option<Value> = fields.take(schema)?;
    let strict: Option<bool> = fields.take("strict")?;
    let place = fields.name(schema);
    fields.finish()?;
    let parameters = parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    if !parameters.is_object() {
        return Err(ApiError::value(
            &place,
            "must be a JSON schema, which is an object",
        ));
    }
    Ok(Tool {
        name,
        description,
        parameters,
        strict: strict.unwrap_or(false),
    })
}

/// Takes `tool_choice`.
///
/// # Errors
/// It is none of the known forms.
pub fn tool_choice(fields: &mut Fields) -> Result<Choice, ApiError> {
    const FORMS: &str = "must be none, auto, required, or a function by its name";
    match fields.take::<Value>("tool_choice")? {
        None => Ok(Choice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::None),
            "required" => Ok(Choice::Required),
            _ => Err(ApiError::value("tool_choice", FORMS)),
        },
        Some(value) => {
            let name = value.pointer("/function/name").or(value.get("name"));
            match name.and_then(Value::as_str) {
                Some(name) if value["type"] == "function" => Ok(Choice::Named(name.to_owned())),
                _ => Err(ApiError::value("tool_choice", FORMS)),
            }
        }
    }
}
