//! What to pack: made by whoever knows the model, checked here against the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Serialize;

use super::column_weights::ColumnWeights;
use crate::codec::{block::mxfp4, nvfp4};
use crate::error::{CodecError, FormatError, PlanProblem, Result};
use crate::packed::{DENSE_NAME, JOURNAL_NAME, MANIFEST_NAME};
use crate::{BlockCodec, Checkpoint, Codec};

/// A `[rows, cols]` part of a source tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MatrixSource {
    /// Name of the tensor.
    pub tensor: String,
    /// The matrix's first element, counted from the tensor's start.
    pub first_element: u64,
    /// Where its other elements are; `None`: rows follow one another. Of plain floats only.
    pub steps: Option<ElementSteps>,
    /// How it is coded, if its elements are not f32, f16 or bf16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coded: Option<CodedSource>,
}

/// How a source matrix is coded, and where its other parts are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CodedSource {
    /// The codec.
    pub codec: Codec,
    /// Name of the tensor with the scales, if they are apart; of MXFP4 and NVFP4, with the groups'
    /// scales, and the tensor of the weights then has the codes alone.
    pub scales: Option<String>,
    /// Name of the tensor with the biases, if there are any.
    pub biases: Option<String>,
    /// The scale of a whole matrix, of NVFP4 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalScale>,
    /// Rows of the source from one of the matrix to the next; more than 1 only of MXFP4 with
    /// exponents apart.
    pub row_step: usize,
}

/// The scale of a whole matrix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GlobalScale {
    /// Name of its tensor, one f32.
    pub tensor: String,
    /// Whether the groups' scales are divided by it, instead of multiplied.
    pub divides: bool,
}

impl CodedSource {
    /// A matrix whose rows follow one another and whose weights hold all of it.
    #[must_use]
    pub fn of(codec: Codec) -> Self {
        Self {
            codec,
            scales: None,
            biases: None,
            global: None,
            row_step: 1,
        }
    }

    /// Bytes of a block's scales, if it is MXFP4 or NVFP4 with codes and scales apart.
    pub(super) fn apart(&self) -> Option<usize> {
        self.scales.as_ref()?;
        match self.codec {
            Codec::Block(BlockCodec::Mxfp4) => Some(mxfp4::SCALES),
            Codec::Nvfp4 => Some(nvfp4::SCALES),
            _ => None,
        }
    }

    /// Names of the tensors beside that of the weights.
    fn others(&self) -> impl Iterator<Item = &String> {
        let global = self.global.iter().map(|global| &global.tensor);
        [&self.scales, &self.biases]
            .into_iter()
            .flatten()
            .chain(global)
    }

    /// Bytes of a row of `cols` columns in the tensor of the weights.
    pub(super) fn row_bytes(&self, cols: usize) -> Result<usize, CodecError> {
        let row = self.codec.encoded_bytes(1, cols)?.weights;
        Ok(self.apart().map_or(row, |_| cols / 2))
    }
}

/// Distances between elements in a source tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ElementSteps {
    /// From one row to the next.
    pub row: usize,
    /// From one column to the next.
    pub col: usize,
}

impl MatrixSource {
    /// A part of a tensor of plain floats.
    #[must_use]
    pub fn plain(tensor: String, first_element: u64) -> Self {
        Self {
            tensor,
            first_element,
            steps: None,
            coded: None,
        }
    }
}

impl ElementSteps {
    /// Elements from the first one to behind the last one of `rows` rows of `cols`; both positive.
    pub(super) fn span(self, rows: usize, cols: usize) -> u64 {
        let along = |count: usize, step: usize| (count as u64 - 1).saturating_mul(step as u64);
        let last = along(rows, self.row).saturating_add(along(cols, self.col));
        last.saturating_add(1)
    }
}

/// A matrix to be written in a codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedMatrix {
    /// The name without `.weight`: full for dense matrices (`model.layers.0.self_attn.q_proj`),
    /// short within an expert (`gate_proj`).
    pub name: String,
    /// Where its values are.
    pub source: MatrixSource,
    /// Rows (output dimension).
    pub rows: usize,
    /// Columns (inner dimension).
    pub cols: usize,
    /// How it is stored.
    pub codec: Codec,
    /// How much errors weigh by column.
    #[serde(skip_serializing_if = "ColumnWeights::are_alike")]
    pub importance: ColumnWeights,
}

/// A tensor of `dense.safetensors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedTensor {
    /// A matrix in a codec.
    Matrix(PlannedMatrix),
    /// Bytes, type and shape as they are in the source.
    Copy {
        /// Name to be.
        name: String,
        /// Name in the source.
        source: String,
    },
}

/// The routed experts of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedLayer {
    /// Layer number, which names the file.
    pub layer: usize,
    /// The matrices of each expert: same names, shapes and codecs in the same order for all.
    pub experts: Vec<Vec<PlannedMatrix>>,
}

/// What a packed model is to consist of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PackPlan {
    /// Tensors of `dense.safetensors`, in order.
    pub dense: Vec<PlannedTensor>,
    /// Layers with routed experts.
    pub layers: Vec<PlannedLayer>,
    /// Files copied if the source directory has them (`config.json`, `tokenizer.json`, ...).
    pub copied_files: Vec<String>,
    /// Class of tensors to codec and reason, for the manifest.
    pub codecs: BTreeMap<String, String>,
    /// Tensors of the source that are left out, for the manifest.
    pub skipped: Vec<String>,
}

impl PlannedMatrix {
    /// Whether its bytes stay as they are in the source.
    pub(super) fn is_kept(&self) -> bool {
        let coded = self.source.coded.as_ref();
        coded.is_some_and(|coded| coded.codec == self.codec)
    }
}

impl MatrixSource {
    /// The names of all tensors that hold it.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        let coded = self.coded.iter();
        let maps = coded.flat_map(CodedSource::others);
        std::iter::once(&self.tensor)
            .chain(maps)
            .map(String::as_str)
    }
}

impl PlannedTensor {
    /// The names of the tensors of the source that it is made of.
    #[must_use]
    pub fn sources(&self) -> Vec<&str> {
        match self {
            Self::Matrix(matrix) => matrix.source.tensors().collect(),
            Self::Copy { source, .. } => vec![source],
        }
    }
}

impl PlannedLayer {
    /// The names of the tensors of the source that it is made of, some more than once.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        let matrices = self.experts.iter().flatten();
        matrices.flat_map(|matrix| matrix.source.tensors())
    }
}

impl PackPlan {
    /// Whether some matrix is rounded by the importance of its columns.
    #[must_use]
    pub fn is_weighed(&self) -> bool {
        let mut matrices = self.matrices();
        matrices.any(|matrix| {
            let is_rounded = matches!(matrix.codec, Codec::Affine(_) | Codec::Block(_));
            is_rounded && !matrix.is_kept() && !matrix.importance.are_alike()
        })
    }

    /// All matrices, dense ones first.
    fn matrices(&self) -> impl Iterator<Item = &PlannedMatrix> {
        let dense = self.dense.iter().filter_map(|tensor| match tensor {
            PlannedTensor::Matrix(matrix) => Some(matrix),
            PlannedTensor::Copy { .. } => None,
        });
        dense.chain(
            self.layers
                .iter()
                .flat_map(|layer| layer.experts.iter().flatten()),
        )
    }
}

/// Checks that the plan can be carried out, before anything is written.
pub(super) fn check(source: &Checkpoint, plan: &PackPlan) -> Result<()> {
    let problem = |name: &str, problem| FormatError::Plan {
        name: name.to_owned(),
        problem,
    };
    for matrix in plan.matrices() {
        check_matrix(source, matrix)?;
    }
    let mut names = BTreeSet::new();
    for tensor in &plan.dense {
        let name = match tensor {
            PlannedTensor::Matrix(matrix) => &matrix.name,
            PlannedTensor::Copy {
                name,
                source: tensor,
            } => {
                source.require(tensor)?;
                name
            }
        };
        if !names.insert(name) {
            return Err(problem(name, PlanProblem::Duplicate));
        }
    }
    let mut layers = BTreeSet::new();
    for layer in &plan.layers {
        let name = format!("layer {}", layer.layer);
        if !layers.insert(layer.layer) {
            return Err(problem(&name, PlanProblem::Duplicate));
        }
        check_experts(layer).map_err(|found| problem(&name, found))?;
    }
    for name in &plan.copied_files {
        let mut parts = Path::new(name).components();
        let plain = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
        let ours = [DENSE_NAME, JOURNAL_NAME, MANIFEST_NAME, "experts"].contains(&name.as_str());
        if !plain || ours {
            return Err(problem(name, PlanProblem::BadName));
        }
    }
    Ok(())
}

fn check_matrix(source: &Checkpoint, matrix: &PlannedMatrix) -> Result<()> {
    let tensor = &matrix.source.tensor;
    let named = |problem| FormatError::Encode {
        tensor: tensor.clone(),
        problem,
    };
    if !matrix.is_kept() {
        matrix.codec.check_encoder().map_err(named)?;
    }
    matrix
        .codec
        .encoded_bytes(matrix.rows, matrix.cols)
        .map_err(named)?;
    matrix.importance.check(matrix).map_err(named)?;
    let first = matrix.source.first_element;
    // The product was checked by `encoded_bytes`.
    let own = (matrix.rows * matrix.cols) as u64;
    let span = match (matrix.source.steps, &matrix.source.coded) {
        (Some(steps), _) if own > 0 => steps.span(matrix.rows, matrix.cols),
        (_, Some(coded)) if own > 0 => {
            let rows = (matrix.rows as u64 - 1).saturating_mul(coded.row_step as u64);
            rows.saturating_add(1).saturating_mul(matrix.cols as u64)
        }
        _ => own,
    };
    let end = first.saturating_add(span);
    let elements = match &matrix.source.coded {
        None => source.require_float(tensor)?.elements(),
        Some(coded) => {
            for name in coded.others() {
                source.require(name)?;
            }
            let row = coded.row_bytes(matrix.cols).map_err(named)?;
            let rows = source.require(tensor)?.bytes / row.max(1) as u64;
            rows.saturating_mul(matrix.cols as u64)
        }
    };
    if end > elements {
        let problem = PlanProblem::OutsideSource {
            tensor: tensor.clone(),
            first,
            end,
            elements,
        };
        return Err(FormatError::Plan {
            name: matrix.name.clone(),
            problem,
        });
    }
    Ok(())
}

fn check_experts(layer: &PlannedLayer) -> Result<(), PlanProblem> {
    let Some(first) = layer.experts.first().filter(|first| !first.is_empty()) else {
        return Err(PlanProblem::Empty);
    };
    let mut names = BTreeSet::new();
    if first.iter().any(|matrix| !names.insert(&matrix.name)) {
        return Err(PlanProblem::Duplicate);
    }
    let layout = |matrix: &PlannedMatrix| (matrix.rows, matrix.cols, matrix.codec);
    let alike = |expert: &Vec<PlannedMatrix>| {
        expert.len() == first.len()
            && expert
                .iter()
                .zip(first)
                .all(|(a, b)| a.name == b.name && layout(a) == layout(b))
    };
    match layer.experts.iter().position(|expert| !alike(expert)) {
        Some(expert) => Err(PlanProblem::UnequalExperts { expert }),
        None => Ok(()),
    }
}

/// Bytes of a matrix in its source. The plan is checked.
pub(super) fn matrix_source_bytes(source: &Checkpoint, matrix: &PlannedMatrix) -> u64 {
    if let Some(coded) = &matrix.source.coded {
        let row = coded.row_bytes(matrix.cols);
        return row.map_or(0, |bytes| (bytes * matrix.rows) as u64);
    }
    let size = source
        .get(&matrix.source.tensor)
        .map_or(0, |info| info.dtype.block_bytes());
    (matrix.rows * matrix.cols * size) as u64
}

/// Bytes of everything planned in its source.
pub(super) fn source_bytes(source: &Checkpoint, plan: &PackPlan) -> u64 {
    let copied = plan.dense.iter().map(|tensor| match tensor {
        PlannedTensor::Matrix(_) => 0,
        PlannedTensor::Copy { source: name, .. } => source.get(name).map_or(0, |info| info.bytes),
    });
    let matrices = plan
        .matrices()
        .map(|matrix| matrix_source_bytes(source, matrix));
    copied.sum::<u64>() + matrices.sum::<u64>()
}
