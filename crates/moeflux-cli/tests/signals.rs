//! Ctrl-C and closed pipes.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{command, copy, demo, edit_json, text};

/// A demo model that never stops by itself.
fn endless() -> tempfile::TempDir {
    let model = copy(&demo());
    edit_json(model.path(), "generation_config.json", |config| {
        config["eos_token_id"] = serde_json::json!([2047]);
    });
    model
}

fn interrupt(child: &Child) {
    let status = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[track_caller]
fn wait(child: &mut Child) -> i32 {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("still running a minute after it should have stopped");
}

#[test]
fn control_c_ends_run_with_what_was_said() {
    let model = endless();
    let mut child = command(&["run", "Tell me a story.", "-m", text(model.path())])
        .args(["--max-tokens", "8000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 20]).unwrap();
    interrupt(&child);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(wait(&mut child), 130);
    assert!(rest.ends_with('\n'), "the line is ended");
}

#[test]
fn control_c_stops_an_answer_and_not_the_chat() {
    let model = endless();
    let mut child = command(&["chat", "-m", text(model.path()), "--max-tokens", "8000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let shown = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&shown);
    let drain = std::thread::spawn(move || {
        while stdout.read_exact(&mut [0]).is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    for _ in 0..2 {
        let before = shown.load(Ordering::SeqCst);
        stdin.write_all(b"Tell me a story.\n").unwrap();
        let start = Instant::now();
        while shown.load(Ordering::SeqCst) < before + 40 {
            assert!(start.elapsed() < Duration::from_secs(60), "no answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        interrupt(&child);
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert_eq!(line, "(stopped)\n");
    }
    stdin.write_all(b"/exit\n").unwrap();
    drop(stdin);
    assert_eq!(wait(&mut child), 0);
    drain.join().unwrap();
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let model = endless();
    let mut child = command(&["run", "Tell me a story.", "-m", text(model.path())])
        .args(["--max-tokens", "8000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    drop(stdout);
    assert_eq!(wait(&mut child), 0);
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(stderr, "");
}
