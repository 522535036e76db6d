//! Downloads from a hub on this machine that behaves like the public one, and that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::Path;
use std::sync::Mutex;

use common::{COMMIT, Faults, Files, Hub};
use moeflux_hub::{Access, HubError, Progress, PullOptions, PullReport, pull};

const INDEX: &str = "model.safetensors.index.json";

/// Bytes that differ from place to place.
fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251 + seed) as u8).collect()
}

/// A repository as they are published: two shards, texts, and what nobody needs.
fn checkpoint() -> Files {
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors"}}"#;
    let mut files = Files::new();
    let mut add = |name: &str, bytes: Vec<u8>, large| {
        files.insert(name.to_owned(), (bytes, large));
    };
    add(
        "config.json",
        b"{\"model_type\": \"qwen3_moe\"}".to_vec(),
        false,
    );
    add("tokenizer.json", bytes(5000, 1), true);
    add(INDEX, index.as_bytes().to_vec(), false);
    add("model-00001-of-00002.safetensors", bytes(700_000, 2), true);
    add("model-00002-of-00002.safetensors", bytes(300_001, 3), true);
    add("README.md", bytes(100, 4), false);
    add("pytorch_model.bin", bytes(1000, 5), true);
    add("original/consolidated.safetensors", bytes(1000, 6), true);
    files
}

/// What `checkpoint` has that is needed.
const NEEDED: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    INDEX,
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

fn options(hub: &Hub) -> PullOptions {
    PullOptions {
        repo: "owner/name".parse().unwrap(),
        revision: "main".to_owned(),
        files: Vec::new(),
        access: Access {
            endpoint: hub.address.clone(),
            token: None,
            certificates: None,
        },
        connections: 2,
    }
}

fn run(options: &PullOptions, to: &Path) -> Result<PullReport, HubError> {
    pull(options, to, &mut |_| {})
}

/// All files under a directory, those with a hidden name too.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries.map(|e| name(e).into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn holds(dir: &Path, files: &Files, expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(names(dir), expected);
    for name in expected {
        assert!(
            std::fs::read(dir.join(name)).unwrap() == files[name].0,
            "{name}"
        );
    }
}

#[test]
fn what_is_needed_is_fetched_and_counted() {
    let faults = Faults {
        page: Some(3),
        ..Faults::default()
    };
    let hub = Hub::start(checkpoint(), faults);
    let dir = tempfile::tempdir().unwrap();
    let last = Mutex::new(None);
    let report = pull(&options(&hub), dir.path(), &mut |p| {
        *last.lock().unwrap() = Some(p);
    });
    let report = report.unwrap();
    holds(dir.path(), &checkpoint(), &NEEDED);
    let total: u64 = NEEDED
        .iter()
        .map(|name| checkpoint()[*name].0.len() as u64)
        .sum();
    assert_eq!((report.commit.as_str(), report.bytes), (COMMIT, total));
    assert_eq!(report.files.len(), NEEDED.len());
    let end = Progress {
        total_bytes: total,
        done_bytes: total,
    };
    assert_eq!(last.into_inner().unwrap(), Some(end));

    // Again: only the listing is asked for.
    let before = hub.asked().len();
    run(&options(&hub), dir.path()).unwrap();
    let asked = hub.asked().split_off(before);
    assert!(
        asked.iter().all(|(path, ..)| path.starts_with("/api/")),
        "{asked:?}"
    );
}

#[test]
fn connections_that_drop_are_taken_up_where_they_ended() {
    let faults = Faults {
        drops: vec![100_000, 0, 250_000, 1],
        statuses: vec![503],
        ..Faults::default()
    };
    let mut files = checkpoint();
    files.retain(|name, _| name.starts_with("model-00001") || name == "config.json");
    let weights = files.remove("model-00001-of-00002.safetensors").unwrap();
    files.insert("model.safetensors".to_owned(), weights);
    files.remove("config.json");
    let hub = Hub::start(files.clone(), faults);
    let dir = tempfile::tempdir().unwrap();
    run(&options(&hub), dir.path()).unwrap();
    holds(dir.path(), &files, &["model.safetensors"]);
    let asked = hub.asked();
    let starts = asked
        .iter()
        .filter(|(path, ..)| path.ends_with("/model.safetensors"));
    let starts: Vec<u64> = starts.map(|(_, from, _)| *from).collect();
    assert_eq!(starts, [0, 0, 100_000, 100_000, 350_000, 350_001]);
}

#[test]
fn a_later_call_goes_on_with_what_an_earlier_one_left() {
    let mut files = Files::new();
    files.insert("model.safetensors".to_owned(), (bytes(400_000, 9), true));
    let faults = Faults {
        drops: vec![150_000, 0, 0, 0, 0, 0],
        ..Faults::default()
    };
    let hub = Hub::start(files.clone(), faults);
    let dir = tempfile::tempdir().unwrap();
    let error = run(&options(&hub), dir.path()).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, HubError::Connection { .. }), "{message}");
    assert!(message.contains("repeat the command"), "{message}");
    assert!(!dir.path().join("model.safetensors").exists());
    hub.faults.lock().unwrap().drops.clear();
    let before = hub.asked().len();
    run(&options(&hub), dir.path()).unwrap();
    holds(dir.path(), &files, &["model.safetensors"]);
    let asked = hub.asked().split_off(before);
    let file = asked
        .iter()
        .find(|(path, ..)| path.ends_with(".safetensors"));
    assert_eq!(file.unwrap().1, 150_000);
}

#[test]
fn another_version_takes_the_place_of_one_of_the_same_length() {
    let dir = tempfile::tempdir().unwrap();
    for seed in [1, 2] {
        let mut files = Files::new();
        files.insert("model.safetensors".to_owned(), (bytes(1000, seed), true));
        let hub = Hub::start(files.clone(), Faults::default());
        run(&options(&hub), dir.path()).unwrap();
        holds(dir.path(), &files, &["model.safetensors"]);
    }
}

#[test]
fn servers_without_ranges_are_asked_for_all_again() {
    let mut files = Files::new();
    files.insert("model.safetensors".to_owned(), (bytes(200_000, 9), true));
    let faults = Faults {
        drops: vec![150_000],
        no_ranges: true,
        ..Faults::default()
    };
    let hub = Hub::start(files.clone(), faults);
    let dir = tempfile::tempdir().unwrap();
    let mut most = 0;
    pull(&options(&hub), dir.path(), &mut |p| {
        most = p.done_bytes.max(most)
    })
    .unwrap();
    holds(dir.path(), &files, &["model.safetensors"]);
    assert_eq!(most, 200_000, "what is fetched twice counts once");
}

#[test]
fn corrupt_bytes_are_fetched_again_and_then_refused() {
    let mut files = Files::new();
    files.insert("model.safetensors".to_owned(), (bytes(1000, 9), true));
    for (corrupt, works) in [(1, true), (9, false)] {
        let faults = Faults {
            corrupt,
            ..Faults::default()
        };
        let hub = Hub::start(files.clone(), faults);
        let dir = tempfile::tempdir().unwrap();
        let result = run(&options(&hub), dir.path());
        if works {
            result.unwrap();
            holds(dir.path(), &files, &["model.safetensors"]);
            continue;
        }
        let error = result.unwrap_err();
        assert!(matches!(error, HubError::Checksum { .. }), "{error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
        assert_eq!(names(dir.path()), [""; 0], "nothing that is wrong stays");
    }
    // Small files are checked as well.
    let mut small = Files::new();
    small.insert("model.safetensors".to_owned(), (bytes(10, 1), false));
    let faults = Faults {
        corrupt: 9,
        ..Faults::default()
    };
    let hub = Hub::start(small, faults);
    let error = run(&options(&hub), tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
}

#[test]
fn wrong_lengths_are_refused() {
    let mut files = Files::new();
    files.insert("model.safetensors".to_owned(), (bytes(1000, 9), true));
    let faults = Faults {
        longer: 5,
        ..Faults::default()
    };
    let hub = Hub::start(files, faults);
    let dir = tempfile::tempdir().unwrap();
    let error = run(&options(&hub), dir.path()).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::Length {
                expected: 1000,
                found: 1005,
                ..
            }
        ),
        "{error}"
    );
    assert!(!dir.path().join("model.safetensors").exists());
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let mut files = Files::new();
    files.insert("model.safetensors".to_owned(), (bytes(1000, 9), true));
    let elsewhere = Hub::start(files.clone(), Faults::default());
    // Another name of this machine: another host to whoever compares names.
    let place = elsewhere.address.replace("127.0.0.1", "localhost");
    let faults = Faults {
        token: Some("secret".to_owned()),
        redirect: Some(place),
        ..Faults::default()
    };
    let hub = Hub::start(files.clone(), faults);
    let dir = tempfile::tempdir().unwrap();
    let error = run(&options(&hub), dir.path()).unwrap_err();
    assert!(
        matches!(error, HubError::Access { status: 401, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");

    let mut with_token = options(&hub);
    with_token.access.token = Some("secret".to_owned());
    run(&with_token, dir.path()).unwrap();
    holds(dir.path(), &files, &["model.safetensors"]);
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].2, "the other host has seen the token");
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("roots.pem");
    for text in [
        "no PEM",
        "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&path, text).unwrap();
        let hub = Hub::start(Files::new(), Faults::default());
        let mut options = options(&hub);
        options.access.certificates = Some(path.clone());
        let error = run(&options, dir.path()).unwrap_err();
        assert!(matches!(error, HubError::Certificates { .. }), "{error}");
        assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
    }
}

#[test]
fn one_gguf_model_is_found_and_several_are_named() {
    let mut files = Files::new();
    for name in [
        "m-00001-of-00002.gguf",
        "m-00002-of-00002.gguf",
        "mmproj-F16.gguf",
    ] {
        files.insert(name.to_owned(), (bytes(1000, name.len()), true));
    }
    let hub = Hub::start(files.clone(), Faults::default());
    let dir = tempfile::tempdir().unwrap();
    run(&options(&hub), dir.path()).unwrap();
    let both = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    holds(dir.path(), &files, &both);

    files.insert("m Q8_0.gguf".to_owned(), (bytes(10, 1), true));
    let hub = Hub::start(files.clone(), Faults::default());
    let dir = tempfile::tempdir().unwrap();
    let message = run(&options(&hub), dir.path()).unwrap_err().to_string();
    for words in ["--file", "m Q8_0.gguf", "m-00001-of-00002.gguf"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(!message.contains("00002-of"), "{message}");
    let named = |name: &str| PullOptions {
        files: vec![name.to_owned()],
        ..options(&hub)
    };
    run(&named("m Q8_0.gguf"), dir.path()).unwrap();
    holds(dir.path(), &files, &["m Q8_0.gguf"]);
    let dir = tempfile::tempdir().unwrap();
    run(&named(both[0]), dir.path()).unwrap();
    holds(dir.path(), &files, &both);
    let error = run(&named("other.gguf"), dir.path()).unwrap_err();
    assert!(matches!(error, HubError::MissingFile { .. }), "{error}");
}

#[test]
fn repositories_that_cannot_be_used_say_why() {
    let mut files = Files::new();
    files.insert("pytorch_model.bin".to_owned(), (bytes(10, 1), true));
    let hub = Hub::start(files, Faults::default());
    let dir = tempfile::tempdir().unwrap();
    let message = run(&options(&hub), dir.path()).unwrap_err().to_string();
    assert!(message.contains("pytorch_model.bin"), "{message}");
    let revision = PullOptions {
        revision: "other".to_owned(),
        ..options(&hub)
    };
    let error = run(&revision, dir.path()).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");

    let mut files = checkpoint();
    files.remove("model-00002-of-00002.safetensors");
    let hub = Hub::start(files, Faults::default());
    let message = run(&options(&hub), dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("model-00002-of-00002.safetensors"),
        "{message}"
    );

    let mut files = checkpoint();
    let index = r#"{"weight_map": {"a": "../../evil.safetensors"}}"#;
    files.insert(INDEX.to_owned(), (index.as_bytes().to_vec(), false));
    files.insert("../../evil.safetensors".to_owned(), (bytes(10, 1), true));
    let hub = Hub::start(files, Faults::default());
    let error = run(&options(&hub), dir.path()).unwrap_err();
    assert!(matches!(error, HubError::BadPath { .. }), "{error}");
}
