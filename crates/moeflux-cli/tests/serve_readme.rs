//! The README's section about the server does what it says.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/server.rs"]
mod server;

use std::path::Path;
use std::process::Command;

use common::repository;
use server::Server;

/// The commands of the block behind `mark`, each with what it prints.
fn commands(text: &str, mark: &str) -> Vec<(String, String)> {
    let block = text.split_once(mark).unwrap().1;
    let block = block.split("```").nth(1).unwrap().trim();
    let mut all: Vec<(String, String)> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            all.push((command.to_owned(), String::new()));
        } else if goes_on {
            let command = &mut all.last_mut().unwrap().0;
            *command += &format!("\n{line}");
        } else {
            let printed = &mut all.last_mut().unwrap().1;
            *printed += &format!("{line}\n");
        }
        goes_on = line.ends_with('\\');
    }
    all
}

#[test]
fn the_server_section_runs_as_written() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let mut commands = commands(&readme, "**Serve**").into_iter();
    let (start, _) = commands.next().unwrap();
    let flags = start.strip_prefix("moeflux serve ").unwrap();
    let flags: Vec<&str> = flags.trim_end_matches(" &").split(' ').collect();
    let server = Server::start(&flags);
    let place = Path::new(env!("CARGO_BIN_EXE_moeflux")).parent().unwrap();
    let path = format!("{}:{}", place.display(), std::env::var("PATH").unwrap());
    let mut ran = 0;
    for (command, expected) in commands {
        let program = command.split(' ').next().unwrap();
        if program == "curl" && Command::new(program).arg("--version").output().is_err() {
            continue;
        }
        let line = command.replace("127.0.0.1:8080", &server.address);
        let output = Command::new("bash")
            .args(["-ec", &line])
            .env("PATH", &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let mut rest = printed.as_str();
        for piece in expected
            .trim()
            .split("...")
            .filter(|piece| !piece.is_empty())
        {
            let found = rest.split_once(piece);
            rest = found.unwrap_or_else(|| panic!("no {piece} in {printed}")).1;
        }
        ran += 1;
    }
    assert!(ran > 0);
}
