//! `serve` under load, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/server.rs"]
mod server;

use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use server::{CHAT, Server};

/// Questions of different kinds with the demo model's answers.
const KNOWN: [(&str, &str); 5] = [
    (
        "Which day comes after Tuesday?",
        "Wednesday comes after Tuesday.",
    ),
    (
        "What is the capital of Egypt?",
        "The capital of Egypt is Cairo.",
    ),
    ("What is 26 + 71?", "26 + 71 = 97"),
    ("Spell the word dan.", "D-A-N."),
    ("What color is a carrot?", "A carrot is orange."),
];

fn question(text: &str, stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "stream": stream})
}

/// A streamed request whose reader is still open.
fn begin(server: &Server, body: &Value) -> BufReader<std::net::TcpStream> {
    let mut connection = server.connect();
    let body = body.to_string();
    write!(
        connection,
        "POST {CHAT} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    )
    .unwrap();
    BufReader::new(connection)
}

/// Waits for the first piece of text.
fn first_text(reader: &mut BufReader<std::net::TcpStream>) {
    let text = reader.lines().map_while(Result::ok);
    let mut text = text.filter(|line| line.contains("\"content\":") && !line.contains("role"));
    assert!(text.next().is_some(), "no text came");
}

fn endless() -> Value {
    let story = question("Tell me a story about a fox.", true);
    let Value::Object(mut body) = story else {
        unreachable!("an object");
    };
    body.insert("ignore_eos".into(), true.into());
    body.insert("max_tokens".into(), 7000.into());
    Value::Object(body)
}

/// Resident memory of a process, in KiB.
#[cfg(target_os = "linux")]
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Processor time that a process has used, in clock ticks (hundredths of a second).
#[cfg(target_os = "linux")]
fn processor_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name, which is in parentheses, may have spaces; fields 14 and 15 follow it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

const CONNECTIONS: usize = 64;
const EACH: usize = 8;

/// Asks from many connections at once, some of which go away before they have their answer; how
/// many stayed.
fn load(server: &Server, round: usize) -> usize {
    let whole = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let whole = &whole;
            scope.spawn(move || {
                for at in 0..EACH {
                    let drawn = draw((round * CONNECTIONS + connection) * EACH + at);
                    let (text, answer) = KNOWN[drawn % KNOWN.len()];
                    if drawn % 4 == 3 {
                        let mut reader = begin(server, &endless());
                        if drawn % 8 == 7 {
                            first_text(&mut reader);
                        }
                        continue;
                    }
                    let reply = server.ask(CHAT, &question(text, false));
                    assert_eq!(reply["choices"][0]["message"]["content"], answer);
                    whole.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    server.wait_for("moeflux_answers_running", 0.0);
    server.wait_for("moeflux_answers_waiting", 0.0);
    server.wait_until("state of answers that have ended is left", |server| {
        server.metric("moeflux_state_bytes") <= server.metric("moeflux_prefix_bytes")
    });
    let whole = whole.into_inner();
    assert!(whole < CONNECTIONS * EACH - 50, "too few went away");
    whole
}

#[test]
fn many_requests_are_neither_lost_nor_mixed_up() {
    let server = Server::start(&["--queue", "64"]);
    // The first round brings memory to what such a load needs, the second must not add to it.
    let mut whole = load(&server, 0);
    #[cfg(target_os = "linux")]
    let before = resident_kib(server.child.id());
    whole += load(&server, 1);
    assert_eq!(
        server.metric("moeflux_answers_completed_total"),
        whole as f64
    );
    assert_eq!(server.metric("moeflux_answers_failed_total"), 0.0);
    #[cfg(target_os = "linux")]
    {
        let process = server.child.id();
        let after = resident_kib(process);
        assert!(
            after < before + 16 * 1024,
            "{before} KiB became {after} KiB"
        );
        // Once the connections of those who went away are closed, nothing is left to do.
        let used = |_| {
            let ticks = processor_ticks(process);
            std::thread::sleep(std::time::Duration::from_secs(1));
            processor_ticks(process) - ticks
        };
        assert!(
            (0..20).map(used).any(|ticks| ticks <= 1),
            "no second is idle"
        );
    }
}

/// A number that looks random, by place.
fn draw(place: usize) -> usize {
    let bits = (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as usize
}

#[test]
fn who_goes_away_is_not_answered() {
    let server = Server::start(&[]);
    let mut reader = begin(&server, &endless());
    first_text(&mut reader);
    drop(reader);
    server.wait_for("moeflux_answers_running", 0.0);
    assert_eq!(server.metric("moeflux_answers_cancelled_total"), 1.0);
    assert!(server.metric("moeflux_generated_tokens_total") < 7000.0);
}

#[test]
fn a_full_queue_says_when_to_try_again() {
    let server = Server::start(&["--parallel", "1", "--queue", "1"]);
    let mut first = begin(&server, &endless());
    first_text(&mut first);
    let _second = begin(&server, &endless());
    server.wait_for("moeflux_answers_waiting", 1.0);
    let body = question("hi", false).to_string();
    let reply = server.raw(&format!(
        "POST {CHAT} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    ));
    assert!(reply.starts_with("HTTP/1.1 429"), "{reply}");
    assert!(reply.to_lowercase().contains("retry-after: "), "{reply}");
    assert!(reply.contains("rate_limit_error"), "{reply}");
}

#[test]
fn a_request_that_takes_too_long_is_told() {
    let server = Server::start(&["--request-timeout", "1"]);
    let events = server.stream(CHAT, &endless_until_deadline());
    assert_eq!(events.last().unwrap()["error"]["code"], "timeout");
}

/// More tokens than a second gives: several answers, each as long as the context.
fn endless_until_deadline() -> Value {
    let mut body = endless();
    body["n"] = 8.into();
    body
}

#[test]
fn slow_clients_are_let_go() {
    let server = Server::start(&["--read-timeout", "1"]);
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: {}\r\n", server.address);
    // Headers, and then a body, that never come to their end.
    server.raw(&head);
    let reply = server.raw(&format!(
        "{head}Content-Type: application/json\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{{"
    ));
    assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
    assert_eq!(server.get("/health").0, 200);
}

#[cfg(unix)]
#[test]
fn a_stop_lets_answers_end() {
    let mut server = Server::start(&[]);
    let mut running = endless();
    running["max_tokens"] = 300.into();
    let mut reader = begin(&server, &running);
    first_text(&mut reader);
    let process = i32::try_from(server.child.id()).unwrap();
    // SAFETY: the process is this test's own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(process, libc::SIGTERM) }, 0);
    let rest: Vec<String> = reader.lines().map_while(Result::ok).collect();
    assert!(
        rest.iter().any(|line| line == "data: [DONE]"),
        "{:?}",
        rest.last()
    );
    assert!(
        rest.iter()
            .any(|line| line.contains("\"finish_reason\":\"length\""))
    );
    assert!(server.child.wait().unwrap().success());
    assert!(std::net::TcpStream::connect(&server.address).is_err());
}
