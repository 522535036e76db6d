//! Steps of prompts, of other tokens, and of both beside each other: those are two steps one after the
//! other, so that neither's bits depend on the other's being there.

use moeflux::Error;
use moeflux::backend::{Record, Step, StepSpan};

use super::GpuBackend;
use super::decode::Work;

/// The rows of a step's spans that are of prompts, or that are not.
#[derive(Default)]
struct Half {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// Rows whose logits are wanted, and which of the whole step's they are.
    outputs: Vec<u32>,
    numbers: Vec<usize>,
}

impl Half {
    fn of(step: &Step<'_>, prompts: bool) -> Half {
        let mut half = Half::default();
        for span in step.spans.iter().filter(|s| s.is_prompt == prompts) {
            let rows = span.first_row..span.first_row + span.len;
            let first = half.tokens.len();
            half.tokens.extend_from_slice(&step.tokens[rows.clone()]);
            half.positions
                .extend_from_slice(&step.positions[rows.clone()]);
            for (number, &row) in step.outputs.iter().enumerate() {
                if rows.contains(&(row as usize)) {
                    half.outputs
                        .push((first + row as usize - rows.start) as u32);
                    half.numbers.push(number);
                }
            }
        }
        half
    }
}

impl GpuBackend {
    /// A step of any tokens.
    pub(super) fn any(
        &mut self,
        w: &mut Work<'_, '_>,
        record: Option<Record<'_>>,
    ) -> Result<(), Error> {
        let prompts = w.step.spans.iter().filter(|span| span.is_prompt);
        let prompts = prompts.count();
        match prompts == 0 || prompts == w.step.spans.len() {
            true => self.whole(w, record),
            false => self.mixed(w),
        }
    }

    /// A step of which either all tokens are of prompts or none.
    fn whole(&mut self, w: &mut Work<'_, '_>, record: Option<Record<'_>>) -> Result<(), Error> {
        if w.step.spans.iter().all(|span| !span.is_prompt) {
            return self.decode(w, record);
        }
        self.make_plan(w)?;
        for op in &w.graph.ops {
            self.one(op, w.step, w.weights, w.pool, w.stage)?;
        }
        match record {
            None => Ok(()),
            Some(_) => Err(Error::Internal("a prompt is not recorded".to_owned())),
        }
    }

    fn mixed(&mut self, w: &mut Work<'_, '_>) -> Result<(), Error> {
        let (rows, outputs) = (w.step.tokens.len(), w.step.outputs.len());
        let logits = w.graph.logits;
        let width = w.graph.buffers[logits.index()].width;
        let mut all = vec![0.0f32; outputs * width];
        for prompts in [false, true] {
            let half = Half::of(w.step, prompts);
            w.pool.begin(half.tokens.len(), half.outputs.len());
            self.buffers.begin_step();
            self.inputs.begin_step();
            let mut first_row = 0;
            let mut spans = Vec::new();
            for span in w.step.spans.iter_mut().filter(|s| s.is_prompt == prompts) {
                spans.push(StepSpan {
                    session: &mut *span.session,
                    first_row,
                    ..*span
                });
                first_row += span.len;
            }
            let mut step = Step {
                spans,
                tokens: &half.tokens,
                positions: &half.positions,
                outputs: &half.outputs,
            };
            let mut half_of = Work {
                graph: w.graph,
                step: &mut step,
                weights: w.weights,
                pool: &mut *w.pool,
                stage: &mut *w.stage,
            };
            self.whole(&mut half_of, None)?;
            self.buffers.fetch(&mut self.recorder, &[logits], w.pool)?;
            let own = w.pool.get(logits).chunks_exact(width.max(1));
            for (number, values) in half.numbers.iter().zip(own) {
                all[number * width..(number + 1) * width].copy_from_slice(values);
            }
        }
        // Nothing is left to be fetched.
        self.buffers.begin_step();
        w.pool.begin(rows, outputs);
        w.pool.upload(logits, &all)
    }
}
