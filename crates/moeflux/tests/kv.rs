//! The type of keys and values: a saved session names it and is refused under another one, and
//! the memory plan counts its bytes.

mod common;

use common::{fixture, open, options, prompt, run};
use moeflux::{Engine, EngineOptions, KvType};

const MODEL: &str = "qwen3_5_moe_text";

fn engine(kv: KvType) -> Engine {
    let options = EngineOptions { kv, ..options() };
    open(&fixture(MODEL), &options)
}

fn restore_error(engine: &Engine, bytes: &[u8]) -> String {
    engine.restore(bytes).err().expect("refused").to_string()
}

#[test]
fn saved_sessions_are_refused_under_another_type() {
    let (narrow, wide) = (engine(KvType::F16), engine(KvType::F32));
    let save = |engine: &Engine| {
        let mut session = engine.session();
        run(engine, &mut session, &prompt(MODEL)[..70]);
        let bytes = session.to_bytes().expect("its state is here");
        let restored = engine.restore(&bytes).expect("its own");
        assert!(
            restored.to_bytes().expect("its state is here") == bytes,
            "restoring changed the session"
        );
        bytes
    };
    let (half, single) = (save(&narrow), save(&wide));
    assert!(half.len() < single.len());
    let error = restore_error(&wide, &half);
    assert!(error.contains("--kv f16"), "{error}");
    let error = restore_error(&narrow, &single);
    assert!(error.contains("--kv f32"), "{error}");
}

#[test]
fn sessions_of_other_versions_and_other_files_are_told_apart() {
    let engine = engine(KvType::F16);
    let mut older = engine.session().to_bytes().expect("its state is here");
    older[7] = b'1';
    let error = restore_error(&engine, &older);
    assert!(error.contains("another version"), "{error}");
    let error = restore_error(&engine, b"a text that is no session");
    assert!(error.contains("not a saved session"), "{error}");
}

#[test]
fn the_plan_and_the_figures_count_the_bytes_of_the_type() {
    let (narrow, wide) = (engine(KvType::F16), engine(KvType::F32));
    assert!(narrow.info().token_state_bytes > 0);
    assert_eq!(
        narrow.info().token_state_bytes * 2,
        wide.info().token_state_bytes
    );
    assert_eq!(narrow.stats().kv, KvType::F16);
    // A page more of the wide type is twice the narrow one's.
    let growth = |engine: &Engine| {
        let mut session = engine.session();
        let before = engine.stats().state_bytes;
        run(engine, &mut session, &prompt(MODEL)[..65]);
        (engine.stats().state_bytes - before, session.len())
    };
    let ((small, positions), (large, _)) = (growth(&narrow), growth(&wide));
    assert_eq!(small * 2, large);
    let pages = positions.div_ceil(64) as u64 * 64;
    assert_eq!(small, pages * narrow.info().token_state_bytes);
}
