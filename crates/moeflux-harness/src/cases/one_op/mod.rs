//! A random case of every operation: shapes, codecs, spans and data follow from a seed.

mod dense;
mod experts;
mod rowwise;
mod state;

use moeflux::formats::{AffineCodec, Codec};
use moeflux::graph::{BufferId, Graph, GraphBuilder, Op};

use crate::{Case, HarnessError, Random};

/// One case of each operation, some of several forms of one.
///
/// # Errors
/// [`HarnessError::Format`] if a weight could not be coded; it is then not a random matter.
pub fn cases(seed: u64) -> Result<Vec<Case>, HarnessError> {
    let random = &mut Random::new(seed);
    let mut cases = vec![
        dense::embed(random)?,
        dense::matmul(random)?,
        dense::exact_matmul(random)?,
        rowwise::rms_norm(random),
        rowwise::rms_norm_gated(random),
        rowwise::split_pairs(random),
        rowwise::rope(random),
        rowwise::swiglu(random),
        rowwise::sigmoid_mul(random),
        rowwise::scale_by_sigmoid(random),
        rowwise::add(random),
        rowwise::select_outputs(random),
        rowwise::shared_slots(random),
        state::kv_append(random),
        state::attention(random),
        state::conv1d_silu(random),
        state::gated_delta(random),
        experts::router(random),
        experts::experts(random)?,
        experts::routed(random)?,
    ];
    for case in &mut cases {
        case.name = format!("{} of seed {seed}", case.name);
    }
    Ok(cases)
}

/// The codecs that kernels multiply with.
fn codecs() -> Vec<Codec> {
    let affine = |(bits, group)| Codec::Affine(AffineCodec { bits, group });
    let pairs = [2, 3, 4, 5, 6, 8].map(|bits| [32, 64, 128].map(|group| (bits, group)));
    let plain = [Codec::F32, Codec::F16, Codec::Bf16];
    let affine = pairs.as_flattened().iter().copied().map(affine);
    plain.into_iter().chain(affine).collect()
}

/// A graph of one operation whose last result is `out`.
fn graph_of(mut builder: GraphBuilder, op: Op, out: BufferId) -> Graph {
    builder.push(op);
    builder.finish(out)
}

/// Random rows for some inputs of `n` tokens, in [-scale, scale].
fn inputs(
    random: &mut Random,
    n: usize,
    buffers: &[(BufferId, usize, f32)],
) -> Vec<(BufferId, Vec<f32>)> {
    let rows = |&(buffer, width, scale): &(BufferId, usize, f32)| {
        (buffer, random.floats(n * width, scale))
    };
    buffers.iter().map(rows).collect()
}
