//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Map, Value};

use super::chat_reply::{self, Reply};
use super::{Offer, Sampling, Streaming, conversation};
use crate::answer::OutputParser;
use crate::app::App;
use crate::constraint::{self, Shape};
use crate::http::{ApiError, Fields, read_body};

/// The most answers to one request.
pub const MOST_CHOICES: usize = 16;
/// The most likely tokens that can be asked for beside each token.
pub const MOST_TOP_LOGPROBS: usize = 20;

/// Answers a conversation.
///
/// # Errors
/// The request cannot be used or not be taken now, or its answer failed.
pub async fn chat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::parse(&read_body(&app, &headers, body).await?)?;
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let messages = conversation(fields.require("messages")?)?;
    let offer = Offer::take(&app, &mut fields)?;
    let sampling = Sampling::take(&app, &mut fields, "stop")?;
    let streaming = Streaming::take(&mut fields)?;
    let choices = fields.count("n", 1, MOST_CHOICES)?.unwrap_or(1);
    let max_tokens = max_tokens(&app, &mut fields)?;
    let logprobs = logprobs(&mut fields)?;
    let shape = Shape::take(&mut fields, "response_format")?;
    let variables = variables(&mut fields)?;
    refuse_rest(fields)?;

    let prompt = app.model.prompt(&messages, &offer.tools, variables, true)?;
    let mut job = sampling.job(&app, prompt.tokens);
    job.choices = choices;
    job.max_tokens = max_tokens;
    job.logprobs = logprobs;
    job.constraint = constraint::of(&app.model, &shape, &offer, prompt.reasoning)?;
    let prompt_tokens = job.prompt.len();
    let events = app.submit(job)?;
    let tools = app.model.tool_format.filter(|_| !offer.tools.is_empty());
    let reply = Reply {
        id: app.name("chatcmpl-"),
        created: crate::app::now_seconds(),
        prompt_tokens,
        choices,
        logprobs: logprobs.is_some(),
        usage: streaming.usage,
        stops: sampling.stops,
        parallel_calls: offer.parallel,
    };
    // In an answer of a given shape reasoning is looked for only if it has begun already.
    let reasons = prompt.reasoning || (app.model.reasons && shape == Shape::Text);
    let parser = move || {
        let tools = tools.map(|format| (format, Arc::clone(&offer.tools)));
        OutputParser::new(reasons, prompt.reasoning, tools)
    };
    match streaming.on {
        true => Ok(chat_reply::stream(app, reply, events, parser)),
        false => chat_reply::whole(&app, &reply, events, parser).await,
    }
}

/// Takes the bound of an answer's tokens, of which there are two names.
pub fn max_tokens(app: &App, fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let old = fields.count("max_tokens", 1, usize::MAX)?;
    let new = fields.count("max_completion_tokens", 1, usize::MAX)?;
    let wanted = match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let problem = "contradicts `max_tokens`; give one of them";
            return Err(ApiError::value("max_completion_tokens", problem));
        }
        (old, new) => new.or(old),
    };
    limit_tokens(app, wanted, "max_tokens")
}

/// Holds an answer's tokens to the server's own bound.
pub fn limit_tokens(
    app: &App,
    wanted: Option<usize>,
    name: &str,
) -> Result<Option<usize>, ApiError> {
    match (wanted, app.options.max_tokens) {
        (Some(wanted), Some(most)) if wanted > most => {
            let problem = format!("must be at most {most} on this server, not {wanted}");
            Err(ApiError::value(name, problem))
        }
        (wanted, most) => Ok(wanted.or(most)),
    }
}

fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let on: bool = fields.take("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0, MOST_TOP_LOGPROBS)?;
    match (on, top) {
        (false, Some(1..)) => {
            let problem = "needs `logprobs` to be true";
            Err(ApiError::value("top_logprobs", problem))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0))),
    }
}

/// Variables for the chat template: `chat_template_kwargs`, and `reasoning_effort` in the words that
/// templates know.
fn variables(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    let given: Option<String> = fields.take("reasoning_effort")?;
    let mut variables = effort(given.as_deref(), "reasoning_effort")?;
    let given: Option<Map<String, Value>> = fields.take("chat_template_kwargs")?;
    for (name, value) in given.unwrap_or_default() {
        if matches!(
            name.as_str(),
            "messages" | "tools" | "add_generation_prompt"
        ) {
            let problem = "is set by the request's own parameters";
            return Err(ApiError::value(
                &format!("chat_template_kwargs.{name}"),
                problem,
            ));
        }
        variables.insert(name, value);
    }
    Ok(variables)
}

/// An effort in reasoning as variables for the chat template.
///
/// # Errors
/// The word is not known.
pub fn effort(word: Option<&str>, name: &str) -> Result<Map<String, Value>, ApiError> {
    let mut variables = Map::new();
    match word {
        None => {}
        Some("none") => {
            variables.insert("enable_thinking".into(), false.into());
        }
        Some(word @ ("minimal" | "low" | "medium" | "high" | "xhigh")) => {
            variables.insert("enable_thinking".into(), true.into());
            variables.insert("reasoning_effort".into(), word.into());
        }
        Some(_) => {
            let problem = "must be none, minimal, low, medium, high or xhigh";
            return Err(ApiError::value(name, problem));
        }
    }
    Ok(variables)
}

fn refuse_rest(mut fields: Fields) -> Result<(), ApiError> {
    fields.ignore(&[
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
    ]);
    fields.only("store", &[false.into()])?;
    fields.only("modalities", &[serde_json::json!(["text"])])?;
    for field in [
        "audio",
        "prediction",
        "web_search_options",
        "functions",
        "function_call",
    ] {
        fields.only(field, &[])?;
    }
    fields.only("verbosity", &["medium".into()])?;
    fields.finish()
}
