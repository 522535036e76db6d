//! Hyper-connections by gates: a residual of several streams, of which a block reads the mean of
//! gated streams and to each of which its result is added by a weight.

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes, math},
    math as scalar_math,
};

/// Elements that are worth a task.
const GRAIN: usize = 16384;
/// A gate's root is taken of no less.
pub(crate) const LEAST_ROOT: f32 = 1e-6;

/// Checks `scaled_silu`.
pub(crate) fn check_silu(x: &[f32], out: &[f32]) -> Result<(), KernelError> {
    check::size("scaled_silu", "out", x.len(), out.len())
}

/// Checks a mix; gives the number of tokens.
pub(crate) fn check_mix(
    x: &[f32],
    gates: &[f32],
    (streams, dim): (usize, usize),
    out: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "mix_streams";
    check::positive(OP, "streams", streams)?;
    let n = check::rows(OP, "out", out.len(), dim)?;
    check::size(OP, "x", check::product(&[out.len(), streams]), x.len())?;
    check::size(OP, "gates", x.len(), gates.len())?;
    Ok(n)
}

/// Checks an injection; gives the number of tokens and the elements of a stream.
pub(crate) fn check_inject(
    x: &[f32],
    block: &[f32],
    weights: &[f32],
    streams: usize,
    out: &[f32],
) -> Result<(usize, usize), KernelError> {
    const OP: &str = "inject_streams";
    let n = check::rows(OP, "weights", weights.len(), streams)?;
    let dim = block.len() / n.max(1);
    check::size(OP, "block", n * dim, block.len())?;
    let all = check::product(&[block.len(), streams]);
    check::size(OP, "x", all, x.len())?;
    check::size(OP, "out", all, out.len())?;
    Ok((n, dim))
}

/// Checks gates of streams; gives the number of tokens.
pub(crate) fn check_gate(
    keys: &[f32],
    queries: &[f32],
    values: &[f32],
    (streams, dim): (usize, usize),
    out: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "gate_streams";
    check::positive(OP, "streams", streams)?;
    let n = check::rows(OP, "values", values.len(), dim)?;
    let all = check::product(&[values.len(), streams]);
    check::size(OP, "keys", all, keys.len())?;
    check::size(OP, "queries", all, queries.len())?;
    check::size(OP, "out", all, out.len())?;
    Ok(n)
}

impl Cpu {
    /// silu(x / divisor).
    ///
    /// # Errors
    /// If lengths differ.
    pub fn scaled_silu(&self, x: &[f32], divisor: f32, out: &mut [f32]) -> Result<(), KernelError> {
        check_silu(x, out)?;
        let len = out.len();
        let out = Disjoint::new(out);
        self.split(len, GRAIN, &|first, end| {
            self.backend.run(Silu {
                x: &x[first..end],
                divisor,
                // SAFETY: ranges are disjoint between tasks.
                out: unsafe { out.part(first, end - first) },
            });
        });
        Ok(())
    }

    /// The mean of a token's gated streams: `x` and `gates: [n, streams, dim]` to `[n, dim]`. By
    /// fused multiply-adds of sigmoid(gate) and stream over ascending streams, divided by their
    /// number.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn mix_streams(
        &self,
        x: &[f32],
        gates: &[f32],
        (streams, dim): (usize, usize),
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check_mix(x, gates, (streams, dim), out)?;
        let all = streams * dim;
        let out = Disjoint::new(out);
        self.split(n, GRAIN / all, &|first, end| {
            for t in first..end {
                self.backend.run(Mix {
                    x: &x[t * all..][..all],
                    gates: &gates[t * all..][..all],
                    // SAFETY: each token has one task.
                    out: unsafe { out.part(t * dim, dim) },
                });
            }
        });
        Ok(())
    }

    /// The streams `x: [n, streams, dim]` with a block's result `[n, dim]` added to each: stream k
    /// is fma(2 sigmoid(weight k / streams), result, stream k), `weights: [n, streams]`.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn inject_streams(
        &self,
        x: &[f32],
        block: &[f32],
        weights: &[f32],
        streams: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (n, dim) = check_inject(x, block, weights, streams, out)?;
        let all = streams * dim;
        let out = Disjoint::new(out);
        self.split(n, GRAIN / all.max(1), &|first, end| {
            for t in first..end {
                self.backend.run(Inject {
                    x: &x[t * all..][..all],
                    block: &block[t * dim..][..dim],
                    weights: &weights[t * streams..][..streams],
                    // SAFETY: each token has one task.
                    out: unsafe { out.part(t * all, all) },
                });
            }
        });
        Ok(())
    }

    /// One value for all streams, gated by how each stream's query meets its key: `keys` and
    /// `queries: [n, streams, dim]`, `values: [n, dim]` to `[n, streams, dim]`. With d the dot
    /// product of both in 16 lanes, divided by sqrt(dim), the gate is the sigmoid of
    /// sqrt(max(|d|, 1e-6)) with the sign of d (of 0: 0).
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn gate_streams(
        &self,
        keys: &[f32],
        queries: &[f32],
        values: &[f32],
        (streams, dim): (usize, usize),
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check_gate(keys, queries, values, (streams, dim), out)?;
        let all = streams * dim;
        let out = Disjoint::new(out);
        self.split(n, GRAIN / all, &|first, end| {
            for t in first..end {
                self.backend.run(Gate {
                    keys: &keys[t * all..][..all],
                    queries: &queries[t * all..][..all],
                    values: &values[t * dim..][..dim],
                    // SAFETY: each token has one task.
                    out: unsafe { out.part(t * all, all) },
                });
            }
        });
        Ok(())
    }
}

struct Silu<'a> {
    x: &'a [f32],
    divisor: f32,
    out: &'a mut [f32],
}

impl Kernel for Silu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let divisor = l.splat(self.divisor);
        let mut i = 0;
        while i < self.out.len() {
            let x = l.div(l.load_at(self.x, i), divisor);
            l.store_at(math::silu(l, x), self.out, i);
            i += 16;
        }
    }
}

/// The streams of one token.
struct Mix<'a> {
    x: &'a [f32],
    gates: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.out.len();
        let streams = l.splat((self.x.len() / dim) as f32);
        let mut i = 0;
        while i < dim {
            let mut sum = l.zero();
            let pairs = self.x.chunks_exact(dim).zip(self.gates.chunks_exact(dim));
            for (x, gates) in pairs {
                let gate = math::sigmoid(l, l.load_at(gates, i));
                sum = l.fma(gate, l.load_at(x, i), sum);
            }
            l.store_at(l.div(sum, streams), self.out, i);
            i += 16;
        }
    }
}

/// The streams of one token.
struct Inject<'a> {
    x: &'a [f32],
    block: &'a [f32],
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Inject<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (dim, streams) = (self.block.len(), self.weights.len() as f32);
        for (k, weight) in self.weights.iter().enumerate() {
            let weight = l.splat(2.0 * scalar_math::sigmoid(*weight / streams));
            let (x, out) = (&self.x[k * dim..][..dim], &mut self.out[k * dim..][..dim]);
            let mut i = 0;
            while i < dim {
                let sum = l.fma(weight, l.load_at(self.block, i), l.load_at(x, i));
                l.store_at(sum, out, i);
                i += 16;
            }
        }
    }
}

/// The streams of one token.
struct Gate<'a> {
    keys: &'a [f32],
    queries: &'a [f32],
    values: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.values.len();
        let root = (dim as f32).sqrt();
        for (k, out) in self.out.chunks_exact_mut(dim).enumerate() {
            let (key, query) = (
                &self.keys[k * dim..][..dim],
                &self.queries[k * dim..][..dim],
            );
            let gate = l.splat(gate_of(l.dot16(key, query) / root));
            let mut i = 0;
            while i < dim {
                l.store_at(l.mul(gate, l.load_at(self.values, i)), out, i);
                i += 16;
            }
        }
    }
}

/// The sigmoid of a root that keeps its sign.
#[inline(always)]
fn gate_of(dot: f32) -> f32 {
    let size = dot.abs();
    let root = if size > LEAST_ROOT { size } else { LEAST_ROOT }.sqrt();
    let signed = if dot > 0.0 {
        root
    } else if dot < 0.0 {
        0.0 - root
    } else {
        // Zero, or not a number.
        dot
    };
    scalar_math::sigmoid(signed)
}
