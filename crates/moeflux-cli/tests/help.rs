//! What the shell and `man` show of the command.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::process::Command;

use common::{fails, output_of, run, text};

#[test]
fn bash_completes_commands_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("moeflux.bash");
    std::fs::write(&script, output_of(&["completions", "bash"])).unwrap();
    let complete = |words: &str, word: &str, last: usize| {
        let line = format!(
            "source {} && COMP_WORDS=({words}) COMP_CWORD={last} && _moeflux moeflux '{word}' '' \
             && echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let shell = Command::new("bash").args(["-c", &line]).output().unwrap();
        assert!(shell.status.success(), "{shell:?}");
        String::from_utf8(shell.stdout).unwrap()
    };
    assert_eq!(complete("moeflux pl", "pl", 1).trim(), "plan");
    let flags = complete("moeflux run --me", "--me", 2);
    assert_eq!(flags.trim(), "--memory");
}

#[test]
fn every_shell_has_a_script_and_an_unknown_one_is_refused() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = output_of(&["completions", shell]);
        assert!(script.contains("lookahead"), "{shell}");
    }
    fails(&["completions", "tcsh"], 2, &["tcsh", "bash"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let ran = run(&["man", "-o", text(&pages)]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    for (page, word) in [
        ("moeflux.1", "Exit codes"),
        ("moeflux-run.1", "speculate"),
        ("moeflux-trace-replay.1", "svg"),
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(word), "no {word} in {page}");
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    fails(&["man", "-o", text(&file)], 9, &[text(&file)]);
}
