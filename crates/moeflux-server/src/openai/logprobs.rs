//! Log probabilities as OpenAI's clients expect them.

use serde_json::{Map, Value, json};

use crate::model::ServedModel;
use crate::scheduler::Sampled;

fn text(model: &ServedModel, token: u32) -> String {
    String::from_utf8_lossy(model.vocabulary().bytes(token)).into_owned()
}

/// A token of a chat completion.
pub fn of_chat(model: &ServedModel, sampled: &Sampled) -> Value {
    let entry = |token: u32, logprob: f32| {
        json!({
            "token": text(model, token),
            "logprob": logprob,
            "bytes": model.vocabulary().bytes(token),
        })
    };
    let top = sampled.top.iter().map(|t| entry(t.token, t.logprob));
    let top: Vec<Value> = top.collect();
    let mut value = entry(sampled.token, sampled.logprob.unwrap_or(f32::MIN));
    value["top_logprobs"] = Value::Array(top);
    value
}

/// The tokens of a completion, which come as lists.
#[derive(Debug, Default)]
pub struct Lists {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
    offset: usize,
}

impl Lists {
    /// Adds a token.
    pub fn push(&mut self, model: &ServedModel, sampled: &Sampled) {
        let own = text(model, sampled.token);
        self.offsets.push(self.offset.into());
        self.offset += own.chars().count();
        self.tokens.push(own.into());
        self.logprobs.push(json!(sampled.logprob));
        let mut top = Map::new();
        for other in &sampled.top {
            top.insert(text(model, other.token), json!(other.logprob));
        }
        self.top.push(Value::Object(top));
    }

    /// The lists of the tokens since the last time.
    pub fn take(&mut self) -> Value {
        json!({
            "tokens": std::mem::take(&mut self.tokens),
            "token_logprobs": std::mem::take(&mut self.logprobs),
            "top_logprobs": std::mem::take(&mut self.top),
            "text_offset": std::mem::take(&mut self.offsets),
        })
    }
}
