//! Rotary position embedding, whole or partial.

use std::cell::RefCell;

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
    math,
};

/// Which elements of a head form the rotated pairs (rd = rotary dimensions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Pairs (i, i + rd / 2).
    HalfSplit,
    /// Pairs (2i, 2i + 1).
    Interleaved,
    /// The same in the last elements: pairs (d - rd + 2i, d - rd + 2i + 1) of d elements.
    InterleavedTail,
}

/// Checks a rotation's sizes.
pub(crate) fn check(
    x: &[f32],
    positions: &[u32],
    heads: usize,
    head_dim: usize,
    inv_freq: &[f32],
    out: &[f32],
) -> Result<(), KernelError> {
    const OP: &str = "rope";
    check::positive(OP, "heads", heads)?;
    check::positive(OP, "head_dim", head_dim)?;
    check::size(
        OP,
        "x",
        check::product(&[positions.len(), heads, head_dim]),
        x.len(),
    )?;
    check::size(OP, "out", x.len(), out.len())?;
    check::index(OP, "frequency", inv_freq.len(), head_dim / 2 + 1)
}

impl Cpu {
    /// Rotates `x: [n, heads, head_dim]` by its tokens' positions.
    ///
    /// `inv_freq: [rd / 2]`; the angle is (position as f32) * inv_freq in f32; cosine and sine are
    /// taken once a token and frequency and multiplied by `attention_scale`. A pair becomes
    /// a' = fma(a, cos, -(b * sin)), b' = fma(b, cos, a * sin); the other elements are copied.
    ///
    /// # Errors
    /// If sizes do not fit, or there are more frequencies than pairs in a head.
    pub fn rope(
        &self,
        x: &[f32],
        positions: &[u32],
        heads: usize,
        head_dim: usize,
        inv_freq: &[f32],
        attention_scale: f32,
        style: RopeStyle,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check(x, positions, heads, head_dim, inv_freq, out)?;
        let width = heads * head_dim;
        let out = Disjoint::new(out);
        self.split(positions.len(), 8192 / width, &|first, end| {
            TABLE.with_borrow_mut(|table| {
                for t in first..end {
                    self.backend.run(Rotation {
                        x: &x[t * width..][..width],
                        position: positions[t],
                        head_dim,
                        inv_freq,
                        attention_scale,
                        style,
                        table,
                        // SAFETY: each token has one task.
                        out: unsafe { out.part(t * width, width) },
                    });
                }
            });
        });
        Ok(())
    }
}

thread_local! {
    /// Sines and cosines of a token.
    static TABLE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// All heads of one token.
struct Rotation<'a> {
    x: &'a [f32],
    position: u32,
    head_dim: usize,
    inv_freq: &'a [f32],
    attention_scale: f32,
    style: RopeStyle,
    table: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl Kernel for Rotation<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let half = self.inv_freq.len();
        self.table.resize(2 * half, 0.0);
        let (sines, cosines) = self.table.split_at_mut(half);
        for i in 0..half {
            let (sin, cos) = math::sin_cos(self.position as f32 * self.inv_freq[i]);
            sines[i] = sin * self.attention_scale;
            cosines[i] = cos * self.attention_scale;
        }
        let heads = self.x.chunks_exact(self.head_dim);
        for (x, out) in heads.zip(self.out.chunks_exact_mut(self.head_dim)) {
            let first = match self.style {
                RopeStyle::InterleavedTail => self.head_dim - 2 * half,
                RopeStyle::HalfSplit | RopeStyle::Interleaved => 0,
            };
            out.copy_from_slice(x);
            let (x, out) = (&x[first..][..2 * half], &mut out[first..][..2 * half]);
            if self.style == RopeStyle::HalfSplit {
                let (a_out, b_out) = out.split_at_mut(half);
                half_split(l, x, sines, cosines, a_out, b_out);
            } else {
                interleaved(x, sines, cosines, out);
            }
        }
    }
}

#[inline(always)]
fn half_split<L: Lanes>(
    l: L,
    x: &[f32],
    sines: &[f32],
    cosines: &[f32],
    a_out: &mut [f32],
    b_out: &mut [f32],
) {
    let (a, b) = x.split_at(sines.len());
    let mut i = 0;
    while i < a.len() {
        let (a, b) = (l.load_at(a, i), l.load_at(b, i));
        let (sin, cos) = (l.load_at(sines, i), l.load_at(cosines, i));
        // -(b * sin) by a factor of -1, which is exact and keeps the sign of zeros right.
        let minus = l.mul(l.mul(b, sin), l.splat(-1.0));
        l.store_at(l.fma(a, cos, minus), a_out, i);
        l.store_at(l.fma(b, cos, l.mul(a, sin)), b_out, i);
        i += 16;
    }
}

#[inline(always)]
fn interleaved(x: &[f32], sines: &[f32], cosines: &[f32], out: &mut [f32]) {
    let pairs = x.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0);
    for ((&[a, b], out), (&sin, &cos)) in pairs.zip(sines.iter().zip(cosines)) {
        *out = [a.mul_add(cos, -(b * sin)), b.mul_add(cos, a * sin)];
    }
}
