//! Bad input ends in one clear message and its own exit code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use common::{
    QUESTION, copy, demo, edit_json, fails, fixture, remove, rewrite, run, run_with_input, text,
};

#[test]
fn flags_out_of_range_are_named() {
    for (flag, value, word) in [
        ("--temperature", "-1", "temperature"),
        ("--temperature", "NaN", "temperature"),
        ("--top-p", "0", "top_p"),
        ("--top-p", "1.5", "top_p"),
        ("--min-p", "2", "min_p"),
        ("--repetition-penalty", "0", "repetition_penalty"),
        ("--presence-penalty", "-1000", "presence_penalty"),
        ("--frequency-penalty", "inf", "frequency_penalty"),
        ("--memory", "lots", "--memory"),
        ("--memory", "8 parsecs", "8GiB"),
        ("--isa", "mmx", "avx2"),
        ("--threads", "0", "--threads"),
        ("--threads", "x", "--threads"),
        ("--activations", "int3", "int8"),
        ("--kv", "f8", "f16 or f32"),
        ("--reader", "psychic", "buffered"),
        ("--policy", "random", "lru"),
        ("--chunk-tokens", "0", "--chunk-tokens"),
        ("--context", "0", "--context"),
        ("--var", "novalue", "NAME=VALUE"),
    ] {
        let joined = format!("{flag}={value}");
        fails(&["run", QUESTION, &joined], 2, &[word]);
    }
    let foreign = if cfg!(target_arch = "x86_64") {
        "neon"
    } else {
        "avx2"
    };
    fails(
        &["run", QUESTION, "--isa", foreign],
        2,
        &[foreign, "not available"],
    );
    fails(&["run", "--raw", "--system", "x", "y"], 2, &["--system"]);
    fails(&["nonsense"], 2, &["nonsense"]);
}

#[test]
fn missing_models_and_files_are_named() {
    fails(
        &["run", QUESTION, "-m", "no-such-model"],
        3,
        &["no-such-model", "MOEFLUX_MODELS"],
    );
    fails(&["run", QUESTION, "-m", "./no/such"], 3, &["./no/such"]);
    let empty = tempfile::tempdir().unwrap();
    let dir = text(empty.path());
    fails(&["run", QUESTION, "-m", dir], 3, &[dir, "config.json"]);
    fails(&["inspect", "-m", dir], 3, &[dir, "config.json"]);
    fails(
        &["run", QUESTION, "--tools", "/no/tools.json"],
        3,
        &["/no/tools.json"],
    );
    fails(
        &["eval", "answers", "--file", "/no/file.json"],
        3,
        &["/no/file.json"],
    );
    fails(
        &["run", QUESTION, "--load-session", "/no/session"],
        3,
        &["/no/session"],
    );
    // A checkpoint without tokenizer runs token ids, and says what it misses for text.
    fails(
        &["run", QUESTION, "-m", text(&fixture("qwen3_moe"))],
        3,
        &["tokenizer.json"],
    );

    let bad = empty.path().join("bad.json");
    fs::write(&bad, "{}").unwrap();
    fails(
        &["run", QUESTION, "--tools", text(&bad)],
        3,
        &[text(&bad), "tool schemas"],
    );
    fails(&["eval", "answers", "--file", text(&bad)], 3, &[text(&bad)]);
}

#[test]
fn damaged_models_are_told_apart() {
    let model = copy(&demo());
    let dir = text(model.path());
    let original = fs::read_to_string(model.path().join("config.json")).unwrap();
    let args = ["run", QUESTION, "-m", dir];
    edit_json(model.path(), "config.json", |config| {
        config["model_type"] = "gpt2".into()
    });
    fails(&args, 3, &["gpt2", "qwen3_moe", "config.json"]);
    edit_json(model.path(), "config.json", |config| {
        config["model_type"] = 7.into()
    });
    fails(&args, 3, &["config.json"]);
    rewrite(model.path(), "config.json", "{");
    fails(&args, 3, &["config.json"]);
    rewrite(model.path(), "config.json", &original);

    let dense = model.path().join("dense.safetensors");
    let bytes = fs::read(&dense).unwrap();
    fs::write(&dense, &bytes[..bytes.len() / 2]).unwrap();
    fails(&args, 5, &["dense.safetensors"]);
    fs::write(&dense, &bytes).unwrap();

    rewrite(model.path(), "tokenizer.json", "{}");
    fails(&args, 3, &["tokenizer.json"]);
}

#[test]
fn truncated_and_missing_shards_are_named() {
    let model = copy(&fixture("qwen3_5_moe"));
    let shard = model.path().join("model-00002-of-00003.safetensors");
    let bytes = fs::read(&shard).unwrap();
    let out = model.path().join("logits");
    let args = [
        "eval",
        "logits",
        "-m",
        text(model.path()),
        "--tokens",
        "1",
        "-o",
        text(&out),
    ];
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    fails(&args, 5, &["model-00002-of-00003.safetensors"]);
    fs::remove_file(&shard).unwrap();
    fails(&args, 3, &["model-00002-of-00003.safetensors"]);
    assert!(!out.exists());
}

#[test]
fn template_errors_name_file_and_line() {
    let model = copy(&demo());
    let dir = text(model.path());
    rewrite(model.path(), "chat_template.jinja", "a\n{% if %}");
    fails(
        &["run", QUESTION, "-m", dir],
        7,
        &["chat_template.jinja, line 2"],
    );
    rewrite(
        model.path(),
        "chat_template.jinja",
        "\n\n{{ raise_exception('not like this') }}",
    );
    fails(
        &["run", QUESTION, "-m", dir],
        7,
        &["line 3", "not like this"],
    );
    fails(&["chat", "-m", dir, "--system", "x"], 0, &[]);
    let ran = run_with_input(&["chat", "-m", dir], "hello\n");
    assert_eq!(ran.code, 7, "{}", ran.stderr);

    remove(model.path(), "chat_template.jinja");
    fails(&["chat", "-m", dir], 7, &["chat template"]);
    fails(
        &["run", QUESTION, "-m", dir, "--system", "x"],
        7,
        &["chat template"],
    );
    let ran = run(&["run", "--raw", "One two", "-m", dir, "--max-tokens", "3"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn budgets_and_tokens_out_of_range() {
    fails(&["run", QUESTION, "--memory", "1MiB"], 4, &["--memory"]);
    let message = run(&["run", QUESTION, "--memory", "1MiB"]).stderr;
    let needed = message.split("--memory ").nth(1).unwrap();
    let needed = needed.split_whitespace().next().unwrap();
    let ran = run(&["run", QUESTION, "--memory", needed]);
    assert_eq!(
        ran.code, 0,
        "the smallest workable budget works: {}",
        ran.stderr
    );

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits");
    let logits = |tokens: &str, extra: &[&str], code: i32, words: &[&str]| {
        let mut args = vec!["eval", "logits", "--tokens", tokens, "-o", text(&out)];
        args.extend(extra);
        fails(&args, code, words);
    };
    logits("1,2,2048", &[], 8, &["2048", "position 2"]);
    logits("1,2,3,4,5", &["--context", "4"], 8, &["5", "4"]);
    logits("1,x", &[], 2, &["x"]);
    logits("", &[], 2, &["--tokens"]);
    fails(&["run", QUESTION, "--context", "5"], 8, &["context"]);
    assert!(!out.exists());
}

#[test]
fn a_full_context_ends_the_answer() {
    let ran = run(&["run", "Tell me a story.", "--context", "40", "--stats"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("the context was full"),
        "{}",
        ran.stderr
    );
}
