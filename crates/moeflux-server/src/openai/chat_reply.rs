//! The replies of chat completions: one object, or a stream of chunks.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{logprobs, usage};
use crate::answer::{Answers, Delta, Finish, OutputParser, Update};
use crate::app::App;
use crate::http::{self, ApiError, Frames};
use crate::scheduler::Event;

/// What every part of a reply needs.
pub struct Reply {
    /// The completion's name.
    pub id: String,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Number of answers.
    pub choices: usize,
    /// Whether log probabilities were asked for.
    pub logprobs: bool,
    /// Whether a stream ends with a count of tokens.
    pub usage: bool,
    /// Text that ends an answer.
    pub stops: Vec<String>,
    /// Whether an answer may have several calls of tools.
    pub parallel_calls: bool,
}

/// The word for an end.
fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopSequence(_) => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

/// One answer as it grows.
#[derive(Default)]
struct Message {
    text: String,
    reasoning: String,
    calls: Vec<(String, String, String)>,
    logprobs: Vec<Value>,
    finish: Option<&'static str>,
}

impl Message {
    fn add(&mut self, app: &App, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Text(text) => self.text.push_str(&text),
                Delta::Reasoning(text) => self.reasoning.push_str(&text),
                Delta::ToolStart { name, .. } => {
                    self.calls.push((app.name("call_"), name, String::new()));
                }
                Delta::ToolArguments { index, json } => {
                    if let Some(call) = self.calls.get_mut(index) {
                        call.2.push_str(&json);
                    }
                }
            }
        }
    }

    fn object(self, index: usize, with_logprobs: bool) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        let silent = self.text.is_empty() && !self.calls.is_empty();
        let content = (!silent).then_some(self.text);
        message.insert("content".into(), content.into());
        message.insert("refusal".into(), Value::Null);
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".into(), self.reasoning.into());
        }
        if !self.calls.is_empty() {
            let calls = self.calls.into_iter().map(|(id, name, arguments)| {
                json!({
                    "id": id,
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                })
            });
            message.insert("tool_calls".into(), calls.collect());
        }
        let logprobs = with_logprobs.then(|| json!({"content": self.logprobs, "refusal": null}));
        json!({
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self.finish,
        })
    }
}

/// The reply as one object.
///
/// # Errors
/// The answer failed.
pub async fn whole(
    app: &App,
    reply: &Reply,
    events: UnboundedReceiver<Event>,
    parser: impl Fn() -> OutputParser,
) -> Result<Response, ApiError> {
    let mut answers = Answers::new(&app.model, events, reply.choices, &reply.stops, parser)
        .parallel_calls(reply.parallel_calls);
    let mut messages: Vec<Message> = Vec::new();
    messages.resize_with(reply.choices, Message::default);
    while let Some(update) = answers.next().await? {
        let message = &mut messages[update.choice];
        message.add(app, update.deltas);
        if let Some(sampled) = update.sampled.filter(|_| reply.logprobs) {
            message
                .logprobs
                .push(logprobs::of_chat(&app.model, &sampled));
        }
        message.finish = update.finish.as_ref().map(reason);
    }
    let numbered = messages.into_iter().enumerate();
    let choices: Vec<Value> = numbered.map(|(i, m)| m.object(i, reply.logprobs)).collect();
    let body = json!({
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": app.model.name(),
        "choices": choices,
        "usage": usage(reply.prompt_tokens, &answers),
        "system_fingerprint": null,
    });
    Ok(Json(body).into_response())
}

/// The reply as a stream.
pub fn stream(
    app: Arc<App>,
    reply: Reply,
    events: UnboundedReceiver<Event>,
    parser: impl Fn() -> OutputParser + Send + 'static,
) -> Response {
    http::stream(move |frames| async move {
        let stream = Stream {
            app: &app,
            reply: &reply,
            frames,
        };
        let mut answers = Answers::new(&app.model, events, reply.choices, &reply.stops, parser)
            .parallel_calls(reply.parallel_calls);
        for index in 0..reply.choices {
            let delta = json!({"role": "assistant", "content": "", "refusal": null});
            stream.chunk(index, delta, None, None).await?;
        }
        loop {
            let next = answers.next();
            let every = app.options.keep_alive;
            match stream
                .frames
                .meanwhile(next, every, ": waiting\n\n")
                .await?
            {
                Ok(Some(update)) => stream.update(update).await?,
                Ok(None) => break,
                Err(error) => {
                    let body = ApiError::from(error).openai();
                    return stream.frames.send(None, &body).await;
                }
            }
        }
        if reply.usage {
            let mut chunk = stream.head();
            chunk["choices"] = json!([]);
            chunk["usage"] = usage(reply.prompt_tokens, &answers);
            stream.frames.send(None, &chunk).await?;
        }
        stream.frames.raw("data: [DONE]\n\n".to_owned()).await
    })
}

struct Stream<'a> {
    app: &'a App,
    reply: &'a Reply,
    frames: Frames,
}

impl Stream<'_> {
    fn head(&self) -> Value {
        let mut chunk = json!({
            "id": self.reply.id,
            "object": "chat.completion.chunk",
            "created": self.reply.created,
            "model": self.app.model.name(),
            "system_fingerprint": null,
        });
        if self.reply.usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    async fn chunk(
        &self,
        index: usize,
        delta: Value,
        logprobs: Option<Value>,
        finish: Option<&str>,
    ) -> Result<(), http::Gone> {
        let mut chunk = self.head();
        chunk["choices"] = json!([{
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }]);
        self.frames.send(None, &chunk).await
    }

    async fn update(&self, update: Update) -> Result<(), http::Gone> {
        let Update {
            choice,
            deltas,
            sampled,
            finish,
        } = update;
        let model = &self.app.model;
        let sampled = sampled.filter(|_| self.reply.logprobs);
        let mut logprobs = sampled.map(
            |sampled| json!({"content": [logprobs::of_chat(model, &sampled)], "refusal": null}),
        );
        for delta in deltas {
            let delta = match delta {
                Delta::Text(text) => json!({"content": text}),
                Delta::Reasoning(text) => json!({"reasoning_content": text}),
                Delta::ToolStart { index, name } => json!({"tool_calls": [{
                    "index": index,
                    "id": self.app.name("call_"),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }]}),
                Delta::ToolArguments { index, json } => json!({"tool_calls": [{
                    "index": index,
                    "function": {"arguments": json},
                }]}),
            };
            self.chunk(choice, delta, logprobs.take(), None).await?;
        }
        if logprobs.is_some() {
            // The token's text is held back for now.
            self.chunk(choice, json!({}), logprobs, None).await?;
        }
        match finish {
            Some(finish) => {
                let reason = Some(reason(&finish));
                self.chunk(choice, json!({}), None, reason).await
            }
            None => Ok(()),
        }
    }
}
