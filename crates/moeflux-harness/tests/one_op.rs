//! Random cases of every operation, held to all that a case is held to.

#![allow(clippy::panic, clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;

use moeflux_harness::cases::one_op::cases;

/// Seeds of the random shapes.
const SEEDS: std::ops::Range<u64> = 1..9;

#[test]
fn random_operations_agree_everywhere() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        for case in cases(seed).expect("cases can be made") {
            common::check(&case);
            seen.extend(case.graph.ops.iter().map(|op| op.name()));
        }
    }
    // A new operation needs a case here and a line in the oracle.
    let known = [
        "add",
        "attention",
        "conv1d_silu",
        "embed",
        "experts",
        "gated_delta",
        "kv_append",
        "matmul",
        "rms_norm",
        "rms_norm_gated",
        "rope",
        "router",
        "scale_by_sigmoid",
        "select_outputs",
        "sigmoid_mul",
        "split_pairs",
        "swiglu",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), known);
}
