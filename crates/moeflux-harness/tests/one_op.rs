//! Random cases of every operation, held to all that a case is held to.

#![allow(clippy::panic, clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;

use moeflux::formats::Codec;
use moeflux::graph::Op;
use moeflux::weights::WeightPart;
use moeflux_harness::Case;
use moeflux_harness::cases::one_op::{cases, codecs};

/// Seeds of the random shapes.
const SEEDS: std::ops::Range<u64> = 1..13;

/// The codecs of the matrices that the case multiplies with.
fn matrix_codecs(case: &Case) -> Vec<Codec> {
    let multiplies = |op: &Op| matches!(op, Op::Matmul { .. });
    let parts = case.weights.iter().filter_map(|part| match part {
        WeightPart::Matrix(matrix) => Some(matrix.codec),
        WeightPart::Vector(_) | WeightPart::Table { .. } => None,
    });
    match case.graph.ops.iter().any(multiplies) {
        true => parts.collect(),
        false => Vec::new(),
    }
}

#[test]
fn random_operations_agree_everywhere() {
    let (mut seen, mut codecs_seen) = (BTreeSet::new(), BTreeSet::new());
    for seed in SEEDS {
        for case in cases(seed).expect("cases can be made") {
            common::check(&case);
            codecs_seen.extend(matrix_codecs(&case));
            seen.extend(case.graph.ops.iter().map(|op| op.name()));
        }
    }
    assert_eq!(codecs_seen, codecs().into_iter().collect());
    // A new operation needs a case here and a line in the oracle.
    let known = [
        "add",
        "add_bias",
        "attention",
        "biased_experts",
        "block_attention",
        "bounded_delta",
        "choose_entries",
        "collapse_streams",
        "compress",
        "conv1d_silu",
        "embed",
        "experts",
        "gate_streams",
        "gated_delta",
        "glu",
        "grouped_router",
        "head_matmul",
        "inject_streams",
        "keyed_delta",
        "kv_append",
        "layer_norm",
        "lookahead",
        "matmul",
        "mean_streams",
        "mix_streams",
        "ngram_rows",
        "rearrange",
        "request_experts",
        "rms_norm",
        "rms_norm_gated",
        "rms_norm_pieces",
        "rms_normalize",
        "rope",
        "router",
        "scale_by_sigmoid",
        "scaled_silu",
        "select_outputs",
        "sigmoid_mul",
        "softplus_router",
        "sparse_attention",
        "split_pairs",
        "spread_streams",
        "stream_weights",
        "swiglu",
        "tail_rope",
        "token_router",
        "windowed_attention",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), known);
}
