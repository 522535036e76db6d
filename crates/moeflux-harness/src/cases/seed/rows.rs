//! The router's five shapes, the norm and the residual add.

use moeflux::formats::codec::bf16;
use moeflux::graph::{GraphBuilder, Op, WeightId};
use moeflux::weights::WeightPart;

use super::SeedCase;
use crate::{Case, Random, Tolerance};

/// The router's case of that name, if there is one.
pub(super) fn router(name: &str) -> Option<SeedCase> {
    let (n, experts, top_k, seed) = match name.strip_prefix("moe_router_gpu_matches_cpu_")? {
        "a3b_n1" => (1, 256, 8, 0x0A3B_0001),
        "a3b_n8" => (8, 256, 8, 0x0A3B_0008),
        "a3b_n256" => (256, 256, 8, 0x0A3B_0256),
        "e128_k8" => (64, 128, 8, 0xE128_0064),
        "e512_k10" => (32, 512, 10, 0xE512_000A),
        _ => return None,
    };
    let mut graph = GraphBuilder::default();
    let logits = graph.buffer("logits", experts);
    let (ids, weights) = (graph.buffer("ids", top_k), graph.buffer("weights", top_k));
    graph.push(Op::Router {
        logits,
        experts,
        top_k,
        renormalize: true,
        ids,
        weights,
    });
    let values = Random::new(seed).floats(n * experts, 2.0);
    let case = Case::new(name, graph.finish(weights)).step(n, vec![(logits, values)]);
    Some(SeedCase::alone(case))
}

/// RMS norm of 16 tokens with a bf16 weight.
pub(super) fn rms_norm(name: &str) -> SeedCase {
    let (n, dim) = (16, 2048);
    let mut random = Random::new(0xB0FE_DD01);
    let values = random.floats(n * dim, 0.5);
    let weight = random.floats(dim, 0.1);
    let weight = weight.iter().map(|&w| bf16::widen(bf16::round(w)));
    let mut graph = GraphBuilder::default();
    let (x, out) = (graph.buffer("x", dim), graph.buffer("out", dim));
    graph.push(Op::RmsNorm {
        x,
        weight: WeightId::new(0),
        eps: 1e-6,
        out,
    });
    let mut case = Case::new(name, graph.finish(out)).step(n, vec![(x, values)]);
    case.weights.push(WeightPart::Vector(weight.collect()));
    SeedCase::alone(case)
}

/// The sum of two tensors: exact.
pub(super) fn residual_add(name: &str) -> SeedCase {
    let (n, dim) = (32, 2048);
    let mut random = Random::new(0xB0FE_DD02);
    let values = [(); 2].map(|()| random.floats(n * dim, 1.0));
    let mut graph = GraphBuilder::default();
    let (a, b) = (graph.buffer("a", dim), graph.buffer("b", dim));
    let out = graph.buffer("out", dim);
    graph.push(Op::Add { a, b, out });
    let [first, second] = values;
    let mut case = Case::new(name, graph.finish(out)).step(n, vec![(a, first), (b, second)]);
    case.tolerance = Tolerance {
        f32: 0.0,
        int8: 0.0,
    };
    SeedCase::alone(case)
}
