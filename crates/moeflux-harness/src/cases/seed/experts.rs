//! Routed experts at the dimensions of a 35B-A3B model: four tokens, twelve experts of which the
//! last four are never chosen.

use std::collections::BTreeMap;

use moeflux::graph::{ExpertForm, GraphBuilder, Op};
use moeflux::weights::ExpertPart;

use super::SeedCase;
use crate::{Case, Random, affine4_matrix};

const SEED: u64 = 0xCAFE_BABE_DEAD_BEEF;
const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 512;
const EXPERTS: usize = 12;
/// Each token's experts.
const CHOICE: [[u32; 4]; 4] = [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 0, 1]];

/// All tokens at once; as twins the same with room for one expert, and for three, so that
/// experts are computed one by one and in waves. Weights reach from -0.1 to 0.7.
pub(super) fn permute_fuse(name: &str) -> SeedCase {
    let (n, k) = (CHOICE.len(), CHOICE[0].len());
    let mut random = Random::new(SEED);
    let weights: Vec<f32> = (0..n * k).map(|_| random.next_f32() * 0.4 + 0.3).collect();
    let x = random.floats(n * HIDDEN, 1.0);
    let used = CHOICE.as_flattened().iter().max().map_or(0, |&id| id + 1) as usize;
    let mut experts: Vec<ExpertPart> = (0..used).map(|_| expert(&mut random)).collect();
    experts.resize_with(EXPERTS, || poison(expert(&mut random)));

    let mut graph = GraphBuilder::default();
    let (input, out) = (graph.buffer("x", HIDDEN), graph.buffer("out", HIDDEN));
    let (ids, shares) = (graph.buffer("ids", k), graph.buffer("weights", k));
    graph.push(Op::Experts {
        x: input,
        ids,
        weights: shares,
        top_k: k,
        layer: 0,
        form: ExpertForm::default(),
        out,
    });
    let chosen = CHOICE.as_flattened().iter();
    let chosen = chosen.map(|&id| f32::from_bits(id)).collect();
    let mut case = Case::new(name, graph.finish(out))
        .step(n, vec![(input, x), (ids, chosen), (shares, weights)]);
    case.experts = BTreeMap::from([(0, experts)]);
    // Activations are rounded twice, before gate and up and before down. Still below the 1.41e-2
    // that a cosine of 0.9999 allows.
    case.tolerance.int8 = 1.4e-2;
    let few = |slots: usize| Case {
        name: format!("{name}, room for {slots}"),
        expert_slots: Some(slots),
        ..case.clone()
    };
    SeedCase::alone(case.clone())
        .with_twin(few(1), n)
        .with_twin(few(3), n)
}

fn expert(random: &mut Random) -> ExpertPart {
    ExpertPart {
        gate: affine4_matrix(random, INTERMEDIATE, HIDDEN),
        up: affine4_matrix(random, INTERMEDIATE, HIDDEN),
        down: affine4_matrix(random, HIDDEN, INTERMEDIATE),
    }
}

/// The expert with scales that are not numbers, so that any use of it shows.
fn poison(mut expert: ExpertPart) -> ExpertPart {
    for matrix in [&mut expert.gate, &mut expert.up, &mut expert.down] {
        matrix.encoded.scales.fill(0xFF);
    }
    expert
}
