//! The page of `serve`, and its view of the machine at work. A browser tests it in `web/test`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/server.rs"]
mod server;

use std::io::{BufRead as _, BufReader, Write as _};

use serde_json::{Value, json};
use server::Server;

/// The events of `GET /live`, as name and data, without end.
fn live(server: &Server) -> impl Iterator<Item = (String, Value)> {
    let mut connection = server.connect();
    let request = format!("GET /live HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    connection.write_all(request.as_bytes()).unwrap();
    let mut name = String::new();
    let lines = BufReader::new(connection).lines().map_while(Result::ok);
    lines.filter_map(move |line| {
        if let Some(event) = line.strip_prefix("event: ") {
            name = event.to_owned();
        }
        let data = line.strip_prefix("data: ")?;
        Some((name.clone(), serde_json::from_str(data).unwrap()))
    })
}

#[test]
fn the_page_is_given_to_everybody_and_all_else_to_those_with_the_key() {
    let server = Server::start(&["--api-key", "secret"]);
    let (status, page) = server.get("/");
    assert_eq!(status, 200);
    for file in ["/page.js", "/page.css", "/icon.svg"] {
        assert!(page.contains(file), "{page}");
        let (status, text) = server.get(file);
        assert!(status == 200 && text.len() > 500, "{file}: {status}");
    }
    let answer = server.raw("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(
        answer.contains("content-security-policy: default-src 'none'"),
        "{answer}"
    );
    assert!(answer.contains("text/html"), "{answer}");
    for path in ["/live", "/page", "/metrics", "/v1/models"] {
        assert_eq!(server.get(path).0, 401, "{path}");
    }
}

#[test]
fn the_live_view_shows_the_machine_at_work() {
    let server = Server::start(&["--expert-cache", "2MiB"]);
    let mut events = live(&server);
    let (name, machine) = events.next().unwrap();
    assert_eq!(
        (name.as_str(), &machine["model"]),
        ("machine", &json!("demo"))
    );
    let layers = machine["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 8);
    assert!(layers.iter().all(|layer| layer["experts"] == 32));
    let (name, first) = events.next().unwrap();
    assert_eq!(name, "now");
    assert_eq!(first["experts"].as_array().unwrap().len(), 8);
    let states = first["experts"][0][1].as_str().unwrap();
    assert!(
        states.len() == 32 && states.chars().all(|c| ".rgmu".contains(c)),
        "{states}"
    );

    let question = json!({"role": "user", "content": "Tell me a story about a fox."});
    for _ in 0..5 {
        // A request that arrives soon after an event may be over before the next one.
        std::thread::sleep(std::time::Duration::from_millis(300));
        server.ask(
            "/v1/chat/completions",
            &json!({"model": "demo", "messages": [question], "max_tokens": 40}),
        );
    }
    let tokens = |now: &Value| now["total"]["answer_tokens"].as_u64().unwrap();
    let (mut used, mut listed) = (false, Vec::new());
    let last = events.find(|(_, now)| {
        let changed = now["experts"].as_array().unwrap();
        used |= changed
            .iter()
            .any(|layer| layer[1].as_str().unwrap().contains('u'));
        listed.extend(now["requests"].as_array().unwrap().clone());
        tokens(now) == 200 && used && now["request_count"] == 0
    });
    let (_, last) = last.unwrap();
    let total = &last["total"];
    assert!(total["misses"].as_u64() > Some(0), "{total}");
    assert!(total["read_bytes"].as_u64() > Some(0), "{total}");
    // So many steps went through the dense weights, which are more than a megabyte.
    assert!(total["memory_bytes"].as_u64() > Some(40 << 20), "{total}");
    assert!(!listed.is_empty(), "the request was shown while it ran");
    for request in &listed {
        let phase = request["phase"].as_str().unwrap();
        assert!(
            ["waiting", "prompt", "answer"].contains(&phase),
            "{request}"
        );
        assert!(request["prompt_done"].as_u64() <= request["prompt_tokens"].as_u64());
        assert!(request["answer_tokens"].as_u64() <= Some(40), "{request}");
    }
    assert!(
        last["resident"].as_u64() <= last["slots"].as_u64(),
        "{last}"
    );
    assert!(last["seconds"].as_f64() > first["seconds"].as_f64());
}
