//! `pull` from a hub on this machine, to a model that runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "../../moeflux-hub/tests/common/mod.rs"]
mod hub;

use common::{Ran, command, fixture, output_of, text};
use hub::{Faults, Files, Hub};

/// The files of a fixture, as a repository has them.
fn repository(name: &str) -> Files {
    let mut files = Files::new();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let large = name.ends_with(".safetensors");
        files.insert(name, (std::fs::read(&path).unwrap(), large));
    }
    files
}

fn pull(hub: &Hub, args: &[&str], models: &std::path::Path) -> Ran {
    let mut command = command(&[&["pull"][..], args].concat());
    command
        .env("HF_ENDPOINT", &hub.address)
        .env("MOEFLUX_MODELS", models);
    command
        .env("HF_HOME", models.join("nothing here"))
        .env_remove("HF_TOKEN");
    command.output().unwrap().into()
}

#[test]
fn a_pulled_model_is_the_one_that_was_published() {
    let faults = Faults {
        drops: vec![20_000],
        ..Faults::default()
    };
    let hub = Hub::start(repository("qwen3_moe"), faults);
    let models = tempfile::tempdir().unwrap();
    let ran = pull(&hub, &["owner/name"], models.path());
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("checked") && ran.stderr.contains("commit"),
        "{}",
        ran.stderr
    );
    let pulled = models.path().join("name");
    assert!(
        !pulled.join("golden.safetensors").exists(),
        "nobody needs that"
    );
    let logits = |model: &str, out: &std::path::Path| {
        output_of(&[
            "eval",
            "logits",
            "-m",
            model,
            "--tokens",
            "1,2,3",
            "-o",
            text(out),
        ]);
        std::fs::read(out).unwrap()
    };
    let (a, b) = (models.path().join("a"), models.path().join("b"));
    let ours = logits(text(&pulled), &a);
    assert!(ours == logits(text(&fixture("qwen3_moe")), &b));
}

#[test]
fn failures_have_their_codes_and_say_what_to_do() {
    let models = tempfile::tempdir().unwrap();
    let faults = Faults {
        token: Some("secret".to_owned()),
        ..Faults::default()
    };
    let hub = Hub::start(repository("qwen3_moe"), faults);
    for (args, code, words) in [
        (&["not-a-repository"][..], 2, "OWNER/NAME"),
        (&["owner/name"][..], 3, "HF_TOKEN"),
    ] {
        let ran = pull(&hub, args, models.path());
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let mut elsewhere = command(&["pull", "owner/name"]);
    let ran: Ran = elsewhere
        .env("HF_ENDPOINT", "ftp://hub")
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("HF_ENDPOINT is `ftp://hub`"),
        "{}",
        ran.stderr
    );
    let mut command = command(&["pull", "owner/name", "-o", text(&models.path().join("x"))]);
    let ran: Ran = command
        .env("HF_ENDPOINT", &hub.address)
        .env("HF_TOKEN", "secret")
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    let faults = Faults {
        corrupt: 99,
        ..Faults::default()
    };
    let hub = Hub::start(repository("qwen3_moe"), faults);
    let ran = pull(&hub, &["owner/name", "--connections", "1"], models.path());
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("checksum"), "{}", ran.stderr);
}
