//! The small paths: tokens of text, text of tokens, health and figures.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::http::{ApiError, Fields, read_body};
use crate::openai::conversation;

/// `POST /tokenize`: the tokens of `content`, or of `messages` as the model sees them.
///
/// # Errors
/// The body or the text cannot be used.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::parse(&read_body(&app, &headers, body).await?)?;
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let content: Option<String> = fields.take("content")?;
    let messages: Option<Vec<Value>> = fields.take("messages")?;
    fields.finish()?;
    let tokens = match (content, messages) {
        (Some(text), None) => app.model.encode(&text)?,
        (None, Some(messages)) => {
            let messages = conversation(messages)?;
            let prompt = app
                .model
                .prompt(&messages, &[], serde_json::Map::new(), true)?;
            prompt.tokens
        }
        _ => {
            let message = "give one of `content` and `messages`";
            return Err(ApiError::param(
                "content",
                "missing_required_parameter",
                message,
            ));
        }
    };
    Ok(Json(json!({"count": tokens.len(), "tokens": tokens})))
}

/// `POST /detokenize`: the text of `tokens`.
///
/// # Errors
/// The body or the tokens cannot be used.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::parse(&read_body(&app, &headers, body).await?)?;
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let tokens: Vec<u32> = fields.require("tokens")?;
    fields.finish()?;
    let vocab = app.model.engine.info().vocab_size;
    if let Some(at) = tokens.iter().position(|t| *t as usize >= vocab) {
        let problem = format!(
            "{} is not a token; they go from 0 to {}",
            tokens[at],
            vocab - 1
        );
        return Err(ApiError::value(&format!("tokens[{at}]"), problem));
    }
    let text = app.model.tokenizer.decode(&tokens, false)?;
    Ok(Json(json!({"content": text})))
}

/// `GET /health`.
pub async fn health(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"status": "ok", "model": app.model.name()}))
}

/// `GET /metrics`, for Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, app.metrics.render()).into_response()
}
