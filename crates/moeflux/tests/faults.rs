//! What goes wrong is said clearly, loses nothing, and leaves the engine fit for the next step.

mod common;
#[path = "common/demo.rs"]
mod demo;
#[path = "common/machine.rs"]
mod machine;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{assert_rows, logits, open, options, packed, prompt, run};
use demo::{Demo, Request};
use machine::{Machine, RESIDENT_BYTES};
use moeflux::draft::Speculate;
use moeflux::experts::{BufferedReader, ExpertError, FaultPlan, FaultyReader};
use moeflux::generate::Limits;
use moeflux::sampling::SamplingParams;
use moeflux::{EngineOptions, Error, ReaderChoice, ReaderKind, Span, Want};

const MODEL: &str = "qwen3_5_moe_text";

#[test]
fn a_failed_read_leaves_the_session_as_it_was() {
    let model = packed(MODEL, 4);
    let tokens = &prompt(MODEL)[..60];
    let expected = logits(&open(&model.path(), &options()), tokens);
    let mut failures = 0;
    for seed in 0..6 {
        // A place fails on its first read and on the retry of the same read is fine; so that the
        // step fails, the fault is persistent in one layer's file.
        let plan = FaultPlan {
            seed,
            errors: 0.2,
            persistent: true,
            ..FaultPlan::default()
        };
        let inner = Arc::new(BufferedReader::open(&model.expert_files()).expect("opens"));
        let faulty = Arc::new(FaultyReader::new(inner, plan));
        let options = EngineOptions {
            reader: ReaderChoice::Custom(faulty),
            ..options()
        };
        let engine = open(&model.path(), &options);
        let mut session = engine.session();
        let mut at = 0;
        while at < tokens.len() {
            let before = session.to_bytes().expect("its state is here");
            let step = &tokens[at..at + 1];
            let mut spans = [Span {
                session: &mut session,
                tokens: step,
                want: Want::All,
                is_prompt: false,
            }];
            match engine.forward(&mut spans) {
                Ok(found) => {
                    assert_rows(&expected, at, &found[0], &format!("seed {seed}"));
                    at += 1;
                }
                Err(Error::Expert(e)) => {
                    failures += 1;
                    let text = e.to_string();
                    assert!(text.contains("layer") && text.contains("expert"), "{text}");
                    assert_eq!(
                        session.to_bytes().expect("its state is here"),
                        before,
                        "seed {seed}, position {at}"
                    );
                    break;
                }
                Err(e) => panic!("another error: {e}"),
            }
        }
        // The session that survived goes on in an engine whose disk is well.
        let well = open(&model.path(), &common::options());
        let mut session = well
            .restore(&session.to_bytes().expect("its state is here"))
            .expect("restores");
        let rest = run(&well, &mut session, &tokens[at..]);
        assert_rows(
            &expected,
            at,
            &rest,
            &format!("seed {seed} after the failure"),
        );
    }
    assert!(failures > 0, "the plan must make at least one step fail");
}

#[test]
fn transient_errors_are_retried_and_change_nothing() {
    let model = packed(MODEL, 4);
    let tokens = &prompt(MODEL)[..30];
    let expected = logits(&open(&model.path(), &options()), tokens);
    let plan = FaultPlan {
        seed: 3,
        errors: 0.3,
        flipped_bits: 0.3,
        ..FaultPlan::default()
    };
    let inner = Arc::new(BufferedReader::open(&model.expert_files()).expect("opens"));
    let reader = ReaderChoice::Custom(Arc::new(FaultyReader::new(inner, plan)));
    let engine = open(
        &model.path(),
        &EngineOptions {
            reader,
            ..options()
        },
    );
    assert_rows(
        &expected,
        0,
        &logits(&engine, tokens),
        "with transient faults",
    );
    assert!(engine.stats().experts.retries > 0, "faults happened");
}

#[test]
fn a_flipped_byte_names_file_layer_and_expert() {
    let model = packed(MODEL, 4);
    let file = model.expert_files().remove(2);
    let handle = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&file)
        .expect("opens");
    let packed = moeflux::formats::PackedModel::open(&model.path()).expect("opens");
    let offset = packed.layers[&2].records[5].offset + 100;
    let mut byte = [0];
    handle.read_exact_at(&mut byte, offset).expect("reads");
    handle.write_all_at(&[byte[0] ^ 1], offset).expect("writes");
    let engine = open(&model.path(), &options());
    let tokens = prompt(MODEL);
    let error = engine
        .prefill(&mut engine.session(), &tokens, Want::Last)
        .expect_err("the record is corrupt")
        .to_string();
    assert!(error.contains("layer-002.safetensors"), "{error}");
    assert!(
        error.contains("layer 2") && error.contains("expert 5"),
        "{error}"
    );
}

const READERS: [ReaderKind; 3] = [ReaderKind::Uring, ReaderKind::Direct, ReaderKind::Buffered];

/// A question to the demo whose answer repeats words of it.
fn request(demo: &Demo) -> Request {
    Request {
        prompt: demo.prompts("recall", 1).remove(0),
        sampling: SamplingParams::default(),
        limits: Limits {
            max_tokens: Some(30),
            ..Limits::default()
        },
    }
}

/// An engine for the model at `dir` that reads most experts anew for each token.
fn tight(demo: &Demo, dir: &Path, reader: ReaderChoice) -> moeflux::Engine {
    let options = EngineOptions {
        expert_cache_bytes: Some(12 * demo.engine.stats().experts.slot_bytes),
        reader,
        ..options()
    };
    open(dir, &options)
}

/// The answer of an engine that nothing happens to.
fn undisturbed(demo: &Demo, request: &Request) -> demo::Answered {
    request.answer(&demo.engine, Speculate::Off, &mut |_, _| {})
}

#[test]
fn passing_faults_and_stalls_change_nothing() {
    let demo = Demo::open();
    let request = request(&demo);
    let expected = undisturbed(&demo, &request);
    for kind in READERS {
        for speculate in [Speculate::Off, Speculate::Always] {
            let plan = FaultPlan {
                seed: 5,
                errors: 0.1,
                short_reads: 0.1,
                flipped_bits: 0.1,
                stalls: 0.01,
                stall: Duration::from_millis(500),
                ..FaultPlan::default()
            };
            let tally = Arc::clone(&plan.tally);
            let engine = tight(&demo, &demo::dir(), ReaderChoice::Faulty(kind, plan));
            let found = request.answer(&engine, speculate, &mut |_, _| {});
            assert_eq!(found.tokens, expected.tokens, "{kind}, {speculate}");
            assert!(found.session == expected.session, "{kind}, {speculate}");
            assert!(
                found.errors.is_empty(),
                "each is retried: {:?}",
                found.errors
            );
            for count in [
                &tally.errors,
                &tally.short_reads,
                &tally.flipped_bits,
                &tally.stalls,
            ] {
                assert!(count.load(Ordering::Relaxed) > 0, "{tally:?}");
            }
        }
    }
}

#[test]
fn a_disk_that_goes_away_in_an_answer_and_comes_back_loses_nothing() {
    let demo = Demo::open();
    let request = request(&demo);
    let expected = undisturbed(&demo, &request);
    for kind in READERS {
        for speculate in [Speculate::Off, Speculate::Always] {
            let plan = FaultPlan {
                away: 700..900,
                ..FaultPlan::default()
            };
            let engine = tight(&demo, &demo::dir(), ReaderChoice::Faulty(kind, plan));
            let found = request.answer(&engine, speculate, &mut |_, _| {});
            assert_eq!(found.tokens, expected.tokens, "{kind}, {speculate}");
            assert!(found.session == expected.session, "{kind}, {speculate}");
            assert!(!found.errors.is_empty(), "{kind}, {speculate}");
            for error in &found.errors {
                assert!(
                    matches!(error, Error::Expert(ExpertError::Read { .. })),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn a_disk_that_stays_away_is_said_each_time_and_the_session_goes_on_elsewhere() {
    let demo = Demo::open();
    let request = request(&demo);
    let expected = undisturbed(&demo, &request);
    let plan = FaultPlan {
        away: 700..u64::MAX,
        ..FaultPlan::default()
    };
    let reader = ReaderChoice::Faulty(ReaderKind::Direct, plan);
    let engine = tight(&demo, &demo::dir(), reader);
    let mut session = engine.session();
    let whole = [&request.prompt[..], &expected.tokens[..29]].concat();
    let mut done = 0;
    let error = loop {
        let token = &whole[done..done + 1];
        match engine.prefill(&mut session, token, Want::None) {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::Expert(ExpertError::Read { .. })),
        "{error}"
    );
    for _ in 0..3 {
        let before = session.to_bytes().expect("its state is here");
        let again = engine.prefill(&mut session, &whole[done..], Want::None);
        assert!(matches!(again, Err(Error::Expert(_))), "{again:?}");
        assert!(session.to_bytes().expect("its state is here") == before && session.len() == done);
    }
    let mut session = demo
        .engine
        .restore(&session.to_bytes().expect("its state is here"))
        .expect("restores");
    let rest = demo
        .engine
        .prefill(&mut session, &whole[done..], Want::None);
    rest.expect("this disk is there");
    assert!(session.to_bytes().expect("its state is here") == expected.session);
}

#[test]
fn a_file_replaced_in_an_answer_is_noticed_and_its_return_too() {
    let demo = Demo::open();
    let request = request(&demo);
    let expected = undisturbed(&demo, &request);
    for kind in READERS {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let model = dir.path().join("model");
        demo::copy(&demo::dir(), &model);
        let file = model.join("experts/layer-003.safetensors");
        let (aside, other) = (dir.path().join("aside"), dir.path().join("other"));
        let mut bytes = std::fs::read(&file).expect("reads");
        bytes.iter_mut().skip(10_000).for_each(|byte| *byte ^= 0x55);
        std::fs::write(&other, bytes).expect("writes");
        let engine = tight(&demo, &model, ReaderChoice::Kind(kind));
        let mut replaced = false;
        let found = request.answer(&engine, Speculate::Always, &mut |tokens, error| {
            if tokens == 8 && !replaced {
                std::fs::rename(&file, &aside).expect("renames");
                std::fs::copy(&other, &file).expect("copies");
                replaced = true;
                // The files are looked at once a second.
                std::thread::sleep(Duration::from_millis(1100));
            }
            if let Some(Error::Expert(ExpertError::Changed { file: named, .. })) = error {
                assert_eq!(*named, file);
                std::fs::rename(&aside, &file).expect("renames");
            }
        });
        assert_eq!(found.tokens, expected.tokens, "{kind}");
        assert!(found.session == expected.session, "{kind}");
        assert_eq!(found.errors.len(), 1, "{kind}: {:?}", found.errors);
    }
}

#[test]
fn memory_taken_away_and_given_back_in_an_answer_changes_nothing() {
    let demo = Demo::open();
    let request = request(&demo);
    let expected = undisturbed(&demo, &request);
    let machine = Machine::new();
    let engine = open(&demo::dir(), &machine.options(512 << 20));
    let (all, mut fewest) = (engine.stats().experts.slots, usize::MAX);
    let found = request.answer(&engine, Speculate::Always, &mut |tokens, _| {
        fewest = fewest.min(engine.stats().experts.slots);
        let bytes = match tokens {
            6 => RESIDENT_BYTES,
            18 => 1 << 40,
            _ => return,
        };
        machine.allow(bytes);
        std::thread::sleep(Duration::from_millis(1100));
    });
    assert_eq!(found.tokens, expected.tokens);
    assert!(found.session == expected.session);
    assert!(found.errors.is_empty(), "{:?}", found.errors);
    assert_eq!(fewest, 2, "the arena must have gone down to its smallest");
    assert_eq!(engine.stats().experts.slots, all, "and back");
}
