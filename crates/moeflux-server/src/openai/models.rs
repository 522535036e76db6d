//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::ApiError;

fn object(app: &App, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": app.model.created,
        "owned_by": "moeflux",
        "max_model_len": app.model.context_tokens(),
    })
}

/// The list of models.
pub async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let all: Vec<Value> = app.model.names.iter().map(|n| object(&app, n)).collect();
    Json(json!({"object": "list", "data": all}))
}

/// One model.
///
/// # Errors
/// There is none of that name.
pub async fn model(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Ok(Path(name)) = name else {
        let message = "the model's name is not UTF-8; GET /v1/models lists the names";
        let status = StatusCode::BAD_REQUEST;
        return Err(ApiError::new(status, "invalid_path", message));
    };
    app.check_model(Some(&name))?;
    Ok(Json(object(&app, &name)))
}
