//! What an answer may be: JSON, JSON of a schema, or calls of tools, held to while it is written.

use std::fmt::Write as _;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::answer::tools::{Tool, ToolFormat};
use crate::http::{ApiError, Fields};
use crate::model::{ServedModel, TokenBytes};
use crate::openai::{Offer, ToolChoice};
use crate::scheduler::Constraint;

/// What text an answer may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Shape {
    /// Any.
    #[default]
    Text,
    /// JSON of a schema.
    Schema(Value),
}

impl Shape {
    /// Takes a shape as OpenAI's clients give it.
    ///
    /// # Errors
    /// It is none of the known forms.
    pub fn take(fields: &mut Fields, name: &str) -> Result<Shape, ApiError> {
        let Some(value) = fields.take::<Value>(name)? else {
            return Ok(Shape::Text);
        };
        let mut format = Fields::of_value(value, &fields.name(name))?;
        let kind: String = format.require("type")?;
        let shape = match kind.as_str() {
            "text" => Shape::Text,
            "json_object" => Shape::Schema(json!({"type": "object"})),
            "json_schema" => {
                let inner: Option<Value> = format.take("json_schema")?;
                match inner {
                    Some(inner) => {
                        let mut inner = Fields::of_value(inner, &format.name("json_schema"))?;
                        let shape = Shape::schema(&mut inner)?;
                        inner.finish()?;
                        shape
                    }
                    // As the responses API has it.
                    None => Shape::schema(&mut format)?,
                }
            }
            _ => {
                let problem = "must be text, json_object or json_schema";
                return Err(ApiError::value(&format.name("type"), problem));
            }
        };
        format.finish()?;
        Ok(shape)
    }

    fn schema(fields: &mut Fields) -> Result<Shape, ApiError> {
        fields.ignore(&["name", "description", "strict"]);
        let schema: Value = fields.require("schema")?;
        match schema {
            Value::Object(_) | Value::Bool(_) => Ok(Shape::Schema(schema)),
            _ => {
                let problem = "must be a JSON schema, which is an object";
                Err(ApiError::value(&fields.name("schema"), problem))
            }
        }
    }
}

/// What a request's shape and tools ask of its answers; `reasoning`: an answer begins with reasoning,
/// of which nothing is asked.
///
/// # Errors
/// They contradict each other, or a schema cannot be used.
pub fn of(
    model: &ServedModel,
    shape: &Shape,
    offer: &Offer,
    reasoning: bool,
) -> Result<Option<Box<dyn Constraint>>, ApiError> {
    let calls = match (&offer.choice, model.tool_format) {
        (ToolChoice::Required | ToolChoice::Named(_), Some(format)) => Some(format),
        (_, Some(format)) if *shape != Shape::Text && !offer.tools.is_empty() => Some(format),
        _ => None,
    };
    let must_call = matches!(offer.choice, ToolChoice::Required | ToolChoice::Named(_));
    let schema = match shape {
        Shape::Schema(_) if must_call => {
            let problem = "contradicts `tool_choice`, which asks for a call";
            return Err(ApiError::value("response_format", problem));
        }
        Shape::Schema(schema) => Some(schema),
        Shape::Text => None,
    };
    if calls.is_none() && schema.is_none() {
        return Ok(None);
    }
    let grammar = grammar(schema, calls, offer, reasoning);
    let invalid = |error: &dyn std::fmt::Display| {
        let param = if schema.is_some() {
            "response_format"
        } else {
            "tools"
        };
        let message = format!(
            "a schema cannot be used: {}",
            first_line(&error.to_string())
        );
        ApiError::param(param, "invalid_schema", message)
    };
    let factory = model.grammars().map_err(|error| invalid(&error))?;
    let mut matcher = Matcher::new(factory.create_parser(TopLevelGrammar::from_lark(grammar)));
    if let Some(error) = matcher.get_error() {
        return Err(invalid(&error));
    }
    // A grammar may also turn out to be impossible when it is first asked.
    matcher.compute_mask().map_err(|error| invalid(&error))?;
    let after = reasoning.then(|| model.tokenizer.token_to_id("</think>"));
    Ok(Some(Box::new(Grammar {
        matcher,
        after: after.flatten(),
    })))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The grammar of an answer that is JSON of the schema, or calls, or one of both.
fn grammar(
    schema: Option<&Value>,
    calls: Option<ToolFormat>,
    offer: &Offer,
    reasoning: bool,
) -> String {
    let mut rules = String::new();
    let mut starts = Vec::new();
    // Writing to a string cannot fail.
    if let Some(schema) = schema {
        starts.push("json");
        let mut schema = schema.clone();
        if let Some(schema) = schema.as_object_mut() {
            schema.entry("x-guidance").or_insert_with(spacing);
        }
        let _ = writeln!(rules, "json: %json {schema}");
    }
    if let Some(format) = calls {
        starts.push("calls");
        let several = if offer.parallel {
            " (\"\\n\" call)*"
        } else {
            ""
        };
        let _ = writeln!(rules, "calls: call{several}");
        let named = |tool: &&Tool| match &offer.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        };
        let tools: Vec<&Tool> = offer.tools.iter().filter(named).collect();
        match format {
            ToolFormat::Json => json_calls(&mut rules, &tools),
            ToolFormat::Xml => xml_calls(&mut rules, &tools),
        }
    }
    let space = if reasoning { "/\\n{0,2}/ " } else { "" };
    format!("start: {space}({})\n{rules}", starts.join(" | "))
}

/// White space as most JSON on one line has it. A model that may put in as much as it likes can go on
/// with it until its tokens are used up.
fn spacing() -> Value {
    json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "})
}

fn json_calls(rules: &mut String, tools: &[&Tool]) {
    let call = |tool: &&Tool| {
        json!({
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": tool.parameters},
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    };
    for (index, tool) in tools.iter().enumerate() {
        let mut schema = call(tool);
        // References are to the schema's own root.
        if let Some(definitions) = schema["properties"]["arguments"]
            .as_object_mut()
            .and_then(|arguments| arguments.shift_remove("$defs"))
        {
            schema["$defs"] = definitions;
        }
        schema["x-guidance"] = spacing();
        let _ = writeln!(rules, "call{index}: %json {schema}");
    }
    let all: Vec<String> = (0..tools.len()).map(|i| format!("call{i}")).collect();
    let all = all.join(" | ");
    let _ = writeln!(
        rules,
        "call: \"<tool_call>\\n\" ({all}) \"\\n</tool_call>\""
    );
}

fn xml_calls(rules: &mut String, tools: &[&Tool]) {
    let quote = |text: &str| Value::from(text).to_string();
    for (index, tool) in tools.iter().enumerate() {
        let names = tool.parameters.get("properties").and_then(Value::as_object);
        let names: Vec<&String> = names.into_iter().flat_map(|p| p.keys()).collect();
        let arguments = match names.is_empty() {
            true => "",
            false => "(argument)*",
        };
        let arguments = arguments.replace("argument", &format!("argument{index}"));
        let open = quote(&format!("<function={}>\n", tool.name));
        let _ = writeln!(rules, "call{index}: {open} {arguments} \"</function>\"");
        if !names.is_empty() {
            let names = names.iter().map(|name| quote(name));
            let names = names.collect::<Vec<_>>().join(" | ");
            let _ = writeln!(
                rules,
                "argument{index}: \"<parameter=\" ({names}) \">\\n\" value \"\\n\""
            );
        }
    }
    let all: Vec<String> = (0..tools.len()).map(|i| format!("call{i}")).collect();
    let all = all.join(" | ");
    rules.push_str("value[suffix=\"</parameter>\"]: /(.|\\n)*/\n");
    let _ = writeln!(
        rules,
        "call: \"<tool_call>\\n\" ({all}) \"\\n</tool_call>\""
    );
}

/// What compiles grammars for a model's tokens.
///
/// # Errors
/// The vocabulary cannot be used.
pub fn factory(model: &ServedModel) -> Result<ParserFactory, String> {
    let tokens = model.vocabulary().tokens();
    let words: Vec<Vec<u8>> = tokens
        .iter()
        .map(|token| match token {
            TokenBytes::Text(bytes) => bytes.clone(),
            TokenBytes::Special(name) => {
                let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                marked.extend_from_slice(name.as_bytes());
                marked
            }
            TokenBytes::Unused => Vec::new(),
        })
        .collect();
    let end = model.generation.stop_tokens.first().copied();
    let end = end.ok_or("the model names no token that ends an answer")?;
    let info = TokRxInfo::new(words.len() as u32, end);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
    let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
    factory.quiet();
    Ok(factory)
}

/// A grammar and how far an answer is in it.
struct Grammar {
    matcher: Matcher,
    /// The token behind which it begins.
    after: Option<u32>,
}

impl Constraint for Grammar {
    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Grammar {
            matcher: self.matcher.deep_clone(),
            after: self.after,
        })
    }

    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        if self.after.is_some() {
            return Ok(());
        }
        let mask = self.matcher.compute_mask_or_eos();
        let mask = mask.map_err(|error| first_line(&error.to_string()).to_owned())?;
        for (token, logit) in logits.iter_mut().enumerate() {
            if token >= mask.len() || !mask.is_allowed(token as u32) {
                *logit = f32::MIN;
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool, String> {
        if let Some(after) = self.after {
            if token == after {
                self.after = None;
            }
            return Ok(false);
        }
        let taken = self.matcher.consume_token(token);
        taken.map_err(|error| first_line(&error.to_string()).to_owned())?;
        Ok(self.matcher.is_stopped())
    }
}
