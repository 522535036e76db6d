//! `bench` as a process: what is printed in each form, and what is refused. No figure is judged by
//! its size; a machine may be as busy as it likes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{fails, fixture, output_of, run, text};
use serde_json::Value;

/// `bench` with the flags, small.
fn bench(flags: &[&str]) -> Vec<String> {
    let once: &[&str] = if flags.contains(&"-r") {
        &[]
    } else {
        &["-r", "1"]
    };
    [&["bench"], once, flags]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn printed(flags: &[&str]) -> String {
    let args = bench(flags);
    output_of(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn json(flags: &[&str]) -> Value {
    serde_json::from_str(&printed(flags)).unwrap()
}

#[track_caller]
fn refused(flags: &[&str], code: i32, words: &[&str]) {
    let args = bench(flags);
    fails(
        &args.iter().map(String::as_str).collect::<Vec<_>>(),
        code,
        words,
    );
}

/// The tests of a result by name.
fn tests(result: &Value) -> Vec<&str> {
    let rows = result["results"].as_array().unwrap().iter();
    rows.map(|row| row["test"].as_str().unwrap()).collect()
}

const NUMBERS: [&str; 20] = [
    "model_bytes",
    "parameters",
    "threads",
    "prompt_tokens",
    "decode_tokens",
    "depth",
    "repetitions",
    "tok_s",
    "tok_s_stddev",
    "tok_s_min",
    "tok_s_median",
    "tok_s_max",
    "floor_tok_s",
    "floor_share",
    "memory_floor_tok_s",
    "compute_floor_tok_s",
    "bytes_per_token",
    "gb_s",
    "load_s",
    "first_token_s",
];
const WORDS: [&str; 9] = [
    "model",
    "model_type",
    "codec",
    "backend",
    "isa",
    "activations",
    "kv",
    "test",
    "limit",
];

#[test]
fn json_has_every_field_of_every_row() {
    let result = json(&["-p", "8,16", "-n", "4", "-d", "0,24", "-r", "2", "--json"]);
    let names = ["pp8", "pp16", "tg4", "pp8 @ d24", "pp16 @ d24", "tg4 @ d24"];
    assert_eq!(tests(&result), names);
    for row in result["results"].as_array().unwrap() {
        for name in NUMBERS {
            assert!(
                row[name].as_f64().is_some_and(|n| n >= 0.0),
                "{name}: {row}"
            );
        }
        for name in WORDS {
            assert!(
                row[name].as_str().is_some_and(|w| !w.is_empty()),
                "{name}: {row}"
            );
        }
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(number("tok_s_min") <= number("tok_s_median"), "{row}");
        assert!(number("tok_s_median") <= number("tok_s_max"), "{row}");
        assert_eq!(row["repetitions"], 2);
        assert!(
            ["memory", "compute"].contains(&row["limit"].as_str().unwrap()),
            "{row}"
        );
        // All experts fit, so all were there.
        assert_eq!(row["hit_rate"], 1.0, "{row}");
        assert_eq!(row["read_bytes_per_token"], 0.0, "{row}");
        assert_eq!(row["disk_floor_tok_s"], Value::Null, "{row}");
        let floors = ["memory_floor_tok_s", "compute_floor_tok_s"].map(number);
        let floor = floors[0].min(floors[1]);
        assert!((number("floor_tok_s") / floor - 1.0).abs() < 1e-9, "{row}");
        let share = number("tok_s") / number("floor_tok_s");
        assert!((number("floor_share") / share - 1.0).abs() < 1e-9, "{row}");
    }
    assert_eq!(result["model"], "demo");
    assert_eq!(result["disk"], Value::Null);
    assert_eq!(result["cold"], false);
    assert!(result.get("profile").is_none());
    assert!(result["first_token_s"].as_f64() > result["load_s"].as_f64());
    let machine = &result["machine"][0];
    assert_eq!(machine["all_resident"], true);
    assert_eq!(machine["expert_slots"], machine["expert_records"]);
    assert!(machine["memory_bytes_per_second"].as_f64().unwrap() > 1e7);
    let rates = machine["multiply_adds_per_second"].as_object().unwrap();
    for name in ["f32-registers", "affine-b4-g64", "affine-b8-g64-exact"] {
        assert!(rates[name].as_f64().unwrap() > 1e6, "{name}: {rates:?}");
    }
}

#[test]
fn a_deeper_context_costs_more_bytes_and_a_longer_prompt_fewer_a_token() {
    let result = json(&["-p", "8,64", "-n", "4", "-d", "0,64", "-o", "json"]);
    let rows = result["results"].as_array().unwrap().iter();
    let bytes = rows.map(|row| row["bytes_per_token"].as_f64().unwrap());
    let bytes: Vec<f64> = bytes.collect();
    let info: Value = serde_json::from_str(&output_of(&["inspect", "--json"])).unwrap();
    let position = info["token_state_bytes"].as_f64().unwrap();
    // pp8, pp64, tg4, and the same at depth 64.
    assert!(bytes[1] < bytes[0] && bytes[0] < bytes[2], "{bytes:?}");
    let deeper = (bytes[5] - bytes[2]) / (64.0 * position);
    assert!(
        (deeper - 1.0).abs() < 1e-6,
        "{bytes:?}, {position} a position"
    );
    let least = info["token_expert_bytes"].as_f64().unwrap();
    assert!(bytes[2] > least, "a token touches its experts");
}

#[test]
fn the_table_has_a_line_a_test_under_what_it_stands_on() {
    let table = printed(&["-p", "16", "-n", "4", "-d", "0,8"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("demo (qwen3_5_moe_text): "), "{table}");
    assert!(
        lines[0].contains("16.61 M parameters, experts affine-b4-g64"),
        "{table}"
    );
    assert!(
        lines[1].contains("256 of 256 experts fit in memory"),
        "{table}"
    );
    assert!(
        lines[2].starts_with("memory ") && lines[2].contains("GB/s"),
        "{table}"
    );
    assert_eq!(lines[3], "");
    let rows: Vec<&str> = lines[4..].to_vec();
    assert_eq!(rows.len(), 6, "{table}");
    let width = rows[0].chars().count();
    assert!(
        rows.iter().all(|row| row.chars().count() == width),
        "{table}"
    );
    let test = |row: &str| row.split('|').nth(2).unwrap().trim().to_owned();
    let names: Vec<String> = rows[2..].iter().map(|row| test(row)).collect();
    assert_eq!(names, ["pp16", "tg4", "pp16 @ d8", "tg4 @ d8"]);
}

#[test]
fn csv_has_a_header_and_a_line_a_test_with_each_number_of_threads() {
    let csv = printed(&["-p", "8", "-n", "2", "-t", "1,2", "-o", "csv"]);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 5, "{csv}");
    for name in NUMBERS.iter().chain(&WORDS) {
        assert!(lines[0].contains(name), "no {name} in {csv}");
    }
    assert!(
        lines.iter().all(|line| line.len() == lines[0].len()),
        "{csv}"
    );
    let at = |name: &str| lines[0].iter().position(|known| *known == name).unwrap();
    let column = |name: &str| lines[1..].iter().map(|l| l[at(name)]).collect::<Vec<_>>();
    assert_eq!(column("threads"), ["1", "1", "2", "2"]);
    assert_eq!(column("test"), ["pp8", "tg2", "pp8", "tg2"]);
    let rates = column("tok_s");
    assert!(
        rates.iter().all(|rate| rate.parse::<f64>().unwrap() > 0.0),
        "{csv}"
    );
}

#[test]
fn experts_that_do_not_fit_are_read_and_the_disk_is_measured() {
    let flags = ["-p", "16", "-n", "4", "--expert-cache", "256KiB", "--json"];
    for cold in [false, true] {
        let mut flags = flags.to_vec();
        flags.extend(cold.then_some("--cold"));
        let result = json(&flags);
        assert_eq!(result["cold"], cold);
        assert_eq!(result["machine"][0]["all_resident"], false);
        assert!(result["disk"]["bytes_per_second"].as_f64().unwrap() > 1e5);
        assert!(!result["disk"]["reader"].as_str().unwrap().is_empty());
        for row in result["results"].as_array().unwrap() {
            assert!(row["read_bytes_per_token"].as_f64().unwrap() > 0.0, "{row}");
            assert!(row["disk_floor_tok_s"].as_f64().unwrap() > 0.0, "{row}");
            assert!(row["hit_rate"].as_f64().unwrap() < 1.0, "{row}");
        }
    }
}

#[test]
fn cold_repetitions_read_each_expert_they_use() {
    // An expert that was guessed and read ahead counts as found.
    let flags = [
        "-p",
        "0",
        "-n",
        "1",
        "--cold",
        "--lookahead",
        "off",
        "--json",
    ];
    let result = json(&flags);
    assert_eq!(tests(&result), ["tg1"]);
    let row = &result["results"][0];
    assert_eq!(row["hit_rate"], 0.0, "{row}");
    let info: Value = serde_json::from_str(&output_of(&["inspect", "--json"])).unwrap();
    let least = info["token_expert_bytes"].as_f64().unwrap();
    assert!(
        row["read_bytes_per_token"].as_f64().unwrap() >= least,
        "{row}"
    );
}

#[test]
fn a_profile_names_every_operation_and_adds_up() {
    let flags = ["-p", "16", "-n", "4", "--profile"];
    let mut as_json = flags.to_vec();
    as_json.push("--json");
    let result = json(&as_json);
    let profiles = result["profile"].as_array().unwrap();
    assert_eq!(profiles.len(), 2);
    for (profile, (test, steps)) in profiles.iter().zip([("pp16", 1), ("tg4", 4)]) {
        assert_eq!(profile["test"], test);
        assert_eq!(profile["steps"], steps);
        let ops = profile["ops"].as_array().unwrap();
        let find = |name: &str| ops.iter().find(|op| op["op"] == name).unwrap();
        assert_eq!(find("matmul lm_head")["calls"], steps);
        assert_eq!(find("experts")["calls"], 8 * steps);
        assert_eq!(find("experts")["codec"], "affine-b4-g64");
        assert!(find("experts")["gmac_s"].as_f64().unwrap() > 0.0);
        assert!(find("attention")["gb_s"].as_f64().unwrap() > 0.0);
        assert_eq!(find("add")["gmac_s"], Value::Null);
        let total = profile["total_ms"].as_f64().unwrap();
        let times = ops.iter().map(|op| op["ms"].as_f64().unwrap());
        let sum = times.sum::<f64>() + profile["outside_ms"].as_f64().unwrap();
        assert!((sum / total - 1.0).abs() < 1e-3, "{sum} of {total} ms");
    }
    let table = printed(&flags);
    for word in ["pp16, ", "tg4, ", "matmul lm_head", "between operations"] {
        assert!(table.contains(word), "no {word} in {table}");
    }
    let mut as_csv = bench(&flags);
    as_csv.extend(["-o".into(), "csv".into()]);
    let ran = run(&as_csv.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(
        (ran.code, ran.stdout.lines().count()),
        (0, 3),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("matmul lm_head"), "{}", ran.stderr);
}

#[test]
fn a_length_of_zero_skips_its_kind() {
    assert_eq!(tests(&json(&["-p", "0", "-n", "3", "--json"])), ["tg3"]);
    assert_eq!(
        tests(&json(&["-p", "4,0,5", "-n", "0", "--json"])),
        ["pp4", "pp5"]
    );
    refused(&["-p", "0", "-n", "0"], 2, &["-p 0", "-n 0"]);
}

#[test]
fn published_models_without_tokenizer_are_measured() {
    let model = fixture("qwen3_moe");
    let result = json(&["-m", text(&model), "-p", "4", "-n", "2", "--json"]);
    assert_eq!(tests(&result), ["pp4", "tg2"]);
    assert_eq!(result["model_type"], "qwen3_moe");
    assert_eq!(result["results"][0]["codec"], "bf16");

    let gguf = fixture("gguf").join("qwen3_5_moe_q8_0.gguf");
    let result = json(&["-m", text(&gguf), "-p", "4", "-n", "2", "--cold", "--json"]);
    assert_eq!(result["model"], "qwen3_5_moe_q8_0.gguf");
    assert_eq!(result["results"][0]["codec"], "q8_0");
    assert!(result["disk"]["bytes_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn flags_that_cannot_be_used_are_named() {
    refused(&["-p", "x"], 2, &["--prompt-tokens"]);
    refused(&["-n", "-1"], 2, &["-1"]);
    refused(&["-d", "1.5"], 2, &["--depth"]);
    refused(&["-t", "0"], 2, &["--thread-counts"]);
    refused(&["-t", "1,2", "--threads", "2"], 2, &["--threads"]);
    refused(&["-r", "0"], 2, &["--repetitions"]);
    refused(&["-o", "yaml"], 2, &["--output", "csv"]);
    refused(&["--json", "-o", "csv"], 2, &["--json"]);
    refused(&["-p", "9000"], 8, &["9000", "8192"]);
    refused(&["-p", "0", "-n", "10", "-d", "8190"], 8, &["8200", "8192"]);
    refused(
        &["-p", "65", "-n", "0", "--context", "64"],
        8,
        &["65", "64"],
    );
    refused(&["-d", "18446744073709551615"], 8, &["8192"]);
    refused(&["--context", "0"], 2, &["--context"]);
}

#[test]
fn nothing_but_results_goes_to_standard_output() {
    let args = bench(&["-p", "4", "-n", "0", "--json"]);
    let ran = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(ran.stderr, "");
    assert!(serde_json::from_str::<Value>(&ran.stdout).is_ok());
}
