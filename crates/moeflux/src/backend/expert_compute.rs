//! Computes batches of experts whose bytes are in memory, for all their tokens.

use moeflux_experts::Ready;
use moeflux_kernels::{Glu, MatmulJob, Matrix, Quantized, Rounding};

use super::buckets::{Buckets, RoutedTokens};
use super::kernel_set::KernelSet;
use crate::Error;
use crate::graph::ExpertForm;
use crate::weights::{ExpertLayout, Weights};

/// What a layer's experts need beside their bytes; kept to avoid allocation.
#[derive(Default)]
pub(super) struct Scratch {
    pub quantized_x: Quantized,
    quantized_act: Quantized,
    gate: Vec<f32>,
    up: Vec<f32>,
    act: Vec<f32>,
    /// `[assignments, hidden]`.
    pub results: Vec<f32>,
}

impl Scratch {
    /// The inputs of down of the last batch, by expert and token; more may follow.
    pub(super) fn inner(&self) -> &[f32] {
        &self.act
    }
}

impl ExpertLayout {
    /// How the inputs of gate and up, and of down, are rounded where the weights are coded.
    pub(super) fn roundings(&self) -> Roundings {
        let input = match (self.gate.rounding(), self.up.rounding()) {
            (Some(gate), Some(up)) if gate != up => None,
            (gate, up) => gate.or(up),
        };
        Roundings {
            input,
            act: self.down.rounding(),
        }
    }
}

/// How inputs are rounded to 8 bits; `None`: they stay f32.
#[derive(Clone, Copy, Default)]
pub(super) struct Roundings {
    /// The input of gate and up.
    pub input: Option<Rounding>,
    /// The input of down.
    act: Option<Rounding>,
}

/// What a layer's experts compute beside the products with their matrices.
#[derive(Clone, Copy, Default)]
pub struct Extras<'a> {
    glu: Glu,
    /// Of gate, up and down, `[experts, rows]` each.
    biases: Option<[&'a [f32]; 3]>,
}

impl<'a> Extras<'a> {
    /// Looks the weights up.
    ///
    /// # Errors
    /// [`Error::Internal`] if one is not a vector.
    pub(super) fn new(form: &ExpertForm, resident: &'a Weights) -> Result<Extras<'a>, Error> {
        let biases = match form.biases {
            Some([gate, up, down]) => Some([
                resident.vector(gate)?,
                resident.vector(up)?,
                resident.vector(down)?,
            ]),
            None => None,
        };
        Ok(Extras {
            glu: form.glu,
            biases,
        })
    }

    /// The bias of a matrix of an expert, 0 to 2; `None`: it has none.
    fn bias(&self, matrix: usize, expert: u32, rows: usize) -> Result<Option<&'a [f32]>, Error> {
        let Some(biases) = self.biases else {
            return Ok(None);
        };
        let start = expert as usize * rows;
        let bias = biases[matrix].get(start..start + rows);
        let short = || Error::Internal(format!("expert {expert} has no bias of {rows} elements"));
        bias.map(Some).ok_or_else(short)
    }
}

/// A layer's experts at work.
pub(super) struct Compute<'a, K> {
    pub kernels: &'a K,
    pub layout: &'a ExpertLayout,
    pub tokens: RoutedTokens<'a>,
    pub hidden: usize,
    pub extras: Extras<'a>,
    pub roundings: Roundings,
}

/// An expert of a batch: its matrices, and its assignments.
struct Work<'a> {
    expert: u32,
    gate: Matrix<'a>,
    up: Matrix<'a>,
    down: Matrix<'a>,
    start: usize,
    end: usize,
}

impl<K: KernelSet> Compute<'_, K> {
    /// Computes the experts of `ready` for all their tokens.
    pub fn batch(
        &self,
        ready: &Ready<'_>,
        buckets: &Buckets,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let mut work = Vec::with_capacity(buckets.ids().len());
        for (expert, bytes) in ready.iter() {
            let (start, end) = buckets.range(expert)?;
            let gate = self.layout.gate.view(bytes)?;
            let up = self.layout.up.view(bytes)?;
            work.push(Work {
                expert,
                gate,
                up,
                down: self.layout.down.view(bytes)?,
                start,
                end,
            });
        }
        work.sort_unstable_by_key(|w| w.start);
        let Some(first) = work.first() else {
            return Ok(());
        };
        let intermediate = first.gate.rows();
        let rows: usize = work.iter().map(|w| w.end - w.start).sum();
        for buffer in [&mut scratch.gate, &mut scratch.up, &mut scratch.act] {
            resize(buffer, rows * intermediate);
        }
        self.gate_and_up(&work, buckets, scratch, intermediate)?;
        let len = rows * intermediate;
        let Scratch {
            gate,
            up,
            act,
            quantized_act,
            results,
            ..
        } = scratch;
        for (matrix, rows) in [&mut *gate, up].into_iter().enumerate() {
            let mut at = 0;
            for w in &work {
                let end = at + (w.end - w.start) * intermediate;
                if let Some(bias) = self.extras.bias(matrix, w.expert, intermediate)? {
                    self.kernels.add_to_rows(&mut rows[at..end], bias)?;
                }
                at = end;
            }
        }
        let (gate, up) = (&gate[..len], &up[..len]);
        self.kernels
            .glu(gate, up, self.extras.glu, &mut act[..len])?;
        if let Some(rounding) = self.roundings.act {
            self.kernels
                .quantize(quantized_act, &act[..len], rows, intermediate, rounding)?;
        }
        // Rows of `act` follow the batch; those of `results` follow all assignments.
        let compact: Vec<u32> = (0..rows as u32).collect();
        let mut jobs = Vec::with_capacity(work.len());
        let (mut rest, mut at, mut row) = (results.as_mut_slice(), 0, 0);
        for w in &work {
            let (_, tail) = rest.split_at_mut((w.start - at) * self.hidden);
            let (out, tail) = tail.split_at_mut((w.end - w.start) * self.hidden);
            (rest, at) = (tail, w.end);
            let tokens = Some(&compact[row..row + (w.end - w.start)]);
            row += w.end - w.start;
            let quantized = self.roundings.act.map(|_| &*quantized_act);
            jobs.push(MatmulJob {
                weights: w.down,
                x: &act[..len],
                quantized,
                tokens,
                out,
            });
        }
        self.kernels.matmul(&mut jobs)?;
        for w in &work {
            if let Some(bias) = self.extras.bias(2, w.expert, self.hidden)? {
                let rows = &mut results[w.start * self.hidden..w.end * self.hidden];
                self.kernels.add_to_rows(rows, bias)?;
            }
        }
        Ok(())
    }

    fn gate_and_up(
        &self,
        work: &[Work<'_>],
        buckets: &Buckets,
        scratch: &mut Scratch,
        intermediate: usize,
    ) -> Result<(), Error> {
        let Scratch {
            quantized_x,
            gate,
            up,
            ..
        } = scratch;
        let quantized = self.roundings.input.map(|_| &*quantized_x);
        let mut jobs = Vec::with_capacity(2 * work.len());
        let (mut gate, mut up) = (gate.as_mut_slice(), up.as_mut_slice());
        for w in work {
            let len = (w.end - w.start) * intermediate;
            let tokens = Some(&buckets.tokens()[w.start..w.end]);
            for (weights, rest) in [(w.gate, &mut gate), (w.up, &mut up)] {
                let (out, tail) = std::mem::take(rest).split_at_mut(len);
                *rest = tail;
                jobs.push(MatmulJob {
                    weights,
                    x: self.tokens.x,
                    quantized,
                    tokens,
                    out,
                });
            }
        }
        Ok(self.kernels.matmul(&mut jobs)?)
    }
}

/// Grows `buffer` to at least `len`; never shrinks.
pub(super) fn resize(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.reserve_exact(len - buffer.len());
        buffer.resize(len, 0.0);
    }
}
