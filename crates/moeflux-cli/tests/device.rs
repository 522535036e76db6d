//! `--device` and `devices`, with whatever Vulkan or Metal driver there is: software will do.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod common;

use common::{fails, output_of, run};
use serde_json::Value;

const PROMPT: &str = "What is the capital of France?";

#[test]
fn a_device_is_listed_and_answers_as_the_processor_does() {
    let devices: Value = serde_json::from_str(&output_of(&["devices", "--json"])).unwrap();
    let first = devices[0]["device"].as_str();
    let first = first.expect("a Vulkan or Metal driver: apt install mesa-vulkan-drivers");
    assert_eq!(first, "gpu:0");
    assert!(output_of(&["devices"]).contains("gpu:0  "));
    let answer = output_of(&["run", PROMPT]);
    for device in ["gpu", "gpu:0", "auto", "cpu"] {
        assert_eq!(output_of(&["run", "--device", device, PROMPT]), answer);
    }
    let few = ["run", "--device", "gpu", "--gpu-memory", "1MiB", PROMPT];
    assert_eq!(output_of(&few), answer);
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (flags, words) in [
        (&["--device", "tpu"][..], ["tpu", "gpu:N"]),
        (&["--device", "gpu:x"], ["gpu:x", "gpu:N"]),
        (&["--gpu-memory", "1GiB"], ["--gpu-memory", "--device"]),
        (&["--cpu-experts"], ["--cpu-experts", "--device"]),
        (
            &["--device", "gpu", "--cpu-experts=maybe"],
            ["maybe", "auto"],
        ),
        (
            &["--device", "gpu", "--isa", "scalar"],
            ["--isa", "processor"],
        ),
        (
            &["--device", "gpu", "--threads", "1"],
            ["--threads", "processor"],
        ),
    ] {
        fails(&[&["run", "hi"], flags].concat(), 2, &words);
    }
    fails(
        &["run", "--device", "gpu:99", "hi"],
        2,
        &["99", "--device cpu"],
    );
    fails(
        &["devices", "--self-test=cpu"],
        2,
        &["--self-test", "gpu:0"],
    );
    fails(&["devices", "--self-test=gpu:99"], 2, &["99"]);
}

#[test]
fn too_little_device_memory_names_what_works() {
    let too_little = ["run", "--device", "gpu", "--gpu-memory", "1KiB", "hi"];
    let ran = run(&too_little);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let numbers = ran.stderr.split(|c: char| !c.is_ascii_digit());
    let least = numbers
        .filter_map(|n| n.parse::<u64>().ok())
        .find(|&n| n > 1024);
    let least = least
        .unwrap_or_else(|| panic!("no budget in {}", ran.stderr))
        .to_string();
    let answer = output_of(&["run", "--device", "gpu", PROMPT]);
    let enough = ["run", "--device", "gpu", "--gpu-memory", &least, PROMPT];
    assert_eq!(output_of(&enough), answer);
}

/// On a software device, which has the processor's bits, there is nothing to say.
#[test]
fn the_processor_computes_experts_beside_the_device() {
    let memory = ["--device", "gpu", "--gpu-memory"];
    let flags = ["run", PROMPT, "--cpu-experts"];
    let all = run(&[&flags[..], &memory, &["1GiB"]].concat());
    let few = run(&[&flags[..], &memory, &["1MiB"]].concat());
    for ran in [&all, &few] {
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(!ran.stderr.contains("bits"), "{}", ran.stderr);
    }
    assert_eq!(all.stdout, few.stdout);
    assert!(!all.stdout.is_empty());
}

#[test]
fn a_device_is_held_to_the_processor() {
    let found: Value =
        serde_json::from_str(&output_of(&["devices", "--self-test", "--json"])).unwrap();
    assert_eq!(found["problems"], serde_json::json!([]), "{found}");
    assert!(found["cases"].as_u64().unwrap() > 100, "{found}");
    assert!(found["largest_error"].as_f64().unwrap() < 1e-4, "{found}");
    assert_eq!(found["processors_bits"], true, "{found}");
}

#[test]
fn a_bench_says_of_a_device_what_is_known_of_it() {
    let flags = ["--device", "gpu", "-p", "4", "-n", "2", "-r", "1", "--json"];
    let report = output_of(&[&["bench"], &flags[..]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    for row in report["results"].as_array().unwrap() {
        assert_eq!(row["backend"], "gpu", "{row}");
        assert_eq!(row["activations"], "f32", "{row}");
        for positive in ["tok_s", "floor_tok_s", "floor_share", "gb_s"] {
            assert!(row[positive].as_f64().unwrap() > 0.0, "{row}");
        }
        let limits = ["memory", "compute", "disk", "transfer"];
        assert!(limits.contains(&row["limit"].as_str().unwrap()), "{row}");
        assert!(row["device_slots"].is_u64(), "{row}");
    }
    let machine = &report["machine"][0];
    for rate in ["memory_bytes_per_second", "transfer_bytes_per_second"] {
        assert!(machine[rate].as_f64().unwrap() > 0.0, "{machine}");
    }
    let products = &machine["multiply_adds_per_second"];
    assert_eq!(products.as_object().unwrap().len(), 1, "{machine}");
    assert!(products["products"].as_f64().unwrap() > 0.0, "{machine}");
}

#[test]
fn a_device_gives_the_right_answers() {
    let file = common::prompts();
    let args = [
        "eval",
        "answers",
        "--json",
        "--device",
        "gpu",
        "--file",
        common::text(&file),
    ];
    let score: Value = serde_json::from_str(&output_of(&args)).unwrap();
    assert_eq!(
        (&score["right"], &score["all"]),
        (&10.into(), &10.into()),
        "{score}"
    );
}
