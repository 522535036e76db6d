//! Hyper-connections: a residual of several streams, collapsed to one before a block and spread
//! again behind it, by weights that are made of the streams themselves.
//!
//! Manifold-constrained hyper-connections: the mixing weights are brought near a doubly stochastic
//! matrix by norming its columns and rows in turn (Sinkhorn and Knopp).

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes},
    math,
};

/// Elements that are worth a task.
const GRAIN: usize = 16384;

/// How a token's weights of streams are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamRule {
    /// Number of streams.
    pub streams: usize,
    /// Times that the columns of the mixing weights are normed; 0: streams are collapsed only.
    pub iterations: usize,
    /// Added to weights, and to sums that they are divided by.
    pub eps: f32,
}

impl StreamRule {
    /// Weights of a token: `[streams]` that collapse, and, unless that is all, `[streams]` that
    /// spread the block's result and `[streams, streams]` that mix, by stream before and after.
    pub fn width(&self) -> usize {
        match self.iterations {
            0 => self.streams,
            _ => self.streams.saturating_mul(self.streams.saturating_add(2)),
        }
    }

    /// Factors of the projections: one for each kind of weights.
    pub fn scales(&self) -> usize {
        if self.iterations == 0 { 1 } else { 3 }
    }
}

/// Checks the making of weights; gives the number of tokens.
pub(crate) fn check_weights(
    projected: &[f32],
    scale: &[f32],
    base: &[f32],
    rule: StreamRule,
    out: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "stream_weights";
    let n = check::rows(OP, "projected", projected.len(), rule.width())?;
    check::size(OP, "scale", rule.scales(), scale.len())?;
    check::size(OP, "base", rule.width(), base.len())?;
    check::size(OP, "out", projected.len(), out.len())?;
    Ok(n)
}

/// Checks a collapse; gives the number of tokens and the elements of a stream.
pub(crate) fn check_collapse(
    x: &[f32],
    weights: &[f32],
    rule: StreamRule,
    out: &[f32],
) -> Result<(usize, usize), KernelError> {
    const OP: &str = "collapse_streams";
    let n = check::rows(OP, "weights", weights.len(), rule.width())?;
    let dim = out.len() / n.max(1);
    check::size(OP, "out", n * dim, out.len())?;
    check::size(OP, "x", check::product(&[out.len(), rule.streams]), x.len())?;
    Ok((n, dim))
}

/// Checks a mean; gives the number of tokens.
pub(crate) fn check_mean(
    x: &[f32],
    streams: usize,
    dim: usize,
    out: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "mean_streams";
    check::positive(OP, "streams", streams)?;
    let n = check::rows(OP, "out", out.len(), dim)?;
    check::size(OP, "x", check::product(&[out.len(), streams]), x.len())?;
    Ok(n)
}

/// Checks a spread; gives the number of tokens and the elements of a stream.
pub(crate) fn check_spread(
    x: &[f32],
    block: &[f32],
    weights: &[f32],
    rule: StreamRule,
    out: &[f32],
) -> Result<(usize, usize), KernelError> {
    const OP: &str = "spread_streams";
    check::positive(OP, "iterations", rule.iterations)?;
    let n = check::rows(OP, "weights", weights.len(), rule.width())?;
    let dim = block.len() / n.max(1);
    check::size(OP, "block", n * dim, block.len())?;
    let all = check::product(&[block.len(), rule.streams]);
    check::size(OP, "x", all, x.len())?;
    check::size(OP, "out", all, out.len())?;
    Ok((n, dim))
}

impl Cpu {
    /// Weights of streams from their projections `[n, rule.width()]`, in f32 and one after another:
    /// with p = fma(projected, scale, base), those that collapse are sigmoid(p) + eps, those that
    /// spread 2 sigmoid(p); those that mix are a softmax over the streams after, plus eps, whose
    /// columns are divided by their sum plus eps, then rows and columns in turn,
    /// `rule.iterations` - 1 times. Sums go by ascending stream. `scale: [rule.scales()]`,
    /// `base: [rule.width()]`.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn stream_weights(
        &self,
        projected: &[f32],
        scale: &[f32],
        base: &[f32],
        rule: StreamRule,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check_weights(projected, scale, base, rule, out)?;
        let width = rule.width();
        let out = Disjoint::new(out);
        self.split(n, 8, &|first, end| {
            for t in first..end {
                // SAFETY: each token has one task.
                let out = unsafe { out.part(t * width, width) };
                let projected = &projected[t * width..][..width];
                for (i, out) in out.iter_mut().enumerate() {
                    let kind = (i / rule.streams).min(2);
                    *out = projected[i].mul_add(scale[kind], base[i]);
                }
                finish_weights(rule, out);
            }
        });
        Ok(())
    }

    /// The weighted sum of a token's streams: `x: [n, streams, dim]` to `[n, dim]`, by fused
    /// multiply-adds over ascending streams. `weights` are those of [`Cpu::stream_weights`] by the
    /// same rule, of which the first of each token count.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn collapse_streams(
        &self,
        x: &[f32],
        weights: &[f32],
        rule: StreamRule,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (n, dim) = check_collapse(x, weights, rule, out)?;
        let (streams, width) = (rule.streams, rule.width());
        let out = Disjoint::new(out);
        self.split(n, GRAIN / (dim * streams).max(1), &|first, end| {
            for t in first..end {
                self.backend.run(Collapse {
                    x: &x[t * streams * dim..][..streams * dim],
                    weights: &weights[t * width..][..streams],
                    // SAFETY: each token has one task.
                    out: unsafe { out.part(t * dim, dim) },
                });
            }
        });
        Ok(())
    }

    /// The mean of a token's streams: `x: [n, streams, dim]` to `[n, dim]`. They are added up in
    /// ascending order, from zero on, and the sum is divided by their number.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn mean_streams(
        &self,
        x: &[f32],
        streams: usize,
        dim: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check_mean(x, streams, dim, out)?;
        let out = Disjoint::new(out);
        self.split(n, GRAIN / (dim * streams).max(1), &|first, end| {
            for t in first..end {
                self.backend.run(Mean {
                    x: &x[t * streams * dim..][..streams * dim],
                    // SAFETY: each token has one task.
                    out: unsafe { out.part(t * dim, dim) },
                });
            }
        });
        Ok(())
    }

    /// The streams behind a block: `x: [n, streams, dim]` mixed, plus the block's result
    /// `[n, dim]`. Stream k is its spreading weight times the block's result, then fused
    /// multiply-adds of mixing weight (j, k) and stream j over ascending j.
    ///
    /// # Errors
    /// If sizes do not fit.
    pub fn spread_streams(
        &self,
        x: &[f32],
        block: &[f32],
        weights: &[f32],
        rule: StreamRule,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (n, dim) = check_spread(x, block, weights, rule, out)?;
        let (streams, width) = (rule.streams, rule.width());
        let all = streams * dim;
        let out = Disjoint::new(out);
        self.split(n, GRAIN / (all * streams).max(1), &|first, end| {
            for t in first..end {
                self.backend.run(Spread {
                    x: &x[t * all..][..all],
                    block: &block[t * dim..][..dim],
                    weights: &weights[t * width..][..width],
                    streams,
                    // SAFETY: each token has one task.
                    out: unsafe { out.part(t * all, all) },
                });
            }
        });
        Ok(())
    }
}

/// Makes weights of projections that were scaled and shifted.
fn finish_weights(rule: StreamRule, out: &mut [f32]) {
    let n = rule.streams;
    for weight in &mut out[..n] {
        *weight = math::sigmoid(*weight) + rule.eps;
    }
    if rule.iterations == 0 {
        return;
    }
    for weight in &mut out[n..2 * n] {
        *weight = 2.0 * math::sigmoid(*weight);
    }
    let mixing = &mut out[2 * n..];
    for row in mixing.chunks_exact_mut(n) {
        let greatest = row.iter().fold(row[0], |m, &x| if x > m { x } else { m });
        let mut sum = 0.0;
        for weight in row.iter_mut() {
            *weight = math::exp(*weight - greatest);
            sum += *weight;
        }
        row.iter_mut().for_each(|w| *w = *w / sum + rule.eps);
    }
    for round in 0..rule.iterations {
        for row in mixing.chunks_exact_mut(n).filter(|_| round > 0) {
            let sum = row.iter().fold(0.0, |sum, w| sum + w) + rule.eps;
            row.iter_mut().for_each(|w| *w /= sum);
        }
        for column in 0..n {
            let mut sum = 0.0;
            for row in 0..n {
                sum += mixing[row * n + column];
            }
            sum += rule.eps;
            for row in 0..n {
                mixing[row * n + column] /= sum;
            }
        }
    }
}

/// The streams of one token.
struct Collapse<'a> {
    x: &'a [f32],
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Collapse<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.out.len();
        let mut i = 0;
        while i < dim {
            let mut sum = l.zero();
            for (x, weight) in self.x.chunks_exact(dim).zip(self.weights) {
                sum = l.fma(l.splat(*weight), l.load_at(x, i), sum);
            }
            l.store_at(sum, self.out, i);
            i += 16;
        }
    }
}

/// The streams of one token.
struct Mean<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Mean<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.out.len();
        let streams = l.splat((self.x.len() / dim) as f32);
        let mut i = 0;
        while i < dim {
            let mut sum = l.zero();
            for x in self.x.chunks_exact(dim) {
                sum = l.add(sum, l.load_at(x, i));
            }
            l.store_at(l.div(sum, streams), self.out, i);
            i += 16;
        }
    }
}

/// The streams of one token.
struct Spread<'a> {
    x: &'a [f32],
    block: &'a [f32],
    weights: &'a [f32],
    streams: usize,
    out: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let (n, dim) = (self.streams, self.block.len());
        let (spreading, mixing) = self.weights[n..].split_at(n);
        for (k, out) in self.out.chunks_exact_mut(dim).enumerate() {
            let mut i = 0;
            while i < dim {
                let mut sum = l.mul(l.splat(spreading[k]), l.load_at(self.block, i));
                for (j, x) in self.x.chunks_exact(dim).enumerate() {
                    sum = l.fma(l.splat(mixing[j * n + k]), l.load_at(x, i), sum);
                }
                l.store_at(sum, out, i);
                i += 16;
            }
        }
    }
}
