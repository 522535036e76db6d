//! `eval ppl` and `eval kl` against what `eval logits` says and against definitions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{demo, fails, fixture, output_of, text};
use moeflux::text::TextFiles;
use moeflux_formats::Checkpoint;
use serde_json::Value;

const STORY: &str = "Once upon a time there was a cheerful fox named Nina. One cold morning, Nina \
    walked to the mountain. There Nina found a drum under a tree.";

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap()
}

/// A file with the story, in a directory that goes away.
fn story() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("story.txt");
    std::fs::write(&path, STORY).unwrap();
    (dir, path)
}

/// `-ln p` of each token after the first, by the logits that the command writes.
fn surprises(tokens: &[u32], extra: &[&str]) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits.safetensors");
    let list: Vec<String> = tokens.iter().map(u32::to_string).collect();
    let list = list.join(",");
    let mut args = vec!["eval", "logits", "--tokens", &list, "-o", text(&out)];
    args.extend(extra);
    output_of(&args);
    let file = Checkpoint::open_files(vec![out]).unwrap();
    let shape = file.require("logits").unwrap().shape.clone();
    let logits = file.read_f32("logits", &shape).unwrap();
    let rows = logits.chunks_exact(shape[1]).zip(&tokens[1..]);
    let surprise = |(row, token): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        sum.ln() - f64::from(row[*token as usize])
    };
    rows.map(surprise).collect()
}

#[test]
fn perplexity_is_that_of_the_logits() {
    let (_dir, path) = story();
    let tokenizer = TextFiles::open(&demo()).unwrap().tokenizer().unwrap();
    let tokens = tokenizer.encode(STORY).unwrap();
    let report = output_of(&["eval", "ppl", "--text", text(&path), "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let expected = surprises(&tokens, &[]);
    let mean = expected.iter().sum::<f64>() / expected.len() as f64;
    assert_eq!(number(&report, "tokens") as usize, tokens.len() - 1);
    assert!(
        (number(&report, "nats_per_token") - mean).abs() < 1e-5,
        "{report}"
    );
    assert!(
        (number(&report, "perplexity") - mean.exp()).abs() < 1e-3,
        "{report}"
    );
    // The demo was made for such stories.
    assert!(mean < 2.0, "{report}");

    // Windows begin anew.
    let args = [
        "eval",
        "ppl",
        "--text",
        text(&path),
        "--window",
        "8",
        "--tokens",
        "16",
        "--json",
    ];
    let report: Value = serde_json::from_str(&output_of(&args)).unwrap();
    let both = [surprises(&tokens[..8], &[]), surprises(&tokens[8..16], &[])].concat();
    let mean = both.iter().sum::<f64>() / both.len() as f64;
    assert_eq!(number(&report, "tokens") as usize, 14);
    assert!(
        (number(&report, "nats_per_token") - mean).abs() < 1e-5,
        "{report}"
    );
    let line = output_of(&["eval", "ppl", "--text", text(&path)]);
    assert!(
        line.contains("perplexity") && line.contains("windows of 512"),
        "{line}"
    );
}

#[test]
fn a_model_is_no_distance_from_itself() {
    let (_dir, path) = story();
    let args = [
        "eval",
        "kl",
        "demo",
        "demo",
        "--text",
        text(&path),
        "--json",
    ];
    let report: Value = serde_json::from_str(&output_of(&args)).unwrap();
    for field in [
        "mean_nats",
        "mean_standard_error_nats",
        "p99_nats",
        "max_nats",
    ] {
        assert_eq!(number(&report, field), 0.0, "{report}");
    }
    assert_eq!(number(&report, "same_top_1"), 1.0);
}

/// A copy whose last norm is larger by half is surer of everything.
#[test]
fn a_model_with_other_weights_is_some_distance_away() {
    let (_dir, path) = story();
    let copy = common::copy(&demo());
    let dense = copy.path().join("dense.safetensors");
    let (at, len) = {
        let file = Checkpoint::open_files(vec![dense.clone()]).unwrap();
        let info = file.require("model.norm.weight").unwrap();
        assert_eq!(info.dtype.name(), "BF16");
        (info.offset as usize, info.bytes as usize)
    };
    let mut bytes = std::fs::read(&dense).unwrap();
    for half in bytes[at..at + len].as_chunks_mut::<2>().0 {
        // The checkpoint has the weight minus one.
        let weight = f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16) + 1.0;
        let changed = weight * 1.5 - 1.0;
        *half = ((changed.to_bits() >> 16) as u16).to_le_bytes();
    }
    std::fs::write(&dense, bytes).unwrap();
    let other = text(copy.path());
    let args = ["eval", "kl", "demo", other, "--text", text(&path), "--json"];
    let report: Value = serde_json::from_str(&output_of(&args)).unwrap();
    let mean = number(&report, "mean_nats");
    let uncertainty = number(&report, "mean_standard_error_nats");
    assert!(
        uncertainty > 0.0 && uncertainty < mean,
        "{uncertainty} of {mean}"
    );
    assert!(mean > 1e-4 && mean < 1.0, "{report}");
    assert!(
        number(&report, "p99_nats") >= number(&report, "median_nats"),
        "{report}"
    );
    let back = ["eval", "kl", other, "demo", "--text", text(&path), "--json"];
    let back: Value = serde_json::from_str(&output_of(&back)).unwrap();
    assert_ne!(number(&back, "mean_nats"), mean, "it has a direction");
    let line = output_of(&["eval", "kl", "demo", other, "--text", text(&path)]);
    assert!(
        line.contains("KL divergence") && line.contains('%'),
        "{line}"
    );
}

#[test]
fn what_cannot_be_evaluated_is_named() {
    let (dir, path) = story();
    let nothing = dir.path().join("nothing.txt");
    fails(
        &["eval", "ppl", "--text", text(&nothing)],
        3,
        &["nothing.txt"],
    );
    std::fs::write(&nothing, "").unwrap();
    fails(
        &["eval", "ppl", "--text", text(&nothing)],
        3,
        &["nothing.txt", "two or more"],
    );
    let bare = fixture("qwen3_moe");
    let args = ["eval", "kl", "demo", text(&bare), "--text", text(&path)];
    fails(&args, 3, &["tokenizer"]);
    let args = [
        "eval",
        "kl",
        "demo",
        "demo",
        "-m",
        "demo",
        "--text",
        text(&path),
    ];
    fails(&args, 2, &["--model"]);
    let args = [
        "eval",
        "kl",
        "demo",
        "demo",
        "--trace",
        "t",
        "--text",
        text(&path),
    ];
    fails(&args, 2, &["--trace", "eval ppl"]);
    let args = ["eval", "ppl", "--text", text(&path), "--window", "1"];
    fails(&args, 2, &["--window"]);
}
