//! Every operation as a plain serial function: naive loops that read as the specification. They
//! share nothing with the kernels but types, size checks and the scalar functions of
//! [`math`](crate::math). Parameters and errors are those of the [`Cpu`](crate::Cpu) methods.

mod attention;
mod compress;
mod elementwise;
mod gated_streams;
mod grouped_router;
mod heads;
mod matmul;
mod norm;
mod recurrent;
mod router;
mod streams;

pub use attention::{attention, block_attention, kv_append, rope, sparse_attention};
pub use compress::{choose_entries, compress};
pub use elementwise::{
    add, add_bias, add_to_rows, combine, glu, scale_by_sigmoid, sigmoid_mul, split_pairs, swiglu,
};
pub use gated_streams::{gate_streams, inject_streams, mix_streams, scaled_silu};
pub use grouped_router::{route_by_token, route_grouped};
pub use heads::{head_matmul, rearrange};
pub use matmul::{decode_row, matmul, quantize};
pub use norm::{layer_norm, rms_norm, rms_norm_gated, rms_norm_pieces, rms_normalize};
pub use recurrent::{conv1d_silu, gated_delta};
pub use router::route;
pub use streams::{collapse_streams, mean_streams, spread_streams, stream_weights};

/// Dot product in 16 partial sums: element k goes to lane k mod 16.
fn dot16(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for k in 0..a.len().next_multiple_of(16) {
        // The tail is padded by zeros.
        let (x, y) = if k < a.len() {
            (a[k], b[k])
        } else {
            (0.0, 0.0)
        };
        lanes[k % 16] = x.mul_add(y, lanes[k % 16]);
    }
    tree(lanes)
}

/// Sum in 16 partial sums.
fn sum16(a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for k in 0..a.len().next_multiple_of(16) {
        lanes[k % 16] += if k < a.len() { a[k] } else { 0.0 };
    }
    tree(lanes)
}

/// Adds up 16 lanes in halves: l + 8, l + 4, l + 2, l + 1.
fn tree(mut lanes: [f32; 16]) -> f32 {
    for step in [8, 4, 2, 1] {
        for l in 0..step {
            lanes[l] += lanes[l + step];
        }
    }
    lanes[0]
}

/// The greater of two; `a` if they cannot be compared.
fn max(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}
