//! `serve` with the prefix cache: what was known is told in each protocol, survives a restart in
//! its folder, and can be turned off.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/server.rs"]
mod server;

use common::command;
use serde_json::{Value, json};
use server::{CHAT, Server};

/// Long enough to be kept.
fn rules() -> String {
    "The code of Ada is 6178 and the code of Bob is 2345. ".repeat(30)
}

fn chat(text: &str) -> Value {
    json!({"max_tokens": 6, "temperature": 0, "messages": [
        {"role": "system", "content": rules()}, {"role": "user", "content": text},
    ]})
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

/// What an answer says, and how many tokens of its prompt were known.
fn told(server: &Server, text: &str) -> (Value, u64, u64) {
    let reply = server.ask(CHAT, &chat(text));
    let usage = &reply["usage"];
    let known = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    let content = reply["choices"][0]["message"]["content"].clone();
    (
        content,
        known.unwrap(),
        usage["prompt_tokens"].as_u64().unwrap(),
    )
}

#[test]
fn every_protocol_tells_what_was_known() {
    let server = Server::start(&[]);
    let (first, known, prompt) = told(&server, "What is the code of Bob?");
    assert_eq!(known, 0);
    let (again, known, _) = told(&server, "What is the code of Bob?");
    assert_eq!(again, first);
    assert!(
        known + 64 >= prompt && known < prompt,
        "{known} of {prompt}"
    );
    let (_, known, _) = told(&server, "And what is the code of Ada, please?");
    assert!(
        known + 64 >= prompt,
        "the system prompt: {known} of {prompt}"
    );

    let usage = json!({"include_usage": true});
    let body = with(chat("What is the code of Bob?"), "stream", true.into());
    let events = server.stream(CHAT, &with(body, "stream_options", usage));
    let details = &events.last().unwrap()["usage"]["prompt_tokens_details"];
    assert!(
        details["cached_tokens"].as_u64().unwrap() + 64 >= prompt,
        "{details}"
    );

    let anthropic = json!({"max_tokens": 6, "temperature": 0, "system": rules(),
        "messages": [{"role": "user", "content": "What is the code of Bob?"}]});
    let reply = server.ask("/v1/messages", &anthropic);
    let (read, rest) = (
        &reply["usage"]["cache_read_input_tokens"],
        &reply["usage"]["input_tokens"],
    );
    let (read, rest) = (read.as_u64().unwrap(), rest.as_u64().unwrap());
    assert!(read + rest == prompt && read + 64 >= prompt, "{reply}");
    assert_eq!(reply["content"][0]["text"], first);
    let events = server.stream("/v1/messages", &with(anthropic, "stream", true.into()));
    let usage = &events[0]["message"]["usage"];
    assert_eq!(usage["cache_read_input_tokens"], read, "{usage}");

    let responses = json!({"max_output_tokens": 6, "temperature": 0, "instructions": rules(),
        "input": "What is the code of Bob?"});
    let reply = server.ask("/v1/responses", &responses);
    let details = &reply["usage"]["input_tokens_details"];
    assert!(
        details["cached_tokens"].as_u64().unwrap() + 64 >= prompt,
        "{reply}"
    );

    assert_eq!(server.metric("moeflux_prefix_hits_total"), 6.0);
    assert!(server.metric("moeflux_prefix_tokens_total") >= 6.0 * (prompt - 64) as f64);
    assert!(server.metric("moeflux_prefix_bytes") > 0.0);
}

#[test]
fn the_next_turn_goes_on_from_the_last() {
    let server = Server::start(&[]);
    let (answer, ..) = told(&server, "What is the code of Bob?");
    let mut body = chat("What is the code of Bob?");
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": answer}));
    messages.push(json!({"role": "user", "content": "Thank you. What is the code of Ada?"}));
    let usage = server.ask(CHAT, &body)["usage"].clone();
    let known = usage["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert!(
        known + 80 >= usage["prompt_tokens"].as_u64().unwrap(),
        "{usage}"
    );
}

#[cfg(unix)]
#[test]
fn a_restarted_server_finds_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--prefix-cache-dir", folder.path().to_str().unwrap()];
    let server = Server::start(&flags);
    let (first, known, prompt) = told(&server, "What is the code of Bob?");
    assert_eq!(known, 0);
    let out = command(&[&["serve", "--port", "0"], &flags[..]].concat())
        .output()
        .unwrap();
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(
        !out.status.success() && error.contains("in use by another server"),
        "{error}"
    );
    server.stop();
    let server = Server::start(&flags);
    let (again, known, _) = told(&server, "What is the code of Bob?");
    assert_eq!(again, first);
    assert!(known + 64 >= prompt, "{known} of {prompt}");
    assert!(server.metric("moeflux_prefix_read_bytes_total") > 0.0);
}

#[test]
fn it_can_be_turned_off() {
    let server = Server::start(&["--prefix-cache", "0"]);
    let (first, ..) = told(&server, "What is the code of Bob?");
    let (again, known, _) = told(&server, "What is the code of Bob?");
    assert_eq!((again, known), (first, 0));
    server.wait_for("moeflux_state_bytes", 0.0);
    for flags in [
        ["--prefix-cache", "0", "--prefix-cache-dir", "/nowhere"],
        ["--port", "0", "--prefix-cache-disk", "1GiB"],
    ] {
        let out = command(&[&["serve"], &flags[..]].concat())
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(2), "{flags:?}");
    }
}

#[test]
fn drafts_change_no_answer() {
    let answer = |when: &str| {
        let server = Server::start(&["--speculate", when]);
        let prompt = "Repeat: one two three four five. one two three four five. one two three";
        let reply = server.ask(
            "/v1/completions",
            &json!({
                "prompt": prompt, "max_tokens": 60, "temperature": 0, "ignore_eos": true,
            }),
        );
        let drafted = server.metric("moeflux_drafted_tokens_total");
        (reply["choices"][0]["text"].clone(), drafted)
    };
    let (plain, none) = answer("off");
    let (drafted, some) = answer("always");
    assert_eq!(plain, drafted);
    assert!(none == 0.0 && some > 0.0, "{none} and {some} drafted");
}
