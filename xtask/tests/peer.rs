//! `cargo xtask peer` as a process, with two programs that play the parts.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program that notes its arguments in the file `calls` and then runs `body`.
fn program(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    let calls = dir.join("calls");
    let text = format!(
        "#!/bin/sh\necho \"{name} $*\" >> '{}'\n{body}\n",
        calls.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn peer(llama: &Path, moeflux: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["peer", "-m", "model.gguf", "--llama-bench"])
        .arg(llama)
        .arg("--moeflux")
        .arg(moeflux)
        .args(flags)
        .output()
        .unwrap()
}

const OURS: &str = r#"echo '{"results": [{"tok_s": 30.0, "floor_share": 0.9, "limit": "memory",
    "first_token_s": 1.5}]}'"#;

#[test]
fn both_programs_run_in_turns_and_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = "echo '[{\"avg_ts\": 20.0}]'";
    let llama = program(dir.path(), "llama", theirs);
    let moeflux = program(dir.path(), "moeflux", OURS);
    let flags = [
        "-p", "0", "-n", "8", "-d", "0,16", "-r", "2", "-t", "3", "--load",
    ];
    let flags = [&flags[..], &["--", "--isa", "avx2"]].concat();
    let output = peer(&llama, &moeflux, &flags);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in [
        "| tg8 | 20.00 | 30.00 | 1.50 | 90 % | memory |",
        "| tg8 @ d16 | 20.00 | 30.00 | 1.50 | 90 % | memory |",
        "| tg8 | 20.00 20.00 | 30.00 30.00 |",
    ] {
        assert!(
            printed.lines().any(|found| found == line),
            "no {line} in {printed}"
        );
    }
    assert!(printed.contains("first token"), "{printed}");
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    let llama = "llama -m model.gguf -o json -r 1 -p 0 -n 8 -d 0 -t 3";
    let moeflux = "moeflux bench --json -r 1 -m model.gguf -p 0 -n 8 -d 0 -t 3 --isa avx2";
    assert_eq!(calls[..4], [llama, moeflux, moeflux, llama]);
    assert_eq!(calls.len(), 12);
    assert!(calls[8].contains("--no-warmup"), "{calls:?}");
}

#[test]
fn failures_say_which_program_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let good = program(dir.path(), "good", OURS);
    let failing = program(dir.path(), "failing", "echo 'no such model' >&2; exit 3");
    let garbled = program(dir.path(), "garbled", "echo hello");
    let cases: [(&Path, &Path, &[&str], &[&str]); 4] = [
        (&failing, &good, &[], &["failing", "no such model"]),
        (&garbled, &good, &[], &["garbled", "not JSON"]),
        (
            Path::new("/no/such"),
            &good,
            &[],
            &["/no/such", "cannot start"],
        ),
        (
            &good,
            &good,
            &["-p", "0", "-n", "0"],
            &["nothing to compare"],
        ),
    ];
    for (llama, moeflux, flags, words) in cases {
        let output = peer(llama, moeflux, flags);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in words {
            assert!(said.contains(word), "no {word} in {said}");
        }
    }
    let output = peer(&good, &good, &["-r", "0"]);
    assert_eq!(output.status.code(), Some(2));
}
