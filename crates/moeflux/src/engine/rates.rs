//! How fast the matrix kernels are on a model's own matrices: what bounds a step by computing.

use std::time::{Duration, Instant};

use super::budget::Room;
use super::{Engine, Executor};
use crate::Error;
use crate::backend::Step;
use crate::cost::ProductKind;
use crate::graph::{Op, Rows};

/// A pass at least this long is timed well.
const PASS: Duration = Duration::from_millis(10);
/// Passes of that length; the best counts.
const PASSES: usize = 5;
/// Rows to begin with, and the most.
const FIRST_ROWS: usize = 8;
const MOST_ROWS: usize = 512;

/// The speed of one kind of product.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct KernelRate {
    /// Which products.
    pub kind: ProductKind,
    /// Multiply-adds a second with many rows at once, activations' rounding included.
    pub multiply_adds_per_second: f64,
}

impl Engine {
    /// Measures each kind of product that the model has on the largest operation of that kind, with
    /// as many rows as a step may have. A kind that only routed experts have is left out. Takes a
    /// fraction of a second; sessions are not touched.
    ///
    /// # Errors
    /// None that a step would not meet as well.
    pub fn kernel_rates(&self) -> Result<Vec<KernelRate>, Error> {
        let mut largest: Vec<(ProductKind, u64, usize)> = Vec::new();
        for (index, (op, cost)) in self.graph.ops.iter().zip(&self.costs).enumerate() {
            let (Op::Matmul { .. }, &[(kind, size)]) = (op, &cost.products[..]) else {
                continue;
            };
            match largest.iter_mut().find(|found| found.0 == kind) {
                Some(found) if found.1 >= size => {}
                Some(found) => *found = (kind, size, index),
                None => largest.push((kind, size, index)),
            }
        }
        let mut rates = Vec::with_capacity(largest.len());
        for (kind, size, index) in largest {
            rates.push(KernelRate {
                kind,
                multiply_adds_per_second: self.rate(&self.graph.ops[index], size)?,
            });
        }
        // What the rows took from the experts goes back to them.
        let mut executor = self.lock();
        let small = Room {
            tokens: 1,
            outputs: 1,
        };
        self.make_scratch(&mut executor, small)?;
        Ok(rates)
    }

    /// Multiply-adds a second of an operation that needs `size` of them a row.
    fn rate(&self, op: &Op, size: u64) -> Result<f64, Error> {
        let is_output = |buffer: &crate::graph::BufferId| {
            self.graph.buffers[buffer.index()].rows == Rows::Outputs
        };
        let most = match op.writes().first().is_some_and(is_output) {
            true => self.plan.chunk_outputs,
            false => self.plan.chunk_tokens,
        };
        let most = most.clamp(1, MOST_ROWS);
        let mut executor = self.lock();
        let room = Room {
            tokens: most,
            outputs: most.min(self.plan.chunk_outputs),
        };
        self.make_scratch(&mut executor, room)?;
        let Executor {
            backend,
            buffers,
            stage,
            ..
        } = &mut *executor;
        let (mut rows, mut best, mut passes) = (FIRST_ROWS.min(most), 0.0_f64, 0);
        while passes < PASSES {
            buffers.begin(rows, rows.min(self.plan.chunk_outputs));
            let mut step = Step {
                spans: Vec::new(),
                tokens: &[],
                positions: &[],
                outputs: &[],
            };
            let start = Instant::now();
            backend.run(op, &mut step, &self.weights, buffers, stage)?;
            let spent = start.elapsed();
            let rate = rows as f64 * size as f64 / spent.as_secs_f64().max(1e-9);
            best = best.max(rate);
            if spent < PASS && rows < most {
                rows = (2 * rows).min(most);
            } else {
                passes += 1;
            }
        }
        Ok(best)
    }
}
