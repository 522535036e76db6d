//! `GET /openapi.json`: every path, parameter and reply in OpenAPI's words.
//!
//! The types here only describe: requests are read field by field ([`crate::http::Fields`]) and
//! replies written as they come, so that errors name what is wrong and nothing is ignored. A test
//! holds both to these types, in both directions.

pub mod anthropic;
pub mod chat;
pub mod common;
pub mod completions;
pub mod live;
pub mod responses;
pub mod tools;

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use crate::app::App;
use crate::page;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "moeflux",
        description = "Mixture-of-Experts models larger than memory, in the protocols of OpenAI \
                       and Anthropic. A parameter that is not listed here is refused; `null` is \
                       the same as leaving a parameter out."
    ),
    paths(
        chat::chat_completions,
        completions::completions,
        responses::responses,
        anthropic::messages,
        anthropic::count_tokens,
        common::models,
        common::model,
        common::tokenize,
        common::detokenize,
        common::health,
        common::metrics,
        common::openapi_json,
        live::live,
    ),
    components(schemas(common::Sampling, common::OpenAiError, anthropic::AnthropicError))
)]
struct Document;

/// Paths whose requests have the parameters of [`common::Sampling`] beside their own.
const SAMPLED: [&str; 4] = [
    "ChatRequest",
    "CompletionRequest",
    "ResponsesRequest",
    "MessagesRequest",
];

/// The document.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        // A document that cannot be written down would be a defect; the tests look at it.
        let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
        let schemas = &mut document["components"]["schemas"];
        for name in SAMPLED {
            share_sampling(schemas, name);
        }
        close(schemas);
        document["components"]["securitySchemes"] = json!({
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        });
        document["security"] = json!([{}, {"bearer": []}, {"x-api-key": []}]);
        if let Some(paths) = document["paths"].as_object_mut() {
            for (path, item) in paths.iter_mut() {
                tell_errors(path, item);
            }
            for (path, kind) in page::files() {
                paths.insert(path.to_owned(), page_file(kind));
            }
        }
        document
    })
}

/// Gives a request the parameters that say how tokens are picked. Stop sequences have a name of
/// their own in each protocol.
fn share_sampling(schemas: &mut Value, request: &str) {
    let shared = schemas["Sampling"]["properties"].clone();
    let own = schemas[request]["properties"].as_object_mut();
    if let (Some(own), Value::Object(shared)) = (own, shared) {
        for (name, schema) in shared {
            own.entry(name).or_insert(schema);
        }
    }
}

/// Objects have the properties listed and no others, unless they say otherwise.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("properties") && map.get("type").is_some_and(|t| t == "object") {
                map.entry("additionalProperties").or_insert(false.into());
            }
            map.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

/// Adds to each operation what is said when it fails.
fn tell_errors(path: &str, item: &mut Value) {
    let schema = match path.starts_with("/v1/messages") {
        true => "#/components/schemas/AnthropicError",
        false => "#/components/schemas/OpenAiError",
    };
    let error = json!({
        "description": "400: the request cannot be used. 401: the key is missing or wrong. 403: a \
            page of another origin. 404: no such path or model. 405: no such method. 408: the body \
            came too slowly. 413: it is too large. 415: it is not JSON. 429: too many wait. 500: \
            the engine failed. 503: the server is stopping. 504: the answer took too long.",
        "headers": {"Retry-After": {
            "description": "With 429 and 503: seconds after which to try again",
            "schema": {"type": "integer"},
        }},
        "content": {"application/json": {"schema": {"$ref": schema}}},
    });
    let operations = item.as_object_mut().into_iter().flatten();
    for (_, operation) in operations {
        operation["responses"]["default"] = error.clone();
    }
}

fn page_file(kind: &str) -> Value {
    let mut content = Map::new();
    content.insert(kind.to_owned(), json!({"schema": {"type": "string"}}));
    json!({"get": {
        "tags": ["page"],
        "summary": "A file of the page; it needs no key",
        "security": [{}],
        "responses": {"200": {"description": "The file", "content": content}},
    }})
}

/// `GET /openapi.json`.
pub async fn openapi(State(_): State<Arc<App>>) -> Json<&'static Value> {
    Json(document())
}
