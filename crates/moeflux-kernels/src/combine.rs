//! The weighted sum of the experts' results, token by token.

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
};

/// Checks a combination's sizes; gives the number of tokens.
pub(crate) fn check(
    rows: &[f32],
    offsets: &[u32],
    entries: &[(u32, f32)],
    d: usize,
    out: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "combine";
    let count = check::rows(OP, "rows", rows.len(), d)?;
    let n = check::rows(OP, "out", out.len(), d)?;
    check::size(OP, "offsets", n + 1, offsets.len())?;
    for pair in offsets.windows(2) {
        check::index(
            OP,
            "offset",
            pair[0] as usize,
            (pair[1] as usize).saturating_add(1),
        )?;
    }
    check::index(OP, "last offset", offsets[n] as usize, entries.len() + 1)?;
    for &(row, _) in entries {
        check::index(OP, "row", row as usize, count)?;
    }
    Ok(n)
}

impl Cpu {
    /// `out[t]` = sum of weight * `rows[row]` over the entries `offsets[t] .. offsets[t + 1]`, in
    /// that order by fused multiply-adds from 0; `rows: [assignments, d]`, `out: [n, d]`.
    ///
    /// # Errors
    /// If sizes do not fit, offsets descend or an index is out of range.
    pub fn combine(
        &self,
        rows: &[f32],
        offsets: &[u32],
        entries: &[(u32, f32)],
        d: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check(rows, offsets, entries, d, out)?;
        let out = Disjoint::new(out);
        let blocks = d.div_ceil(BLOCK);
        self.split(n * blocks, 4, &|first, end| {
            for task in first..end {
                let (t, start) = (task / blocks, task % blocks * BLOCK);
                let len = BLOCK.min(d - start);
                let entries = &entries[offsets[t] as usize..offsets[t + 1] as usize];
                // SAFETY: (token, block) pairs are disjoint parts, each with one task.
                let out = unsafe { out.part(t * d + start, len) };
                self.backend.run(Combine {
                    rows,
                    entries,
                    d,
                    start,
                    out,
                });
            }
        });
        Ok(())
    }
}

/// Elements of a token that one task sums.
const BLOCK: usize = 512;

/// A part of one token's sum.
struct Combine<'a> {
    rows: &'a [f32],
    entries: &'a [(u32, f32)],
    d: usize,
    /// First element of the part.
    start: usize,
    out: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let mut i = 0;
        while i < self.out.len() {
            let mut acc = l.zero();
            for &(row, weight) in self.entries {
                let row = &self.rows[row as usize * self.d + self.start..][..self.out.len()];
                acc = l.fma(l.splat(weight), l.load_at(row, i), acc);
            }
            l.store_at(acc, self.out, i);
            i += 16;
        }
    }
}
