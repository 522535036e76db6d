//! What goes into routed experts, squared and added up: of which columns of their matrices an
//! error weighs most.

use std::collections::BTreeMap;

use super::buckets::Buckets;
use crate::Error;

/// Sums of squares of what the experts of all layers were given.
#[derive(Debug, Default)]
pub struct ExpertSquares {
    layers: BTreeMap<usize, LayerSquares>,
}

/// Sums of squares of what a layer's experts were given. Each is added up row by row in the order
/// of the tokens, so that it does not depend on how these were cut into steps.
#[derive(Debug)]
pub struct LayerSquares {
    /// Tokens of each expert.
    pub tokens: Vec<u64>,
    /// Of gate and up, `[experts, hidden]`.
    pub input: Vec<f64>,
    /// Of down, `[experts, intermediate]`.
    pub inner: Vec<f64>,
}

impl ExpertSquares {
    /// Of layers by number with their experts, input and inner elements; memory is taken at once.
    pub fn new(layers: impl Iterator<Item = (usize, [usize; 3])>) -> ExpertSquares {
        let zeros = |count| {
            let mut sums = Vec::with_capacity(count);
            // Written, so that the memory counts before that of anything else is shared out.
            sums.resize(count, 0.0);
            sums
        };
        let of = |[experts, hidden, intermediate]: [usize; 3]| LayerSquares {
            tokens: vec![0; experts],
            input: zeros(experts * hidden),
            inner: zeros(experts * intermediate),
        };
        ExpertSquares {
            layers: layers.map(|(layer, sizes)| (layer, of(sizes))).collect(),
        }
    }

    /// The layers, ascending.
    pub fn layers(&self) -> impl Iterator<Item = (usize, &LayerSquares)> {
        self.layers.iter().map(|(&layer, squares)| (layer, squares))
    }

    /// Adds the tokens of a batch of a layer's `experts` (ascending): `x` `[n, hidden]` has the
    /// inputs of all tokens, `act` those of down, by expert and token.
    pub(super) fn add(
        &mut self,
        layer: usize,
        experts: &[u32],
        buckets: &Buckets,
        (x, hidden): (&[f32], usize),
        act: &[f32],
    ) -> Result<(), Error> {
        let unknown = || Error::Internal(format!("layer {layer} is not one to be recorded"));
        let squares = self.layers.get_mut(&layer).ok_or_else(unknown)?;
        let width = squares.inner.len() / squares.tokens.len().max(1);
        let mut act = act.chunks_exact(width.max(1));
        for &expert in experts {
            let (first, end) = buckets.range(expert)?;
            let expert = expert as usize;
            squares.tokens[expert] += (end - first) as u64;
            let input = &mut squares.input[expert * hidden..][..hidden];
            let inner = &mut squares.inner[expert * width..][..width];
            for (&token, act) in buckets.tokens()[first..end].iter().zip(act.by_ref()) {
                add_squares(input, &x[token as usize * hidden..][..hidden]);
                add_squares(inner, act);
            }
        }
        Ok(())
    }
}

/// Adds the squares of a row's elements to the sums of their columns.
pub fn add_squares(sums: &mut [f64], row: &[f32]) {
    for (sum, &x) in sums.iter_mut().zip(row) {
        *sum += f64::from(x) * f64::from(x);
    }
}
