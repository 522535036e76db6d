//! OpenAI's other protocol, `POST /v1/responses`, without what it would have a server keep: responses
//! are not stored, so a conversation is sent whole each time.

mod input;
mod items;
mod reply;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::answer::OutputParser;
use crate::app::App;
use crate::constraint::{self, Shape};
use crate::http::{ApiError, Fields, read_body};
use crate::openai::{self, Sampling, limit_tokens};
use reply::Reply;

/// Answers a conversation.
///
/// # Errors
/// The request cannot be used or not be taken now, or its answer failed.
pub async fn responses(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::parse(&read_body(&app, &headers, body).await?)?;
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let echo = reply::Echo::of(&fields);
    let messages = input::take(&mut fields)?;
    let offer = input::take_tools(&app, &mut fields)?;
    let shape = shape(&mut fields)?;
    let variables = variables(&mut fields)?;
    let max_tokens = fields.count("max_output_tokens", 1, usize::MAX)?;
    let max_tokens = limit_tokens(&app, max_tokens, "max_output_tokens")?;
    let sampling = Sampling::take(&app, &mut fields, "stop")?;
    let streaming: bool = fields.take("stream")?.unwrap_or(false);
    refuse_rest(fields)?;

    let prompt = app.model.prompt(&messages, &offer.tools, variables, true)?;
    let mut job = sampling.job(&app, prompt.tokens);
    job.max_tokens = max_tokens;
    job.constraint = constraint::of(&app.model, &shape, &offer, prompt.reasoning)?;
    let reply = Reply {
        id: app.name("resp_"),
        created: crate::app::now_seconds(),
        prompt_tokens: job.prompt.len(),
        max_tokens,
        stops: sampling.stops,
        parallel_calls: offer.parallel,
        echo,
    };
    let events = app.submit(job)?;
    let reasons = prompt.reasoning || (app.model.reasons && shape == Shape::Text);
    let tools = app.model.tool_format.filter(|_| !offer.tools.is_empty());
    let tools = tools.map(|format| (format, Arc::clone(&offer.tools)));
    let parser = move || OutputParser::new(reasons, prompt.reasoning, tools.clone());
    match streaming {
        true => Ok(reply::stream(app, reply, events, parser)),
        false => reply::whole(&app, &reply, events, parser).await,
    }
}

fn shape(fields: &mut Fields) -> Result<Shape, ApiError> {
    let Some(text) = fields.take::<Value>("text")? else {
        return Ok(Shape::Text);
    };
    let mut text = Fields::of_value(text, "text")?;
    let shape = Shape::take(&mut text, "format")?;
    text.only("verbosity", &["medium".into()])?;
    text.finish()?;
    Ok(shape)
}

fn variables(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    let Some(reasoning) = fields.take::<Value>("reasoning")? else {
        return Ok(Map::new());
    };
    let mut reasoning = Fields::of_value(reasoning, "reasoning")?;
    let effort: Option<String> = reasoning.take("effort")?;
    // Reasoning is given as it is, so there is nothing to be said about summaries.
    reasoning.ignore(&["summary", "generate_summary"]);
    reasoning.finish()?;
    openai::effort(effort.as_deref(), "reasoning.effort")
}

fn refuse_rest(mut fields: Fields) -> Result<(), ApiError> {
    fields.ignore(&[
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "stream_options",
    ]);
    fields.only("store", &[false.into()])?;
    fields.only("background", &[false.into()])?;
    fields.only("truncation", &["disabled".into()])?;
    fields.only(
        "include",
        &[json!([]), json!(["reasoning.encrypted_content"])],
    )?;
    fields.only("top_logprobs", &[0.into()])?;
    for field in [
        "previous_response_id",
        "conversation",
        "prompt",
        "max_tool_calls",
    ] {
        fields.only(field, &[])?;
    }
    fields.finish()
}
