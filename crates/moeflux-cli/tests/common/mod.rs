//! Runs the built command. Each test file uses some of this.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A question with one short right answer.
pub const QUESTION: &str = "Which day comes after Tuesday?";
pub const ANSWER: &str = "Wednesday comes after Tuesday.";

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The packed demo model of the repository.
pub fn demo() -> PathBuf {
    repository().join("models/demo")
}

/// A tiny checkpoint without tokenizer.
pub fn fixture(name: &str) -> PathBuf {
    repository().join("fixtures").join(name)
}

/// Prompts with answers that the demo model knows.
pub fn prompts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/answers.json")
}

/// The command, finding models in the repository wherever the test runs.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moeflux"));
    command
        .args(args)
        .env("MOEFLUX_MODELS", repository().join("models"))
        .stdin(Stdio::null());
    command
}

/// What came of a run.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub fn run(args: &[&str]) -> Ran {
    command(args).output().unwrap().into()
}

/// Runs with text on standard input.
pub fn run_with_input(args: &[&str], input: &str) -> Ran {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that ends early does not read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// Standard output of a run that must succeed.
#[track_caller]
pub fn output_of(args: &[&str]) -> String {
    let ran = run(args);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
    ran.stdout
}

/// A run that must fail with `code` and name all of `words` in one line, without a panic.
#[track_caller]
pub fn fails(args: &[&str], code: i32, words: &[&str]) {
    let ran = run(args);
    assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    for word in words {
        assert!(
            ran.stderr.contains(word),
            "{args:?} does not say {word}: {}",
            ran.stderr
        );
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert!(ran.stdout.is_empty(), "{args:?} printed {}", ran.stdout);
}

/// A copy of a model directory, to be damaged.
pub fn copy(model: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_into(model, dir.path());
    dir
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Writes a file of a model directory.
pub fn rewrite(model: &Path, name: &str, text: &str) {
    fs::write(model.join(name), text).unwrap();
}

/// Removes a file of a model directory.
pub fn remove(model: &Path, name: &str) {
    fs::remove_file(model.join(name)).unwrap();
}

/// Changes one JSON file of a model directory.
pub fn edit_json(model: &Path, name: &str, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&fs::read(model.join(name)).unwrap()).unwrap();
    edit(&mut value);
    rewrite(model, name, &value.to_string());
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
