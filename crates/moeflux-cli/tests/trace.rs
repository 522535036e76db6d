//! `--trace`, `trace show` and `trace replay`, as a user meets them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use common::{QUESTION, run};
use serde_json::Value;

/// Runs the command, which must succeed; its standard output as JSON.
fn json(args: &[&str]) -> Value {
    let ran = run(args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn a_run_is_recorded_shown_and_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("a.trace");
    let (trace, svg) = (trace.to_str().unwrap(), dir.path().join("a.svg"));
    let flags = ["--expert-cache", "2MiB", "--lookahead", "off", "--no-warm"];
    let ran = run(&[&["run", QUESTION, "--trace", trace][..], &flags].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    let shown = json(&["trace", "show", trace, "--json"]);
    assert_eq!(shown["model"], "demo");
    assert_eq!(shown["layers"].as_array().unwrap().len(), 8);
    assert_eq!(shown["truncated"], false);
    let decoded = shown["decode_steps"].as_u64().unwrap();
    assert!(
        decoded > 2 && shown["tokens"].as_u64().unwrap() > decoded,
        "{shown}"
    );
    assert_eq!(shown["uses"], shown["tokens"].as_u64().unwrap() * 8 * 4);
    let text = run(&["trace", "show", trace]).stdout;
    assert!(text.contains("256 in 8 layers"), "{text}");

    let path = svg.to_str().unwrap();
    let args = [
        "trace",
        "replay",
        trace,
        "--budgets",
        "50,100",
        "--json",
        "--svg",
        path,
    ];
    let results = json(&args)["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 10, "five policies, two sizes");
    for result in &results {
        let uses = result["decode"]["hits"].as_u64().unwrap()
            + result["decode"]["misses"].as_u64().unwrap();
        assert_eq!(uses, decoded * 8 * 4, "{result}");
        if result["percent"] == 100.0 {
            assert_eq!(result["slots"], 256);
            assert_eq!(result["all"]["misses"], result["cold_misses"], "{result}");
        }
    }
    let svg = fs::read_to_string(&svg).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 5);
    let table = run(&["trace", "replay", trace, trace]).stdout;
    for name in [
        "lru",
        "frequency",
        "least-stale",
        "pinned",
        "belady",
        "75 %",
    ] {
        assert!(table.contains(name), "{table}");
    }
}

#[test]
fn bad_files_and_flags_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.trace");
    fs::write(&file, "something else altogether").unwrap();
    let bad = file.to_str().unwrap();
    let missing = dir.path().join("none.trace");
    let missing = missing.to_str().unwrap();
    let nowhere = dir.path().join("no/such/folder");
    let nowhere = nowhere.to_str().unwrap();
    for (args, code, word) in [
        (&["trace", "show", bad][..], 3, "bad.trace"),
        (&["trace", "show", missing], 3, "none.trace"),
        (&["trace", "replay", bad], 3, "bad.trace"),
        (&["trace", "replay", bad, "--budgets", "0"], 2, "--budgets"),
        (&["run", QUESTION, "--trace", nowhere], 3, "no/such/folder"),
    ] {
        let ran = run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{args:?}: {}", ran.stderr);
    }
}
