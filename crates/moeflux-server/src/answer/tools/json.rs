//! `{"name": NAME, "arguments": {..}}`, as Hermes and Qwen2.5 and 3 write it.

use serde_json::Value;

use super::{CALL_END, Pieces};

/// A call being read.
#[derive(Default)]
pub struct Call {
    text: String,
    state: State,
}

#[derive(Default)]
enum State {
    /// Name not known yet.
    #[default]
    Head,
    /// In the arguments, at this place of the text.
    Arguments { at: usize, nesting: Nesting },
    /// Behind them.
    Tail { at: usize },
}

/// Where in a JSON value one is.
#[derive(Clone, Copy, Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Goes on by a character; whether the value ends with it.
    fn ends(&mut self, c: char) -> bool {
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

impl Call {
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
                    if let Some((name, at)) = head(&self.text) {
                        pieces.start(&name);
                        let nesting = Nesting::default();
                        self.state = State::Arguments { at, nesting };
                        continue;
                    }
                    let (call, rest) = self.text.split_once(CALL_END)?;
                    return match whole(call) {
                        Some((name, arguments)) => {
                            pieces.start(&name);
                            pieces.arguments(&arguments);
                            Some((rest.to_owned(), None))
                        }
                        None => Some((rest.to_owned(), Some(format!("{call}{CALL_END}")))),
                    };
                }
                State::Arguments { at, nesting } => {
                    let new = &self.text[*at..];
                    let end = new.char_indices().find(|(_, c)| nesting.ends(*c));
                    let end = end.map(|(i, c)| i + c.len_utf8());
                    pieces.arguments(&new[..end.unwrap_or(new.len())]);
                    let Some(end) = end else {
                        *at = self.text.len();
                        return None;
                    };
                    self.state = State::Tail { at: *at + end };
                }
                State::Tail { at } => {
                    let (_, rest) = self.text[*at..].split_once(CALL_END)?;
                    return Some((rest.to_owned(), None));
                }
            }
        }
    }
}

/// The name, and where the arguments begin, if the call is written in the usual order.
fn head(text: &str) -> Option<(String, usize)> {
    let rest = text.trim_start().strip_prefix('{')?;
    let rest = key(rest, "name")?;
    let mut escaped = false;
    let end = rest.strip_prefix('"')?.char_indices().find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    let (name, rest) = rest.split_at(end?.0 + 2);
    let name: String = serde_json::from_str(name).ok()?;
    let rest = rest.trim_start().strip_prefix(',')?;
    let rest = key(rest, "arguments").or_else(|| key(rest, "parameters"))?;
    rest.starts_with('{')
        .then(|| (name, text.len() - rest.len()))
}

/// What follows a key and its colon.
fn key<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let rest = text.trim_start().strip_prefix('"')?.strip_prefix(name)?;
    let rest = rest.strip_prefix('"')?.trim_start().strip_prefix(':')?;
    Some(rest.trim_start())
}

/// Name and arguments of a complete call in any order.
fn whole(call: &str) -> Option<(String, String)> {
    let value: Value = serde_json::from_str(call.trim()).ok()?;
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = value.get("arguments").or_else(|| value.get("parameters"));
    let arguments = match arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(json)) => json.clone(),
        Some(other) => other.to_string(),
    };
    Some((name, arguments))
}
