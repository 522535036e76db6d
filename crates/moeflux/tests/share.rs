//! Sessions that go on from shared state answer bit for bit as if they had computed it, and what is
//! shared is counted once.

mod common;

use common::{assert_rows, logits, open, options, packed, prompt, run};
use moeflux::{Error, KeyValues, RecurrentState, Session};

/// All of a session's state up to its end, in parts that begin at the given positions.
fn parts(session: &Session, starts: &[usize]) -> (Vec<KeyValues>, Option<RecurrentState>) {
    let ends = starts.iter().skip(1).copied().chain([session.len()]);
    let part = |(start, end): (&usize, usize)| session.key_values(*start..end).expect("is here");
    let recurrent = session.recurrent_state().expect("is here");
    (starts.iter().zip(ends).map(part).collect(), recurrent)
}

#[test]
fn a_session_goes_on_from_parts_with_the_same_bits() {
    for (name, pack_bits) in [
        ("qwen3_5_moe_text", 4),
        ("qwen3_moe", 4),
        ("deepseek_v3", 4),
        ("deepseek_v4", 4),
        ("glm5_next", 4),
        ("gpt_oss", 4),
        ("qwen4_exp_text", 4),
    ] {
        let model = packed(name, pack_bits);
        let engine = open(&model.path(), &options());
        let tokens = &prompt(name)[..150];
        let expected = logits(&engine, tokens);
        for at in 1..tokens.len() {
            let mut session = engine.session();
            run(&engine, &mut session, &tokens[..at]);
            let (parts, recurrent) = parts(&session, &[0, at / 3, at / 2]);
            let parts: Vec<&KeyValues> = parts.iter().collect();
            let resume = || engine.resume(&tokens[..at], &parts, recurrent.as_ref());
            let (mut one, mut other) = (resume().expect("resumes"), resume().expect("resumes"));
            // Another continuation first: it must not be seen by the others.
            run(&engine, &mut other, &tokens[..20]);
            for (session, what) in [(&mut one, "resumed"), (&mut session, "shared")] {
                let rest = run(&engine, session, &tokens[at..]);
                assert_rows(&expected, at, &rest, &format!("{name} {what} at {at}"));
            }
        }
    }
}

#[test]
fn without_recurrent_state_a_part_serves_every_position_within_it() {
    let name = "qwen3_moe";
    let model = packed(name, 4);
    let engine = open(&model.path(), &options());
    let tokens = prompt(name);
    let expected = logits(&engine, &tokens);
    let mut session = engine.session();
    run(&engine, &mut session, &tokens);
    assert_eq!(engine.recurrent_bytes(), 0);
    let (parts, _) = parts(&session, &[0, 100]);
    for at in [1, 63, 64, 65, 99, 100, 101, 190] {
        let parts: Vec<&KeyValues> = parts.iter().collect();
        let mut session = engine.resume(&tokens[..at], &parts, None).expect("resumes");
        let rest = run(&engine, &mut session, &tokens[at..at + 8]);
        assert_rows(&expected, at, &rest, &format!("resumed at {at}"));
    }
}

#[test]
fn parts_survive_as_bytes() {
    for name in [
        "qwen3_5_moe_text",
        "qwen3_moe",
        "deepseek_v4",
        "glm5_next",
        "gpt_oss",
        "qwen4_exp_text",
    ] {
        let model = packed(name, 4);
        let engine = open(&model.path(), &options());
        let tokens = prompt(name);
        let expected = logits(&engine, &tokens);
        let mut session = engine.session();
        run(&engine, &mut session, &tokens[..130]);
        let (parts, recurrent) = parts(&session, &[0, 70]);
        let other = open(&model.path(), &options());
        let mut read = Vec::new();
        for part in &parts {
            let mut bytes = Vec::new();
            part.write_to(&mut bytes).expect("a vector takes all");
            let positions = part.positions();
            let mut short = &bytes[..bytes.len() - 1];
            assert!(
                other
                    .read_key_values(positions.clone(), &mut short)
                    .is_err()
            );
            let mut input = bytes.as_slice();
            read.push(other.read_key_values(positions, &mut input).expect("reads"));
            assert!(input.is_empty());
        }
        let recurrent = recurrent.map(|state| {
            let mut bytes = Vec::new();
            state.write_to(&mut bytes).expect("a vector takes all");
            assert_eq!(bytes.len() as u64, state.written_bytes());
            assert!(other.read_recurrent_state(&mut &bytes[1..]).is_err());
            other
                .read_recurrent_state(&mut bytes.as_slice())
                .expect("reads")
        });
        assert_eq!(engine.state_identity(), other.state_identity());
        let read: Vec<&KeyValues> = read.iter().collect();
        let resumed = other.resume(&tokens[..130], &read, recurrent.as_ref());
        let rest = run(&other, &mut resumed.expect("resumes"), &tokens[130..]);
        assert_rows(&expected, 130, &rest, name);
    }
}

#[test]
fn models_that_differ_in_a_layer_do_not_share_state() {
    let model = packed("qwen3_moe", 4);
    let identity = || open(&model.path(), &options()).state_identity();
    let before = identity();
    assert_eq!(identity(), before);
    let file = model.path().join("dense.safetensors");
    let mut bytes = std::fs::read(&file).expect("a file");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let table: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("JSON");
    let start = &table["model.layers.1.self_attn.o_proj.weight"]["data_offsets"][0];
    bytes[8 + header + start.as_u64().expect("a tensor") as usize] ^= 1;
    std::fs::write(&file, bytes).expect("writes");
    assert_ne!(identity(), before);
}

#[test]
fn shared_pages_are_counted_once_and_copied_when_written() {
    for name in ["qwen3_5_moe_text", "qwen3_moe"] {
        let model = packed(name, 4);
        let engine = open(&model.path(), &options());
        let tokens = prompt(name);
        let bytes = || engine.stats().state_bytes;
        let mut session = engine.session();
        let empty = bytes();
        run(&engine, &mut session, &tokens[..100]);
        let pages = bytes() - empty;
        let mut fork = engine.fork(&session).expect("forks");
        assert_eq!(bytes(), 2 * empty + pages, "{name}: pages are shared");
        run(&engine, &mut fork, &tokens[100..101]);
        assert_eq!(
            bytes(),
            2 * empty + pages + pages / 2,
            "{name}: one of two is copied"
        );
        let part = session.key_values(0..64).expect("is here");
        assert_eq!(part.bytes(), pages / 2);
        drop((session, fork));
        assert_eq!(bytes(), pages / 2, "{name}: what is kept stays");
        drop(part);
        assert_eq!(bytes(), 0);
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let model = packed("qwen3_5_moe_text", 4);
    let (engine, other) = (
        open(&model.path(), &options()),
        open(&model.path(), &options()),
    );
    let tokens = prompt("qwen3_5_moe_text");
    let mut session = engine.session();
    run(&engine, &mut session, &tokens[..100]);
    let (parts, recurrent) = parts(&session, &[0, 50]);
    let recurrent = recurrent.as_ref();
    let (first, second) = (&parts[0], &parts[1]);
    for (parts, state, len) in [
        (vec![first], recurrent, 51),
        (vec![second], recurrent, 100),
        (vec![], recurrent, 1),
        (vec![first, second], None, 100),
    ] {
        let refused = engine.resume(&tokens[..len], &parts, state);
        assert!(matches!(refused, Err(Error::Snapshot { .. })), "{len}");
    }
    let foreign = other.resume(&tokens[..50], &[first], recurrent);
    assert!(matches!(foreign, Err(Error::ForeignSession)));
}
