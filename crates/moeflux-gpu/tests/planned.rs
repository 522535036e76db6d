//! Steps of few tokens, in which neighbouring operations are one kernel: whole models of random weights
//! against the host, and against the same tokens as a prompt, whose operations run one by one.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moeflux::backend::Backend;
use moeflux::{Activations, Engine, EngineOptions, Session, Span, Want};
use moeflux_gpu::{GpuBackend, GpuOptions};

/// Relative L2 error of a row of logits: random layers amplify.
const TOLERANCE: f64 = 2e-3;
/// The same against prompts that a matrix unit computes.
const PROMPT_TOLERANCE: f64 = 2e-2;
/// Tokens of a text: enough for several blocks of a session's keys.
const TOKENS: usize = 70;

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    fixtures.join(name)
}

fn open(name: &str, on_device: bool) -> Engine {
    let make = || {
        let backend = GpuBackend::new(common::gpu(), GpuOptions::default());
        Ok(Box::new(backend) as Box<dyn Backend>)
    };
    let options = EngineOptions {
        memory_bytes: Some(1 << 30),
        threads: Some(2),
        measure_disk: false,
        lock_weights: false,
        activations: Activations::F32,
        backend: on_device.then(|| Arc::new(make) as Arc<_>),
        ..EngineOptions::default()
    };
    Engine::open(&fixture(name), &options).expect("the fixture opens")
}

fn decoded(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    let mut span = [Span {
        session,
        tokens,
        want: Want::All,
        is_prompt: false,
    }];
    let mut logits = engine.forward(&mut span).expect("it runs");
    logits.remove(0).values
}

/// The host's logits, the same as a prompt's, and the same bits token by token.
fn is_right(name: &str) {
    let (host, device) = (open(name, false), open(name, true));
    let vocab = host.info().vocab_size;
    let tokens: Vec<u32> = (0..TOKENS as u32)
        .map(|i| (i * 7919 + 5) % vocab as u32)
        .collect();
    let expected = host.prefill(&mut host.session(), &tokens, Want::All);
    let expected = expected.expect("it runs").values;
    let prompt = device.prefill(&mut device.session(), &tokens, Want::All);
    let prompt = prompt.expect("it runs").values;
    let found = decoded(&device, &mut device.session(), &tokens);
    let rows = found.chunks_exact(vocab).zip(expected.chunks_exact(vocab));
    for (at, (found, expected)) in rows.enumerate() {
        common::close(found, expected, TOLERANCE, &format!("{name}, token {at}"));
    }
    // A matrix unit rounds what prompts multiply.
    let tolerance = match common::gpu().matrix_unit() {
        Some(_) => PROMPT_TOLERANCE,
        None => TOLERANCE,
    };
    common::close(&found, &prompt, tolerance, &format!("{name} as a prompt"));
    let mut session = device.session();
    decoded(&device, &mut session, &tokens[..40]);
    let bytes = session.to_bytes().expect("the device is there");
    session.checkpoint();
    decoded(&device, &mut session, &tokens[3..9]);
    session.rewind(40).expect("there is a checkpoint");
    let mut restored = device.restore(&bytes).expect("it restores");
    for session in [&mut session, &mut restored] {
        let rest = decoded(&device, session, &tokens[40..]);
        assert!(rest == found[40 * vocab..], "{name}: other bits from here");
    }
    let mut session = device.session();
    for (token, row) in tokens.iter().zip(found.chunks_exact(vocab)).take(9) {
        let alone = decoded(&device, &mut session, &[*token]);
        assert!(alone == row, "{name}: other bits alone");
    }
}

#[test]
fn recurrent_layers_and_a_shared_expert() {
    is_right("qwen3_5_moe_text");
}

#[test]
fn sizes_that_no_fused_kernel_takes() {
    is_right("qwen3_5_moe_text_fused");
}

#[test]
fn heads_with_norms_in_every_layer() {
    is_right("qwen3_moe");
}

#[test]
fn heads_without_norms() {
    is_right("mixtral");
}

#[test]
fn matrices_of_two_codings_beside_each_other() {
    is_right("gguf/qwen3_5_moe.gguf");
}

#[test]
fn windows_and_experts_with_biases() {
    is_right("gpt_oss");
}

#[test]
fn decay_by_key() {
    is_right("kimi_linear");
}

#[test]
fn floats_of_8_bits() {
    is_right("formats/qwen3_moe_f8");
}

#[test]
fn floats_of_4_bits() {
    is_right("formats/qwen3_moe_mxfp4");
    is_right("formats/gpt_oss_mxfp4");
}

#[test]
fn floats_of_4_bits_with_scales_of_scales() {
    is_right("formats/qwen3_moe_nvfp4");
    is_right("formats/qwen3_5_moe_nvfp4");
}

#[test]
fn centered_integers() {
    is_right("formats/qwen3_moe_int4");
}
