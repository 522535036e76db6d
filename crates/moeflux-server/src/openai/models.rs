//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
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
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    app.check_model(Some(&name))?;
    Ok(Json(object(&app, &name)))
}
