//! Weight rows to f32.

use super::f8;
use crate::{
    Matrix, MatrixData,
    coding::{Coded, TILE},
    lanes::{Kernel, Lanes},
};

/// Decodes one row.
pub(super) struct DecodeRow<'a> {
    pub(super) matrix: &'a Matrix<'a>,
    pub(super) row: usize,
    pub(super) out: &'a mut [f32],
}

impl Kernel for DecodeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        row(l, self.matrix, self.row, self.out);
    }
}

/// An encoding whose elements can be loaded 16 at a time.
pub(super) trait Codec {
    /// The stored element; its default stands for zero.
    type Raw: Copy + Default;
    fn load<L: Lanes>(l: L, raw: &[Self::Raw; 16]) -> L::F;
}

/// Binary32.
pub(super) struct F32;
/// Binary16 bits.
pub(super) struct F16;
/// bfloat16 bits.
pub(super) struct Bf16;

impl Codec for F32 {
    type Raw = f32;
    #[inline(always)]
    fn load<L: Lanes>(l: L, raw: &[f32; 16]) -> L::F {
        l.load(raw)
    }
}

impl Codec for F16 {
    type Raw = u16;
    #[inline(always)]
    fn load<L: Lanes>(l: L, raw: &[u16; 16]) -> L::F {
        l.load_f16(raw)
    }
}

impl Codec for Bf16 {
    type Raw = u16;
    #[inline(always)]
    fn load<L: Lanes>(l: L, raw: &[u16; 16]) -> L::F {
        l.load_bf16(raw)
    }
}

/// Decodes row `row` into `out`, one row long.
#[inline(always)]
pub(super) fn row<L: Lanes>(l: L, matrix: &Matrix<'_>, row: usize, out: &mut [f32]) {
    let cols = matrix.cols();
    match matrix.data() {
        MatrixData::F32(w) => out.copy_from_slice(&w[row * cols..][..cols]),
        MatrixData::F16(w) => float_row::<L, F16>(l, &w[row * cols..][..cols], out),
        MatrixData::Bf16(w) => float_row::<L, Bf16>(l, &w[row * cols..][..cols], out),
        MatrixData::F8(w) => f8::row(l, &w, row, out),
        MatrixData::Coded(coded) => coded_row(&coded, matrix.rows(), row, out),
    }
}

#[inline(always)]
fn float_row<L: Lanes, C: Codec>(l: L, w: &[C::Raw], out: &mut [f32]) {
    let (w_chunks, w_tail) = w.as_chunks::<16>();
    let (out_chunks, out_tail) = out.as_chunks_mut::<16>();
    for (w, out) in w_chunks.iter().zip(out_chunks) {
        l.store(C::load(l, w), out);
    }
    let mut padded = [C::Raw::default(); 16];
    padded[..w_tail.len()].copy_from_slice(w_tail);
    l.store_at(C::load(l, &padded), out_tail, 0);
}

/// A row out of its tile: its elements lie apart, and memory sets the pace.
fn coded_row(coded: &Coded<'_>, rows: usize, row: usize, out: &mut [f32]) {
    let tile = coded.tile(rows, out.len(), row / TILE * TILE);
    let (lane, rounding) = (row % TILE, coded.coding.rounding());
    for (g, out) in out.chunks_exact_mut(rounding.group).enumerate() {
        let (scale, bias) = tile.map(lane, g);
        for (j, out) in out.iter_mut().enumerate() {
            let integer = tile.integer(lane, g * rounding.group + j) as i32 - rounding.zero;
            *out = (integer as f32).mul_add(scale, bias);
        }
    }
}
