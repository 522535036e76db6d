//! The prefix cache's folder: what is in it survives a restart, is never used where it does not
//! belong, and harms nobody when it is damaged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/prefix.rs"]
mod setup;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::options;
use moeflux::{Engine, EngineOptions};
use moeflux_server::prefix::{FolderError, PrefixOptions};
use setup::{MODELS, Model, Random, greedy, memory, start};

#[test]
fn a_restart_finds_what_was_written() {
    for name in MODELS {
        let model = Model::new(name, &options());
        let prefix = || PrefixOptions {
            folder: Some(model.folder()),
            ..memory(64 << 20)
        };
        let mut random = Random(5);
        let system = random.message(500);
        let prompts: Vec<Vec<u32>> = (0..4)
            .map(|_| [&system[..], &random.message(80)].concat())
            .collect();
        let server = start(&model.engine, prefix()).unwrap();
        for prompt in &prompts {
            server.check(prompt, &greedy());
        }
        let before: Vec<usize> = prompts
            .iter()
            .map(|p| server.check(p, &greedy()).1)
            .collect();
        drop(server);
        let written = model.files().len();
        assert!(written > 0);
        let engine = Engine::open(&model.dir.path().join("model"), &options()).unwrap();
        let server = start(&Arc::new(engine), prefix()).unwrap();
        assert_eq!(
            server.metrics.prefix.bytes.get(),
            0,
            "nothing is read unasked"
        );
        for (prompt, before) in prompts.iter().zip(before) {
            let (_, cached) = server.check(prompt, &greedy());
            assert_eq!(cached, before, "{name}");
        }
        assert!(server.metrics.prefix.read_bytes.get() > 0);
    }
}

#[test]
fn state_of_other_arithmetic_is_not_used() {
    let model = Model::new(MODELS[0], &options());
    let prefix = || PrefixOptions {
        folder: Some(model.folder()),
        ..memory(64 << 20)
    };
    let prompt = Random(9).message(200);
    let server = start(&model.engine, prefix()).unwrap();
    server.check(&prompt, &greedy());
    drop(server);
    let exact = EngineOptions {
        activations: moeflux::Activations::F32,
        ..options()
    };
    let engine = Engine::open(&model.dir.path().join("model"), &exact).unwrap();
    let server = start(&Arc::new(engine), prefix()).unwrap();
    assert_eq!(server.check(&prompt, &greedy()).1, 0);
    drop(server);
    let server = start(&model.engine, prefix()).unwrap();
    assert!(
        server.check(&prompt, &greedy()).1 > 0,
        "the first one's files are still there"
    );
}

#[test]
fn damaged_files_are_removed_and_computed_again() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    fn count(text: &str) {
        assert!(
            text.contains(".prefix") && text.contains("removed"),
            "{text}"
        );
        TOLD.fetch_add(1, Ordering::SeqCst);
    }
    for name in MODELS {
        let model = Model::new(name, &options());
        let prefix = || PrefixOptions {
            folder: Some(model.folder()),
            report: count,
            ..memory(64 << 20)
        };
        let prompt = Random(11).message(400);
        drop({
            let server = start(&model.engine, prefix()).unwrap();
            server.check(&prompt, &greedy());
            server
        });
        let files = model.files();
        let whole: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
        for damage in ["header", "payload", "cut", "empty", "gone"] {
            for (damaged, bytes) in files.iter().zip(&whole) {
                for (file, bytes) in files.iter().zip(&whole) {
                    std::fs::write(file, bytes).unwrap();
                }
                let mut changed = bytes.clone();
                let end = changed.len();
                match damage {
                    "header" => changed[70] ^= 1,
                    "payload" => changed[end - 20] ^= 1,
                    "cut" => changed.truncate(end - 1),
                    _ => changed.clear(),
                }
                match damage {
                    "gone" => std::fs::remove_file(damaged).unwrap(),
                    _ => std::fs::write(damaged, changed).unwrap(),
                }
                let before = TOLD.load(Ordering::SeqCst);
                let server = start(&model.engine, prefix()).unwrap();
                server.check(&prompt, &greedy());
                drop(server);
                let told = TOLD.load(Ordering::SeqCst) - before;
                let read = damage != "payload" || told > 0;
                assert!(
                    told == usize::from(damage != "gone") || !read,
                    "{name} {damage}: {told}"
                );
            }
        }
    }
}

#[test]
fn a_folder_belongs_to_one_server_and_stays_in_its_bound() {
    let model = Model::new(MODELS[1], &options());
    let prefix = |bytes| PrefixOptions {
        folder: Some(model.folder()),
        folder_bytes: bytes,
        ..memory(64 << 20)
    };
    let mut random = Random(13);
    let server = start(&model.engine, prefix(1 << 30)).unwrap();
    for _ in 0..8 {
        server.check(&random.message(300), &greedy());
    }
    let second = start(&model.engine, prefix(1 << 30));
    assert!(
        matches!(second, Err(FolderError::InUse { .. })),
        "{:?}",
        second.err()
    );
    drop(server);
    let size = || -> u64 {
        model
            .files()
            .iter()
            .map(|f| std::fs::metadata(f).unwrap().len())
            .sum()
    };
    let all = size();
    let others = ["notes.txt", "download.partial"];
    let others = others.map(|name| model.folder().join(name));
    for file in &others {
        std::fs::write(file, "not ours").unwrap();
    }
    let server = start(&model.engine, prefix(all / 2)).unwrap();
    assert!(size() <= all / 2 && size() > 0, "{} of {all}", size());
    drop(server);
    assert!(others.iter().all(|file| file.exists()));
    let file = model.dir.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let options = PrefixOptions {
        folder: Some(file),
        ..memory(1 << 20)
    };
    let refused = start(&model.engine, options);
    assert!(matches!(refused, Err(FolderError::Unusable { .. })));
}
