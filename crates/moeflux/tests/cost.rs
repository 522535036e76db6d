//! What a step costs, against what the model's headers say; measuring kernels changes nothing.

mod common;

use common::{fixture, prompt, repository};
use moeflux::cost::{StepShape, Work};
use moeflux::{Engine, EngineOptions, Want};

fn open(dir: &std::path::Path) -> Engine {
    let options = EngineOptions {
        memory_bytes: Some(1 << 30),
        ..EngineOptions::default()
    };
    Engine::open(dir, &options).expect("opens")
}

fn work(engine: &Engine, step: StepShape) -> Work {
    let mut sum = Work::default();
    for op in engine.costs() {
        sum += op.work(step);
    }
    sum
}

/// A decode step at the start.
fn one_token(engine: &Engine) -> StepShape {
    StepShape {
        start: 0,
        tokens: 1,
        outputs: 1,
        experts: engine.info().top_k as f64,
    }
}

#[test]
fn a_token_costs_what_the_headers_say() {
    let engine = open(&repository().join("models/demo"));
    let info = engine.info();
    let step = one_token(&engine);
    let head = (info.vocab_size * info.hidden) as u64;
    let cost = work(&engine, step);
    assert_eq!(cost.multiply_adds, (info.token_multiply_adds + head) as f64);
    let weights = (info.token_dense_bytes + info.token_expert_bytes) as f64;
    let state = cost.bytes - weights;
    assert!(state > 0.0, "there is recurrent state: {cost:?}");
    assert!(state < weights, "{cost:?}, {weights} bytes of weights");

    // Only the head is spared where no logits are wanted.
    let blind = work(&engine, StepShape { outputs: 0, ..step });
    assert_eq!(cost.multiply_adds - blind.multiply_adds, head as f64);
    assert!(blind.bytes < cost.bytes);

    // Depth costs reading keys and values, and attending to them.
    let deep = work(&engine, StepShape { start: 100, ..step });
    let position = info.token_state_bytes as f64;
    assert_eq!(deep.bytes - cost.bytes, 100.0 * position);
    assert_eq!(deep.multiply_adds, cost.multiply_adds);
    assert!(deep.float_multiply_adds > cost.float_multiply_adds);

    // Many tokens share the weights.
    let many = StepShape {
        tokens: 64,
        outputs: 64,
        ..step
    };
    let many = work(&engine, many);
    assert_eq!(many.multiply_adds, 64.0 * cost.multiply_adds);
    assert!(many.bytes < 2.0 * cost.bytes, "{many:?} against {cost:?}");
}

#[test]
fn operations_of_all_layers_share_names() {
    let engine = open(&fixture("qwen3_moe"));
    let layers = engine.info().layers;
    let count = |name: &str| engine.costs().iter().filter(|op| op.name == name).count();
    assert_eq!(count("embed"), 1);
    assert_eq!(count("matmul lm_head"), 1);
    assert_eq!(count("matmul self_attn.{q,k,v}_proj"), layers);
    assert_eq!(count("experts"), engine.info().moe_layers);
    assert_eq!(count("attention"), layers);
}

#[test]
fn measuring_kernels_and_warming_leave_answers_alone() {
    let name = "qwen3_5_moe_text";
    let engine = open(&fixture(name));
    let tokens = prompt(name);
    let logits = || {
        let mut session = engine.session();
        let logits = engine.prefill(&mut session, &tokens, Want::All);
        logits.expect("runs").values
    };
    let before = logits();
    let rates = engine.kernel_rates().expect("measures");
    let kinds: Vec<_> = engine.costs().iter().flat_map(|op| &op.products).collect();
    for (kind, _) in kinds {
        let rate = rates.iter().find(|rate| rate.kind == *kind);
        let rate = rate.expect("every kind has a dense matrix in this model");
        assert!(rate.multiply_adds_per_second > 0.0, "{rate:?}");
    }
    engine.cool();
    assert!(engine.warm(&mut |_, _| ()).expect("reads"));
    engine.reset_stats();
    assert!(before == logits(), "the same bits");
    let stats = engine.stats().experts;
    assert_eq!(stats.misses, 0);
    assert!(stats.hits > 0);
}
