//! `<function=NAME>` with `<parameter=NAME>` for each argument, as Qwen3-Coder and Qwen3.5 write it.

use serde_json::Value;

use super::{CALL_END, Pieces, Tools};

const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// A call being read.
pub struct Call {
    tools: Tools,
    text: String,
    state: State,
}

enum State {
    /// Name not known yet.
    Head,
    /// Behind so many arguments of a function.
    Arguments { function: String, count: usize },
    /// Behind them.
    Tail,
}

impl Call {
    /// A call of one of `tools`, whose schemas tell the types of arguments.
    pub fn new(tools: Tools) -> Call {
        Call {
            tools,
            text: String::new(),
            state: State::Head,
        }
    }

    /// The call's text so far.
    pub fn text(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Adds text; see [`super::ToolParser::push`].
    pub fn push(
        &mut self,
        text: &str,
        pieces: &mut Pieces<'_>,
    ) -> Option<(String, Option<String>)> {
        self.text.push_str(text);
        loop {
            match &mut self.state {
                State::Head => {
                    let named = self.text.split_once(FUNCTION);
                    let named = named.and_then(|(_, rest)| rest.split_once('>'));
                    let end = self.text.find(CALL_END);
                    let Some((name, rest)) = named.filter(|(name, _)| !name.contains('<')) else {
                        let end = end? + CALL_END.len();
                        let rest = self.text.split_off(end);
                        return Some((rest, Some(self.text())));
                    };
                    let function = name.trim().to_owned();
                    pieces.start(&function);
                    self.text = rest.to_owned();
                    self.state = State::Arguments { function, count: 0 };
                }
                State::Arguments { function, count } => {
                    let function_end = self.text.find(FUNCTION_END);
                    let parameter = self.text.find(PARAMETER);
                    if let Some(at) = parameter.filter(|at| function_end.is_none_or(|e| *at < e)) {
                        let (name, value, rest) = argument(&self.text[at + PARAMETER.len()..])?;
                        let value = typed(&self.tools, function, name, value);
                        let before = if *count == 0 { '{' } else { ',' };
                        pieces.arguments(&format!("{before}{}:{value}", Value::from(name)));
                        *count += 1;
                        self.text = rest.to_owned();
                        continue;
                    }
                    let end = function_end? + FUNCTION_END.len();
                    pieces.arguments(if *count == 0 { "{}" } else { "}" });
                    self.text.drain(..end);
                    self.state = State::Tail;
                }
                State::Tail => {
                    let (_, rest) = self.text.split_once(CALL_END)?;
                    return Some((rest.to_owned(), None));
                }
            }
        }
    }
}

/// Name and value of a complete argument, and what follows it.
fn argument(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once('>')?;
    let (value, rest) = rest.split_once(PARAMETER_END)?;
    let value = value.strip_prefix('\n').unwrap_or(value);
    let value = value.strip_suffix('\n').unwrap_or(value);
    Some((name.trim(), value, rest))
}

/// The argument as JSON: text stays text where the schema asks for it or says nothing.
fn typed(tools: &Tools, function: &str, name: &str, value: &str) -> Value {
    let tool = tools.iter().find(|tool| tool.name == function);
    let schema = tool.and_then(|t| t.parameters.get("properties")?.get(name));
    let is_text = match schema.and_then(|s| s.get("type")) {
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => kinds.iter().all(|k| k == "string"),
        _ => schema.is_none_or(|s| s.get("anyOf").is_none() && s.get("$ref").is_none()),
    };
    match is_text {
        true => value.into(),
        false => serde_json::from_str(value).unwrap_or_else(|_| value.into()),
    }
}
