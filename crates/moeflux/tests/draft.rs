//! Speculation changes nothing but the time: the same tokens, the same session, bit for bit.

mod common;
#[path = "common/demo.rs"]
mod demo;

use common::{assert_rows, logits, open, options, packed, prompt, repository, run};
use demo::Demo;
use moeflux::draft::{DraftStats, Speculate, Speculation};
use moeflux::generate::{End, Generation, Limits};
use moeflux::sampling::{Sampler, SamplingParams, uniform};
use moeflux::{Engine, EngineOptions, Error, Session};

/// One of each architecture; only the first two have recurrent state.
const MODELS: [(&str, u32); 3] = [
    ("qwen3_5_moe_text", 4),
    ("qwen3_5_moe", 16),
    ("qwen3_moe", 4),
];

#[test]
fn tokens_on_trial_are_taken_back_without_a_trace() {
    for (name, pack_bits) in MODELS {
        let model = packed(name, pack_bits);
        let engine = open(&model.path(), &options());
        let tokens = &prompt(name)[..80];
        let whole = logits(&engine, tokens);
        // Around the end of a page of keys and values, and where there is no state yet.
        for start in [0, 1, 3, 40, 59, 63, 64] {
            let mut plain = engine.session();
            let mut states = vec![plain.to_bytes().expect("its state is here")];
            for token in &tokens[..start + 9] {
                run(&engine, &mut plain, &[*token]);
                states.push(plain.to_bytes().expect("its state is here"));
            }
            let mut session = engine.session();
            if start > 0 {
                run(&engine, &mut session, &tokens[..start]);
            }
            let what = format!("{name} from {start}");
            let step = &tokens[start..start + 9];
            let found = engine.forward_trial(&mut session, step).expect("runs");
            assert_rows(&whole, start, &found, &what);
            assert!(
                session.to_bytes().expect("its state is here") == states[start + 9],
                "{what}: all kept"
            );
            for kept in [9, 8, 5, 4, 1, 0] {
                engine
                    .retract(&mut session, start + kept)
                    .expect("retracts");
                assert!(
                    session.to_bytes().expect("its state is here") == states[start + kept],
                    "{what}: {kept} kept"
                );
            }
            let rest = run(&engine, &mut session, &tokens[start..]);
            assert_rows(&whole, start, &rest, &format!("{what}, after it"));
        }
        assert_eq!(engine.stats().state_bytes, 0, "{name}: no session is left");
    }
}

#[test]
fn only_a_step_on_trial_can_be_taken_back() {
    let name = "qwen3_5_moe_text";
    let model = packed(name, 4);
    let engine = open(&model.path(), &options());
    let tokens = prompt(name);
    let refused = |session: &mut Session, len: usize| {
        let before = session.to_bytes().expect("its state is here");
        let error = engine.retract(session, len).expect_err("no way back");
        assert!(
            matches!(error, Error::Rewind { position, .. } if position == len),
            "{error}"
        );
        assert!(
            session.to_bytes().expect("its state is here") == before,
            "a refusal changes nothing"
        );
    };
    let mut session = engine.session();
    run(&engine, &mut session, &tokens[..20]);
    refused(&mut session, 19);
    engine
        .forward_trial(&mut session, &tokens[20..25])
        .expect("runs");
    refused(&mut session, 19);
    refused(&mut session, 26);
    engine.retract(&mut session, 22).expect("retracts");
    refused(&mut session, 23);
    run(&engine, &mut session, &tokens[22..23]);
    refused(&mut session, 22);
    session.checkpoint();
    engine
        .forward_trial(&mut session, &tokens[23..27])
        .expect("runs");
    session.rewind(23).expect("a checkpoint");
    refused(&mut session, 22);
    let other = open(&model.path(), &options());
    assert!(matches!(
        other.retract(&mut session, 3),
        Err(Error::ForeignSession)
    ));
    let too_many = vec![1; engine.trial_tokens() + 1];
    let error = engine
        .forward_trial(&mut session, &too_many)
        .expect_err("too many");
    assert!(matches!(error, Error::StepSize { .. }), "{error}");
}

/// How an answer is made in these tests.
#[derive(Clone, Default)]
struct Way {
    sampling: SamplingParams,
    limits: Limits,
}

/// An answer and what is left behind.
#[derive(PartialEq)]
struct Outcome {
    tokens: Vec<u32>,
    end: Option<End>,
    pending: Option<u32>,
    session: Vec<u8>,
}

impl Way {
    /// Answers `prompt`, at most `take` tokens of the answer.
    fn answer(
        &self,
        engine: &Engine,
        prompt: &[u32],
        speculation: &mut Speculation,
        take: usize,
    ) -> Outcome {
        let mut session = engine.session();
        let mut sampler = Sampler::new(self.sampling.clone()).expect("valid");
        let limits = self.limits.clone();
        let mut generation = Generation::new(engine, &mut session, prompt, &mut sampler, limits)
            .expect("a prompt")
            .speculate(speculation);
        let mut tokens = Vec::new();
        while tokens.len() < take
            && let Some(token) = generation.next_token().expect("runs")
        {
            tokens.push(token);
        }
        let (end, pending) = (generation.end(), generation.pending());
        assert_eq!(generation.timings().generated_tokens, tokens.len());
        drop(generation);
        let session = session.to_bytes().expect("its state is here");
        Outcome {
            tokens,
            end,
            pending,
            session,
        }
    }

    /// Asserts that every mode answers alike. Returns what speculation did.
    fn check(&self, engine: &Engine, prompt: &[u32], what: &str) -> DraftStats {
        let off = &mut Speculation::new(Speculate::Off);
        let expected = self.answer(engine, prompt, off, usize::MAX);
        assert_eq!(off.stats(), DraftStats::default());
        let mut always = Speculation::new(Speculate::Always);
        for speculation in [&mut Speculation::new(Speculate::Auto), &mut always] {
            let found = self.answer(engine, prompt, speculation, usize::MAX);
            assert_eq!(found.tokens, expected.tokens, "{what}");
            assert!(found == expected, "{what}: end or session differ");
        }
        always.stats()
    }

    /// Asserts that stopping anywhere leaves the same behind.
    fn check_stops(&self, engine: &Engine, prompt: &[u32], what: &str) {
        let off = &mut Speculation::new(Speculate::Off);
        let always = &mut Speculation::new(Speculate::Always);
        for take in 0..=self.answer(engine, prompt, off, usize::MAX).tokens.len() {
            let plain = self.answer(engine, prompt, off, take);
            let found = self.answer(engine, prompt, always, take);
            assert!(found == plain, "{what}: stopped after {take}");
        }
    }
}

fn limited(max_tokens: usize) -> Limits {
    Limits {
        max_tokens: Some(max_tokens),
        ..Limits::default()
    }
}

fn sampled(temperature: f32) -> SamplingParams {
    SamplingParams {
        temperature,
        top_p: 0.95,
        repetition_penalty: 1.05,
        presence_penalty: 0.2,
        seed: 11,
        ..SamplingParams::default()
    }
}

#[test]
fn random_models_answer_the_same_with_and_without() {
    let mut all = DraftStats::default();
    for (name, pack_bits) in MODELS {
        let model = packed(name, pack_bits);
        let roomy = open(&model.path(), &options());
        let slot = roomy.stats().experts.slot_bytes;
        let tight = EngineOptions {
            expert_cache_bytes: Some(3 * slot),
            chunk_tokens: Some(5),
            ..options()
        };
        let tight = open(&model.path(), &tight);
        let tokens = &prompt(name)[..60];
        for sampling in [SamplingParams::default(), sampled(0.3), sampled(1.0)] {
            let way = Way {
                limits: limited(40),
                sampling,
            };
            // A text that stands there twice, so that anything may be looked up.
            let twice = [tokens, &tokens[..50]].concat();
            for engine in [&roomy, &tight] {
                let stats = way.check(engine, &twice, name);
                all.accepted += stats.accepted;
                all.drafted += stats.drafted;
            }
            if way.sampling.is_greedy() {
                way.check_stops(&roomy, &twice, name);
            }
        }
    }
    assert!(all.accepted > 0 && all.accepted < all.drafted, "{all:?}");
}

#[test]
fn the_demo_says_and_calls_the_same_with_and_without() {
    let demo = Demo::open();
    for skill in ["recall", "tool"] {
        let mut all = DraftStats::default();
        for prompt in demo.prompts(skill, 1) {
            for sampling in [SamplingParams::default(), sampled(0.8)] {
                let way = Way {
                    limits: Limits {
                        stop_tokens: demo.stop_tokens.clone(),
                        ..limited(60)
                    },
                    sampling,
                };
                let stats = way.check(&demo.engine, &prompt, skill);
                way.check_stops(&demo.engine, &prompt, skill);
                all.accepted += stats.accepted;
                all.drafted += stats.drafted;
            }
        }
        assert!(all.accepted > 5, "{skill}: {all:?}");
    }
}

#[test]
fn stop_tokens_and_limits_inside_a_draft_end_it_there() {
    let demo = Demo::open();
    let prompt = &demo.prompts("recall", 1)[0];
    let greedy = |limits| Way {
        sampling: SamplingParams::default(),
        limits,
    };
    let off = &mut Speculation::new(Speculate::Off);
    let free = greedy(limited(30)).answer(&demo.engine, prompt, off, usize::MAX);
    let mut accepted = 0;
    for at in 1..free.tokens.len() {
        let limits = Limits {
            stop_tokens: vec![free.tokens[at]],
            ..limited(30)
        };
        let stats = greedy(limits).check(&demo.engine, prompt, &format!("stop at {at}"));
        accepted += stats.accepted;
        greedy(limited(at)).check(&demo.engine, prompt, &format!("{at} tokens"));
    }
    assert!(accepted > 0, "stops must fall into drafts");
}

#[test]
fn a_context_ends_a_draft_when_full() {
    let dir = repository().join("models/demo");
    let prompt = &Demo::open().prompts("recall", 1)[0];
    for room in 1..12 {
        let options = EngineOptions {
            max_context: Some(prompt.len() + room),
            ..options()
        };
        let engine = open(&dir, &options);
        let way = Way::default();
        let stats = way.check(&engine, prompt, &format!("room for {room}"));
        assert!(room < 6 || stats.accepted > 0, "{stats:?}");
    }
}

#[test]
fn speculation_turned_on_and_off_at_random_changes_nothing() {
    let demo = Demo::open();
    let prompt = &demo.prompts("recall", 1)[0];
    let way = Way {
        sampling: sampled(0.6),
        limits: limited(40),
    };
    let off = &mut Speculation::new(Speculate::Off);
    let expected = way.answer(&demo.engine, prompt, off, usize::MAX);
    let mut steps = 0;
    for seed in 0..6 {
        let mut modes = [
            Speculation::new(Speculate::Off),
            Speculation::new(Speculate::Auto),
            Speculation::new(Speculate::Always),
        ];
        let mut sampler = Sampler::new(way.sampling.clone()).expect("valid");
        let mut session = demo.engine.session();
        let (mut tokens, mut next) = (Vec::new(), prompt.clone());
        for part in 0.. {
            let draw = uniform(seed, part) * 27.0;
            let limits = Limits {
                answer_start: Some(prompt.len()),
                ..limited((40 - tokens.len()).min(1 + draw as usize / 3))
            };
            let speculation = &mut modes[draw as usize % 3];
            let mut generation =
                Generation::new(&demo.engine, &mut session, &next, &mut sampler, limits)
                    .expect("a prompt")
                    .speculate(speculation);
            while let Some(token) = generation.next_token().expect("runs") {
                tokens.push(token);
            }
            next = generation.pending().into_iter().collect();
            if tokens.len() == 40 {
                break;
            }
        }
        assert_eq!(tokens, expected.tokens, "seed {seed}");
        assert!(
            session.to_bytes().expect("its state is here") == expected.session,
            "seed {seed}"
        );
        steps += modes[2].stats().steps;
    }
    assert!(steps > 0, "something must have been drafted");
}
