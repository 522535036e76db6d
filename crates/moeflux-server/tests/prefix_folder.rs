//! The prefix cache's folder: what is in it survives a restart, is never used where it does not
//! belong, and harms nobody when it is damaged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/prefix.rs"]
mod setup;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{alone, collect, options};
use moeflux::{Engine, EngineOptions};
use moeflux_server::metrics::Metrics;
use moeflux_server::prefix::{FolderError, PrefixCache, PrefixOptions};
use moeflux_server::scheduler::Job;
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
fn files_are_read_one_by_one_while_others_are_answered() {
    for name in MODELS {
        let model = Model::new(name, &options());
        let prefix = |memory_bytes| PrefixOptions {
            folder: Some(model.folder()),
            ..memory(memory_bytes)
        };
        let prompt = Random(7).message(500);
        drop({
            let server = start(&model.engine, prefix(64 << 20)).unwrap();
            server.check(&prompt, &greedy());
            server
        });
        let open = |memory_bytes| {
            let metrics = Arc::new(Metrics::default());
            let engine = Arc::clone(&model.engine);
            let cache = PrefixCache::open(engine, prefix(memory_bytes), vec![], metrics.clone());
            (cache.unwrap(), metrics)
        };
        let (mut cache, metrics) = open(64 << 20);
        let mut reads = 0;
        while cache.fetch(&prompt) {
            reads += 1;
            assert!(reads <= model.files().len(), "{name}: it comes to an end");
        }
        let bytes = metrics.prefix.read_bytes.get();
        assert!(reads > 0 && bytes > 0, "{name}");
        assert!(cache.resume(&prompt).is_some());
        assert_eq!(metrics.prefix.read_bytes.get(), bytes, "all of it was read");
        assert!(
            !cache.fetch(&Random(8).message(500)),
            "{name}: of that nothing is known"
        );

        drop(cache);
        let (mut cache, _) = open(bytes / 2);
        assert!(!cache.fetch(&prompt), "{name}: it does not fit");
        assert!(cache.resume(&prompt).is_some());
    }
}

#[test]
fn a_request_that_is_read_waits_for_nobody_and_nobody_for_it() {
    let model = Model::new(MODELS[0], &options());
    let prefix = || PrefixOptions {
        folder: Some(model.folder()),
        ..memory(64 << 20)
    };
    let mut random = Random(13);
    let (first, second) = (random.message(90), random.message(600));
    let server = start(&model.engine, prefix()).unwrap();
    let known = server.check(&second, &greedy()).0;
    drop(server);
    let server = start(&model.engine, prefix()).unwrap();
    let mut job = Job::new(first.clone());
    job.max_tokens = Some(100);
    let running = server.scheduler.submit(job).unwrap();
    let (tokens, cached) = server.check(&second, &greedy());
    assert_eq!(tokens, known);
    assert!(cached > 0);
    let (tokens, _) = collect(running, 1).unwrap().remove(0);
    assert_eq!(tokens, alone(&server.engine, &first, greedy(), 100));
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
