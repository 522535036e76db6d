//! Causal depthwise convolution over time, followed by silu.

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes, math},
};

/// The tokens of one timeline in a batch.
pub struct ConvSpan<'a> {
    /// Inputs, `[n, channels]`, n >= 1.
    pub x: &'a [f32],
    /// The inputs before these, `[kernel - 1, channels]`, oldest first.
    pub state: &'a [f32],
    /// The state after these, shaped as `state`.
    pub next_state: &'a mut [f32],
    /// Results, shaped as `x`.
    pub out: &'a mut [f32],
}

/// Checks all spans; gives the number of taps.
pub(crate) fn check(
    spans: &[ConvSpan<'_>],
    weight: &[f32],
    channels: usize,
) -> Result<usize, KernelError> {
    const OP: &str = "conv1d_silu";
    let kernel = check::rows(OP, "weight", weight.len(), channels)?;
    check::positive(OP, "taps", kernel)?;
    for span in spans {
        check::multiple(OP, "x", span.x.len(), channels)?;
        check::size(OP, "state", weight.len() - channels, span.state.len())?;
        check::size(OP, "next_state", span.state.len(), span.next_state.len())?;
        check::size(OP, "out", span.x.len(), span.out.len())?;
    }
    Ok(kernel)
}

impl Cpu {
    /// `out[t]` = silu(sum over taps of weight * input), one fused multiply-add a tap from the
    /// oldest to the newest; `weight: [kernel, channels]`, oldest tap first.
    ///
    /// # Errors
    /// If sizes do not fit or a span is empty.
    pub fn conv1d_silu(
        &self,
        spans: &mut [ConvSpan<'_>],
        weight: &[f32],
        channels: usize,
    ) -> Result<(), KernelError> {
        let kernel = check(spans, weight, channels)?;
        let blocks = channels.div_ceil(BLOCK);
        let spans: Vec<_> = spans
            .iter_mut()
            .map(|span| {
                let outputs = (Disjoint::new(span.next_state), Disjoint::new(span.out));
                (span.x, span.state, outputs)
            })
            .collect();
        self.split(spans.len() * blocks, 1, &|first, end| {
            for task in first..end {
                let (x, state, (next_state, out)) = &spans[task / blocks];
                let start = task % blocks * BLOCK;
                self.backend.run(Channels {
                    x,
                    state,
                    next_state,
                    out,
                    weight,
                    kernel,
                    channels,
                    start,
                    width: BLOCK.min(channels - start),
                });
            }
        });
        Ok(())
    }
}

/// Channels of a task.
const BLOCK: usize = 1024;

/// Some channels of one span; only their columns of the outputs are touched.
struct Channels<'a> {
    x: &'a [f32],
    state: &'a [f32],
    next_state: &'a Disjoint<'a, f32>,
    out: &'a Disjoint<'a, f32>,
    weight: &'a [f32],
    kernel: usize,
    channels: usize,
    /// First channel.
    start: usize,
    width: usize,
}

impl Channels<'_> {
    /// These channels of the input at time t, counted from the oldest state.
    #[inline(always)]
    fn input(&self, t: usize) -> &[f32] {
        let history = self.kernel - 1;
        let row = if t < history {
            &self.state[t * self.channels..]
        } else {
            &self.x[(t - history) * self.channels..]
        };
        &row[self.start..][..self.width]
    }
}

impl Kernel for Channels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let n = self.x.len() / self.channels;
        for t in 0..n {
            // SAFETY: these channels belong to this task.
            let out = unsafe { self.out.part(t * self.channels + self.start, self.width) };
            let mut i = 0;
            while i < self.width {
                let mut acc = l.zero();
                for tap in 0..self.kernel {
                    let weight = &self.weight[tap * self.channels + self.start..][..self.width];
                    acc = l.fma(l.load_at(weight, i), l.load_at(self.input(t + tap), i), acc);
                }
                l.store_at(math::silu(l, acc), out, i);
                i += 16;
            }
        }
        for t in 0..self.kernel - 1 {
            let at = t * self.channels + self.start;
            // SAFETY: as above.
            unsafe { self.next_state.part(at, self.width) }.copy_from_slice(self.input(n + t));
        }
    }
}
