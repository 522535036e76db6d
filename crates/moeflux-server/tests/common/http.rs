//! A server without sockets: its routes, asked in this process.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use moeflux::text::{ChatTemplate, TextFiles};
use moeflux_server::{App, ServedModel, ServerOptions, router};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::common;

pub const CHAT: &str = "/v1/chat/completions";
pub const RESPONSES: &str = "/v1/responses";
pub const MESSAGES: &str = "/v1/messages";
pub const QUESTION: &str = "Which day comes after Tuesday?";

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub kind: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| Value::from(format!("{e}: {}", self.text())))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The data of all events.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let data = data.filter(|data| *data != "[DONE]");
        data.map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    pub fn is_stream(&self) -> bool {
        self.kind.starts_with("text/event-stream")
    }
}

/// A conversation of one question.
pub fn messages() -> Value {
    json!([{"role": "user", "content": QUESTION}])
}

/// `base` with the members of `more`.
pub fn with(base: &Value, more: Value) -> Value {
    let mut all = base.clone();
    let Value::Object(more) = more else {
        unreachable!("an object");
    };
    all.as_object_mut().unwrap().extend(more);
    all
}

/// Options for short answers.
pub fn options() -> ServerOptions {
    let mut options = ServerOptions::new("127.0.0.1:0".parse().unwrap());
    options.request_timeout = Duration::from_secs(120);
    options
}

/// The demo model's routes.
pub fn routes(options: ServerOptions) -> Router {
    let files = TextFiles::open(&common::demo()).unwrap();
    routes_with(options, files.chat_template().ok())
}

/// The demo model's routes with another chat template, or without any.
pub fn routes_with(options: ServerOptions, template: Option<ChatTemplate>) -> Router {
    let (tokenizer, generation) = common::text_files();
    let engine = common::engine(&common::options());
    let model = ServedModel::new(vec!["demo".into()], engine, tokenizer, template, generation);
    router(&Arc::new(App::start(model, options).unwrap()))
}

/// Asks with these headers and reads everything.
pub async fn ask_with(
    routes: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).unwrap();
    let response = routes.clone().oneshot(request).await.unwrap();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.map_or(String::new(), |kind| kind.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Reply {
        status,
        kind,
        headers,
        body: body.into(),
    }
}

/// Asks as this machine does, with a body of JSON.
pub async fn ask(routes: &Router, method: &str, path: &str, body: Vec<u8>) -> Reply {
    let headers = [("host", "localhost"), ("content-type", "application/json")];
    ask_with(routes, method, path, &headers, body).await
}

/// Posts JSON.
pub async fn post(routes: &Router, path: &str, body: &Value) -> Reply {
    ask(routes, "POST", path, body.to_string().into_bytes()).await
}
