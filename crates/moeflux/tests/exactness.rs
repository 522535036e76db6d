//! E1 to E5 of the numerics contract, bit for bit: the answer does not depend on batching,
//! threads, residency, snapshots or the instruction set.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{assert_rows, logits, open, options, packed, prompt, run};
use moeflux::experts::{BufferedReader, FaultPlan, FaultyReader};
use moeflux::{
    Activations, EngineOptions, Isa, Lookahead, PolicyKind, ReaderChoice, ReaderKind, Span, Want,
};

/// One of each architecture; 4 bits exercise the integer kernels, 16 the float ones.
const MODELS: [(&str, u32); 17] = [
    ("deepseek_v3", 4),
    ("deepseek_v4", 4),
    ("glm4_moe_air", 4),
    ("glm5_next", 4),
    ("gpt_oss", 4),
    ("kimi_k2", 4),
    ("kimi_linear", 4),
    ("minimax_m2", 4),
    ("mixtral", 4),
    ("olmoe", 4),
    ("qwen3_5_moe_text", 4),
    ("qwen3_5_moe", 16),
    ("qwen3_moe", 4),
    ("qwen3_moe_new_style", 5),
    ("qwen2_moe", 8),
    ("qwen3_next", 4),
    ("qwen4_exp_text", 4),
];

#[test]
fn e1_a_prompt_split_anywhere_gives_the_same_bits() {
    for (name, pack_bits) in MODELS {
        let model = packed(name, pack_bits);
        let engine = open(&model.path(), &options());
        let tokens = &prompt(name)[..80];
        let whole = logits(&engine, tokens);
        for at in 1..tokens.len() {
            let mut session = engine.session();
            let first = run(&engine, &mut session, &tokens[..at]);
            assert_rows(&whole, 0, &first, &format!("{name} before a split at {at}"));
            let rest = run(&engine, &mut session, &tokens[at..]);
            assert_rows(&whole, at, &rest, &format!("{name} after a split at {at}"));
        }
        let mut session = engine.session();
        for (at, token) in tokens.iter().enumerate() {
            let one = run(&engine, &mut session, &[*token]);
            assert_rows(&whole, at, &one, &format!("{name} token by token"));
        }
    }
}

#[test]
fn e1_chunks_of_any_size_give_the_same_bits() {
    let name = "qwen3_5_moe_text";
    let model = packed(name, 4);
    let tokens = prompt(name);
    let whole = logits(&open(&model.path(), &options()), &tokens);
    for chunk in [1, 2, 7, 64, 100] {
        let options = EngineOptions {
            chunk_tokens: Some(chunk),
            ..options()
        };
        let engine = open(&model.path(), &options);
        let all = engine
            .prefill(&mut engine.session(), &tokens, Want::All)
            .expect("runs");
        assert_rows(&whole, 0, &all, &format!("chunks of {chunk}"));
        let last = engine
            .prefill(&mut engine.session(), &tokens, Want::Last)
            .expect("runs");
        assert_eq!(last.rows, 1);
        assert_rows(
            &whole,
            tokens.len() - 1,
            &last,
            &format!("last of chunks of {chunk}"),
        );
    }
}

#[test]
fn e1_strangers_in_the_batch_change_nothing() {
    for (name, pack_bits) in MODELS {
        let model = packed(name, pack_bits);
        let engine = open(&model.path(), &options());
        let tokens = prompt(name);
        let prompts = [&tokens[..50], &tokens[20..53], &tokens[40..41]];
        let alone = prompts.map(|p| logits(&engine, p));
        let mut sessions = prompts.map(|_| engine.session());
        // First all but the last tokens together, then one more token of each: prefill, decode.
        for step in 0..2 {
            let mut spans: Vec<Span<'_>> = Vec::new();
            let mut from = Vec::new();
            for (session, prompt) in sessions.iter_mut().zip(prompts) {
                let split = prompt.len() - 1;
                let range = if step == 0 {
                    0..split
                } else {
                    split..prompt.len()
                };
                if range.is_empty() {
                    continue;
                }
                from.push((prompt.as_ptr(), range.start));
                spans.push(Span {
                    session,
                    tokens: &prompt[range],
                    want: Want::All,
                    is_prompt: step == 0,
                });
            }
            let together = engine.forward(&mut spans).expect("runs");
            for ((prompt, first), found) in from.into_iter().zip(together) {
                let index = prompts
                    .iter()
                    .position(|p| p.as_ptr() == prompt)
                    .expect("known");
                assert_rows(&alone[index], first, &found, &format!("{name} step {step}"));
            }
        }
    }
}

#[test]
fn e2_any_number_of_threads_gives_the_same_bits() {
    for (name, pack_bits) in MODELS {
        let model = packed(name, pack_bits);
        let tokens = prompt(name);
        let one = logits(&open(&model.path(), &options()), &tokens);
        for threads in 2..=4 {
            let options = EngineOptions {
                threads: Some(threads),
                ..options()
            };
            let found = logits(&open(&model.path(), &options), &tokens);
            assert_rows(&one, 0, &found, &format!("{name} on {threads} threads"));
        }
    }
}

#[test]
fn e3_budget_policy_and_reader_change_nothing() {
    for (name, pack_bits) in MODELS {
        let model = packed(name, pack_bits);
        let tokens = &prompt(name)[..60];
        let resident = open(&model.path(), &options());
        let expected = logits(&resident, tokens);
        let slot = resident.stats().experts.slot_bytes;
        for slots in [1, 2, 3, 5, 9, 16, 1000] {
            for policy in PolicyKind::ALL {
                for reader in [ReaderKind::Uring, ReaderKind::Direct, ReaderKind::Buffered] {
                    let options = EngineOptions {
                        expert_cache_bytes: Some(slots * slot),
                        policy,
                        reader: ReaderChoice::Kind(reader),
                        lookahead: [Lookahead::On, Lookahead::Off][slots as usize % 2],
                        // A prompt of several passes where the arena holds a part of a layer.
                        chunk_tokens: Some(24),
                        ..options()
                    };
                    let engine = open(&model.path(), &options);
                    let what = format!("{name}: {slots} slots, {policy}, {reader}");
                    // Once cold, once with whatever the first run left in the arena, and once
                    // token by token.
                    for _ in 0..2 {
                        let mut session = engine.session();
                        let found = engine.prefill(&mut session, tokens, Want::All);
                        assert_rows(&expected, 0, &found.expect("prefills"), &what);
                    }
                    let mut session = engine.session();
                    for (at, token) in tokens[..8].iter().enumerate() {
                        assert_rows(&expected, at, &run(&engine, &mut session, &[*token]), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn e3_slow_and_reordered_reads_change_nothing() {
    let name = "qwen3_5_moe_text";
    let model = packed(name, 4);
    let tokens = &prompt(name)[..40];
    let resident = open(&model.path(), &options());
    let expected = logits(&resident, tokens);
    let slot = resident.stats().experts.slot_bytes;
    for seed in 0..4 {
        let plan = FaultPlan {
            seed,
            max_delay: Duration::from_millis(2),
            ..FaultPlan::default()
        };
        let inner = BufferedReader::open(&model.expert_files()).expect("opens");
        let options = EngineOptions {
            expert_cache_bytes: Some(slot * (seed + 1) * 2),
            reader: ReaderChoice::Custom(Arc::new(FaultyReader::new(Arc::new(inner), plan))),
            ..options()
        };
        let engine = open(&model.path(), &options);
        assert_rows(
            &expected,
            0,
            &logits(&engine, tokens),
            &format!("seed {seed}"),
        );
    }
}

#[test]
fn e4_a_restored_session_goes_on_with_the_same_bits() {
    for (name, pack_bits) in MODELS {
        let model = packed(name, pack_bits);
        let engine = open(&model.path(), &options());
        let tokens = prompt(name);
        let expected = logits(&engine, &tokens);
        let other = open(&model.path(), &options());
        for at in [1, 2, 63, 64, 65, 100] {
            let mut session = engine.session();
            run(&engine, &mut session, &tokens[..at]);
            let bytes = session.to_bytes().expect("its state is here");
            let mut restored = other.restore(&bytes).expect("restores");
            assert_eq!(restored.tokens(), &tokens[..at]);
            let rest = run(&other, &mut restored, &tokens[at..]);
            assert_rows(&expected, at, &rest, &format!("{name} restored at {at}"));
            assert_eq!(
                engine
                    .restore(&bytes)
                    .expect("restores")
                    .to_bytes()
                    .expect("its state is here"),
                bytes
            );
        }
    }
}

#[test]
fn e4_rewinding_to_a_checkpoint_goes_on_with_the_same_bits() {
    let name = "qwen3_5_moe_text";
    let model = packed(name, 4);
    let engine = open(&model.path(), &options());
    let tokens = prompt(name);
    let expected = logits(&engine, &tokens);
    let mut session = engine.session();
    run(&engine, &mut session, &tokens[..70]);
    session.checkpoint();
    run(&engine, &mut session, &tokens[70..100]);
    let error = session
        .rewind(50)
        .expect_err("no recurrent state was kept at 50");
    assert!(error.to_string().contains("position 50"), "{error}");
    assert_eq!(session.len(), 100, "a refused rewind changes nothing");
    session.rewind(70).expect("there is a checkpoint at 70");
    // A different continuation first, then back again.
    run(&engine, &mut session, &tokens[..20]);
    session.rewind(70).expect("the checkpoint is still there");
    assert_rows(
        &expected,
        70,
        &run(&engine, &mut session, &tokens[70..]),
        "after a rewind",
    );
    // A checkpoint survives a snapshot.
    let mut restored = engine
        .restore(&session.to_bytes().expect("its state is here"))
        .expect("restores");
    restored.rewind(70).expect("the checkpoint was saved too");
    assert_rows(
        &expected,
        70,
        &run(&engine, &mut restored, &tokens[70..]),
        "restored, rewound",
    );
    restored.rewind(0).expect("the start can always be reached");
    assert_rows(
        &expected,
        0,
        &run(&engine, &mut restored, &tokens),
        "from the start",
    );
}

#[test]
fn without_recurrent_state_every_position_can_be_rewound_to() {
    let name = "qwen3_moe";
    let model = packed(name, 4);
    let engine = open(&model.path(), &options());
    let tokens = prompt(name);
    let expected = logits(&engine, &tokens);
    let mut session = engine.session();
    run(&engine, &mut session, &tokens);
    for at in [200, 129, 128, 127, 64, 3, 0] {
        session.rewind(at).expect("attention alone can be rewound");
        let rest = run(&engine, &mut session, &tokens[at..at + 40]);
        assert_rows(&expected, at, &rest, &format!("rewound to {at}"));
    }
    let error = session
        .rewind(session.len() + 1)
        .expect_err("beyond the end");
    assert!(error.to_string().contains("holds 40 tokens"), "{error}");
}

#[test]
fn e5_every_instruction_set_and_the_reference_give_the_same_bits() {
    for (name, pack_bits) in MODELS.into_iter().chain([("qwen3_5_moe_text", 8)]) {
        let model = packed(name, pack_bits);
        let tokens = &prompt(name)[..70];
        for activations in [Activations::Int8, Activations::F32] {
            let base = EngineOptions {
                activations,
                ..options()
            };
            let reference = EngineOptions {
                reference: true,
                ..base.clone()
            };
            let expected = logits(&open(&model.path(), &reference), tokens);
            for isa in Isa::available() {
                let options = EngineOptions {
                    isa: Some(isa),
                    ..base.clone()
                };
                let found = logits(&open(&model.path(), &options), tokens);
                let what = format!("{name} at {pack_bits} bits, {activations}, {isa}");
                assert_rows(&expected, 0, &found, &what);
            }
        }
    }
}
