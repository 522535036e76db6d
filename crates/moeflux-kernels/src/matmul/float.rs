//! Products in float: every result keeps its own 16 partial sums in order, so the shape of the
//! register tile changes no bit.

use super::{
    Product,
    decode::{self, Bf16, Codec, F16, F32},
};
use crate::{MatrixData, lanes::Lanes};

/// Tokens from which on weights are decoded once to memory instead of in every tile.
const DECODE_FROM: usize = 16;

/// Rows first .. end of a product; `decoded` is working memory.
#[inline(always)]
pub(super) fn rows<L: Lanes>(
    l: L,
    product: &Product<'_>,
    first: usize,
    end: usize,
    decoded: &mut Vec<f32>,
) {
    if L::ROOMY {
        shaped_rows::<L, 4, 4>(l, product, first, end, decoded);
    } else {
        shaped_rows::<L, 2, 2>(l, product, first, end, decoded);
    }
}

/// The rows in blocks of `R`, the tokens in blocks of `T`.
#[inline(always)]
fn shaped_rows<L: Lanes, const R: usize, const T: usize>(
    l: L,
    product: &Product<'_>,
    first: usize,
    end: usize,
    decoded: &mut Vec<f32>,
) {
    let mut row = first;
    while row + R <= end {
        block::<L, R, T>(l, product, row, decoded);
        row += R;
    }
    while row < end {
        block::<L, 1, T>(l, product, row, decoded);
        row += 1;
    }
}

/// `R` rows times all tokens.
#[inline(always)]
fn block<L: Lanes, const R: usize, const T: usize>(
    l: L,
    product: &Product<'_>,
    row: usize,
    decoded: &mut Vec<f32>,
) {
    let cols = product.weights.cols();
    match product.weights.data() {
        MatrixData::F32(w) => tokens::<L, F32, R, T>(l, product, &w[row * cols..], row),
        MatrixData::F16(w) if product.m < DECODE_FROM => {
            tokens::<L, F16, R, T>(l, product, &w[row * cols..], row);
        }
        MatrixData::Bf16(w) if product.m < DECODE_FROM => {
            tokens::<L, Bf16, R, T>(l, product, &w[row * cols..], row);
        }
        _ => {
            decoded.resize(R * cols, 0.0);
            for (r, out) in decoded.chunks_exact_mut(cols).enumerate() {
                decode::row(l, &product.weights, row + r, out);
            }
            tokens::<L, F32, R, T>(l, product, decoded, row);
        }
    }
}

/// `R` rows, consecutive in `w`, times all tokens.
#[inline(always)]
fn tokens<L: Lanes, C: Codec, const R: usize, const T: usize>(
    l: L,
    product: &Product<'_>,
    w: &[C::Raw],
    row: usize,
) {
    let mut t = 0;
    while t + T <= product.m {
        tile::<L, C, R, T>(l, product, w, row, t);
        t += T;
    }
    while t < product.m {
        tile::<L, C, R, 1>(l, product, w, row, t);
        t += 1;
    }
}

/// `R` rows times the tokens t .. t + T.
#[inline(always)]
fn tile<L: Lanes, C: Codec, const R: usize, const T: usize>(
    l: L,
    product: &Product<'_>,
    w: &[C::Raw],
    row: usize,
    t: usize,
) {
    let cols = product.weights.cols();
    let whole = cols / 16;
    let mut w_chunks: [&[[C::Raw; 16]]; R] = [&[]; R];
    let mut x_chunks: [&[[f32; 16]]; T] = [&[]; T];
    let (mut w_tails, mut x_tails) = ([[C::Raw::default(); 16]; R], [[0.0f32; 16]; T]);
    for r in 0..R {
        let (chunks, tail) = w[r * cols..][..cols].as_chunks();
        w_chunks[r] = &chunks[..whole];
        w_tails[r][..tail.len()].copy_from_slice(tail);
    }
    for i in 0..T {
        let (chunks, tail) = product.x[product.token(t + i) * cols..][..cols].as_chunks();
        x_chunks[i] = &chunks[..whole];
        x_tails[i][..tail.len()].copy_from_slice(tail);
    }
    let mut acc = [[l.zero(); T]; R];
    for k in 0..whole {
        let mut x = [l.zero(); T];
        for i in 0..T {
            x[i] = l.load(&x_chunks[i][k]);
        }
        for r in 0..R {
            let w = C::load(l, &w_chunks[r][k]);
            for i in 0..T {
                acc[r][i] = l.fma(w, x[i], acc[r][i]);
            }
        }
    }
    for i in 0..T {
        let mut out = [0.0; R];
        for r in 0..R {
            if !cols.is_multiple_of(16) {
                let w = C::load(l, &w_tails[r]);
                acc[r][i] = l.fma(w, l.load(&x_tails[i]), acc[r][i]);
            }
            out[r] = l.tree(acc[r][i]);
        }
        // SAFETY: these rows belong to the running task.
        unsafe { product.write(t + i, row, &out) };
    }
}
