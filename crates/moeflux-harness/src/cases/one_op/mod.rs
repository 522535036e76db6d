//! A random case of every operation: shapes, codecs, spans and data follow from a seed.

mod dense;
mod entries;
mod experts;
mod gated;
mod heads;
mod ngram;
mod rowwise;
mod state;
mod streams;

use moeflux::formats::{AffineCodec, BlockCodec, Codec};
use moeflux::graph::{BufferId, Graph, GraphBuilder, Op};
use moeflux::kernels::Scores;

use crate::{Case, HarnessError, Random};

/// One case of each operation, some of several forms of one.
///
/// # Errors
/// [`HarnessError::Format`] if a weight could not be coded; it is then not a random matter.
pub fn cases(seed: u64) -> Result<Vec<Case>, HarnessError> {
    // Small seeds are alike in their first numbers; spread them.
    let random = &mut Random::new((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    // Codecs go round, so that some seeds in a row have them all.
    let codec = |at: usize| codecs()[(4 * seed as usize + at) % codecs().len()];
    let mut cases = vec![
        dense::embed(random, codec(0))?,
        dense::matmul(random, &[codec(0), codec(1), codec(2), codec(3)])?,
        dense::exact_matmul(random, codec(1))?,
        rowwise::rms_norm(random),
        rowwise::rms_norm_gated(random),
        rowwise::split_pairs(random),
        rowwise::rope(random),
        rowwise::swiglu(random),
        rowwise::sigmoid_mul(random),
        rowwise::scale_by_sigmoid(random),
        rowwise::add(random),
        rowwise::add_bias(random),
        heads::rearrange(random),
        heads::head_matmul(random, codec(1), false)?,
        heads::head_matmul(random, codec(3), true)?,
        rowwise::select_outputs(random),
        rowwise::shared_slots(random),
        state::kv_append(random),
        state::attention(random),
        state::windowed_attention(random),
        state::conv1d_silu(random),
        state::gated_delta(random),
        state::keyed_delta(random),
        experts::router(random),
        experts::grouped_router(random, Scores::Sigmoid),
        experts::grouped_router(random, Scores::Softmax),
        experts::experts(random, codec(2))?,
        experts::biased_experts(random, codec(3))?,
        experts::routed(random, codec(0))?,
        // New ones last: what the others draw stays as it was.
        rowwise::rms_normalize(random),
        rowwise::tail_rope(random),
        rowwise::glu(random),
        streams::stream_weights(random),
        streams::collapse_streams(random),
        streams::spread_streams(random),
        entries::compress(random),
        entries::choose_entries(random),
        entries::sparse_attention(random, false),
        entries::sparse_attention(random, true),
        experts::grouped_router(random, Scores::SqrtSoftplus),
        experts::token_router(random),
        gated::rms_norm_pieces(random),
        gated::scaled_silu(random),
        gated::mix_streams(random),
        gated::inject_streams(random),
        gated::gate_streams(random),
        entries::block_attention(random),
        ngram::ngram_rows(random),
        rowwise::layer_norm(random),
        streams::mean_streams(random),
        state::bounded_delta(random),
        entries::latent_block_attention(random),
    ];
    for case in &mut cases {
        case.name = format!("{} of seed {seed}", case.name);
    }
    Ok(cases)
}

/// Block codecs that every backend has kernels for; the others are held to the reference by the
/// kernels' own tests.
const EVERYWHERE: [BlockCodec; 5] = [
    BlockCodec::Q4_0,
    BlockCodec::Q8_0,
    BlockCodec::Q4K,
    BlockCodec::Q5K,
    BlockCodec::Q6K,
];

/// The codecs that kernels of every backend multiply with.
pub fn codecs() -> Vec<Codec> {
    let mut all = vec![Codec::F32, Codec::F16, Codec::Bf16];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            all.push(Codec::Affine(AffineCodec { bits, group }));
        }
    }
    all.extend(EVERYWHERE.map(Codec::Block));
    all
}

/// Columns that all of the codecs divide.
fn least_cols(codecs: &[Codec]) -> usize {
    let blocks = |codec: &Codec| matches!(codec, Codec::Block(_));
    if codecs.iter().any(blocks) { 256 } else { 128 }
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
