//! `POST /v1/messages` and `/v1/messages/count_tokens`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use moeflux::text::Message;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::blocks::{self, Blocks, Change};
use super::conversation;
use crate::answer::{Answers, Finish, OutputParser};
use crate::app::App;
use crate::constraint::{self, Shape};
use crate::http::{self, ApiError, Fields, read_body};
use crate::model::Prompt;
use crate::openai::{Offer, Sampling, limit_tokens};
use crate::scheduler::Event;

/// What is sent while a stream is silent.
const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// Answers a conversation.
pub async fn messages(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let reply = async {
        let fields = Fields::parse(&read_body(&app, &headers, body).await?)?;
        answer(&app, fields).await
    };
    reply
        .await
        .unwrap_or_else(|error| error.response(&error.anthropic()))
}

/// Counts the tokens of a conversation.
pub async fn count_tokens(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let reply = async {
        let mut fields = Fields::parse(&read_body(&app, &headers, body).await?)?;
        let (_, prompt) = prompt(&app, &mut fields)?;
        finish(fields)?;
        Ok(Json(json!({"input_tokens": prompt.tokens.len()})).into_response())
    };
    let refuse = |error: ApiError| error.response(&error.anthropic());
    reply.await.unwrap_or_else(refuse)
}

/// What every part of a reply needs.
struct Reply {
    id: String,
    prompt_tokens: usize,
    stops: Vec<String>,
    parallel_calls: bool,
}

fn prompt(app: &App, fields: &mut Fields) -> Result<(Offer, Prompt), ApiError> {
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let messages = conversation::take(fields)?;
    let offer = conversation::take_tools(app, fields)?;
    let mut variables = Map::new();
    if let Some(thinking) = fields.take::<Value>("thinking")? {
        let mut thinking = Fields::of_value(thinking, "thinking")?;
        let on = match thinking.require::<String>("type")?.as_str() {
            "enabled" | "adaptive" => true,
            "disabled" => false,
            other => {
                let problem = format!("`{other}` is not one of enabled, adaptive, disabled");
                return Err(ApiError::value("thinking.type", problem));
            }
        };
        // A budget is a wish: the model ends its reasoning by itself.
        thinking.ignore(&["budget_tokens", "display"]);
        thinking.finish()?;
        variables.insert("enable_thinking".into(), on.into());
    }
    // A last message of the assistant is to be gone on with, which templates do not do.
    if messages.last().map(Message::role) == Some("assistant") {
        let problem = "the last message must be the user's";
        return Err(ApiError::value("messages", problem));
    }
    let prompt = app.model.prompt(&messages, &offer.tools, variables, true)?;
    Ok((offer, prompt))
}

fn finish(mut fields: Fields) -> Result<(), ApiError> {
    fields.ignore(&["metadata", "service_tier", "cache_control", "inference_geo"]);
    for field in [
        "container",
        "mcp_servers",
        "context_management",
        "output_format",
    ] {
        fields.only(field, &[])?;
    }
    fields.finish()
}

async fn answer(app: &Arc<App>, mut fields: Fields) -> Result<Response, ApiError> {
    let max_tokens = fields.count("max_tokens", 1, usize::MAX)?;
    let Some(max_tokens) = limit_tokens(app, max_tokens, "max_tokens")? else {
        let message = "`max_tokens` is missing";
        let code = "missing_required_parameter";
        return Err(ApiError::param("max_tokens", code, message));
    };
    let (offer, prompt) = prompt(app, &mut fields)?;
    let sampling = Sampling::take(app, &mut fields, "stop_sequences")?;
    let streaming: bool = fields.take("stream")?.unwrap_or(false);
    finish(fields)?;

    let mut job = sampling.job(app, prompt.tokens);
    // Clients ask for what a large model could write.
    let room = app.model.context_tokens().saturating_sub(job.prompt.len());
    job.max_tokens = Some(max_tokens.min(room.max(1)));
    job.constraint = constraint::of(&app.model, &Shape::Text, &offer, prompt.reasoning)?;
    let reply = Reply {
        id: app.name("msg_"),
        prompt_tokens: job.prompt.len(),
        stops: sampling.stops,
        parallel_calls: offer.parallel,
    };
    let events = app.submit(job)?;
    let (reasons, reasoning) = (app.model.reasons, prompt.reasoning);
    let tools = app.model.tool_format.filter(|_| !offer.tools.is_empty());
    let tools = tools.map(|format| (format, Arc::clone(&offer.tools)));
    let parser = move || OutputParser::new(reasons, reasoning, tools.clone());
    match streaming {
        true => Ok(stream(Arc::clone(app), reply, events, parser)),
        false => whole(app, &reply, events, parser).await,
    }
}

fn head(app: &App, reply: &Reply, answers: &Answers<'_>) -> Value {
    let cached = answers.cached_tokens();
    json!({
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": app.model.name(),
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": {
            "input_tokens": reply.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": answers.tokens(),
        },
    })
}

fn reason(finish: &Finish) -> (&'static str, Option<&str>) {
    match finish {
        Finish::Stop => ("end_turn", None),
        Finish::StopSequence(sequence) => ("stop_sequence", Some(sequence)),
        Finish::Length => ("max_tokens", None),
        Finish::ToolCalls => ("tool_use", None),
    }
}

async fn whole(
    app: &App,
    reply: &Reply,
    events: UnboundedReceiver<Event>,
    parser: impl Fn() -> OutputParser,
) -> Result<Response, ApiError> {
    let mut answers = Answers::new(&app.model, events, 1, &reply.stops, parser)
        .parallel_calls(reply.parallel_calls);
    let (mut blocks, mut changes) = (Blocks::default(), Vec::new());
    let mut end = Finish::Stop;
    while let Some(update) = answers.next().await? {
        let pieces = update.deltas.into_iter();
        changes.extend(pieces.flat_map(|delta| blocks.push(app, delta)));
        end = update.finish.unwrap_or(end);
    }
    blocks.close(&mut changes);
    let mut body = head(app, reply, &answers);
    body["content"] = Value::Array(blocks::content(changes));
    let (reason, sequence) = reason(&end);
    body["stop_reason"] = reason.into();
    body["stop_sequence"] = sequence.into();
    Ok(Json(body).into_response())
}

fn stream(
    app: Arc<App>,
    reply: Reply,
    events: UnboundedReceiver<Event>,
    parser: impl Fn() -> OutputParser + Send + 'static,
) -> Response {
    http::stream(move |frames| async move {
        let mut answers = Answers::new(&app.model, events, 1, &reply.stops, parser)
            .parallel_calls(reply.parallel_calls);
        let every = app.options.keep_alive;
        if let Err(error) = frames.meanwhile(answers.begin(), every, PING).await? {
            let body = ApiError::from(error).anthropic();
            return frames.send(Some("error"), &body).await;
        }
        let start = json!({"type": "message_start", "message": head(&app, &reply, &answers)});
        frames.send(Some("message_start"), &start).await?;
        let mut blocks = Blocks::default();
        let mut end = Finish::Stop;
        loop {
            let mut changes: Vec<Change> = Vec::new();
            let next = frames.meanwhile(answers.next(), every, PING).await?;
            let done = match next {
                Ok(Some(update)) => {
                    let pieces = update.deltas.into_iter();
                    changes.extend(pieces.flat_map(|delta| blocks.push(&app, delta)));
                    end = update.finish.unwrap_or(end);
                    false
                }
                Ok(None) => {
                    blocks.close(&mut changes);
                    true
                }
                Err(error) => {
                    let body = ApiError::from(error).anthropic();
                    return frames.send(Some("error"), &body).await;
                }
            };
            for change in changes {
                let (name, data) = change.event();
                frames.send(Some(name), &data).await?;
            }
            if done {
                break;
            }
        }
        let (reason, sequence) = reason(&end);
        let delta = json!({
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": {"output_tokens": answers.tokens()},
        });
        frames.send(Some("message_delta"), &delta).await?;
        let stop = json!({"type": "message_stop"});
        frames.send(Some("message_stop"), &stop).await
    })
}
