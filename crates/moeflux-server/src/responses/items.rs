//! An answer as output items, and the events that tell of them.

use serde_json::{Value, json};

use crate::answer::Delta;
use crate::app::App;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Reasoning,
    Call,
}

/// The item that is growing.
struct Open {
    kind: Kind,
    id: String,
    item: Value,
    text: String,
}

/// The items of one answer as they grow.
#[derive(Default)]
pub struct Items {
    /// Those that are complete.
    pub done: Vec<Value>,
    open: Option<Open>,
}

impl Items {
    /// Adds a piece of the answer and tells the events of it.
    pub fn push(&mut self, app: &App, delta: Delta, events: &mut Vec<Value>) {
        match delta {
            Delta::Text(text) => {
                self.open(app, Kind::Message, None, events);
                self.more("response.output_text.delta", &text, events);
            }
            Delta::Reasoning(text) => {
                self.open(app, Kind::Reasoning, None, events);
                self.more("response.reasoning_text.delta", &text, events);
            }
            Delta::ToolStart { name, .. } => {
                self.close("completed", events);
                self.open(app, Kind::Call, Some(&name), events);
            }
            Delta::ToolArguments { json, .. } => {
                self.more("response.function_call_arguments.delta", &json, events);
            }
        }
    }

    fn open(&mut self, app: &App, kind: Kind, name: Option<&str>, events: &mut Vec<Value>) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.close("completed", events);
        let (id, item) = match kind {
            Kind::Message => {
                let id = app.name("msg_");
                let item = json!({"type": "message", "role": "assistant", "content": []});
                (id, item)
            }
            Kind::Reasoning => {
                let item = json!({"type": "reasoning", "summary": [], "content": []});
                (app.name("rs_"), item)
            }
            Kind::Call => {
                let item = json!({
                    "type": "function_call",
                    "call_id": app.name("call_"),
                    "name": name,
                    "arguments": "",
                });
                (app.name("fc_"), item)
            }
        };
        let mut item = item;
        item["id"] = id.as_str().into();
        item["status"] = "in_progress".into();
        let index = self.done.len();
        events.push(json!({
            "type": "response.output_item.added",
            "output_index": index,
            "item": item,
        }));
        if kind != Kind::Call {
            events.push(json!({
                "type": "response.content_part.added",
                "item_id": id,
                "output_index": index,
                "content_index": 0,
                "part": part(kind, ""),
            }));
        }
        self.open = Some(Open {
            kind,
            id,
            item,
            text: String::new(),
        });
    }

    fn more(&mut self, event: &str, text: &str, events: &mut Vec<Value>) {
        let Some(open) = &mut self.open else {
            return;
        };
        open.text.push_str(text);
        let mut event = json!({
            "type": event,
            "item_id": open.id,
            "output_index": self.done.len(),
            "delta": text,
        });
        if open.kind != Kind::Call {
            event["content_index"] = 0.into();
        }
        if open.kind == Kind::Message {
            event["logprobs"] = json!([]);
        }
        events.push(event);
    }

    /// Ends the item that is growing, with a status.
    pub fn close(&mut self, status: &str, events: &mut Vec<Value>) {
        let Some(open) = self.open.take() else {
            return;
        };
        let Open {
            kind,
            id,
            mut item,
            text,
        } = open;
        let index = self.done.len();
        let mut tell = |name: &str, field: &str, value: Value| {
            let mut event = json!({"type": name, "item_id": id, "output_index": index});
            event[field] = value;
            if kind != Kind::Call {
                event["content_index"] = 0.into();
            }
            events.push(event);
        };
        let part = part(kind, &text);
        match kind {
            Kind::Call => {
                let name = "response.function_call_arguments.done";
                tell(name, "arguments", text.as_str().into());
                item["arguments"] = text.into();
            }
            Kind::Message => {
                tell("response.output_text.done", "text", text.into());
                tell("response.content_part.done", "part", part.clone());
                item["content"] = json!([part]);
            }
            Kind::Reasoning => {
                tell("response.reasoning_text.done", "text", text.into());
                tell("response.content_part.done", "part", part.clone());
                item["content"] = json!([part]);
            }
        }
        item["status"] = status.into();
        events.push(json!({
            "type": "response.output_item.done",
            "output_index": index,
            "item": item,
        }));
        self.done.push(item);
    }
}

fn part(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Reasoning => json!({"type": "reasoning_text", "text": text}),
        _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
    }
}
