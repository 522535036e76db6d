//! What clients of the three protocols get for wrong requests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/http.rs"]
mod http;

use http::{CHAT, MESSAGES, RESPONSES, ask, ask_with, messages, options, post, routes, with};
use serde_json::{Value, json};

/// Requests that contradict themselves or ask for what cannot be, with the name of what is wrong.
fn contradictions() -> Vec<(&'static str, Value, &'static str)> {
    let function = |name: &str, parameters: Value| {
        json!({
            "type": "function", "function": {"name": name, "parameters": parameters},
        })
    };
    let tool = function("f", json!({"type": "object"}));
    let format = json!({"type": "json_object"});
    let chat = |more: Value| (CHAT, with(&json!({"messages": messages()}), more));
    let message = |more: Value| {
        (
            MESSAGES,
            with(&json!({"messages": messages(), "max_tokens": 5}), more),
        )
    };
    let text = |more: Value| ("/v1/completions", with(&json!({"prompt": "a"}), more));
    let response = |more: Value| (RESPONSES, with(&json!({"input": "a"}), more));
    let assistant_last = json!([messages()[0], {"role": "assistant", "content": "W"}]);
    [
        (
            chat(json!({"max_tokens": 3, "max_completion_tokens": 4})),
            "max_completion_tokens",
        ),
        (
            chat(json!({"response_format": format, "tools": [tool], "tool_choice": "required"})),
            "response_format",
        ),
        (
            chat(json!({"tools": [tool], "tool_choice": {"type": "function",
                     "function": {"name": "g"}}})),
            "tool_choice",
        ),
        (chat(json!({"tools": [tool, tool]})), "tools[1]"),
        (
            chat(json!({"tools": [function("not a name", json!({}))]})),
            "tools[0].function.name",
        ),
        (
            chat(json!({"tools": [function("f", json!([]))]})),
            "tools[0].function.parameters",
        ),
        (
            chat(json!({"tools": [{"type": "retrieval"}]})),
            "tools[0].type",
        ),
        (
            chat(json!({"tools": [function("f", json!({"type": "object",
                     "properties": {"a": {"type": "no"}}}))], "tool_choice": "required"})),
            "tools",
        ),
        (
            chat(json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 7}}})),
            "response_format.json_schema.schema",
        ),
        (
            chat(json!({"top_logprobs": 3, "logprobs": false})),
            "top_logprobs",
        ),
        (
            chat(json!({"stream_options": {"include_usage": true}})),
            "stream_options",
        ),
        (chat(json!({"n": 17})), "n"),
        (chat(json!({"stop": ["a", ""]})), "stop"),
        (chat(json!({"stop": vec!["a"; 17]})), "stop"),
        (chat(json!({"logit_bias": {"2048": 1}})), "logit_bias.2048"),
        (
            chat(json!({"chat_template_kwargs": {"messages": []}})),
            "chat_template_kwargs.messages",
        ),
        (
            chat(json!({"reasoning_effort": "enormous"})),
            "reasoning_effort",
        ),
        (text(json!({"echo": true, "logprobs": 1})), "echo"),
        (text(json!({"prompt": ["a", 5]})), "prompt"),
        (text(json!({"prompt": [2048]})), "prompt"),
        (text(json!({"best_of": 2})), "best_of"),
        (
            response(json!({"previous_response_id": "resp_1"})),
            "previous_response_id",
        ),
        (response(json!({"store": true})), "store"),
        (
            response(json!({"input": [{"type": "item_reference"}]})),
            "input[0].type",
        ),
        (message(json!({"max_tokens": null})), "max_tokens"),
        (message(json!({"messages": assistant_last})), "messages"),
        (
            message(json!({"tool_choice": {"type": "tool", "name": "f"}})),
            "tool_choice",
        ),
        (
            message(json!({"thinking": {"type": "sometimes"}})),
            "thinking.type",
        ),
        (
            ("/tokenize", json!({"content": "a", "messages": messages()})),
            "content",
        ),
        (("/detokenize", json!({"tokens": [1, 2048]})), "tokens[1]"),
    ]
    .map(|((path, body), param)| (path, body, param))
    .into()
}

#[tokio::test]
async fn contradictions_are_named() {
    let routes = routes(options());
    for (path, body, param) in contradictions() {
        let reply = post(&routes, path, &body).await;
        assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
        let error = reply.json()["error"].clone();
        match path {
            MESSAGES => {
                assert_eq!(error["type"], "invalid_request_error", "{body}");
                let message = error["message"].as_str().unwrap();
                assert!(message.contains(param), "{body}: {message}");
            }
            _ => assert_eq!(error["param"], param, "{path} {body}: {error}"),
        }
    }
}

#[tokio::test]
async fn what_is_not_utf_8_is_refused() {
    let routes = routes(options());
    let body = b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\xfe\"}]}".to_vec();
    for path in [CHAT, RESPONSES, MESSAGES, "/v1/completions", "/tokenize"] {
        let reply = ask(&routes, "POST", path, body.clone()).await;
        assert_eq!(reply.status, 400, "{path}");
        assert!(
            reply.text().contains("not JSON"),
            "{path}: {}",
            reply.text()
        );
    }
    let reply = ask(&routes, "GET", "/v1/models/%ff", Vec::new()).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (400, &json!("invalid_path"))
    );
    // Halves of surrogates are no characters either.
    let half = br#"{"content": "\ud800"}"#.to_vec();
    assert_eq!(ask(&routes, "POST", "/tokenize", half).await.status, 400);
}

#[tokio::test]
async fn a_wrong_key_is_told_in_each_protocol() {
    let mut options = options();
    options.api_key = Some("secret".into());
    let routes = routes(options);
    let body = json!({"messages": messages(), "max_tokens": 1})
        .to_string()
        .into_bytes();
    for (header, value, status) in [
        ("authorization", "Bearer secret", 200),
        ("authorization", "Bearer Secret", 401),
        ("authorization", "Basic secret", 401),
        ("x-api-key", "secret", 200),
        ("x-api-key", "", 401),
    ] {
        let headers = [
            ("host", "x"),
            ("content-type", "application/json"),
            (header, value),
        ];
        let reply = ask_with(&routes, "POST", CHAT, &headers, body.clone()).await;
        assert_eq!(reply.status, status, "{header}: {value}");
        let anthropic = ask_with(&routes, "POST", MESSAGES, &headers, body.clone()).await;
        assert_eq!(anthropic.status, status, "{header}: {value}");
        if status == 401 {
            assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
            assert_eq!(reply.json()["error"]["type"], "authentication_error");
            let error = anthropic.json();
            assert_eq!(
                (&error["type"], &error["error"]["type"]),
                (&json!("error"), &json!("authentication_error"))
            );
        }
    }
}

#[tokio::test]
async fn pages_of_other_origins_need_leave() {
    let mut options = options();
    options.allowed_origins = vec!["https://friend.example".into()];
    let routes = routes(options);
    let page = |origin: &'static str| {
        [
            ("host", "localhost:80"),
            ("content-type", "application/json"),
            ("origin", origin),
        ]
    };
    for (origin, status, allowed) in [
        ("http://localhost:80", 200, None),
        (
            "https://friend.example",
            200,
            Some("https://friend.example"),
        ),
        ("http://friend.example", 403, None),
        ("https://friend.example.evil.example", 403, None),
        ("null", 403, None),
    ] {
        let reply = ask_with(&routes, "GET", "/v1/models", &page(origin), Vec::new()).await;
        assert_eq!(reply.status, status, "{origin}");
        assert_eq!(
            reply.header("access-control-allow-origin"),
            allowed,
            "{origin}"
        );
        let asks = ("access-control-request-method", "POST");
        let headers = [
            &page(origin)[..],
            &[asks, ("access-control-request-headers", "x-api-key")],
        ];
        let reply = ask_with(&routes, "OPTIONS", CHAT, &headers.concat(), Vec::new()).await;
        let known = reply.header("access-control-allow-headers");
        match allowed {
            Some(_) => assert_eq!((reply.status, known), (204, Some("x-api-key"))),
            None => assert!(reply.status >= 400 && known.is_none(), "{origin}"),
        }
    }
}

#[tokio::test]
async fn sizes_have_bounds_in_each_protocol() {
    let mut options = options();
    options.body_bytes = 100_000;
    options.max_tokens = Some(10);
    let routes = routes(options);
    let long = "fox ".repeat(12_000);
    for (path, body) in [
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": long}]}),
        ),
        (RESPONSES, json!({"input": long})),
        (
            MESSAGES,
            json!({"max_tokens": 5, "messages": [{"role": "user", "content": long}]}),
        ),
        ("/v1/completions", json!({"prompt": long})),
    ] {
        let reply = post(&routes, path, &body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        assert!(
            reply.text().contains("the context holds 8192"),
            "{path}: {}",
            reply.text()
        );
        let more = with(&body, json!({"padding": "x".repeat(100_000)}));
        let reply = post(&routes, path, &more).await;
        assert_eq!(reply.status, 413, "{path}");
        let kind = reply.json()["error"]["type"].clone();
        match path {
            MESSAGES => assert_eq!(kind, "request_too_large"),
            _ => assert_eq!(kind, "invalid_request_error"),
        }
    }
    let most = json!({"messages": messages(), "max_tokens": 11});
    for path in [CHAT, MESSAGES] {
        let reply = post(&routes, path, &most).await;
        assert!(
            reply.status == 400 && reply.text().contains("at most 10"),
            "{}",
            reply.text()
        );
    }
}
