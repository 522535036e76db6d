//! `--device` and `devices`, with whatever Vulkan or Metal driver there is: software will do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

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
    let few = ["run", "--device", "gpu", "--gpu-memory", "500KiB", PROMPT];
    assert_eq!(output_of(&few), answer);
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (flags, words) in [
        (&["--device", "tpu"][..], ["tpu", "gpu:N"]),
        (&["--device", "gpu:x"], ["gpu:x", "gpu:N"]),
        (&["--gpu-memory", "1GiB"], ["--gpu-memory", "--device"]),
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
    let ran = run(&["run", "--device", "gpu:99", "hi"]);
    assert!(ran.code != 0 && ran.stderr.contains("99"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--device cpu"), "{}", ran.stderr);
}
