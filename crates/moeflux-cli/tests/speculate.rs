//! `--speculate`: the same text whichever way, and figures that say what it did.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{fails, output_of, run};
use serde_json::Value;

/// A question whose answer repeats words of it.
const QUESTION: &str = "Please remember: The code of Lily is 1518. The code of Omar is 4214. \
                        What is the code of Omar?";

fn answer(extra: &[&str]) -> Value {
    let mut args = vec!["run", QUESTION, "--max-tokens", "60", "--json"];
    args.extend(extra);
    serde_json::from_str(&output_of(&args)).unwrap()
}

#[test]
fn the_text_is_the_same_whichever_way() {
    for sampling in [&[][..], &["--temperature", "0.9", "--seed", "3"]] {
        let with = |mode: &str| answer(&[&["--speculate", mode][..], sampling].concat());
        let (off, auto, always) = (with("off"), with("auto"), with("always"));
        for found in [&auto, &always] {
            assert_eq!(found["text"], off["text"]);
            assert_eq!(found["generated_tokens"], off["generated_tokens"]);
            assert_eq!(found["end"], off["end"]);
        }
        assert_eq!(off["draft_steps"], 0);
        assert!(always["draft_steps"].as_u64().unwrap() > 0, "{always}");
        assert!(always["drafted_tokens"].as_u64() >= always["accepted_tokens"].as_u64());
        assert_eq!(answer(sampling)["speculate"], "auto");
    }
}

#[test]
fn statistics_show_what_was_drafted() {
    let ran = run(&["run", QUESTION, "--speculate", "always", "--stats"]);
    assert!(
        ran.stderr.contains("drafted tokens accepted in"),
        "{}",
        ran.stderr
    );
    let ran = run(&["run", QUESTION, "--speculate", "off", "--stats"]);
    assert!(!ran.stderr.contains("drafted"), "{}", ran.stderr);
}

#[test]
fn an_unknown_way_is_refused() {
    fails(
        &["run", QUESTION, "--speculate", "maybe"],
        2,
        &["--speculate", "always"],
    );
}
