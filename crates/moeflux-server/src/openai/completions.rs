//! `POST /v1/completions`: text goes on, without a chat template.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::chat::{MOST_CHOICES, max_tokens};
use super::logprobs::Lists;
use super::{Sampling, Streaming, usage};
use crate::answer::{Answers, Delta, Finish, OutputParser};
use crate::app::App;
use crate::http::{self, ApiError, Fields, read_body};
use crate::scheduler::{Event, Job};

/// The most tokens of an answer if nothing is said, as clients expect.
const DEFAULT_TOKENS: usize = 16;
/// The most likely tokens that can be asked for beside each token.
const MOST_LOGPROBS: usize = 20;

/// What every part of a reply needs.
struct Reply {
    id: String,
    created: u64,
    prompt_tokens: usize,
    /// Answers to all prompts together.
    choices: usize,
    logprobs: bool,
    usage: bool,
    stops: Vec<String>,
    /// The text before each answer: its prompt, if that is to be repeated.
    before: Vec<String>,
}

/// Continues text.
///
/// # Errors
/// The request cannot be used or not be taken now, or its answer failed.
pub async fn completions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::parse(&read_body(&app, &headers, body).await?)?;
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let prompts = prompts(&app, fields.require("prompt")?)?;
    let sampling = Sampling::take(&app, &mut fields, "stop")?;
    let streaming = Streaming::take(&mut fields)?;
    let choices = fields.count("n", 1, MOST_CHOICES)?.unwrap_or(1);
    let max_tokens = max_tokens(&app, &mut fields)?.unwrap_or(DEFAULT_TOKENS);
    let logprobs = fields.count("logprobs", 0, MOST_LOGPROBS)?;
    let echo = fields.take("echo")?.unwrap_or(false);
    if echo && logprobs.is_some() {
        let problem = "log probabilities of the prompt are not supported; leave one of them out";
        return Err(ApiError::value("echo", problem));
    }
    fields.only("suffix", &["".into()])?;
    fields.only("best_of", &[1.into(), choices.into()])?;
    fields.ignore(&["user"]);
    fields.finish()?;

    let mut before = Vec::new();
    for prompt in prompts.iter().filter(|_| echo) {
        let text = app.model.tokenizer.decode(prompt, false)?;
        before.extend(std::iter::repeat_n(text, choices));
    }
    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    let job = |prompt: Vec<u32>| {
        let room = app.model.context_tokens().saturating_sub(prompt.len());
        let mut job = sampling.job(&app, prompt);
        job.choices = choices;
        job.max_tokens = Some(max_tokens.min(room.max(1)));
        job.logprobs = logprobs;
        job
    };
    let jobs: Vec<Job> = prompts.into_iter().map(job).collect();
    let reply = Reply {
        id: app.name("cmpl-"),
        created: crate::app::now_seconds(),
        prompt_tokens,
        choices: choices * jobs.len(),
        logprobs: logprobs.is_some(),
        usage: streaming.usage,
        stops: sampling.stops,
        before,
    };
    let events = app.submit_all(jobs)?;
    match streaming.on {
        true => Ok(stream(app, reply, events)),
        false => whole(&app, &reply, events).await,
    }
}

/// The prompts: text or tokens, one or a list of them.
fn prompts(app: &App, value: Value) -> Result<Vec<Vec<u32>>, ApiError> {
    let list = match value {
        Value::Array(list) if list.iter().any(|v| !v.is_number()) => list,
        other => vec![other],
    };
    let most = app.queue_limit();
    if list.len() > most {
        let problem = format!(
            "holds {} prompts, but {most} may wait; send fewer, or start with a larger --queue",
            list.len()
        );
        return Err(ApiError::value("prompt", problem));
    }
    list.into_iter().map(|value| prompt(app, value)).collect()
}

fn prompt(app: &App, value: Value) -> Result<Vec<u32>, ApiError> {
    let one = |problem| ApiError::value("prompt", problem);
    match value {
        Value::String(text) => Ok(app.model.encode(&text)?),
        Value::Array(list) => {
            let vocab = app.model.engine.info().vocab_size as u64;
            let token = |value: &Value| {
                let id = value.as_u64().filter(|id| *id < vocab);
                id.map(|id| id as u32)
                    .ok_or_else(|| one("holds what is not a token"))
            };
            list.iter().map(token).collect()
        }
        _ => Err(one("must be text or a list of tokens")),
    }
}

/// A completion's text is shown as it is.
fn plain() -> OutputParser {
    OutputParser::new(false, false, None)
}

fn text_of(deltas: Vec<Delta>) -> String {
    let text = |delta| match delta {
        Delta::Text(text) => Some(text),
        _ => None,
    };
    deltas.into_iter().filter_map(text).collect()
}

fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        _ => "stop",
    }
}

fn choice(index: usize, text: &str, logprobs: Option<Value>, finish: Option<&str>) -> Value {
    json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
}

fn head(app: &App, reply: &Reply) -> Value {
    json!({
        "id": reply.id,
        "object": "text_completion",
        "created": reply.created,
        "model": app.model.name(),
        "system_fingerprint": null,
    })
}

async fn whole(
    app: &App,
    reply: &Reply,
    events: UnboundedReceiver<Event>,
) -> Result<Response, ApiError> {
    let mut answers = Answers::new(&app.model, events, reply.choices, &reply.stops, plain);
    let mut texts = reply.before.clone();
    texts.resize(reply.choices, String::new());
    let mut lists: Vec<Lists> = Vec::new();
    lists.resize_with(reply.choices, Lists::default);
    let mut ends = vec![None; reply.choices];
    while let Some(update) = answers.next().await? {
        texts[update.choice].push_str(&text_of(update.deltas));
        if let Some(sampled) = update.sampled.filter(|_| reply.logprobs) {
            lists[update.choice].push(&app.model, &sampled);
        }
        ends[update.choice] = update.finish.as_ref().map(reason);
    }
    let mut body = head(app, reply);
    let choices: Vec<Value> = (0..reply.choices)
        .map(|i| {
            let logprobs = reply.logprobs.then(|| lists[i].take());
            choice(i, &texts[i], logprobs, ends[i])
        })
        .collect();
    body["choices"] = Value::Array(choices);
    body["usage"] = usage(reply.prompt_tokens, &answers);
    Ok(Json(body).into_response())
}

fn stream(app: Arc<App>, reply: Reply, events: UnboundedReceiver<Event>) -> Response {
    http::stream(move |frames| async move {
        let mut answers = Answers::new(&app.model, events, reply.choices, &reply.stops, plain);
        let mut lists: Vec<Lists> = Vec::new();
        lists.resize_with(reply.choices, Lists::default);
        let chunk = |choices: Value, counts: Value| {
            let mut chunk = head(&app, &reply);
            chunk["choices"] = choices;
            if reply.usage {
                chunk["usage"] = counts;
            }
            chunk
        };
        for (index, text) in reply.before.iter().enumerate() {
            let first = json!([choice(index, text, None, None)]);
            frames.send(None, &chunk(first, Value::Null)).await?;
        }
        loop {
            let every = app.options.keep_alive;
            let update = match frames
                .meanwhile(answers.next(), every, ": waiting\n\n")
                .await?
            {
                Ok(Some(update)) => update,
                Ok(None) => break,
                Err(error) => return frames.send(None, &ApiError::from(error).openai()).await,
            };
            let list = &mut lists[update.choice];
            if let Some(sampled) = update.sampled.filter(|_| reply.logprobs) {
                list.push(&app.model, &sampled);
            }
            let text = text_of(update.deltas);
            let logprobs = reply.logprobs.then(|| list.take());
            let finish = update.finish.as_ref().map(reason);
            if !text.is_empty() || finish.is_some() || logprobs.is_some() {
                let choices = json!([choice(update.choice, &text, logprobs, finish)]);
                frames.send(None, &chunk(choices, Value::Null)).await?;
            }
        }
        if reply.usage {
            let counts = usage(reply.prompt_tokens, &answers);
            frames.send(None, &chunk(json!([]), counts)).await?;
        }
        frames.raw("data: [DONE]\n\n".to_owned()).await
    })
}
