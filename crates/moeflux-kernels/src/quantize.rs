//! Activations as 8-bit integers with one scale a token and group.

use crate::{
    Cpu, KernelError, Rounding, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
};

/// Quantized activations of `n` tokens: x is about scale * value. Buffers are kept between calls.
///
/// Per token and group: scale = absmax / 127; value = x / scale rounded half to even, within
/// [-127, 127]; sum = scale * (sum of the values). A group whose scale is zero has zero values; a
/// group with an infinity or NaN has the scale NaN and zero values.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    pub(crate) n: usize,
    pub(crate) cols: usize,
    pub(crate) rounding: Rounding,
    pub(crate) values: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) sums: Vec<f32>,
    /// What the zero of the weights' integers adds to a group's dot product, negated.
    pub(crate) offsets: Vec<i32>,
}

impl Default for Quantized {
    fn default() -> Self {
        Quantized {
            n: 0,
            cols: 0,
            rounding: Rounding { group: 32, zero: 0 },
            values: Vec::new(),
            scales: Vec::new(),
            sums: Vec::new(),
            offsets: Vec::new(),
        }
    }
}

impl Quantized {
    /// Number of tokens.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Activations of a token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How it was rounded.
    pub fn rounding(&self) -> Rounding {
        self.rounding
    }

    /// The integers, `[n, cols]`.
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// The scales, `[n, cols / group]`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Scale times the sum of the integers, `[n, cols / group]`.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// Sizes the buffers for `x: [n, cols]`.
    pub(crate) fn resize(
        &mut self,
        x: &[f32],
        n: usize,
        cols: usize,
        rounding: Rounding,
    ) -> Result<(), KernelError> {
        const OP: &str = "quantize";
        let group = rounding.group;
        if !matches!(group, 16 | 32 | 64 | 128) {
            return Err(KernelError::Group { group });
        }
        check::multiple(OP, "cols", cols, group)?;
        check::size(OP, "x", check::product(&[n, cols]), x.len())?;
        (self.n, self.cols, self.rounding) = (n, cols, rounding);
        self.values.resize(x.len(), 0);
        self.offsets.resize(x.len() / group, 0);
        self.scales.resize(x.len() / group, 0.0);
        self.sums.resize(x.len() / group, 0.0);
        Ok(())
    }

    /// Replaces the contents by `x: [n, cols]` rounded in groups of 16, 32, 64 or 128.
    ///
    /// # Errors
    /// If the group is not supported, does not divide `cols`, or `x` has another length.
    pub fn quantize(
        &mut self,
        cpu: &Cpu,
        x: &[f32],
        n: usize,
        cols: usize,
        rounding: Rounding,
    ) -> Result<(), KernelError> {
        self.resize(x, n, cols, rounding)?;
        let group = rounding.group;
        let values = Disjoint::new(&mut self.values);
        let offsets = Disjoint::new(&mut self.offsets);
        let scales = Disjoint::new(&mut self.scales);
        let sums = Disjoint::new(&mut self.sums);
        cpu.split(x.len() / group, 16384 / group, &|first, end| {
            let (at, len) = (first * group, (end - first) * group);
            // SAFETY: ranges of groups are disjoint between tasks.
            let values = unsafe { values.part(at, len) };
            let len = end - first;
            // SAFETY: as above.
            let (scales, sums) = unsafe { (scales.part(first, len), sums.part(first, len)) };
            // SAFETY: as above.
            let offsets = unsafe { offsets.part(first, len) };
            let x = &x[at..at + values.len()];
            cpu.backend.run(Groups {
                x,
                rounding,
                values,
                scales,
                sums,
                offsets,
            });
        });
        Ok(())
    }
}

/// Some groups and where their results go.
struct Groups<'a> {
    x: &'a [f32],
    rounding: Rounding,
    values: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
    offsets: &'a mut [i32],
}

impl Kernel for Groups<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Rounding { group, zero } = self.rounding;
        for (g, x) in self.x.chunks_exact(group).enumerate() {
            let values = &mut self.values[g * group..][..group];
            let (scale, sum) = quantize_group(l, x, values);
            (self.scales[g], self.sums[g]) = (scale, scale * sum as f32);
            self.offsets[g] = -zero * sum;
        }
    }
}

/// Rounds one group; gives its scale and the sum of its integers.
#[inline(always)]
fn quantize_group<L: Lanes>(l: L, x: &[f32], values: &mut [i8]) -> (f32, i32) {
    let (chunks, _) = x.as_chunks::<16>();
    // 0 * x is NaN for infinities and NaN, which the maximum passes over.
    let (mut absmax, mut probe) = (l.zero(), l.zero());
    for chunk in chunks {
        let x = l.load(chunk);
        let negated = l.sub(l.zero(), x);
        let abs = l.if_greater(x, negated, x, negated);
        absmax = l.if_greater(abs, absmax, abs, absmax);
        probe = l.fma(x, l.zero(), probe);
    }
    let mut lanes = [0.0; 16];
    l.store(absmax, &mut lanes);
    let scale = if l.tree(probe).is_nan() {
        f32::NAN
    } else {
        l.max(&lanes) / 127.0
    };
    if scale.is_nan() || scale == 0.0 {
        values.fill(0);
        return (scale, 0);
    }
    let (most, least, divisor) = (l.splat(127.0), l.splat(-127.0), l.splat(scale));
    let mut sums = l.splat_i(0);
    let (values, _) = values.as_chunks_mut::<16>();
    for (chunk, values) in chunks.iter().zip(values) {
        let q = l.round(l.div(l.load(chunk), divisor));
        let q = l.if_greater(q, most, most, q);
        let q = l.to_int(l.if_greater(least, q, least, q));
        sums = l.add_i(sums, q);
        l.store_i8(q, values);
    }
    let mut lanes = [0; 16];
    l.store_i(sums, &mut lanes);
    let sum = lanes.iter().sum();
    (scale, sum)
}
