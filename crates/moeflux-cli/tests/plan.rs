//! `plan` as a process: what is printed, and what is refused. No figure is judged by its size.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{fails, fixture, output_of, text};
use serde_json::Value;

fn json(flags: &[&str]) -> Value {
    let args = [&["plan", "--json"], flags].concat();
    serde_json::from_str(&output_of(&args)).unwrap()
}

/// A budget between what the demo needs and what all its experts need.
fn tight() -> String {
    tight_on("cpu", 3)
}

/// The same on a device, with so many MiB more than it needs.
fn tight_on(device: &str, more: u64) -> String {
    let flags = ["--memory", "1MiB", "--context", "512", "--device", device];
    let refused = common::run(&[&["plan"], &flags[..]].concat());
    let words: Vec<&str> = refused.stderr.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "--memory").unwrap();
    let smallest: u64 = words[at + 1].trim_end_matches("MiB").parse().unwrap();
    format!("{}MiB", smallest + more)
}

#[test]
fn a_plan_says_how_memory_is_spent_and_what_speed_it_gives() {
    let tight = tight();
    let plan = json(&["--memory", &format!("{tight},1GiB"), "--context", "512"]);
    assert_eq!(plan["model"], "demo");
    assert_eq!(plan["hit_rate_from"], "uniform routing");
    for name in [
        "disk_bytes_per_second",
        "memory_bytes_per_second",
        "resident_token_s",
    ] {
        assert!(
            plan["measured"][name].as_f64().unwrap() > 0.0,
            "{name}: {plan}"
        );
    }
    let budgets = plan["budgets"].as_array().unwrap();
    assert_eq!(budgets.len(), 2);
    for budget in budgets {
        let number = |name: &str| budget[name].as_f64().unwrap();
        let parts = [
            "dense_bytes",
            "state_bytes",
            "scratch_bytes",
            "overhead_bytes",
            "arena_bytes",
        ];
        let spent: f64 = parts.into_iter().map(number).sum();
        assert!(spent <= number("memory_bytes"), "{budget}");
        assert!(
            number("chunk_scratch_bytes") >= number("scratch_bytes"),
            "{budget}"
        );
        assert!(number("warm_tok_s") <= number("best_tok_s"), "{budget}");
        assert!(number("cold_tok_s") <= number("best_tok_s"), "{budget}");
        assert!((0.0..=1.0).contains(&number("hit_rate")), "{budget}");
        let share = number("expert_slots") / plan["expert_records"].as_f64().unwrap();
        assert!((number("hit_rate") / share - 1.0).abs() < 1e-9, "{budget}");
        let prompts = budget["prefill"].as_array().unwrap();
        let lengths: Vec<u64> = prompts
            .iter()
            .map(|p| p["prompt_tokens"].as_u64().unwrap())
            .collect();
        assert_eq!(lengths, [512, 2048, 4096]);
        assert!(prompts.iter().all(|p| p["tok_s"].as_f64().unwrap() > 0.0));
    }
    assert!(budgets[0]["expert_slots"].as_u64() < budgets[1]["expert_slots"].as_u64());
    assert_eq!(budgets[1]["expert_slots"], plan["expert_records"]);
    assert_eq!(budgets[1]["hit_rate"], 1.0);
    assert_eq!(budgets[1]["read_bytes_per_token"], 0.0);
    assert_eq!(budgets[1]["warm_tok_s"], budgets[1]["best_tok_s"]);
    let gains = budgets[0]["would_help"].as_array().unwrap().iter();
    let gains: Vec<f64> = gains
        .map(|advice| advice["gain"].as_f64().unwrap())
        .collect();
    assert!(gains.iter().all(|gain| *gain > 1.0), "{gains:?}");
    assert!(gains.is_sorted_by(|a, b| a >= b), "{gains:?}");
}

#[test]
fn a_trace_says_which_experts_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    let run = [
        "run",
        "--max-tokens",
        "40",
        "--trace",
        text(&file),
        common::QUESTION,
    ];
    output_of(&run);
    let tight = tight();
    let flags = [
        "--memory",
        &tight,
        "--context",
        "64",
        "--trace",
        text(&file),
    ];
    let plan = json(&flags);
    let from = plan["hit_rate_from"].as_str().unwrap();
    assert_eq!(from, format!("trace {}", file.display()));
    let budget = &plan["budgets"][0];
    let slots = budget["expert_slots"].as_u64().unwrap();
    assert!(slots < 256, "{budget}");
    let rate = budget["hit_rate"].as_f64().unwrap();
    assert!(rate > 0.0 && rate <= 1.0, "{budget}");

    let fixture = fixture("qwen3_moe");
    let other = ["plan", "-m", text(&fixture), "--trace", text(&file)];
    fails(&other, 3, &["another model", "--trace"]);
    fails(&["plan", "--trace", "no-such-file"], 3, &["no-such-file"]);
}

#[test]
fn the_table_has_a_line_a_budget() {
    let tight = tight();
    let table = output_of(&[
        "plan",
        "--memory",
        &format!("{tight},1GiB"),
        "--context",
        "512",
    ]);
    assert!(table.starts_with("demo (qwen3_5_moe_text): "), "{table}");
    let lines: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(
        lines.len(),
        8,
        "two tables of a title, a rule and two budgets: {table}"
    );
    for line in [lines[3], lines[7]] {
        assert!(line.contains("1.00 GiB"), "{table}");
    }
    assert!(lines[3].contains("256, 100.0 %"), "{table}");
    assert!(
        lines[4].contains("uniform routing") && lines[4].contains("pp2048"),
        "{table}"
    );
}

#[test]
fn a_published_model_without_tokenizer_can_be_planned() {
    let model = fixture("qwen3_moe");
    let plan = json(&["-m", text(&model), "--memory", "512MiB"]);
    assert_eq!(plan["model_type"], "qwen3_moe");
    assert_eq!(plan["budgets"][0]["context_fits"], true);
}

#[test]
fn a_budget_that_does_not_work_is_explained_beside_those_that_do() {
    let plan = json(&["--memory", "1MiB,1GiB"]);
    let error = plan["budgets"][0]["error"].as_str().unwrap();
    assert!(error.contains("--memory"), "{error}");
    assert_eq!(plan["budgets"][1]["context_fits"], true);
    fails(&["plan", "--memory", "1MiB"], 4, &["1.00 MiB", "--memory"]);
}

#[test]
fn what_cannot_be_planned_is_named() {
    fails(&["plan", "-m", "no-such-model"], 3, &["no-such-model"]);
    fails(&["plan", "--memory", "much"], 2, &["--memory"]);
    fails(&["plan", "--context", "9000"], 2, &["--context", "8192"]);
    fails(&["plan", "--threads", "0"], 2, &["--threads"]);
    fails(&["plan", "--reader", "slow"], 2, &["--reader"]);
}

/// Three tiers: the device's memory, the host's and the disk. A software device will do.
#[test]
fn a_plan_for_a_device_says_where_experts_are() {
    // A driver's own memory differs a little from run to run.
    let tight = tight_on("gpu", 16);
    let budgets = format!("{tight},1GiB");
    let flags = [
        "--device",
        "gpu",
        "--gpu-memory",
        "2MiB",
        "--context",
        "512",
    ];
    let plan = json(&[&flags[..], &["--memory", &budgets]].concat());
    let experts = plan["expert_records"].as_u64().unwrap();
    let slots = plan["device_slots"].as_u64().unwrap();
    assert!(slots > 0 && slots < experts, "{plan}");
    assert!(
        plan["device_slot_bytes"].as_u64().unwrap() <= 2 << 20,
        "{plan}"
    );
    assert!(plan["measured"]["resident_token_s"].as_f64().unwrap() > 0.0);
    let all = plan["budgets"].as_array().unwrap();
    for budget in all {
        let number = |name: &str| budget[name].as_f64().unwrap();
        let shares = ["on_device", "in_memory", "on_disk"].map(number);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{budget}");
        assert!(
            (shares[0] - slots as f64 / experts as f64).abs() < 1e-9,
            "{budget}"
        );
        assert!(number("warm_tok_s") <= number("best_tok_s"), "{budget}");
    }
    assert_eq!(all[1]["on_disk"], 0.0, "{plan}");
    assert!(all[0]["warm_tok_s"].as_f64() <= all[1]["warm_tok_s"].as_f64());
    let words = output_of(&[
        "plan",
        "--device",
        "gpu",
        "--memory",
        "1GiB",
        "--context",
        "64",
    ]);
    assert!(
        words.contains("on the device") && words.contains("on disk"),
        "{words}"
    );
    fails(
        &["plan", "--gpu-memory", "1MiB"],
        2,
        &["--gpu-memory", "--device"],
    );
    fails(
        &["plan", "--device", "gpu", "--threads", "1"],
        2,
        &["--threads"],
    );
}
