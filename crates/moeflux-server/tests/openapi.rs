//! The OpenAPI document says what the server does: every path, every parameter, every reply.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;
#[path = "common/http.rs"]
mod http;
#[path = "common/schema.rs"]
mod schema;

use std::collections::BTreeSet;

use axum::Router;
use axum::http::HeaderMap;
use http::{Reply, ask, options, post, routes};
use http_body_util::BodyExt as _;
use schema::problems;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Parameters that the official clients send, and what other servers know.
const NAMES: &str = "audio background best_of cache_control chat_template_kwargs container content \
    context_management conversation echo frequency_penalty function_call functions ignore_eos \
    include inference_geo input instructions logit_bias logprobs max_completion_tokens \
    max_output_tokens max_tokens max_tool_calls mcp_servers messages metadata min_p min_tokens \
    modalities model moderation n output_config output_format parallel_tool_calls prediction \
    presence_penalty previous_response_id prompt prompt_cache_key prompt_cache_retention reasoning \
    reasoning_effort repetition_penalty response_format safety_identifier seed service_tier speed \
    stop stop_sequences store stream stream_options suffix system temperature text thinking tokens \
    tool_choice tools top_k top_logprobs top_p truncation user verbosity web_search_options";

fn seeds() -> Vec<(String, Value)> {
    serde_json::from_str(include_str!("seeds/requests.json")).unwrap()
}

async fn document(routes: &Router) -> Value {
    let reply = ask(routes, "GET", "/openapi.json", Vec::new()).await;
    assert_eq!(reply.status, 200);
    reply.json()
}

/// Holds a reply to what the document says of its path, status and kind.
#[track_caller]
fn check(document: &Value, path: &str, method: &str, reply: &Reply) {
    let responses = &document["paths"][path][method]["responses"];
    let status = reply.status.to_string();
    let response = responses.get(&status).unwrap_or(&responses["default"]);
    let kind = reply.kind.split(';').next().unwrap().to_owned();
    let content = response["content"].as_object().unwrap();
    let content = content
        .iter()
        .find(|(k, _)| k.split(';').next() == Some(&kind));
    let schema = &content.unwrap_or_else(|| panic!("{path}: no {kind}")).1["schema"];
    let values = match kind.as_str() {
        "text/event-stream" => reply.events(),
        "application/json" => vec![reply.json()],
        _ => vec![reply.text().into()],
    };
    assert!(!values.is_empty());
    for value in values {
        let found = problems(document, schema, &value);
        assert!(found.is_empty(), "{path}: {found:#?} in {value:#}");
    }
}

/// The schema of a path's requests.
fn request_schema<'d>(document: &'d Value, path: &str) -> &'d Value {
    &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
}

#[tokio::test]
async fn every_path_is_described_and_no_other() {
    let routes = routes(options());
    let document = document(&routes).await;
    let mut served: BTreeSet<(String, String)> = moeflux_server::paths()
        .map(|(method, path)| (method.to_owned(), path.replace("{*", "{")))
        .collect();
    for path in ["/", "/page.js", "/page.css", "/icon.svg"] {
        served.insert(("get".into(), path.into()));
    }
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described.insert((method.clone(), path.clone()));
            let summary = operation["summary"].as_str();
            assert!(summary.is_some_and(|s| s.len() > 5), "{method} {path}");
        }
    }
    assert_eq!(described, served);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn requests_and_replies_are_as_described() {
    let routes = routes(options());
    let document = document(&routes).await;
    for (path, body) in seeds() {
        let found = problems(&document, request_schema(&document, &path), &body);
        assert!(found.is_empty(), "{path}: {found:#?} in {body}");
        for stream in [false, true] {
            let mut body = body.clone();
            if stream != (body["stream"] == true) {
                if body
                    .get("max_tokens")
                    .or(body.get("max_output_tokens"))
                    .is_none()
                {
                    continue;
                }
                body["stream"] = stream.into();
                body.as_object_mut().unwrap().remove("stream_options");
            }
            let reply = post(&routes, &path, &body).await;
            assert_eq!(reply.status, 200, "{path}: {body}: {}", reply.text());
            assert_eq!(reply.is_stream(), stream, "{path}: {}", reply.kind);
            check(&document, &path, "post", &reply);
        }
        // What is refused has the form of its protocol.
        let reply = post(&routes, &path, &json!({"wisdom": 1})).await;
        assert_eq!(reply.status, 400, "{path}");
        check(&document, &path, "post", &reply);
    }
    for path in ["/v1/models", "/v1/models/demo", "/health", "/metrics", "/"] {
        let reply = ask(&routes, "GET", path, Vec::new()).await;
        assert_eq!(reply.status, 200, "{path}");
        check(&document, &path.replace("/demo", "/{name}"), "get", &reply);
    }
    let reply = ask(&routes, "GET", "/v1/models/other", Vec::new()).await;
    assert_eq!(reply.status, 404);
    check(&document, "/v1/models/{name}", "get", &reply);
}

#[tokio::test]
async fn a_parameter_is_known_if_it_is_described() {
    let routes = routes(options());
    let document = document(&routes).await;
    for (path, body) in seeds() {
        let schema = request_schema(&document, &path)["$ref"].as_str().unwrap();
        let schema = document.pointer(schema.trim_start_matches('#')).unwrap();
        let described = schema["properties"].as_object().unwrap();
        let names = NAMES.split_whitespace().map(str::to_owned);
        let all: BTreeSet<String> = names.chain(described.keys().cloned()).collect();
        for name in all {
            // None of them can be this, so none of them makes the server answer at length.
            let mut body = body.clone();
            body[&name] = json!({"neither": ["this", "nor", "that"]});
            let reply = post(&routes, &path, &body).await;
            let code = reply.json()["error"]["code"].as_str().map(str::to_owned);
            let message = reply.text();
            let unknown = message.contains(&format!("`{name}` is not a parameter of this server"));
            if described.contains_key(&name) {
                assert!(!unknown, "{path} does not know `{name}`: {message}");
            } else {
                let refused = unknown || code.as_deref() == Some("unsupported_value");
                let refused = refused || message.contains("is not supported; leave it out");
                assert!(
                    refused,
                    "{path} takes `{name}`, which is not described: {message}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_live_view_is_as_described() {
    let routes = routes(options());
    let document = document(&routes).await;
    let request = axum::http::Request::get("/live").header("host", "localhost");
    let request = request.body(axum::body::Body::empty()).unwrap();
    let mut body = routes.clone().oneshot(request).await.unwrap().into_body();
    // So long that the view shows it.
    let story = json!({
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "n": 3, "max_tokens": 1500, "ignore_eos": true,
    });
    let ask = || {
        let (routes, story) = (routes.clone(), story.clone());
        tokio::spawn(async move { post(&routes, "/v1/chat/completions", &story).await.status })
    };
    let mut answered = ask();
    let (mut text, mut requests) = (String::new(), 0);
    while requests == 0
        || text
            .lines()
            .filter(|line| line.starts_with("data: "))
            .count()
            < 4
    {
        if requests == 0 && answered.is_finished() {
            answered = ask();
        }
        let frame = body.frame().await.unwrap().unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
        requests = text.matches("\"phase\"").count();
    }
    let reply = Reply {
        status: 200,
        kind: "text/event-stream".into(),
        headers: HeaderMap::new(),
        body: text.into_bytes(),
    };
    check(&document, "/live", "get", &reply);
    assert_eq!(answered.await.unwrap(), 200);
}
