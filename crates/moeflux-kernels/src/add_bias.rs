//! A vector added to every row.

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
};

/// Elements that are worth a task.
const GRAIN: usize = 16384;

/// Checks sizes; gives the number of rows.
pub(crate) fn check(x: &[f32], bias: &[f32], out: &[f32]) -> Result<usize, KernelError> {
    const OP: &str = "add_bias";
    check::size(OP, "out", x.len(), out.len())?;
    check::rows(OP, "x", x.len(), bias.len())
}

/// Checks sizes; gives the number of rows.
pub(crate) fn check_in_place(x: &[f32], bias: &[f32]) -> Result<usize, KernelError> {
    check::rows("add_to_rows", "x", x.len(), bias.len())
}

impl Cpu {
    /// Adds `bias: [d]` to each row of `x: [n, d]`.
    ///
    /// # Errors
    /// If `x` does not consist of rows as long as `bias`.
    pub fn add_to_rows(&self, x: &mut [f32], bias: &[f32]) -> Result<(), KernelError> {
        let (n, d) = (check_in_place(x, bias)?, bias.len());
        let x = Disjoint::new(x);
        self.split(n, GRAIN / d, &|first, end| {
            // SAFETY: ranges of rows are disjoint between tasks.
            let x = unsafe { x.part(first * d, (end - first) * d) };
            self.backend.run(InPlace { x, bias });
        });
        Ok(())
    }

    /// Each row of `x: [n, d]` plus `bias: [d]`.
    ///
    /// # Errors
    /// If `x` does not consist of rows as long as `bias`, or `out` has another length.
    pub fn add_bias(&self, x: &[f32], bias: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        let (n, d) = (check(x, bias, out)?, bias.len());
        let out = Disjoint::new(out);
        self.split(n, GRAIN / d, &|first, end| {
            let (at, len) = (first * d, (end - first) * d);
            // SAFETY: ranges of rows are disjoint between tasks.
            let out = unsafe { out.part(at, len) };
            let x = &x[at..at + len];
            self.backend.run(Rows { x, bias, out });
        });
        Ok(())
    }
}

struct InPlace<'a> {
    x: &'a mut [f32],
    bias: &'a [f32],
}

impl Kernel for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let d = self.bias.len();
        for x in self.x.chunks_exact_mut(d) {
            let mut i = 0;
            while i < d {
                l.store_at(l.add(l.load_at(x, i), l.load_at(self.bias, i)), x, i);
                i += 16;
            }
        }
    }
}

struct Rows<'a> {
    x: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let d = self.bias.len();
        for (x, out) in self.x.chunks_exact(d).zip(self.out.chunks_exact_mut(d)) {
            let mut i = 0;
            while i < d {
                l.store_at(l.add(l.load_at(x, i), l.load_at(self.bias, i)), out, i);
                i += 16;
            }
        }
    }
}
