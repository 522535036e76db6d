//! Two processes on one model at the same time: each says what it says alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::process::{Child, Stdio};

use common::{Ran, command, output_of};

const PROMPTS: [&str; 2] = [
    "Tell me a story about a fox.",
    "Which month comes after May?",
];

fn args(prompt: &str) -> [&str; 6] {
    // Few places for experts, so that both read all the time.
    [
        "run",
        prompt,
        "--expert-cache",
        "256KiB",
        "--reader",
        "direct",
    ]
}

#[test]
fn two_processes_on_one_model_do_not_disturb_each_other() {
    let alone = PROMPTS.map(|prompt| output_of(&args(prompt)));
    let start = |prompt: &str| -> Child {
        let mut command = command(&args(prompt));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    for _ in 0..3 {
        let together = PROMPTS.map(start);
        for (child, expected) in together.into_iter().zip(&alone) {
            let ran: Ran = child.wait_with_output().unwrap().into();
            assert_eq!((ran.code, &ran.stdout), (0, expected), "{}", ran.stderr);
        }
    }
}
