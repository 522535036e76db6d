//! Root mean square norms, plain and gated.

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes, math},
};

/// Elements that are worth a task.
const GRAIN: usize = 16384;

/// Checks a norm's sizes; gives the number of rows.
pub(crate) fn check(
    op: &'static str,
    x: &[f32],
    gate: Option<&[f32]>,
    weight: &[f32],
    out: &[f32],
) -> Result<usize, KernelError> {
    let rows = check::rows(op, "x", x.len(), weight.len())?;
    if let Some(gate) = gate {
        check::size(op, "gate", x.len(), gate.len())?;
    }
    check::size(op, "out", x.len(), out.len())?;
    Ok(rows)
}

/// Checks a norm without a weight; gives the number of rows.
pub(crate) fn check_plain(x: &[f32], dim: usize, out: &[f32]) -> Result<usize, KernelError> {
    const OP: &str = "rms_normalize";
    let rows = check::rows(OP, "x", x.len(), dim)?;
    check::size(OP, "out", x.len(), out.len())?;
    Ok(rows)
}

/// Checks a norm of pieces with weights of their own; gives the number of rows.
pub(crate) fn check_pieces(
    x: &[f32],
    weight: &[f32],
    dim: usize,
    out: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "rms_norm_pieces";
    check::rows(OP, "weight", weight.len(), dim)?;
    let rows = check::rows(OP, "x", x.len(), weight.len())?;
    check::size(OP, "out", x.len(), out.len())?;
    Ok(rows)
}

impl Cpu {
    /// RMS norm of rows of `weight.len()`: (x * inv) * weight with
    /// inv = 1 / sqrt(dot(x, x) / dim + eps).
    ///
    /// # Errors
    /// If `x` is not whole rows or `out` has another length.
    pub fn rms_norm(
        &self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let rows = check("rms_norm", x, None, weight, out)?;
        self.norm(x, None, weight, eps, rows, out);
        Ok(())
    }

    /// RMS norm of rows of `dim` without a weight: x * inv.
    ///
    /// # Errors
    /// As [`Cpu::rms_norm`].
    pub fn rms_normalize(
        &self,
        x: &[f32],
        dim: usize,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let rows = check_plain(x, dim, out)?;
        let out = Disjoint::new(out);
        self.split(rows, GRAIN / dim, &|first, end| {
            let (at, len) = (first * dim, (end - first) * dim);
            self.backend.run(Plain {
                x: &x[at..at + len],
                dim,
                eps,
                // SAFETY: ranges of rows are disjoint between tasks.
                out: unsafe { out.part(at, len) },
            });
        });
        Ok(())
    }

    /// RMS norm of each piece of `dim` by itself, where the pieces of a row have weights of their
    /// own: as [`Cpu::rms_norm`], with `weight: [pieces, dim]`.
    ///
    /// # Errors
    /// If `weight` is not whole pieces, `x` is not whole rows or `out` has another length.
    pub fn rms_norm_pieces(
        &self,
        x: &[f32],
        weight: &[f32],
        dim: usize,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let rows = check_pieces(x, weight, dim, out)?;
        let width = weight.len();
        let out = Disjoint::new(out);
        self.split(rows, GRAIN / width, &|first, end| {
            for at in (first * width..end * width).step_by(dim) {
                let place = at % width;
                self.backend.run(Norm {
                    x: &x[at..at + dim],
                    gate: None,
                    weight: &weight[place..place + dim],
                    eps,
                    // SAFETY: ranges of rows are disjoint between tasks.
                    out: unsafe { out.part(at, dim) },
                });
            }
        });
        Ok(())
    }

    /// RMS norm with an output gate: ((x * inv) * weight) * silu(gate); `gate` is shaped as `x`.
    ///
    /// # Errors
    /// If `x` is not whole rows or `gate` or `out` has another length.
    pub fn rms_norm_gated(
        &self,
        x: &[f32],
        gate: &[f32],
        weight: &[f32],
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let rows = check("rms_norm_gated", x, Some(gate), weight, out)?;
        self.norm(x, Some(gate), weight, eps, rows, out);
        Ok(())
    }

    fn norm(
        &self,
        x: &[f32],
        gate: Option<&[f32]>,
        weight: &[f32],
        eps: f32,
        rows: usize,
        out: &mut [f32],
    ) {
        let dim = weight.len();
        let out = Disjoint::new(out);
        self.split(rows, GRAIN / dim, &|first, end| {
            let (at, len) = (first * dim, (end - first) * dim);
            self.backend.run(Norm {
                x: &x[at..at + len],
                gate: gate.map(|gate| &gate[at..at + len]),
                weight,
                eps,
                // SAFETY: ranges of rows are disjoint between tasks.
                out: unsafe { out.part(at, len) },
            });
        });
    }
}

/// Some rows.
struct Norm<'a> {
    x: &'a [f32],
    gate: Option<&'a [f32]>,
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.weight.len();
        for (row, x) in self.x.chunks_exact(dim).enumerate() {
            let out = &mut self.out[row * dim..][..dim];
            let inv = l.splat(1.0 / (l.dot16(x, x) / dim as f32 + self.eps).sqrt());
            let mut i = 0;
            while i < dim {
                let y = l.mul(l.mul(l.load_at(x, i), inv), l.load_at(self.weight, i));
                let y = match self.gate {
                    Some(gate) => l.mul(y, math::silu(l, l.load_at(&gate[row * dim..][..dim], i))),
                    None => y,
                };
                l.store_at(y, out, i);
                i += 16;
            }
        }
    }
}

/// Some rows, without a weight.
struct Plain<'a> {
    x: &'a [f32],
    dim: usize,
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Plain<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.dim;
        let rows = self.x.chunks_exact(dim);
        for (x, out) in rows.zip(self.out.chunks_exact_mut(dim)) {
            let inv = l.splat(1.0 / (l.dot16(x, x) / dim as f32 + self.eps).sqrt());
            let mut i = 0;
            while i < dim {
                l.store_at(l.mul(l.load_at(x, i), inv), out, i);
                i += 16;
            }
        }
    }
}
