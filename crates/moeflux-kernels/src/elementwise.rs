//! Element by element: gated activations, sums, and the split of interleaved halves.

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes, math},
};

/// Elements that are worth a task.
const GRAIN: usize = 16384;

/// Checks that two operands have the length of `out`.
pub(crate) fn check_pair(
    op: &'static str,
    a: (&'static str, &[f32]),
    b: (&'static str, &[f32]),
    out: &[f32],
) -> Result<(), KernelError> {
    check::size(op, a.0, out.len(), a.1.len())?;
    check::size(op, b.0, out.len(), b.1.len())
}

/// Checks `scale_by_sigmoid`; gives the width of a row.
pub(crate) fn check_scale(x: &[f32], gate: &[f32], out: &[f32]) -> Result<usize, KernelError> {
    const OP: &str = "scale_by_sigmoid";
    check::size(OP, "out", x.len(), out.len())?;
    if x.is_empty() && gate.is_empty() {
        return Ok(1);
    }
    check::rows(OP, "x", x.len(), gate.len())
}

/// Checks `split_pairs`; gives the number of tokens.
pub(crate) fn check_split(
    x: &[f32],
    heads: usize,
    dim: usize,
    first: &[f32],
    second: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "split_pairs";
    check::positive(OP, "heads", heads)?;
    let n = check::rows(OP, "x", x.len(), check::product(&[heads, 2, dim]))?;
    check::size(OP, "first", x.len() / 2, first.len())?;
    check::size(OP, "second", x.len() / 2, second.len())?;
    Ok(n)
}

impl Cpu {
    /// silu(gate) * up.
    ///
    /// # Errors
    /// If lengths differ.
    pub fn swiglu(&self, gate: &[f32], up: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        check_pair("swiglu", ("gate", gate), ("up", up), out)?;
        self.pairs(Function::SiluMul, gate, up, out);
        Ok(())
    }

    /// x * sigmoid(gate).
    ///
    /// # Errors
    /// If lengths differ.
    pub fn sigmoid_mul(&self, x: &[f32], gate: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        check_pair("sigmoid_mul", ("x", x), ("gate", gate), out)?;
        self.pairs(Function::MulSigmoid, x, gate, out);
        Ok(())
    }

    /// Row t of `x: [n, d]` times sigmoid(`gate[t]`), `gate: [n]`.
    ///
    /// # Errors
    /// If `x` does not consist of one row a gate, or `out` has another length.
    pub fn scale_by_sigmoid(
        &self,
        x: &[f32],
        gate: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let d = check_scale(x, gate, out)?;
        let out = Disjoint::new(out);
        self.split(gate.len(), GRAIN / d, &|first, end| {
            let (at, len) = (first * d, (end - first) * d);
            // SAFETY: ranges of rows are disjoint between tasks.
            let out = unsafe { out.part(at, len) };
            self.backend.run(Scale {
                x: &x[at..at + len],
                gate: &gate[first..end],
                out,
            });
        });
        Ok(())
    }

    /// a + b.
    ///
    /// # Errors
    /// If lengths differ.
    pub fn add(&self, a: &[f32], b: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        check_pair("add", ("a", a), ("b", b), out)?;
        self.pairs(Function::Add, a, b, out);
        Ok(())
    }

    /// Splits `x: [n, heads, 2, dim]` into `first` and `second`, each `[n, heads, dim]`.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn split_pairs(
        &self,
        x: &[f32],
        heads: usize,
        dim: usize,
        first: &mut [f32],
        second: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check_split(x, heads, dim, first, second)?;
        let (firsts, seconds) = (Disjoint::new(first), Disjoint::new(second));
        self.split(n * heads, GRAIN / dim, &|first, end| {
            let (at, len) = (first * dim, (end - first) * dim);
            // SAFETY: ranges of heads are disjoint between tasks.
            let (first, second) = unsafe { (firsts.part(at, len), seconds.part(at, len)) };
            let halves = first
                .chunks_exact_mut(dim)
                .zip(second.chunks_exact_mut(dim));
            for (x, (first, second)) in x[at * 2..].chunks_exact(dim * 2).zip(halves) {
                first.copy_from_slice(&x[..dim]);
                second.copy_from_slice(&x[dim..]);
            }
        });
        Ok(())
    }

    fn pairs(&self, function: Function, a: &[f32], b: &[f32], out: &mut [f32]) {
        let len = out.len();
        let out = Disjoint::new(out);
        self.split(len, GRAIN, &|first, end| {
            // SAFETY: ranges are disjoint between tasks.
            let out = unsafe { out.part(first, end - first) };
            self.backend.run(Pairs {
                function,
                a: &a[first..end],
                b: &b[first..end],
                out,
            });
        });
    }
}

/// A function of two elements.
#[derive(Clone, Copy)]
enum Function {
    SiluMul,
    MulSigmoid,
    Add,
}

/// A function element by element.
struct Pairs<'a> {
    function: Function,
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Pairs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let mut i = 0;
        while i < self.out.len() {
            let (a, b) = (l.load_at(self.a, i), l.load_at(self.b, i));
            let y = match self.function {
                Function::SiluMul => l.mul(math::silu(l, a), b),
                Function::MulSigmoid => l.mul(a, math::sigmoid(l, b)),
                Function::Add => l.add(a, b),
            };
            l.store_at(y, self.out, i);
            i += 16;
        }
    }
}

/// Some rows, each times the sigmoid of its gate.
struct Scale<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Some(d) = self.x.len().checked_div(self.gate.len()) else {
            return;
        };
        for (row, gate) in self.gate.iter().enumerate() {
            let factor = math::sigmoid(l, l.splat(*gate));
            let (x, out) = (&self.x[row * d..][..d], &mut self.out[row * d..][..d]);
            let mut i = 0;
            while i < d {
                l.store_at(l.mul(l.load_at(x, i), factor), out, i);
                i += 16;
            }
        }
    }
}
