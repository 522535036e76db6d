//! A conversation with a model that a server runs.

mod http;

use std::time::{Duration, Instant};

use moeflux::text::{Message, SuggestedSampling};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::args::GenerationArgs;
use crate::conversation::Show;
use crate::failure::Failure;
use crate::interrupt::{self, Guard};
use crate::session_file::Talk;

pub use http::Server;

/// A conversation of which the server knows nothing between answers: all of it is sent each time,
/// and the server finds what it has computed before.
pub struct RemoteConversation {
    server: Server,
    runtime: Runtime,
    /// The model's name and the tokens of its context.
    model: (String, u64),
    talk: Talk,
    /// What the flags say of sampling.
    parameters: Map<String, Value>,
    last_tokens: u64,
}

/// A finished answer's figures.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAnswer {
    /// Whether the user stopped it.
    pub stopped: bool,
    prompt_tokens: u64,
    cached_tokens: u64,
    answer_tokens: u64,
    first_piece: Duration,
    whole: Duration,
    cut: bool,
}

impl RemoteAnswer {
    /// The line that sums an answer up.
    pub fn summary(&self) -> String {
        let rest = (self.whole - self.first_piece).as_secs_f64();
        let rate = self.answer_tokens.saturating_sub(1) as f64 / rest.max(1e-9);
        let mut text = format!(
            "prompt {} tokens, {} of them computed before, {:.2} s to the first piece; answer {} \
             tokens",
            self.prompt_tokens,
            self.cached_tokens,
            self.first_piece.as_secs_f64(),
            self.answer_tokens,
        );
        if self.answer_tokens > 1 {
            text += &format!(", {rate:.1} tok/s");
        }
        if self.cut {
            text += "; cut at --max-tokens, or where the context was full";
        }
        text
    }
}

/// An answer as it comes.
#[derive(Default)]
struct Coming {
    text: String,
    reasoning: String,
    usage: Value,
    cut: bool,
    done: bool,
}

impl RemoteConversation {
    /// Connects, and starts with what `talk` holds.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn new(server: Server, talk: Talk, args: &GenerationArgs) -> Result<Self, Failure> {
        // Its thread also closes connections that are left.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Failure::Terminal(format!("cannot start a client: {e}")))?;
        let guard = interrupt::listen();
        let models = runtime.block_on(async {
            match server.ask("/v1/models", None, &guard).await? {
                Some(reply) => reply.json(&guard).await,
                None => Ok(None),
            }
        })?;
        let models = models.ok_or(Failure::Interrupted)?;
        let model = &models["data"][0];
        let name = model["id"].as_str();
        let name = name.ok_or_else(|| server.failure("it names no model; is it moeflux serve?"))?;
        let model = (
            name.to_owned(),
            model["max_model_len"].as_u64().unwrap_or(0),
        );
        Ok(RemoteConversation {
            server,
            runtime,
            model,
            talk,
            parameters: parameters(args),
            last_tokens: 0,
        })
    }

    /// The model's name and where it is.
    pub fn place(&self) -> String {
        format!("{} at {}", self.model.0, self.server.url())
    }

    /// Tokens of the last prompt with its answer, and the most that can be.
    pub fn tokens(&self) -> (u64, u64) {
        (self.last_tokens, self.model.1)
    }

    /// What was said.
    pub fn talk(&self) -> &Talk {
        &self.talk
    }

    /// Goes on with another conversation.
    ///
    /// # Errors
    /// It is text alone, of which a server is told nothing; in words.
    pub fn restore(&mut self, talk: Talk) -> Result<(), String> {
        if talk.raw {
            return Err("is text without messages, which goes on without --server only".to_owned());
        }
        self.talk = talk;
        self.last_tokens = 0;
        Ok(())
    }

    /// Forgets what was said; a system message, tools and variables stay.
    pub fn reset(&mut self) {
        self.talk.forget();
        self.last_tokens = 0;
    }

    /// Says `prompt` and has it answered. After an error the prompt counts as not said.
    ///
    /// # Errors
    /// The server cannot be reached or refuses, or the output is closed.
    pub fn say(&mut self, prompt: &str, show: Show<'_>) -> Result<RemoteAnswer, Failure> {
        self.talk.messages.push(Message::new("user", prompt));
        let said = self.talk.messages.len();
        let guard = interrupt::listen();
        let result = self.runtime.block_on(self.answer(&guard, show));
        match result {
            Ok((coming, answer)) => {
                let mut message = Message::new("assistant", &coming.text);
                if !coming.reasoning.is_empty() {
                    message.set("reasoning_content", coming.reasoning.into());
                }
                self.talk.messages.push(message);
                self.last_tokens = answer.prompt_tokens + answer.answer_tokens;
                Ok(answer)
            }
            Err(failure) => {
                self.talk.messages.truncate(said - 1);
                Err(failure)
            }
        }
    }

    async fn answer(
        &self,
        guard: &Guard,
        show: Show<'_>,
    ) -> Result<(Coming, RemoteAnswer), Failure> {
        let start = Instant::now();
        let body = self.body()?;
        let reply = self.server.ask("/v1/chat/completions", Some(&body), guard);
        let mut reply = reply.await?.ok_or(Failure::Interrupted)?;
        let (mut coming, mut first_piece) = (Coming::default(), None);
        while let Some(data) = reply.event(guard).await? {
            if data == "[DONE]" {
                coming.done = true;
                break;
            }
            let chunk: Value = serde_json::from_str(&data)
                .map_err(|_| self.server.failure("the answer's form is not known"))?;
            if let Some(words) = chunk["error"]["message"].as_str() {
                return Err(self.server.failure(words));
            }
            let piece = coming.add(&chunk);
            if !piece.is_empty() {
                first_piece.get_or_insert_with(|| start.elapsed());
                show(&piece)?;
            }
        }
        let nothing = coming.text.is_empty() && coming.reasoning.is_empty();
        match (coming.done, guard.stopped()) {
            (false, true) if nothing => return Err(Failure::Interrupted),
            (false, false) => return Err(self.server.failure("the answer broke off")),
            _ => {}
        }
        let count = |name: &str| coming.usage[name].as_u64().unwrap_or(0);
        let cached = &coming.usage["prompt_tokens_details"]["cached_tokens"];
        let whole = start.elapsed();
        let answer = RemoteAnswer {
            stopped: !coming.done,
            prompt_tokens: count("prompt_tokens"),
            cached_tokens: cached.as_u64().unwrap_or(0),
            answer_tokens: count("completion_tokens"),
            first_piece: first_piece.unwrap_or(whole),
            whole,
            cut: coming.cut,
        };
        Ok((coming, answer))
    }

    fn body(&self) -> Result<Value, Failure> {
        let mut body = self.parameters.clone();
        body.insert("model".into(), self.model.0.as_str().into());
        let messages = serde_json::to_value(&self.talk.messages)
            .map_err(|error| Failure::Terminal(format!("cannot write the messages: {error}")))?;
        body.insert("messages".into(), messages);
        if let Some(tools) = &self.talk.tools {
            body.insert("tools".into(), tools.clone().into());
        }
        if !self.talk.variables.is_empty() {
            let variables = self.talk.variables.clone();
            body.insert("chat_template_kwargs".into(), variables.into());
        }
        Ok(Value::Object(body))
    }
}

impl Coming {
    /// Adds a chunk; what of it is to be shown. Reasoning and calls of tools look as the model
    /// writes them.
    fn add(&mut self, chunk: &Value) -> String {
        if chunk["usage"].is_object() {
            self.usage = chunk["usage"].clone();
        }
        let choice = &chunk["choices"][0];
        self.cut |= choice["finish_reason"] == "length";
        let delta = &choice["delta"];
        let mut shown = String::new();
        if let Some(text) = delta["reasoning_content"].as_str() {
            if self.reasoning.is_empty() {
                shown += "<think>\n";
            }
            self.reasoning += text;
            shown += text;
        }
        let mut text = delta["content"].as_str().unwrap_or_default().to_owned();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            if let Some(name) = function["name"].as_str() {
                text += &format!("\n[calls {name}] ");
            }
            text += function["arguments"].as_str().unwrap_or_default();
        }
        if !text.is_empty() && self.text.is_empty() && !self.reasoning.is_empty() {
            shown += "\n</think>\n\n";
        }
        self.text += &text;
        shown + &text
    }
}

/// The flags about sampling as parameters: greedy unless a sampling flag is given, as it is without
/// a server.
fn parameters(args: &GenerationArgs) -> Map<String, Value> {
    let mut map = Map::new();
    let mut set = |name: &str, value: Value| map.insert(name.to_owned(), value);
    set("stream", true.into());
    set("stream_options", json!({"include_usage": true}));
    set("max_tokens", args.max_tokens.into());
    if args.suggested {
        for (name, value) in [
            ("temperature", args.temperature),
            ("top_p", args.top_p),
            ("min_p", args.min_p),
            ("repetition_penalty", args.repetition_penalty),
            ("presence_penalty", args.presence_penalty),
            ("frequency_penalty", args.frequency_penalty),
        ] {
            set(name, value.into());
        }
        set("top_k", args.top_k.into());
        set("seed", args.seed.into());
        return map;
    }
    let params = args.sampling(&SuggestedSampling::default());
    set("temperature", params.temperature.into());
    set("top_k", params.top_k.into());
    set("top_p", params.top_p.into());
    set("min_p", params.min_p.into());
    set("repetition_penalty", params.repetition_penalty.into());
    set("presence_penalty", params.presence_penalty.into());
    set("frequency_penalty", params.frequency_penalty.into());
    set("seed", params.seed.into());
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shown_as_the_model_writes_it() {
        let mut coming = Coming::default();
        let mut shown = String::new();
        for delta in [
            json!({"role": "assistant", "content": ""}),
            json!({"reasoning_content": "a "}),
            json!({"reasoning_content": "b"}),
            json!({"content": "c"}),
            json!({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}),
            json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        ] {
            shown += &coming.add(&json!({"choices": [{"delta": delta}]}));
        }
        coming.add(&json!({"choices": [], "usage": {"prompt_tokens": 7}}));
        assert_eq!(shown, "<think>\na b\n</think>\n\nc\n[calls f] {}");
        assert_eq!(
            (coming.reasoning, coming.text),
            ("a b".into(), "c\n[calls f] {}".into())
        );
        assert_eq!(coming.usage["prompt_tokens"], 7);
    }
}
