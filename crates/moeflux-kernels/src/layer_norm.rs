//! Layer norm: rows without their mean, in unit size, with a weight and a bias.

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
};

/// Elements that are worth a task.
const GRAIN: usize = 16384;

/// Checks sizes; gives the number of rows.
pub(crate) fn check(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    out: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "layer_norm";
    check::size(OP, "bias", weight.len(), bias.len())?;
    check::size(OP, "out", x.len(), out.len())?;
    check::rows(OP, "x", x.len(), weight.len())
}

impl Cpu {
    /// Layer norm of rows of `weight.len()`: fma(c * inv, weight, bias) with
    /// c = x - sum(x) / dim and inv = 1 / sqrt(dot(c, c) / dim + eps).
    ///
    /// # Errors
    /// If `x` is not whole rows, or `bias` or `out` has another length.
    pub fn layer_norm(
        &self,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (rows, dim) = (check(x, weight, bias, out)?, weight.len());
        let out = Disjoint::new(out);
        self.split(rows, GRAIN / dim, &|first, end| {
            let (at, len) = (first * dim, (end - first) * dim);
            self.backend.run(Rows {
                x: &x[at..at + len],
                weight,
                bias,
                eps,
                // SAFETY: ranges of rows are disjoint between tasks.
                out: unsafe { out.part(at, len) },
            });
        });
        Ok(())
    }
}

/// Some rows.
struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.weight.len();
        let rows = self.x.chunks_exact(dim);
        for (x, out) in rows.zip(self.out.chunks_exact_mut(dim)) {
            let mean = l.splat(l.sum16(x) / dim as f32);
            let mut i = 0;
            while i < dim {
                l.store_at(l.sub(l.load_at(x, i), mean), out, i);
                i += 16;
            }
            let inv = l.splat(1.0 / (l.dot16(out, out) / dim as f32 + self.eps).sqrt());
            let mut i = 0;
            while i < dim {
                let y = l.mul(l.load_at(out, i), inv);
                let y = l.fma(y, l.load_at(self.weight, i), l.load_at(self.bias, i));
                l.store_at(y, out, i);
                i += 16;
            }
        }
    }
}
