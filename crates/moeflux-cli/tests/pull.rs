//! `pull` from a hub on this machine, to a model that runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "../../moeflux-hub/tests/common/mod.rs"]
mod hub;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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

fn pull(hub: &Hub, args: &[&str], models: &Path) -> Ran {
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
    let logits = |model: &str, out: &Path| {
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

/// The weight files of a packed model, by name.
fn weights(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let experts = fs::read_dir(dir.join("experts")).unwrap();
    let experts = experts.map(|entry| entry.unwrap().path());
    let files = experts.chain([dir.join("dense.safetensors")]);
    let named = |path: PathBuf| {
        let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
        (name, fs::read(&path).unwrap())
    };
    files.map(named).collect()
}

/// Shards that are here now.
fn shards(stage: &Path) -> Vec<String> {
    let names = fs::read_dir(stage).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.ends_with(".safetensors"))
        .collect()
}

#[test]
fn shards_are_packed_as_they_come_and_go() {
    let source = "qwen3_5_moe";
    let files = repository(source);
    let count = files
        .keys()
        .filter(|name| name.starts_with("model-0"))
        .count();
    let small = ["config.json", "generation_config.json"];
    let small = small
        .iter()
        .filter(|name| files.contains_key(**name))
        .count();
    // The index, small files, each header in two requests, all shards but the last, which then
    // fails until patience ends.
    let fine = 1 + small + 2 * count + count - 1;
    let drops = [vec![usize::MAX; fine], vec![0; 5]].concat();
    let hub = Hub::start(
        files,
        Faults {
            drops,
            ..Faults::default()
        },
    );
    let models = tempfile::tempdir().unwrap();
    let args = ["owner/name", "--pack", "--bits", "5", "--group", "32"];
    let args = [&args[..], &["--connections", "1"]].concat();
    let ran = pull(&hub, &args, models.path());
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    let (packed, stage) = (models.path().join("name"), models.path().join("name.pull"));
    assert!(!packed.exists());
    // Those of which everything is packed or put aside are gone.
    assert!(shards(&stage).len() < count - 1, "{:?}", shards(&stage));
    let asked = |hub: &Hub, name: &str| {
        let asked = hub.asked();
        asked
            .iter()
            .filter(|(path, ..)| path.ends_with(name))
            .count()
    };
    let first = "model-00001-of-00003.safetensors";
    let before = asked(&hub, first);

    let ran = pull(&hub, &args, models.path());
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert_eq!(asked(&hub, first), before, "it is not fetched again");
    assert!(!stage.exists());
    let whole = models.path().join("whole");
    let original = fixture(source);
    let pack = ["pack", text(&original), "-o", text(&whole)];
    output_of(&[&pack[..], &["--bits", "5", "--group", "32"]].concat());
    let (ours, theirs) = (weights(&packed), weights(&whole));
    assert!(ours.len() > 2 && ours.keys().eq(theirs.keys()));
    for (name, bytes) in &ours {
        assert!(*bytes == theirs[name], "{name}");
    }
    output_of(&["inspect", "-m", text(&packed), "--verify"]);

    let ran = pull(&hub, &["owner/name", "--bits", "5"], models.path());
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("--bits") && ran.stderr.contains("--pack"),
        "{}",
        ran.stderr
    );
}

#[test]
fn packing_of_gguf_is_told_to_be_a_step_of_its_own() {
    let bytes = fs::read(fixture("gguf").join("qwen3_moe.gguf")).unwrap();
    let files = Files::from([("model.gguf".to_owned(), (bytes, true))]);
    let hub = Hub::start(files, Faults::default());
    let models = tempfile::tempdir().unwrap();
    let ran = pull(&hub, &["owner/name", "--pack"], models.path());
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    for words in [
        "owner/name is in GGUF",
        "without --pack",
        "moeflux pack FILE",
    ] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let left = fs::read_dir(models.path()).unwrap().count();
    assert_eq!(left, 0, "nothing is left behind");
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
