//! The gated activations between an MLP's projections.

use crate::{
    Cpu, KernelError,
    disjoint::Disjoint,
    elementwise::check_pair,
    lanes::{Kernel, Lanes, math},
};

/// Elements that are worth a task.
const GRAIN: usize = 16384;

/// What becomes of the results of an MLP's gate and up projections.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Glu {
    /// silu(gate) * up.
    #[default]
    Silu,
    /// (up + `offset`) * gate * sigmoid(`alpha` * gate), with gate at most `limit` and up within
    /// -`limit` ..= `limit`.
    Clamped {
        /// Bound of both.
        limit: f32,
        /// Sharpness of the gate.
        alpha: f32,
        /// Added to up.
        offset: f32,
    },
}

impl Cpu {
    /// The activation, element by element.
    ///
    /// # Errors
    /// If lengths differ.
    pub fn glu(
        &self,
        gate: &[f32],
        up: &[f32],
        rule: Glu,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let Glu::Clamped {
            limit,
            alpha,
            offset,
        } = rule
        else {
            return self.swiglu(gate, up, out);
        };
        check_pair("glu", ("gate", gate), ("up", up), out)?;
        let len = out.len();
        let out = Disjoint::new(out);
        self.split(len, GRAIN, &|first, end| {
            // SAFETY: ranges are disjoint between tasks.
            let out = unsafe { out.part(first, end - first) };
            self.backend.run(Clamped {
                gate: &gate[first..end],
                up: &up[first..end],
                limit,
                alpha,
                offset,
                out,
            });
        });
        Ok(())
    }
}

struct Clamped<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    limit: f32,
    alpha: f32,
    offset: f32,
    out: &'a mut [f32],
}

impl Kernel for Clamped<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (most, least) = (l.splat(self.limit), l.splat(-self.limit));
        let (alpha, offset) = (l.splat(self.alpha), l.splat(self.offset));
        let mut i = 0;
        while i < self.out.len() {
            let (gate, up) = (l.load_at(self.gate, i), l.load_at(self.up, i));
            let gate = l.if_greater(gate, most, most, gate);
            let up = l.if_greater(up, most, most, up);
            let up = l.if_greater(least, up, least, up);
            let gated = l.mul(gate, math::sigmoid(l, l.mul(alpha, gate)));
            l.store_at(l.mul(l.add(up, offset), gated), self.out, i);
            i += 16;
        }
    }
}
