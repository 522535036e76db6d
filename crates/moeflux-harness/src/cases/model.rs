//! A whole model with random weights: any architecture's graph as a case.

use std::collections::BTreeMap;

use moeflux::formats::Codec;
use moeflux::models::{Blueprint, ExpertLayer, MatrixClass, VectorFold, WeightDecl, WeightKind};
use moeflux::weights::{ExpertPart, MatrixPart, WeightPart};

use crate::{Case, HarnessError, Random, coded_matrix};

/// The model of `blueprint` with random weights, matrices and experts in the codecs given, run
/// over a step of `prompt` tokens and then `decode` steps of one.
///
/// # Errors
/// [`HarnessError::Format`] if a codec does not divide the model's dimensions.
pub fn random(
    blueprint: &Blueprint,
    codec: &dyn Fn(MatrixClass) -> Codec,
    experts: Codec,
    (prompt, decode): (usize, usize),
    seed: u64,
) -> Result<Case, HarnessError> {
    let random = &mut Random::new(seed);
    let name = format!("{} with random weights", blueprint.model_type);
    let mut case = Case::new(name, blueprint.graph.clone());
    for decl in &blueprint.weights {
        case.weights.push(weight(random, decl, codec)?);
    }
    let mut layers = BTreeMap::new();
    for layer in &blueprint.experts {
        layers.insert(layer.layer, expert_layer(random, layer, experts)?);
    }
    case.experts = layers;
    for tokens in std::iter::once(prompt).chain(std::iter::repeat_n(1, decode)) {
        case = case.step(tokens, vec![]);
    }
    for span in case.steps.iter_mut().flat_map(|s| &mut s.spans) {
        for token in &mut span.tokens {
            *token = random.within(0, blueprint.vocab - 1) as u32;
        }
    }
    Ok(case)
}

/// Matrices keep the size of what goes through them; vectors lie around one.
fn weight(
    random: &mut Random,
    decl: &WeightDecl,
    codec: &dyn Fn(MatrixClass) -> Codec,
) -> Result<WeightPart, HarnessError> {
    Ok(match &decl.kind {
        WeightKind::Matrix { rows, cols, class } => {
            let codec = codec(*class);
            WeightPart::Matrix(matrix(random, codec, *rows, *cols)?)
        }
        WeightKind::Table { rows, cols } => WeightPart::Table {
            cols: *cols,
            values: random.floats(rows * cols, 1.0),
        },
        WeightKind::Vector {
            shape,
            fold: VectorFold::Numbers { count },
        } => {
            let numbers = (0..shape.iter().product()).map(|_| random.within(0, count - 1) as f32);
            WeightPart::Vector(numbers.collect())
        }
        WeightKind::Vector { shape, fold } => {
            let middle = match fold {
                VectorFold::None | VectorFold::AddOne => 1.0,
                _ => 0.0,
            };
            let values = random.floats(fold.elements(shape), 0.5);
            WeightPart::Vector(values.iter().map(|v| middle + v).collect())
        }
    })
}

fn expert_layer(
    random: &mut Random,
    layer: &ExpertLayer,
    codec: Codec,
) -> Result<Vec<ExpertPart>, HarnessError> {
    let mut experts = Vec::with_capacity(layer.experts);
    for _ in 0..layer.experts {
        experts.push(ExpertPart {
            gate: matrix(random, codec, layer.intermediate, layer.hidden)?,
            up: matrix(random, codec, layer.intermediate, layer.hidden)?,
            down: matrix(random, codec, layer.hidden, layer.intermediate)?,
        });
    }
    Ok(experts)
}

/// Uniform values of variance 1 / cols.
fn matrix(
    random: &mut Random,
    codec: Codec,
    rows: usize,
    cols: usize,
) -> Result<MatrixPart, HarnessError> {
    coded_matrix(random, codec, rows, cols, (3.0 / cols as f32).sqrt())
}
