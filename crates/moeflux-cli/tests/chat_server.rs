//! `chat --server`: a conversation with the model of a running server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/server.rs"]
mod server;

use common::{ANSWER, QUESTION, Ran, command, fails, run_with_input, text};
use server::Server;

const STORY: &str = "Tell me a story about a fox.";

fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}

#[test]
fn it_says_what_a_chat_without_server_says() {
    let server = Server::start(&[]);
    let lines = format!("{QUESTION}\n\n{STORY}\n/reset\n{QUESTION}\n/exit\nnever said\n");
    let flags = ["--system", "Be brief.", "--max-tokens", "40"];
    let local = run_with_input(&[&["chat"], &flags[..]].concat(), &lines);
    let url = url(&server);
    let there = run_with_input(&[&["chat", "--server", &url], &flags[..]].concat(), &lines);
    assert_eq!((there.code, there.stderr.as_str()), (0, ""));
    assert_eq!(there.stdout, local.stdout);
    assert_eq!(there.stdout.lines().count(), 3);
    assert_eq!(server.metric("moeflux_answers_completed_total"), 3.0);

    // Figures, and an address as OpenAI's clients have it.
    let base = format!("{url}/v1/");
    let ran = run_with_input(
        &["chat", "--server", &base, "--stats"],
        &format!("{QUESTION}\n/stats\n/help\n"),
    );
    assert_eq!(ran.stdout.trim(), ANSWER);
    for words in [
        "answer 5 tokens",
        "tok/s",
        "of 8192 context tokens used",
        "/save FILE",
    ] {
        assert!(ran.stderr.contains(words), "no {words}: {}", ran.stderr);
    }
    assert_eq!(
        run_with_input(&["chat", "--server", &url], "/nonsense\n").code,
        2
    );
}

#[test]
fn what_is_saved_goes_on_with_the_server_and_without() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("talk");
    let url = url(&server);
    let save = format!("{QUESTION}\n/save {}\n", text(&file));
    assert_eq!(run_with_input(&["chat", "--server", &url], &save).code, 0);
    let load = format!("/load {}\nAnd what is the capital of Egypt?\n", text(&file));
    let there = run_with_input(&["chat", "--server", &url], &load);
    assert!(there.stderr.contains("2 messages"), "{}", there.stderr);
    let here = run_with_input(&["chat"], &load);
    assert_eq!((there.code, here.code), (0, 0), "{}", here.stderr);
    assert_eq!(there.stdout, here.stdout);
    let whole = format!("{QUESTION}\nAnd what is the capital of Egypt?\n");
    let whole = run_with_input(&["chat"], &whole).stdout;
    assert_eq!(format!("{ANSWER}\n{}", there.stdout), whole);
}

#[test]
fn what_began_without_a_server_comes_back_from_one_whole() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let (file, url) = (dir.path().join("talk"), url(&server));
    let (load, save) = (
        format!("/load {}\n", text(&file)),
        format!("/save {}\n", text(&file)),
    );
    let second = "And what is the capital of Egypt?\n";
    let here = run_with_input(&["chat"], &format!("{QUESTION}\n{save}"));
    let there = format!("{load}{second}{save}");
    let there = run_with_input(&["chat", "--server", &url], &there);
    let back = run_with_input(&["chat"], &format!("{load}{STORY}\n"));
    let whole = run_with_input(&["chat"], &format!("{QUESTION}\n{second}{STORY}\n"));
    assert_eq!(
        whole.stdout,
        here.stdout + &there.stdout + &back.stdout,
        "{}",
        back.stderr
    );

    // Text that was continued has no messages that a server could be sent.
    let raw = ["run", "--raw", "--max-tokens", "3", "--save-session"];
    let raw = run_with_input(&[&raw[..], &[text(&file), "Once"]].concat(), "");
    assert_eq!(raw.code, 0, "{}", raw.stderr);
    let refused = run_with_input(&["chat", "--server", &url], &load);
    assert_eq!(refused.code, 5);
    assert!(refused.stderr.contains("--server"), "{}", refused.stderr);
}

#[test]
fn the_key_is_given_by_flag_file_or_variable() {
    let server = Server::start(&["--api-key", "secret"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "secret\n").unwrap();
    let url = url(&server);
    let chat = ["chat", "--server", &url];
    let ask = |more: &[&str]| run_with_input(&[&chat[..], more].concat(), QUESTION);
    for more in [["--api-key", "secret"], ["--api-key-file", text(&file)]] {
        let ran = ask(&more);
        assert_eq!((ran.code, ran.stdout.trim()), (0, ANSWER), "{}", ran.stderr);
    }
    for more in [&["--api-key", "other"][..], &[]] {
        let ran = ask(more);
        assert_eq!(ran.code, 6);
        assert!(ran.stderr.contains("--api-key-file"), "{}", ran.stderr);
    }
    let with_variable = command(&chat)
        .env("MOEFLUX_API_KEY", "secret")
        .output()
        .unwrap();
    assert_eq!(Ran::from(with_variable).code, 0);
}

#[test]
fn what_cannot_be_is_said() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    fails(&["chat", "--server", &url], 6, &[&url, "moeflux serve"]);
    fails(
        &["chat", "--server", "https://localhost"],
        2,
        &["--server", "https"],
    );
    fails(
        &["chat", "--server", "localhost"],
        2,
        &["--server", "http://"],
    );
    // Flags of a model of one's own, and those of a server without one, mean nothing.
    for (flag, value) in [
        ("--memory", "1GiB"),
        ("--model", "demo"),
        ("--speculate", "off"),
    ] {
        fails(
            &["chat", "--server", &url, flag, value],
            2,
            &["--server", flag],
        );
    }
    fails(&["chat", "--api-key", "x"], 2, &["--server"]);
    // A refusal in the server's words ends a script.
    let server = Server::start(&["--max-tokens", "10"]);
    let url = self::url(&server);
    fails_with_input(
        &["chat", "--server", &url, "--max-tokens", "11"],
        6,
        "at most 10",
    );
    let full = Server::start(&["--context", "64"]);
    let url = self::url(&full);
    fails_with_input(&["chat", "--server", &url], 6, "context holds 64");
}

#[track_caller]
fn fails_with_input(args: &[&str], code: i32, words: &str) {
    let ran = run_with_input(args, QUESTION);
    assert_eq!(ran.code, code, "{}", ran.stderr);
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
}

#[cfg(unix)]
#[test]
fn control_c_stops_the_answer_here_and_there() {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::process::Stdio;
    use std::sync::mpsc;

    let model = common::copy(&common::demo());
    common::edit_json(model.path(), "generation_config.json", |config| {
        config["eos_token_id"] = serde_json::json!([2047]);
    });
    let server = Server::start(&["-m", text(model.path())]);
    let mut child = command(&["chat", "--server", &url(&server), "--max-tokens", "7000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut stdout = child.stdout.take().unwrap();
    let (shown, pieces) = mpsc::channel();
    let drain = std::thread::spawn(move || {
        let mut piece = [0; 64];
        while stdout.read(&mut piece).is_ok_and(|bytes| bytes > 0) {
            // The test looks at the first pieces of an answer only.
            let _ = shown.send(());
        }
    });
    for round in 1..=2 {
        // What is left of the answer before is no piece of this one.
        while pieces.try_recv().is_ok() {}
        writeln!(stdin, "{STORY}").unwrap();
        pieces.recv().unwrap();
        let process = i32::try_from(child.id()).unwrap();
        // SAFETY: the process is this test's own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGINT) }, 0);
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert_eq!(line, "(stopped)\n");
        // The server has stopped too, long before the answer's end.
        server.wait_for("moeflux_answers_cancelled_total", f64::from(round));
        server.wait_for("moeflux_answers_running", 0.0);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    drain.join().unwrap();
}
