//! The operations, one file each, with its WGSL beside it. Each is specified by the function of the
//! same name in [`moeflux_kernels::reference`].

mod argmax;
mod attention;
mod check;
mod combine;
mod conv1d_silu;
pub mod decode;
mod elementwise;
mod embed;
mod expert_matvec;
mod gated_delta;
mod group_experts;
mod halves;
mod kv_append;
pub mod matmul;
mod matvec;
mod rms_norm;
mod rope;
mod router;
mod rows;

pub use argmax::{NOT_FINITE, argmax};
pub use attention::attention;
pub use combine::{CombineViews, combine};
pub use conv1d_silu::conv1d_silu;
pub use elementwise::{add, scale_by_sigmoid, sigmoid_mul, swiglu};
pub use embed::embed;
pub use expert_matvec::{ExpertSlots, expert_matvec, expert_swiglu};
pub use gated_delta::{DeltaViews, gated_delta};
pub use group_experts::{Groups, group_experts};
pub use kv_append::kv_append;
pub use matvec::matvec;
pub use rms_norm::{add_rms_norm, rms_norm, rms_norm_gated};
pub use rope::{RopeShape, rope};
pub use router::{RouterShape, router};
pub use rows::{select_rows, split_pairs};

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
        argmax::kernels(),
        attention::kernels(),
        attention::merge_kernels(),
        combine::kernels(),
        conv1d_silu::kernels(),
        elementwise::kernels(),
        embed::kernels(),
        expert_matvec::kernels(),
        gated_delta::kernels(),
        group_experts::kernels(),
        halves::kernels(),
        kv_append::kernels(),
        matmul::kernels(),
        matmul::unit_kernels(8),
        matvec::kernels(),
        rms_norm::kernels(),
        rope::kernels(),
        router::kernels(),
    ];
    all.extend(rows::kernels());
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
