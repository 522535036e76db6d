//! What `deploy/` promises: its commands start a server that asks for the key.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/server.rs"]
mod server;

use std::fs;
use std::process::Command;

use common::{command, repository, text};
use server::Server;

const PROGRAM: &str = "/usr/local/bin/moeflux";

fn deployed(name: &str) -> String {
    fs::read_to_string(repository().join("deploy").join(name)).unwrap()
}

/// The value of a setting, wherever it is.
fn setting<'t>(unit: &'t str, name: &str) -> Vec<&'t str> {
    let value = |line: &'t str| line.strip_prefix(name)?.strip_prefix('=');
    unit.lines().filter_map(value).collect()
}

/// Runs a server by these words, at a free port, and holds it to its key.
fn serves_with_key(words: &[String], prepare: impl FnOnce(&mut Command)) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = command(&words);
    command.env_remove("MOEFLUX_API_KEY");
    prepare(&mut command);
    let server = Server::spawn(command);
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.get("/v1/models").0, 401);
    for (key, status) in [("secret", "200"), ("other", "401")] {
        let reply = server.raw(&format!(
            "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: {key}\r\n\r\n"
        ));
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{reply}");
    }
}

/// The words after `--port` are to be a free one.
fn at_a_free_port(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut words: Vec<String> = words.collect();
    let port = words.iter().position(|word| word == "--port").unwrap();
    words[port + 1] = "0".into();
    words
}

#[test]
fn the_unit_starts_a_server() {
    let unit = deployed("moeflux.service");
    let [start] = setting(&unit, "ExecStart")[..] else {
        unreachable!("one command starts it");
    };
    let credentials = tempfile::tempdir().unwrap();
    fs::write(credentials.path().join("api-key"), "secret\n").unwrap();
    assert_eq!(
        setting(&unit, "LoadCredential"),
        ["api-key:/etc/moeflux/api-key"]
    );
    let line = start.strip_prefix(PROGRAM).unwrap();
    let line = line.replace("%d", text(credentials.path()));
    let line = line.replace("%C", text(credentials.path()));
    let line = line.replace("${MOEFLUX_MODEL}", "demo");
    let line = line.replace("$MOEFLUX_FLAGS", "--memory 1GiB --no-warm");
    assert!(!line.contains(['$', '%']), "{line}");
    let words = line.split_whitespace().map(str::to_owned);
    serves_with_key(&at_a_free_port(words), |_| {});
    // Answers may end before the service is killed.
    let stop: u64 = setting(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop > 30, "{stop}");
}

#[test]
fn systemd_takes_the_unit_as_it_is() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        // Where there is no systemd, the test above has read the unit.
        return;
    };
    assert!(version.status.success());
    // Whether the program is there is not the question.
    let unit = deployed("moeflux.service").replace(PROGRAM, env!("CARGO_BIN_EXE_moeflux"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("moeflux.service");
    fs::write(&file, unit).unwrap();
    let file = text(&file);
    let verified = Command::new("systemd-analyze")
        .args(["verify", file])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&verified.stderr);
    assert!(
        verified.status.success() && !told.contains("moeflux"),
        "{told}"
    );
    let arguments = ["security", "--offline=true", "--threshold=20", file];
    let exposed = Command::new("systemd-analyze")
        .args(arguments)
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&exposed.stdout);
    assert!(
        exposed.status.success(),
        "more than 2.0 is exposed: {table}"
    );
}

#[test]
fn the_container_starts_a_server() {
    let file = deployed("Containerfile");
    let list = |name: &str| -> Vec<String> {
        let line = file
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        serde_json::from_str(line).unwrap()
    };
    assert_eq!(list("ENTRYPOINT "), [PROGRAM]);
    let words = at_a_free_port(list("CMD ").into_iter());
    // Nobody may ask a container that was given no key.
    let line: Vec<&str> = words.iter().map(String::as_str).collect();
    let ran = command(&line)
        .env_remove("MOEFLUX_API_KEY")
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(2), "{ran:?}");
    let words = words
        .into_iter()
        .chain(["--memory=1GiB".into(), "--no-warm".into()]);
    serves_with_key(&words.collect::<Vec<_>>(), |command| {
        command.env("MOEFLUX_API_KEY", "secret");
    });
    // What is copied from this tree is there, and the Rust that builds it is new enough.
    for path in file
        .lines()
        .filter_map(|line| line.strip_prefix("COPY --from=build /source/"))
    {
        let path = path.split(' ').next().unwrap();
        assert!(
            path.starts_with("target/") || repository().join(path).exists(),
            "{path}"
        );
    }
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let rust = manifest
        .lines()
        .find_map(|l| l.strip_prefix("rust-version = \""))
        .unwrap();
    assert!(
        file.contains(&format!("rust:{}-", rust.trim_end_matches('"'))),
        "{rust}"
    );
}
