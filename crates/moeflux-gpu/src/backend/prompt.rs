//! Products for the rows of a step that are of prompts: by tiles. Which kernel a row takes depends
//! on the row and on the matrix, never on what else is in the step.

use moeflux::Error;
use moeflux::backend::Step;
use moeflux::graph::{BufferId, BufferPool, Rows, WeightId};
use moeflux::weights::Weights;

use super::GpuBackend;
use crate::matrix::{Form, Place};
use crate::ops::matmul::{self, Tile, Vectors};
use crate::ops::{self, ExpertExtras, ExpertSlots, Pairs, SpanRows};
use crate::recorder::MOST_WORK;
use crate::{GpuError, Recorder, View};

/// Matrices of fewer rows are multiplied with one vector after another.
const LEAST_ROWS: usize = 16;

/// Rows of a step that follow each other: the first, and their number.
pub(super) type Run = (usize, usize);

/// The rows that are of prompts.
pub(super) fn prompt_rows(step: &Step<'_>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for span in step.spans.iter().filter(|span| span.is_prompt) {
        match runs.last_mut() {
            Some((first, len)) if *first + *len == span.first_row => *len += span.len,
            _ => runs.push((span.first_row, span.len)),
        }
    }
    runs
}

/// The tile for a matrix, if products with it are made by tiles.
fn tile_of(r: &Recorder, form: &Form, exact: bool) -> Option<Tile> {
    let tile = Tile::of(r.gpu(), exact || !matmul::has_halves(form));
    let takes = tile.is_half() || matmul::has_floats(form.cols);
    (takes && form.rows >= LEAST_ROWS).then_some(tile)
}

/// A span in parts whose attention can each be a submission; `width` is of all heads together.
pub(super) fn parts(span: SpanRows, width: usize) -> impl Iterator<Item = SpanRows> {
    let each = 2 * (span.start + span.len) as u64 * width as u64;
    let most = (MOST_WORK / each.max(1)).max(64) as usize;
    (0..span.len).step_by(most).map(move |first| SpanRows {
        first_row: span.first_row + first,
        len: most.min(span.len - first),
        start: span.start + first,
    })
}

impl GpuBackend {
    /// `Op::Matmul`: rows of prompts by tiles, the others one by one.
    pub(super) fn matmul(
        &mut self,
        x: BufferId,
        outputs: &[(WeightId, BufferId)],
        exact: bool,
        step: &Step<'_>,
        (weights, pool): (&Weights, &BufferPool),
    ) -> Result<(), Error> {
        let (gpu, r, held) = (&self.gpu, &mut self.recorder, &mut self.weights);
        let tokens = step.tokens.len();
        let width = pool.len(x);
        // Those that become logits go one by one also where they are as many as the tokens.
        let are_tokens = pool.row_kind(x) == Rows::Tokens;
        let x = self.buffers.view(pool, x)?;
        let runs = prompt_rows(step);
        let is_all = runs == [(0, tokens)];
        // Of the rows of a run, in binary16, until another run takes the memory.
        let mut rounded: Option<(Run, Vectors<'_>)> = None;
        for (weight, out) in outputs {
            let matrix = held.matrix(gpu, weights, *weight)?;
            let (cols, out) = (matrix.form.cols, self.buffers.view(pool, *out)?);
            let n = width / cols;
            let tile = tile_of(r, &matrix.form, exact).filter(|_| are_tokens);
            if tile.is_none() || !is_all {
                ops::matvec(r, matrix, x, n, out)?;
            }
            let Some(tile) = tile else { continue };
            for &run in &runs {
                let known = rounded
                    .take()
                    .filter(|(own, _)| tile.is_half() && *own == run);
                let vectors = match known {
                    Some((_, vectors)) => vectors,
                    None => matmul::vectors(r, tile, Vectors::INPUTS, x, run, cols)?,
                };
                matmul::matmul(r, tile, matrix, &vectors, out)?;
                r.note_work((run.1 * matrix.form.rows * cols) as u64);
                if tile.is_half() {
                    rounded = Some((run, vectors));
                }
            }
        }
        Ok(())
    }
}

/// The experts' matrices: gate, up and down, and where they lie in a slot.
pub(super) struct ExpertForms<'a> {
    pub gate: &'a (Form, Place),
    pub up: &'a (Form, Place),
    pub down: &'a (Form, Place),
    /// What they compute besides.
    pub extras: ExpertExtras<'a>,
    /// Experts of the layer.
    pub count: usize,
}

/// What the experts give for the pairs of these rows, by tiles: `x` `[rows, hidden]`, `act`
/// `[pairs, intermediate]`, `results` `[pairs, hidden]`. Pairs whose expert has no slot keep what
/// `results` holds.
pub(super) fn experts(
    r: &mut Recorder,
    (slots, forms): (&ExpertSlots<'_>, &ExpertForms<'_>),
    (x, act, results): (View<'_>, View<'_>, View<'_>),
    (first, rows): Run,
    top_k: usize,
) -> Result<(), GpuError> {
    let ((gate, gate_place), (up, up_place)) = (forms.gate, forms.up);
    let tile = Tile::of(r.gpu(), !matmul::has_halves(gate));
    let (begin, end) = (first * top_k, (first + rows) * top_k);
    let lists = (slots.ids, slots.table);
    let pairs = (begin, end - begin);
    let groups = ops::group_experts(r, lists, pairs, forms.count, tile.vectors as usize)?;
    let with = (slots, &groups);
    let rows = (0, first + rows);
    let inputs = matmul::vectors(r, tile, Vectors::INPUTS, x, rows, gate.cols)?;
    let inputs = (&inputs, top_k);
    let work = (end - begin) as u64 * (gate.rows * gate.cols) as u64;
    if gate == up && forms.extras.is_plain() {
        let both = (gate, &[*gate_place, *up_place][..]);
        matmul::expert_matmul(r, tile, with, both, inputs, act)?;
        r.note_work(2 * work);
    } else {
        let gated = r.scratch("experts: gates", act.bytes)?;
        let upped = r.scratch("experts: ups", act.bytes)?;
        let [gated, upped] = [&gated, &upped].map(|buffer| View::first(buffer, act.bytes));
        matmul::expert_matmul(r, tile, with, (gate, &[*gate_place]), inputs, gated)?;
        r.note_work(work);
        matmul::expert_matmul(r, tile, with, (up, &[*up_place]), inputs, upped)?;
        r.note_work(work);
        let pairs = Pairs {
            ids: slots.ids,
            first: begin,
            len: end - begin,
        };
        forms
            .extras
            .activate(r, (gated, upped), pairs, act, gate.rows)?;
    }
    let (down, down_place) = forms.down;
    let acts = matmul::vectors(r, tile, Vectors::BETWEEN, act, (0, end), down.cols)?;
    let one = (down, &[*down_place][..]);
    matmul::expert_matmul(r, tile, with, one, (&acts, 1), results)?;
    r.note_work(work);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_attention_is_taken_in_parts() {
        let span = |start, len| SpanRows {
            first_row: 3,
            len,
            start,
        };
        let lengths = |span| parts(span, 4096).map(|p| p.len).collect::<Vec<_>>();
        assert_eq!(lengths(span(0, 2048)), [2048]);
        let cut: Vec<_> = parts(span(100_000, 4096), 4096).collect();
        assert_eq!(cut.iter().map(|p| p.len).sum::<usize>(), 4096);
        assert!(cut.len() > 50, "{} parts", cut.len());
        let (one, two) = (cut[0], cut[1]);
        assert_eq!(two.first_row, one.first_row + one.len);
        assert_eq!(two.start, one.start + one.len);
        assert!(lengths(span(0, 0)).is_empty());
    }
}
