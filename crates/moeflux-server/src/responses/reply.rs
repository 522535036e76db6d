//! The reply: one object, or a stream of events.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::items::Items;
use crate::answer::{Answers, Finish, OutputParser};
use crate::app::App;
use crate::http::{self, ApiError, Fields, Frames, Gone};
use crate::scheduler::Event;

/// What every part of a reply needs.
pub struct Reply {
    /// The response's name.
    pub id: String,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The most tokens of the answer.
    pub max_tokens: Option<usize>,
    /// Text that ends an answer.
    pub stops: Vec<String>,
    /// Whether an answer may have several calls of tools.
    pub parallel_calls: bool,
    /// What is given back as it came.
    pub echo: Echo,
}

/// Parameters that a response gives back, with what they are where nothing was said.
pub struct Echo(Vec<(&'static str, Value)>);

impl Echo {
    /// Those of a request.
    pub fn of(fields: &Fields) -> Echo {
        let given = |(name, default): (&'static str, Value)| match fields.given(name) {
            Value::Null => (name, default),
            value => (name, value),
        };
        let known = [
            ("instructions", Value::Null),
            ("metadata", json!({})),
            ("reasoning", Value::Null),
            ("temperature", Value::Null),
            ("text", json!({"format": {"type": "text"}})),
            ("tool_choice", json!("auto")),
            ("tools", json!([])),
            ("top_p", Value::Null),
        ];
        Echo(known.into_iter().map(given).collect())
    }
}

/// Tokens of an answer, and of its prompt that did not have to be computed.
#[derive(Clone, Copy)]
struct Counts {
    tokens: usize,
    reasoning: usize,
    cached: usize,
}

impl Counts {
    fn of(answers: &Answers<'_>) -> Counts {
        Counts {
            tokens: answers.tokens(),
            reasoning: answers.reasoning_tokens(),
            cached: answers.cached_tokens(),
        }
    }
}

/// How far an answer is.
enum State {
    Running,
    Ended { cut: bool, counts: Counts },
    Failed(ApiError),
}

fn object(app: &App, reply: &Reply, output: &[Value], state: &State) -> Value {
    let (status, details, error, counts) = match state {
        State::Running => ("in_progress", Value::Null, Value::Null, None),
        State::Ended { cut: false, counts } => {
            ("completed", Value::Null, Value::Null, Some(*counts))
        }
        State::Ended { cut: true, counts } => {
            let details = json!({"reason": "max_output_tokens"});
            ("incomplete", details, Value::Null, Some(*counts))
        }
        State::Failed(error) => {
            let error = json!({"code": "server_error", "message": error.message});
            ("failed", Value::Null, error, None)
        }
    };
    let usage = counts.map(|counts| {
        let Counts {
            tokens,
            reasoning,
            cached,
        } = counts;
        json!({
            "input_tokens": reply.prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": reply.prompt_tokens + tokens,
        })
    });
    let mut object = json!({
        "id": reply.id,
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "incomplete_details": details,
        "error": error,
        "model": app.model.name(),
        "output": output,
        "usage": usage,
        "max_output_tokens": reply.max_tokens,
        "parallel_tool_calls": reply.parallel_calls,
        "previous_response_id": null,
        "store": false,
        "truncation": "disabled",
    });
    for (name, value) in &reply.echo.0 {
        object[*name] = value.clone();
    }
    object
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
    let mut answers = Answers::new(&app.model, events, 1, &reply.stops, parser)
        .parallel_calls(reply.parallel_calls);
    let (mut items, mut told, mut cut) = (Items::default(), Vec::new(), false);
    while let Some(update) = answers.next().await? {
        for delta in update.deltas {
            items.push(app, delta, &mut told);
        }
        cut |= update.finish == Some(Finish::Length);
        told.clear();
    }
    items.close(status(cut), &mut told);
    let counts = Counts::of(&answers);
    let body = object(app, reply, &items.done, &State::Ended { cut, counts });
    Ok(Json(body).into_response())
}

fn status(cut: bool) -> &'static str {
    if cut { "incomplete" } else { "completed" }
}

/// The reply as a stream.
pub fn stream(
    app: Arc<App>,
    reply: Reply,
    events: UnboundedReceiver<Event>,
    parser: impl Fn() -> OutputParser + Send + 'static,
) -> Response {
    http::stream(move |frames| async move {
        let mut answers = Answers::new(&app.model, events, 1, &reply.stops, parser)
            .parallel_calls(reply.parallel_calls);
        let mut numbered = Numbered { frames, count: 0 };
        for name in ["response.created", "response.in_progress"] {
            let response = object(&app, &reply, &[], &State::Running);
            let event = json!({"type": name, "response": response});
            numbered.send(event).await?;
        }
        let (mut items, mut cut) = (Items::default(), false);
        let state = loop {
            let every = app.options.keep_alive;
            let next = answers.next();
            let next = numbered
                .frames
                .meanwhile(next, every, ": waiting\n\n")
                .await?;
            let mut told = Vec::new();
            let ended = match next {
                Ok(Some(update)) => {
                    for delta in update.deltas {
                        items.push(&app, delta, &mut told);
                    }
                    cut |= update.finish == Some(Finish::Length);
                    None
                }
                Ok(None) => {
                    items.close(status(cut), &mut told);
                    let counts = Counts::of(&answers);
                    Some(State::Ended { cut, counts })
                }
                Err(error) => Some(State::Failed(error.into())),
            };
            for event in told {
                numbered.send(event).await?;
            }
            if let Some(state) = ended {
                break state;
            }
        };
        let name = match &state {
            State::Failed(_) => "response.failed",
            State::Ended { cut: true, .. } => "response.incomplete",
            _ => "response.completed",
        };
        let response = object(&app, &reply, &items.done, &state);
        numbered
            .send(json!({"type": name, "response": response}))
            .await
    })
}

/// Events, each with its number.
struct Numbered {
    frames: Frames,
    count: u64,
}

impl Numbered {
    async fn send(&mut self, mut event: Value) -> Result<(), Gone> {
        event["sequence_number"] = self.count.into();
        self.count += 1;
        let name = event["type"].as_str().unwrap_or_default().to_owned();
        self.frames.send(Some(&name), &event).await
    }
}
