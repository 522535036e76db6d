//! GGUF files on the command line: they run by token ids, and by text if they hold a tokenizer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{QUESTION, fails, fixture, output_of, text};
use moeflux::formats::Checkpoint;
use serde_json::Value;

fn gguf(name: &str) -> PathBuf {
    fixture("gguf").join(name)
}

#[test]
fn token_ids_run_without_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let logits = |model: &str| {
        let out = dir.path().join("logits");
        let args = ["eval", "logits", "-m", model, "--tokens", "1,2,3,4,5"];
        output_of(&[&args[..], &["-o", text(&out)]].concat());
        let file = Checkpoint::open_files(vec![out]).unwrap();
        file.read_f32("logits", &[5, 256]).unwrap()
    };
    let ours = logits(text(&gguf("qwen3_5_moe.gguf")));
    let theirs = logits(text(&fixture("qwen3_5_moe")));
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
    assert!(worst.fold(0.0, f32::max) < 1e-3);
    assert!(ours.iter().all(|x| x.is_finite()) && ours.iter().any(|&x| x != 0.0));
    // A directory with the parts of one model stands for it.
    logits(text(&gguf("split")));

    let model = gguf("qwen3_moe.gguf");
    let json = output_of(&[
        "bench",
        "-m",
        text(&model),
        "-p",
        "16",
        "-n",
        "4",
        "-r",
        "1",
        "--json",
    ]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json.is_object(), "{json}");
}

#[test]
fn text_needs_a_tokenizer() {
    let model = gguf("qwen3_moe.gguf");
    let words = [text(&model), "no tokenizer", "token ids"];
    fails(&["run", QUESTION, "-m", text(&model)], 3, &words);
    fails(&["chat", "-m", text(&model)], 3, &words);
}

#[test]
fn inspect_shows_what_the_file_says() {
    let model = gguf("qwen3_5_moe_q8_0.gguf");
    let lines = output_of(&["inspect", "-m", text(&model)]);
    for word in [
        "(GGUF)",
        "Q8_0 (qwen35moe)",
        "Qwen3_5_Moe_Text_F32",
        "routed experts: q8_0",
    ] {
        assert!(lines.contains(word), "no {word} in {lines}");
    }
    let json = output_of(&["inspect", "-m", text(&gguf("split")), "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["gguf"]["architecture"], "qwen35moe");
    assert_eq!(json["gguf"]["file_type"], "F16");
    assert_eq!(json["packed"], false);
    fails(
        &["inspect", "-m", text(&model), "--verify"],
        2,
        &["checksums"],
    );
}

#[test]
fn bad_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.gguf");
    let bytes = fs::read(gguf("qwen3_moe.gguf")).unwrap();
    for len in [1000, bytes.len() - 1] {
        fs::write(&bad, &bytes[..len]).unwrap();
        fails(
            &["inspect", "-m", text(&bad)],
            5,
            &[text(&bad), "truncated"],
        );
    }
    fs::write(&bad, "GIF89a").unwrap();
    fails(
        &["inspect", "-m", text(&bad)],
        3,
        &[text(&bad), "GGUF file"],
    );
    // Metadata alone is no model, and several models in a directory are no choice.
    let vocabulary = gguf("demo_vocabulary.gguf");
    fails(
        &["run", "x", "-m", text(&vocabulary)],
        3,
        &["token_embd.weight"],
    );
    fails(
        &["inspect", "-m", text(&fixture("gguf"))],
        3,
        &["GGUF files", "pass one of them", ".gguf"],
    );
    let split = dir.path().join("model-00001-of-00002.gguf");
    fs::copy(gguf("split/model-00001-of-00002.gguf"), &split).unwrap();
    fails(
        &["inspect", "-m", text(&split)],
        3,
        &["model-00002-of-00002.gguf"],
    );
}

#[test]
fn a_packed_file_answers_as_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let source = gguf("qwen3_5_moe_q8_0.gguf");
    let packed = dir.path().join("packed");
    output_of(&["pack", text(&source), "-o", text(&packed), "--bits", "keep"]);
    let lines = output_of(&["inspect", "-m", text(&packed), "--verify"]);
    for word in [
        "packed from GGUF",
        "Q8_0 (qwen35moe)",
        "routed experts: q8_0",
    ] {
        assert!(lines.contains(word), "no {word} in {lines}");
    }
    let logits = |model: &str, name: &str| {
        let out = dir.path().join(name);
        let args = ["eval", "logits", "-m", model, "--tokens", "1,2,3,4,5"];
        output_of(&[&args[..], &["-o", text(&out)]].concat());
        fs::read(out).unwrap()
    };
    assert!(logits(text(&packed), "a") == logits(text(&source), "b"));
    let other = dir.path().join("other");
    let args = ["pack", text(&source), "-o", text(&other), "--bits", "few"];
    fails(&args, 2, &["--bits", "keep"]);
}
