//! `run`, `chat` and `eval` on the demo model: what comes out, and that the way there does not matter.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use common::{ANSWER, QUESTION, demo, output_of, prompts, run, run_with_input, text};
use moeflux_formats::Checkpoint;
use serde_json::Value;

#[test]
fn run_prints_the_answer_alone() {
    let ran = run(&["run", QUESTION]);
    assert_eq!(
        (ran.code, ran.stdout),
        (0, format!("{ANSWER}\n")),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stderr, "", "nothing is said where nobody looks");
    assert_eq!(
        output_of(&["run", "-m", text(&demo()), QUESTION]),
        format!("{ANSWER}\n")
    );
}

#[test]
fn prompts_come_from_standard_input_too() {
    for args in [&["run"][..], &["run", "-"]] {
        let ran = run_with_input(args, &format!("{QUESTION}\n"));
        assert_eq!(ran.stdout, format!("{ANSWER}\n"), "{}", ran.stderr);
    }
}

#[test]
fn stats_say_what_happened() {
    let ran = run(&["run", QUESTION, "--stats"]);
    assert_eq!(ran.stdout, format!("{ANSWER}\n"));
    assert_eq!(ran.stderr.lines().count(), 1);
    for word in [
        "prompt tokens",
        "tok/s",
        "generated",
        "GB read",
        "limited by",
        "int8",
    ] {
        assert!(ran.stderr.contains(word), "no {word} in {}", ran.stderr);
    }
    let json: Value = serde_json::from_str(&output_of(&["run", QUESTION, "--json"])).unwrap();
    assert_eq!(json["text"], ANSWER);
    assert_eq!(json["end"], "stop");
    assert!(json["prompt_tokens"].as_u64().unwrap() > 5);
    assert!(json["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_way_there_does_not_change_the_text() {
    let prompt = "Tell me a story.";
    let expected = output_of(&["run", prompt, "--max-tokens", "60"]);
    assert!(expected.trim().len() > 60, "{expected}");
    let mut ways: Vec<Vec<String>> = Vec::new();
    for isa in moeflux::Isa::available() {
        ways.push(vec!["--isa".into(), isa.to_string()]);
    }
    for flags in [
        "--threads 1",
        "--threads 2",
        "--threads 3",
        "--threads 4",
        "--chunk-tokens 8",
        "--expert-cache 28KiB",
        "--expert-cache 64KiB",
        "--expert-cache 1MiB --policy frequency",
        "--reader buffered",
        "--memory 1GiB",
    ] {
        ways.push(flags.split(' ').map(str::to_owned).collect());
    }
    for flags in ways {
        let mut args = vec!["run", prompt, "--max-tokens", "60"];
        args.extend(flags.iter().map(String::as_str));
        assert_eq!(output_of(&args), expected, "{flags:?}");
    }
}

#[test]
fn sampling_is_repeatable_by_seed_and_asked_for() {
    let draw = |seed: &str, extra: &[&str]| {
        let mut args = vec![
            "run",
            "Tell me a story.",
            "--max-tokens",
            "40",
            "--seed",
            seed,
        ];
        args.extend(extra);
        output_of(&args)
    };
    let hot = ["--temperature", "1.5"];
    assert_eq!(draw("1", &hot), draw("1", &hot));
    assert_ne!(draw("1", &hot), draw("2", &hot));
    assert_eq!(draw("1", &[]), draw("2", &[]), "greedy unless asked");
    assert_eq!(
        draw("1", &["--temperature", "1", "--top-k", "1"]),
        draw("1", &[])
    );
}

#[test]
fn raw_text_goes_on_without_template() {
    let raw = output_of(&["run", "--raw", "Which day comes", "--max-tokens", "8"]);
    assert!(!raw.contains("<|im_"), "{raw}");
    assert_ne!(
        raw,
        output_of(&["run", "Which day comes", "--max-tokens", "8"])
    );
}

#[test]
fn a_saved_session_goes_on_as_if_it_had_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (file, next) = (dir.path().join("session"), dir.path().join("next"));
    let story = |tokens: &str, extra: &[&str]| {
        let sampling = [
            "--temperature",
            "0.8",
            "--seed",
            "3",
            "--presence-penalty",
            "0.3",
        ];
        let mut args = vec!["run", "--max-tokens", tokens];
        args.extend(sampling);
        args.extend(extra);
        output_of(&args).strip_suffix('\n').unwrap().to_owned()
    };
    let prompt = "Tell me a story.";
    let whole = story("40", &[prompt]);
    let first = story("15", &[prompt, "--save-session", text(&file)]);
    let second = story(
        "10",
        &["--load-session", text(&file), "--save-session", text(&next)],
    );
    let third = story("15", &["--load-session", text(&next)]);
    assert_eq!(first + &second + &third, whole);

    // A new turn after a saved one equals the same two turns in one chat.
    let save = [
        "run",
        "Remember: the code of Max is 481.",
        "--save-session",
        text(&file),
    ];
    let first = output_of(&save);
    let second = output_of(&[
        "run",
        "What is the code of Max?",
        "--load-session",
        text(&file),
    ]);
    let chat = run_with_input(
        &["chat"],
        "Remember: the code of Max is 481.\nWhat is the code of Max?\n",
    );
    assert_eq!(chat.stdout, first + &second);
    assert_eq!(chat.stderr, "");

    // An answer that is complete cannot be gone on with.
    common::fails(&["run", "--load-session", text(&file)], 2, &["complete"]);

    fs::write(&file, "something else").unwrap();
    common::fails(
        &["run", "x", "--load-session", text(&file)],
        5,
        &[text(&file), "session"],
    );
    fs::write(&file, &fs::read(&next).unwrap()[..5000]).unwrap();
    common::fails(
        &["run", "x", "--load-session", text(&file)],
        5,
        &[text(&file)],
    );
}

#[test]
fn chat_remembers_and_takes_commands() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("talk");
    let save = format!(
        "{QUESTION}\n\n/save {}\n/stats\n/exit\n{QUESTION}\n",
        text(&file)
    );
    let ran = run_with_input(&["chat"], &save);
    assert_eq!(
        (ran.code, ran.stdout),
        (0, format!("{ANSWER}\n")),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("context tokens used"), "{}", ran.stderr);

    let load = format!("/load {}\n/reset\n{QUESTION}\n", text(&file));
    let ran = run_with_input(&["chat"], &load);
    assert_eq!(ran.stdout, format!("{ANSWER}\n"), "{}", ran.stderr);

    let ran = run_with_input(&["chat"], "/nonsense\n");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("/reset"), "{}", ran.stderr);
}

#[test]
fn chat_computes_only_what_is_new() {
    let file = prompts();
    let prompts: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let turn = |skill: &str| {
        let prompt = prompts
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["skill"] == skill)
            .unwrap();
        prompt["messages"][0]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let long = turn("recall");
    let ran = run_with_input(&["chat", "--stats"], &format!("{long}\n{QUESTION}\n"));
    let prompt_tokens: Vec<usize> = ran
        .stderr
        .lines()
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(prompt_tokens.len(), 2, "{}", ran.stderr);
    assert!(prompt_tokens[1] < prompt_tokens[0] / 2, "{prompt_tokens:?}");
}

#[test]
fn answers_are_counted_by_skill() {
    let file = prompts();
    let json = output_of(&["eval", "answers", "--file", text(&file), "--json"]);
    let score: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&score["right"], &score["all"]),
        (&10.into(), &10.into()),
        "{score}"
    );
    assert_eq!(
        score["skills"]["tool"],
        serde_json::json!({"right": 2, "all": 2})
    );
    let lines = output_of(&["eval", "answers", "--file", text(&file)]);
    assert_eq!(lines.lines().count(), 6);
    assert!(
        lines.lines().last().unwrap().ends_with("10 / 10"),
        "{lines}"
    );

    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong.json");
    let mut prompts: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    prompts[0]["expected"] = "something else".into();
    fs::write(&wrong, prompts.to_string()).unwrap();
    let ran = run(&["eval", "answers", "--file", text(&wrong), "--json"]);
    let score: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(score["right"], 9);
    assert!(ran.stderr.contains("something else"), "{}", ran.stderr);
}

#[test]
fn logits_are_the_same_in_one_piece_and_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = "5,900,17,1871,3,3,2047,0,44,1000";
    let logits = |name: &str, extra: &[&str]| {
        let file = dir.path().join(name);
        let mut args = vec!["eval", "logits", "--tokens", tokens, "-o", text(&file)];
        args.extend(extra);
        assert_eq!(output_of(&args), "");
        let tensor = Checkpoint::open_files(vec![file.clone()]).unwrap();
        tensor.read_f32("logits", &[10, 2048]).unwrap()
    };
    let whole = logits("whole", &[]);
    assert!(whole.iter().all(|value| value.is_finite()));
    assert!(whole.iter().any(|value| value.abs() > 0.1));
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    assert_eq!(bits(&logits("steps", &["--stepwise"])), bits(&whole));
    assert_ne!(
        bits(&logits("f32", &["--activations", "f32"])),
        bits(&whole)
    );
}
