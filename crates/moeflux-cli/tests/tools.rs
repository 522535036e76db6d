//! `pack` and `inspect`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use common::{demo, fails, fixture, output_of, run, text};
use serde_json::Value;

#[test]
fn inspect_gives_the_figures() {
    let json: Value = serde_json::from_str(&output_of(&["inspect", "--json"])).unwrap();
    for (field, value) in [
        ("layers", 8),
        ("moe_layers", 8),
        ("experts", 32),
        ("experts_per_token", 4),
    ] {
        assert_eq!(json[field], value, "{field}");
    }
    assert_eq!(json["packed"], true);
    let records = json["expert_records"].as_u64().unwrap();
    assert_eq!(records, 256);
    let largest = records * json["expert_record_bytes"].as_u64().unwrap();
    assert!(json["expert_bytes"].as_u64().unwrap() <= largest);
    assert!(json["codecs"].as_object().unwrap().len() >= 3);

    let lines = output_of(&["inspect", "-m", text(&demo()), "--verify"]);
    for word in [
        "qwen3_5_moe",
        "dense",
        "experts",
        "a token reads",
        "checksums",
    ] {
        assert!(lines.contains(word), "no {word} in {lines}");
    }
}

#[test]
fn pack_writes_what_inspect_verifies_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("packed");
    let source = fixture("qwen3_moe");
    let pack = [
        "pack",
        text(&source),
        "-o",
        text(&packed),
        "--bits",
        "5",
        "--group",
        "32",
    ];
    let ran = run(&pack);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains(text(&packed)), "{}", ran.stderr);
    let json = output_of(&["inspect", "-m", text(&packed), "--verify", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["verified"], true);
    assert_eq!(json["codecs"]["routed experts"], "affine-b5-g32");
    let file = dir.path().join("logits");
    let logits = [
        "eval",
        "logits",
        "-m",
        text(&packed),
        "--tokens",
        "1,2,3",
        "-o",
        text(&file),
    ];
    output_of(&logits);

    fails(&pack, 9, &[text(&packed), "exists"]);
    fails(
        &["inspect", "-m", text(&source), "--verify"],
        2,
        &["checksums"],
    );
    fails(
        &["pack", text(&packed), "-o", text(&dir.path().join("again"))],
        2,
        &["packed"],
    );
    for (flag, value) in [("--bits", "7"), ("--group", "48"), ("--dense-bits", "1")] {
        let out = dir.path().join("other");
        fails(
            &["pack", text(&source), "-o", text(&out), flag, value],
            2,
            &[flag],
        );
    }

    // One byte of one record: found by checking, and by running into it.
    let layer = fs::read_dir(packed.join("experts"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let words = [text(&layer), "layer", "expert"];
    fails(&["inspect", "-m", text(&packed), "--verify"], 5, &words);
    let all: Vec<String> = (0..200).map(|token| token.to_string()).collect();
    let tokens = all.join(",");
    let logits = [
        "eval",
        "logits",
        "-m",
        text(&packed),
        "--tokens",
        &tokens,
        "-o",
        text(&file),
    ];
    fails(&logits, 5, &words);
}
