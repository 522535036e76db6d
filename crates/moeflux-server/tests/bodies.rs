//! No body makes a server panic or blame itself: bytes of any kind, and requests that were right
//! before something in them was changed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/http.rs"]
mod http;
#[path = "common/mutate.rs"]
mod mutate;

use std::sync::OnceLock;

use axum::Router;
use http::{Reply, ask, options, routes};
use mutate::{Change, change, changes};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::Value;
use tokio::runtime::Runtime;

/// Short answers, so that there is time for many.
const MOST_TOKENS: usize = 6;
const POSTS: [&str; 7] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
];

fn server() -> &'static (Runtime, Router) {
    static SERVER: OnceLock<(Runtime, Router)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut options = options();
        options.max_tokens = Some(MOST_TOKENS);
        options.body_bytes = 1 << 20;
        (Runtime::new().unwrap(), routes(options))
    })
}

fn send(path: &str, body: Vec<u8>) -> Reply {
    let (runtime, routes) = server();
    runtime.block_on(ask(routes, "POST", path, body))
}

/// Whether a reply is an answer, or says what is wrong with the request.
fn check(path: &str, body: &str, reply: &Reply) -> Result<(), TestCaseError> {
    let text = reply.text();
    prop_assert!(reply.status < 500, "{path} {body}: {} {text}", reply.status);
    for word in ["server_error", "api_error", "engine_error"] {
        prop_assert!(!text.contains(word), "{path} {body}: {text}");
    }
    if reply.status != 200 {
        let error = &reply.json()["error"];
        let message = error["message"].as_str();
        prop_assert!(
            message.is_some_and(|m| m.len() > 10),
            "{path} {body}: {text}"
        );
        prop_assert!(error["type"].is_string(), "{path} {body}: {text}");
    } else if reply.is_stream() {
        let last = text.trim_end().lines().last().unwrap_or_default();
        let ended = [
            "[DONE]",
            "message_stop",
            "response.completed",
            "response.incomplete",
        ];
        prop_assert!(
            ended.iter().any(|e| last.contains(e)),
            "{path} {body}: {text}"
        );
    } else {
        prop_assert!(reply.json().is_object(), "{path} {body}: {text}");
    }
    Ok(())
}

fn seeds() -> Vec<(String, Value)> {
    serde_json::from_str(include_str!("seeds/requests.json")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn changed_requests_are_answered_or_refused(
        seed in any::<prop::sample::Index>(),
        list in changes(),
    ) {
        let seeds = seeds();
        let (path, mut body) = seeds[seed.index(seeds.len())].clone();
        list.iter().for_each(|one: &Change| change(&mut body, one));
        let text = body.to_string();
        check(&path, &text, &send(&path, text.clone().into_bytes()))?;
    }

    #[test]
    fn any_bytes_are_refused(
        path in prop::sample::select(&POSTS[..]),
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let reply = send(path, body.clone());
        prop_assert_eq!(reply.status, 400);
        check(path, &format!("{body:?}"), &reply)?;
    }

    #[test]
    fn a_request_cut_off_or_hit_is_refused_or_answered(
        seed in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<Option<u8>>(),
    ) {
        let seeds = seeds();
        let (path, body) = &seeds[seed.index(seeds.len())];
        let mut bytes = body.to_string().into_bytes();
        let at = at.index(bytes.len());
        match byte {
            Some(byte) => bytes[at] = byte,
            None => bytes.truncate(at),
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        check(path, &text, &send(path, bytes))?;
    }
}

#[test]
fn depth_and_size_have_bounds() {
    let deep = |open: &str, close: &str| {
        let inner = format!("{}1{}", open.repeat(5000), close.repeat(5000));
        format!("{{\"messages\": {inner}}}").into_bytes()
    };
    for body in [deep("[", "]"), deep("{\"a\":", "}")] {
        for path in POSTS {
            let reply = send(path, body.clone());
            assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        }
    }
    let long = format!("{{\"x\": \"{}\"}}", "a".repeat(1 << 20));
    for path in POSTS {
        assert_eq!(send(path, long.clone().into_bytes()).status, 413, "{path}");
    }
}
