//! Splits an answer's text into content, reasoning and tool calls while it is being written.

use super::open_tag;
use super::tools::{ToolFormat, ToolParser, Tools};

const REASONING: &str = "<think>";
const REASONING_END: &str = "</think>";
const TOOL_CALL: &str = "<tool_call>";

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Text for the reader.
    Text(String),
    /// What the model thought before.
    Reasoning(String),
    /// A call of a tool begins.
    ToolStart {
        /// Which call of the answer, from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments, as JSON.
    ToolArguments {
        /// Which call of the answer, from 0.
        index: usize,
        /// The piece.
        json: String,
    },
}

enum Mode {
    Text,
    Reasoning,
    Tool(ToolParser),
}

/// Turns pieces of text into [`Delta`]s.
pub struct OutputParser {
    mode: Mode,
    reasons: bool,
    tools: Option<(ToolFormat, Tools)>,
    /// Text that may be the start of a tag.
    held: String,
    /// White space that is shown if text follows.
    space: String,
    calls: usize,
    /// Whether any text was shown.
    shown: bool,
    /// Whether reasoning or a call came before, so that white space around them is theirs.
    split: bool,
}

impl OutputParser {
    /// A parser; `reasons`: whether the model may reason first, `reasoning`: whether it has begun
    /// to in the prompt, `tools`: how it calls tools, if it was given any.
    pub fn new(reasons: bool, reasoning: bool, tools: Option<(ToolFormat, Tools)>) -> OutputParser {
        OutputParser {
            mode: match reasoning {
                true => Mode::Reasoning,
                false => Mode::Text,
            },
            reasons,
            tools,
            held: String::new(),
            space: String::new(),
            calls: 0,
            shown: false,
            split: reasoning,
        }
    }

    /// Whether what comes is reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.mode, Mode::Reasoning)
    }

    /// Tool calls begun so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Adds a piece of text.
    pub fn push(&mut self, piece: &str) -> Vec<Delta> {
        let mut deltas = Vec::new();
        self.held.push_str(piece);
        while self.parse(&mut deltas) {}
        deltas
    }

    /// What is left when no more text follows.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        let held = std::mem::take(&mut self.held);
        match &mut self.mode {
            Mode::Text => self.text(&held, &mut deltas),
            Mode::Reasoning => reasoning(&held, &mut deltas),
            Mode::Tool(parser) => {
                if let Some(text) = parser.finish(&held) {
                    self.text(&format!("{TOOL_CALL}{text}"), &mut deltas);
                }
            }
        }
        let space = std::mem::take(&mut self.space);
        if !space.is_empty() && (self.shown || !self.split) {
            deltas.push(Delta::Text(space));
        }
        deltas
    }

    /// Takes what can be taken of the held text; whether there may be more.
    fn parse(&mut self, deltas: &mut Vec<Delta>) -> bool {
        let held = std::mem::take(&mut self.held);
        match &mut self.mode {
            Mode::Text => self.parse_text(held, deltas),
            Mode::Reasoning => match held.split_once(REASONING_END) {
                Some((before, after)) => {
                    reasoning(before, deltas);
                    self.held = after.to_owned();
                    self.mode = Mode::Text;
                    true
                }
                None => {
                    let open = open_tag(&held, std::iter::once(REASONING_END));
                    let (now, later) = held.split_at(held.len() - open);
                    reasoning(now, deltas);
                    self.held = later.to_owned();
                    false
                }
            },
            Mode::Tool(parser) => {
                let Some((rest, refused)) = parser.push(&held, deltas) else {
                    return false;
                };
                if parser.has_begun() {
                    self.calls += 1;
                    self.space.clear();
                }
                self.mode = Mode::Text;
                self.held = rest;
                if let Some(text) = refused {
                    self.text(&format!("{TOOL_CALL}{text}"), deltas);
                }
                true
            }
        }
    }

    fn parse_text(&mut self, held: String, deltas: &mut Vec<Delta>) -> bool {
        let reasoning = (self.reasons && !self.shown && !self.split).then_some(REASONING);
        let call = self.tools.as_ref().map(|_| TOOL_CALL);
        let tags = reasoning.into_iter().chain(call);
        let found = tags.clone().filter_map(|t| held.find(t).map(|at| (at, t)));
        let Some((at, tag)) = found.min() else {
            let open = open_tag(&held, tags);
            let (now, later) = held.split_at(held.len() - open);
            self.text(now, deltas);
            self.held = later.to_owned();
            return false;
        };
        if tag == REASONING && !held[..at].trim().is_empty() {
            // Not at the start: text like any other.
            self.text(&held[..at + tag.len()], deltas);
            self.held = held[at + tag.len()..].to_owned();
            return true;
        }
        self.text(&held[..at], deltas);
        self.held = held[at + tag.len()..].to_owned();
        self.split = true;
        match (&self.tools, tag == REASONING) {
            (Some((format, tools)), false) => {
                self.mode = Mode::Tool(ToolParser::new(*format, self.calls, tools.clone()));
            }
            _ => {
                self.space.clear();
                self.mode = Mode::Reasoning;
            }
        }
        true
    }

    /// Shows text, but for white space at its end.
    fn text(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        self.space.push_str(text);
        let solid = self.space.trim_end().len();
        if solid == 0 {
            return;
        }
        let rest = self.space.split_off(solid);
        let text = std::mem::replace(&mut self.space, rest);
        let text = match self.split && !self.shown {
            true => text.trim_start(),
            false => &text,
        };
        self.shown = true;
        deltas.push(Delta::Text(text.to_owned()));
    }
}

fn reasoning(text: &str, deltas: &mut Vec<Delta>) {
    if !text.is_empty() {
        deltas.push(Delta::Reasoning(text.to_owned()));
    }
}
