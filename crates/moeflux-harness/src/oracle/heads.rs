//! Products by head, and rows put together from pieces.

use moeflux::graph::Op;

use super::{Dense, Oracle};
use crate::HarnessError;

impl Oracle<'_> {
    pub(super) fn rearrange(&mut self, op: &Op) -> Result<(), HarnessError> {
        let Op::Rearrange {
            inputs,
            pieces,
            out,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let tokens = self.tokens.len();
        let mut rows = Vec::new();
        for t in 0..tokens {
            for piece in pieces.iter() {
                let input = self.get(inputs[piece.input]);
                let first = t * (input.len() / tokens) + piece.start;
                rows.extend_from_slice(&input[first..first + piece.len]);
            }
        }
        self.set(*out, rows);
        Ok(())
    }

    pub(super) fn head_matmul(&mut self, op: &Op) -> Result<(), HarnessError> {
        let Op::HeadMatmul {
            x,
            weight,
            shape,
            out,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let Dense { cols, values } = self.matrix(*weight)?;
        let width = if shape.transposed { shape.rows } else { *cols };
        let mut results = Vec::new();
        for (at, x) in self.get(*x).chunks_exact(width).enumerate() {
            let first = (at % shape.heads * shape.stride + shape.first) * cols;
            let own = &values[first..first + shape.rows * cols];
            let element = |row: usize, col: usize| f64::from(own[row * cols + col]);
            if shape.transposed {
                let sum = |col| {
                    (0..shape.rows)
                        .map(|row| x[row] * element(row, col))
                        .sum::<f64>()
                };
                results.extend((0..*cols).map(sum));
            } else {
                let sum = |row| {
                    (0..*cols)
                        .map(|col| x[col] * element(row, col))
                        .sum::<f64>()
                };
                results.extend((0..shape.rows).map(sum));
            }
        }
        self.set(*out, results);
        Ok(())
    }
}
