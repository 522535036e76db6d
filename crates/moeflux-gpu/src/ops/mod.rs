//! The operations, one file each, with its WGSL beside it. Each is specified by the function of the
//! same name in [`moeflux_kernels::reference`].

mod add_bias;
mod argmax;
mod attention;
mod attention_prompt;
mod check;
mod choose_entries;
mod combine;
mod compress;
mod conv1d_silu;
pub mod decode;
mod elementwise;
mod embed;
mod exact_probe;
mod expert_exact;
mod expert_glu;
mod expert_matvec;
mod gate_streams;
mod gated_delta;
mod glu;
mod group_experts;
mod grouped_router;
mod halves;
mod head_matmul;
mod kv_append;
mod layer_norm;
mod listed_attention;
pub mod matmul;
mod matvec;
mod rearrange;
mod rms_norm;
mod rope;
mod router;
mod rows;
mod scaled_silu;
mod stream_weights;
mod streams;
mod tile;
mod token_router;
mod word_sums;

pub use add_bias::add_bias;
pub use argmax::{NOT_FINITE, argmax};
pub use attention::attention;
pub use attention_prompt::{attention_prompt, unit_kernels as attention_unit_kernels};
pub use choose_entries::choose_entries;
pub use combine::{CombineViews, combine};
pub use compress::{CompressViews, compress};
pub use conv1d_silu::conv1d_silu;
pub use elementwise::{add, scale_by_sigmoid, sigmoid_mul, swiglu};
pub use embed::embed;
pub use exact_probe::exact_probe;
pub use expert_exact::{expert_exact, expert_exact_swiglu};
pub use expert_glu::{ExpertExtras, Pairs};
pub use expert_matvec::{ExpertSlots, expert_matvec, expert_swiglu};
pub use gate_streams::gate_streams;
pub use gated_delta::{DeltaViews, gated_delta, gated_delta_by};
pub use glu::glu;
pub use group_experts::{Groups, group_experts};
pub use grouped_router::grouped_router;
pub use head_matmul::head_matmul;
pub use kv_append::kv_append;
pub use layer_norm::layer_norm;
pub use listed_attention::{DeviceEntries, block_attention, sparse_attention};
pub use matvec::matvec;
pub use rearrange::{DevicePieces, rearrange};
pub use rms_norm::{rms_norm, rms_norm_gated, rms_norm_pieces, rms_normalize};
pub use rope::{RopeShape, rope, rope_stepped};
pub use router::{RouterShape, router};
pub use rows::{select_rows, split_pairs};
pub use scaled_silu::scaled_silu;
pub use stream_weights::stream_weights;
pub use streams::{collapse_streams, inject_streams, mean_streams, mix_streams, spread_streams};
pub use token_router::token_router;
pub use word_sums::{PART_WORDS, word_sums};

use crate::Shader;

/// The tokens of one session in a step.
#[derive(Clone, Copy, Debug)]
pub struct SpanRows {
    /// Row of the first in the step's buffers.
    pub first_row: usize,
    /// How many.
    pub len: usize,
    /// Position of the first in the session.
    pub start: usize,
}

impl From<&moeflux::backend::StepSpan<'_>> for SpanRows {
    fn from(span: &moeflux::backend::StepSpan<'_>) -> SpanRows {
        SpanRows {
            first_row: span.first_row,
            len: span.len,
            start: span.start,
        }
    }
}

/// Every kernel with each set of parameters that operations use, for checking translations.
pub fn all_kernels() -> Vec<(&'static Shader, Vec<Vec<crate::Param>>)> {
    let mut all = vec![
        add_bias::kernels(),
        argmax::kernels(),
        attention::kernels(),
        attention::merge_kernels(),
        attention_prompt::kernels(),
        combine::kernels(),
        compress::kernels(),
        conv1d_silu::kernels(),
        elementwise::kernels(),
        embed::kernels(),
        exact_probe::kernels(),
        expert_exact::kernels(),
        expert_matvec::kernels(),
        gate_streams::kernels(),
        gated_delta::kernels(),
        head_matmul::kernels(),
        group_experts::kernels(),
        halves::kernels(),
        kv_append::kernels(),
        layer_norm::kernels(),
        listed_attention::kernels(),
        matmul::kernels(),
        matmul::unit_kernels(8),
        matvec::kernels(),
        rearrange::kernels(),
        rms_norm::kernels(),
        rope::kernels(),
        router::kernels(),
        scaled_silu::kernels(),
        stream_weights::kernels(),
        streams::kernels(),
        word_sums::kernels(),
    ];
    all.extend(expert_glu::kernels());
    all.extend(grouped_router::kernels());
    all.extend(rows::kernels());
    all.extend(choose_entries::kernels());
    all.extend(token_router::kernels());
    all.extend(decode::all_kernels());
    all
}

/// Workgroups `[x, y, 1]` for `count` of them in a row; the kernel's number is
/// `id.x + id.y * groups.x`, and those from `count` on have nothing to do.
pub(crate) fn grid(count: u32) -> [u32; 3] {
    const WIDTH: u32 = 32_768;
    match count {
        0 => [0, 0, 0],
        n if n <= WIDTH => [n, 1, 1],
        n => [WIDTH, n.div_ceil(WIDTH), 1],
    }
}
