//! `serve` and requests that it refuses, over a real connection.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/server.rs"]
mod server;

use common::command;
use serde_json::json;
use server::{CHAT, Server, question, with};

#[test]
fn bad_requests_are_refused_with_what_is_wrong() {
    let server = Server::start(&["--max-body", "64KiB", "--context", "256"]);
    let ask = || question("hi");
    let long = "word ".repeat(600);
    for (status, code, param, body) in [
        (
            400,
            "unknown_parameter",
            Some("wisdom"),
            with(ask(), json!({"wisdom": 1})),
        ),
        (
            400,
            "invalid_value",
            Some("temperature"),
            with(ask(), json!({"temperature": -1})),
        ),
        (
            400,
            "invalid_type",
            Some("temperature"),
            with(ask(), json!({"temperature": "hot"})),
        ),
        (
            400,
            "invalid_value",
            Some("n"),
            with(ask(), json!({"n": 0})),
        ),
        (
            400,
            "unsupported_value",
            Some("store"),
            with(ask(), json!({"store": true})),
        ),
        (
            400,
            "invalid_value",
            Some("top_logprobs"),
            with(ask(), json!({"top_logprobs": 2})),
        ),
        (
            400,
            "invalid_value",
            Some("stream_options"),
            with(ask(), json!({"stream_options": {}})),
        ),
        (
            400,
            "invalid_value",
            Some("tool_choice"),
            with(ask(), json!({"tool_choice": "required"})),
        ),
        (
            400,
            "invalid_value",
            Some("logit_bias.x"),
            with(ask(), json!({"logit_bias": {"x": 1}})),
        ),
        (
            400,
            "invalid_value",
            Some("messages"),
            json!({"messages": []}),
        ),
        (
            400,
            "missing_required_parameter",
            Some("messages"),
            json!({"model": "demo"}),
        ),
        (
            400,
            "invalid_value",
            Some("messages[0].role"),
            json!({"messages": [{"role": "cat", "content": ""}]}),
        ),
        (
            400,
            "invalid_value",
            Some("messages[0].content[0]"),
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        ),
        (
            404,
            "model_not_found",
            Some("model"),
            json!({"model": "other", "messages": []}),
        ),
        (400, "context_length_exceeded", None, question(&long)),
        (413, "body_too_large", None, question(&long.repeat(30))),
    ] {
        let (found, error) = server.post(CHAT, &body);
        let error = &error["error"];
        assert_eq!(
            (found, &error["code"], error["param"].as_str()),
            (status, &json!(code), param),
            "{error}"
        );
        assert!(error["message"].as_str().unwrap().len() > 10, "{error}");
    }
    let ok = with(
        ask(),
        json!({"user": "me", "temperature": null, "max_tokens": 1}),
    );
    assert_eq!(server.post(CHAT, &ok).0, 200);
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(server.get(CHAT).0, 405);
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
        server.address
    );
    for (status, request) in [
        (415, format!("{head}Content-Length: 2\r\n\r\n{{}}")),
        (
            400,
            format!("{head}Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{{"),
        ),
        (
            400,
            format!("{head}Content-Type: application/json\r\nContent-Length: 4\r\n\r\nnull"),
        ),
        (
            413,
            format!(
                "{head}Content-Type: application/json\r\nExpect: 100-continue\r\n\
                 Content-Length: 99999999\r\n\r\n"
            ),
        ),
        (
            403,
            format!("{head}Origin: https://example.org\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            403,
            "GET /v1/models HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n".to_owned(),
        ),
        (400, "GARBAGE\r\n\r\n".to_owned()),
    ] {
        let reply = server.raw(&request);
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {reply}"
        );
    }
}

#[test]
fn a_key_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "secret\n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap()]);
    assert_eq!(server.get("/health").0, 200);
    let (status, error) = server.get("/v1/models");
    assert_eq!(status, 401, "{error}");
    assert!(error.contains("invalid_api_key"), "{error}");
    for (status, header) in [
        (200, "Authorization: Bearer secret"),
        (200, "x-api-key: secret"),
        (401, "Authorization: Bearer secres"),
        (401, "Authorization: secret"),
    ] {
        let head =
            format!("GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n");
        let reply = server.raw(&head);
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}")),
            "{header}: {reply}"
        );
    }
}

#[test]
fn other_machines_need_a_key() {
    let ran: common::Ran = command(&["serve", "--host", "0.0.0.0", "--port", "0"])
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("--api-key-file"), "{}", ran.stderr);
    let both = ["serve", "--no-api-key", "--api-key", "secret"];
    common::fails(&both, 2, &["--no-api-key", "--api-key"]);
}
