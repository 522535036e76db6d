//! The prefix cache: answers with it are those without it, token for token and bit for bit, from
//! wherever they go on; it finds what it should and stays in its bounds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/prefix.rs"]
mod setup;

use std::sync::Arc;

use common::{alone, options};
use moeflux::{Engine, EngineOptions};
use moeflux_server::prefix::PrefixOptions;
use moeflux_server::scheduler::{Event, Job};
use setup::{MODELS, MOST, Model, OPENING, Random, drawn, greedy, memory, start};

#[test]
fn answers_are_the_same_wherever_they_go_on() {
    for name in MODELS {
        let model = Model::new(name, &options());
        let mut random = Random(7);
        let whole = random.tokens(200);
        for cut in 60..whole.len() {
            // What is asked first makes a place to go on from; the rest differs.
            let server = start(&model.engine, memory(64 << 20)).unwrap();
            server.check(&whole[..cut], &greedy());
            let changed = [&whole[..cut], &random.tokens(40)].concat();
            let (_, cached) = server.check(&changed, &drawn(cut as u64));
            assert!(
                cached < cut + MOST && (cached > 0 || cut <= 65),
                "{name}: {cached} of {cut}"
            );
            let (_, again) = server.check(&changed, &drawn(cut as u64));
            assert!(
                again >= cached && again < changed.len(),
                "{name}: {again} of {cut}"
            );
        }
    }
}

#[test]
fn conversations_that_part_and_go_on_stay_exact_while_state_comes_and_goes() {
    for (name, bytes, disk) in MODELS.into_iter().flat_map(|name| {
        [
            (name, 64 << 20, false),
            (name, 400 << 10, false),
            (name, 400 << 10, true),
        ]
    }) {
        let model = Model::new(name, &options());
        let folder = disk.then(|| model.folder());
        let prefix = || PrefixOptions {
            folder: folder.clone(),
            folder_bytes: 2 << 20,
            ..memory(bytes)
        };
        let mut server = start(&model.engine, prefix()).unwrap();
        let mut random = Random(bytes + u64::from(disk));
        let mut known: Vec<Vec<u32>> = vec![random.message(150)];
        let (mut saved, mut evicted) = (0, 0);
        for round in 0..60 {
            if round % 20 == 19 {
                evicted += server.metrics.prefix.evictions.get();
                drop(server);
                server = start(&model.engine, prefix()).unwrap();
            }
            let old = known[random.below(known.len())].clone();
            let keep = if random.below(2) == 0 {
                old.len()
            } else {
                random.below(old.len())
            };
            let length = 3 + random.below(120);
            let prompt = [&old[..keep], &random.message(length)].concat();
            let (answer, cached) = server.check(&prompt, &drawn(round));
            saved += cached;
            known.push([prompt, answer].concat());
        }
        assert!(saved > 200, "{name}: only {saved} tokens were found");
        let bound = server.metrics.prefix.bytes.get();
        assert!(bound <= bytes, "{name}: {bound} bytes kept");
        let small = bytes < 1 << 20;
        assert!(!small || evicted > 0, "{name}: memory was never short");
        assert!(server.metrics.prefix.folder_bytes.get() <= 2 << 20);
    }
}

#[test]
fn what_messages_have_in_common_is_computed_once() {
    for name in MODELS {
        let model = Model::new(name, &options());
        let server = start(&model.engine, memory(64 << 20)).unwrap();
        let mut random = Random(3);
        let (system, question) = (random.message(300), random.message(100));
        let prompt = [&system[..], &question, &[OPENING, 5]].concat();
        let (answer, cached) = server.check(&prompt, &greedy());
        assert_eq!(cached, 0);
        // The same again: all but the opening of the answer, or all but the last token.
        let (_, again) = server.check(&prompt, &greedy());
        assert!(again == 400 || again == prompt.len() - 1, "{name}: {again}");
        // Another question.
        let other = [&system[..], &random.message(90), &[OPENING, 5]].concat();
        assert!(server.check(&other, &greedy()).1 >= 300, "{name}");
        // The next turn.
        let turn = [&prompt[..], &answer, &random.message(80), &[OPENING, 5]].concat();
        assert!(server.check(&turn, &greedy()).1 >= 400, "{name}");
        // Other words for the last message.
        let edited = [&prompt[..], &answer, &random.message(70), &[OPENING, 5]].concat();
        let (_, cached) = server.check(&edited, &greedy());
        assert!(cached >= 400, "{name}: {cached}");
        let prefix = &server.metrics.prefix;
        assert_eq!((prefix.hits.get(), prefix.misses.get()), (4, 1));
    }
}

#[test]
fn state_is_counted_once_and_gives_way_to_answers() {
    let model = Model::new(MODELS[0], &options());
    let mut random = Random(17);
    let server = start(&model.engine, memory(64 << 20)).unwrap();
    for _ in 0..4 {
        server.check(&random.message(200), &greedy());
    }
    let (kept, state) = (
        server.metrics.prefix.bytes.get(),
        model.engine.stats().state_bytes,
    );
    assert!(
        kept > 0 && state <= kept,
        "{state} bytes of state for {kept} kept"
    );
    drop(server);
    assert_eq!(model.engine.stats().state_bytes, 0);

    let least = match Engine::open(
        &model.dir.path().join("model"),
        &EngineOptions {
            memory_bytes: Some(1 << 20),
            ..options()
        },
    ) {
        Err(moeflux::Error::MemoryBudget { needed, .. }) => needed,
        other => unreachable!("a megabyte is enough: {:?}", other.map(|_| ())),
    };
    let tight = EngineOptions {
        memory_bytes: Some(least + (2 << 20)),
        ..options()
    };
    let engine = Engine::open(&model.dir.path().join("model"), &tight).unwrap();
    let server = start(&Arc::new(engine), memory(1 << 30)).unwrap();
    for _ in 0..40 {
        let prompt = random.message(400);
        let (answer, _) = server.ask(&prompt, &greedy());
        assert_eq!(answer, alone(&model.engine, &prompt, greedy(), MOST));
    }
    assert!(
        server.metrics.prefix.evictions.get() > 0,
        "memory was never short"
    );
}

#[test]
fn a_job_that_is_given_up_leaves_what_it_computed() {
    let model = Model::new(MODELS[1], &options());
    let server = start(&model.engine, memory(64 << 20)).unwrap();
    let prompt = Random(19).message(300);
    let mut events = server.scheduler.submit(Job::new(prompt.clone())).unwrap();
    while !matches!(events.blocking_recv(), Some(Event::Token { .. })) {}
    drop(events);
    let (_, cached) = server.check(&prompt, &greedy());
    assert_eq!(cached, prompt.len() - 1);
}
