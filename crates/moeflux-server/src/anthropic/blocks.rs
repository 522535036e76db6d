//! An answer as content blocks.

use serde_json::{Value, json};

use crate::answer::Delta;
use crate::app::App;

/// What happens to the blocks of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A block begins.
    Start(usize, Value),
    /// A block gets more.
    More(usize, Value),
    /// A block is complete.
    Stop(usize),
}

impl Change {
    /// The event's name and data.
    pub fn event(&self) -> (&'static str, Value) {
        let (name, index, more) = match self {
            Change::Start(index, block) => {
                let more = Some(("content_block", block));
                ("content_block_start", index, more)
            }
            Change::More(index, delta) => ("content_block_delta", index, Some(("delta", delta))),
            Change::Stop(index) => ("content_block_stop", index, None),
        };
        let mut data = json!({"type": name, "index": index});
        if let Some((field, value)) = more {
            data[field] = value.clone();
        }
        (name, data)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    Tool,
}

/// The blocks of one answer as they grow.
#[derive(Default)]
pub struct Blocks {
    count: usize,
    open: Option<Open>,
}

impl Blocks {
    /// What a piece of the answer changes.
    pub fn push(&mut self, app: &App, delta: Delta) -> Vec<Change> {
        let mut changes = Vec::new();
        match delta {
            Delta::Text(text) => {
                let empty = json!({"type": "text", "text": ""});
                self.open(Open::Text, empty, &mut changes);
                self.more(json!({"type": "text_delta", "text": text}), &mut changes);
            }
            Delta::Reasoning(text) => {
                let empty = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.open(Open::Thinking, empty, &mut changes);
                let more = json!({"type": "thinking_delta", "thinking": text});
                self.more(more, &mut changes);
            }
            Delta::ToolStart { name, .. } => {
                self.close(&mut changes);
                let id = app.name("toolu_");
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.open(Open::Tool, block, &mut changes);
            }
            Delta::ToolArguments { json, .. } => {
                let more = json!({"type": "input_json_delta", "partial_json": json});
                self.more(more, &mut changes);
            }
        }
        changes
    }

    /// Closes the block that is open.
    pub fn close(&mut self, changes: &mut Vec<Change>) {
        if self.open.take().is_some() {
            changes.push(Change::Stop(self.count - 1));
        }
    }

    fn open(&mut self, kind: Open, block: Value, changes: &mut Vec<Change>) {
        if self.open == Some(kind) {
            return;
        }
        self.close(changes);
        changes.push(Change::Start(self.count, block));
        self.open = Some(kind);
        self.count += 1;
    }

    fn more(&self, delta: Value, changes: &mut Vec<Change>) {
        if let Some(index) = self.count.checked_sub(1) {
            changes.push(Change::More(index, delta));
        }
    }
}

/// The complete blocks of an answer from all changes.
pub fn content(changes: Vec<Change>) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut input = String::new();
    for change in changes {
        match change {
            Change::Start(_, block) => {
                blocks.push(block);
                input.clear();
            }
            Change::More(index, delta) => {
                let block = &mut blocks[index];
                for (from, to) in [("text", "text"), ("thinking", "thinking")] {
                    if let (Some(more), Some(text)) = (delta[from].as_str(), block[to].as_str()) {
                        block[to] = format!("{text}{more}").into();
                    }
                }
                input.push_str(delta["partial_json"].as_str().unwrap_or_default());
            }
            Change::Stop(index) => {
                if !input.is_empty() {
                    // Arguments that were cut off are given as far as they came, as text.
                    let parsed = serde_json::from_str(&input);
                    blocks[index]["input"] =
                        parsed.unwrap_or_else(|_| json!({"incomplete": input}));
                    input.clear();
                }
            }
        }
    }
    blocks
}
