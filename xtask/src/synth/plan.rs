//! Which tensors a model's files hold, in the order and form that `moeflux pack` gives them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use moeflux::formats::{
    AffineCodec, Codec, DENSE_NAME, DType, PartTensor, RECORD_ALIGN, TensorSpec, layer_name,
};
use moeflux::models::{Blueprint, ExpertLayer, MatrixClass, WeightKind};
use moeflux::{PackOptions, note_codec};

use super::weights::{Affine, Law};

/// A tensor and its bytes to be.
pub struct Tensor {
    pub spec: TensorSpec,
    pub values: Values,
}

/// Where a tensor's bytes come from.
pub enum Values {
    /// Integers of a matrix.
    Codes(Affine),
    /// Its scales.
    Scales(Affine),
    /// Its biases.
    Biases(Affine),
    /// These.
    Bytes(Vec<u8>),
    /// Zeros.
    Zeros,
}

/// A file of tensors.
pub struct FilePlan {
    /// Path in the model's directory.
    pub name: String,
    /// In order.
    pub tensors: Vec<Tensor>,
    /// Tensors of a record; zero for a file without records. A file with records ends with their
    /// checksums.
    pub record_tensors: usize,
}

/// What is to be made.
pub struct Planner<'a> {
    pub blueprint: &'a Blueprint,
    pub pack: PackOptions,
    pub law: Law,
}

impl Tensor {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        // Nothing made here is in blocks, nor too large.
        self.spec.dtype.tensor_bytes(&self.spec.shape).unwrap_or(0)
    }

    /// Its bytes from `first` on.
    pub fn fill(&self, first: u64, out: &mut [u8]) {
        match &self.values {
            Values::Codes(affine) => affine.codes(first, out),
            Values::Scales(affine) => affine.scales(first, out),
            Values::Biases(affine) => affine.biases(first, out),
            Values::Bytes(bytes) => out.copy_from_slice(&bytes[first as usize..][..out.len()]),
            Values::Zeros => out.fill(0),
        }
    }
}

impl FilePlan {
    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }

    /// Number of records.
    pub fn records(&self) -> usize {
        self.tensors
            .len()
            .checked_div(self.record_tensors)
            .unwrap_or(0)
    }
}

impl Planner<'_> {
    /// The names of all files of tensors.
    pub fn names(&self) -> Vec<String> {
        let layers = self.blueprint.experts.iter();
        let dense = std::iter::once(DENSE_NAME.to_owned());
        dense
            .chain(layers.map(|layer| layer_name(layer.layer)))
            .collect()
    }

    /// The file of that place in [`Planner::names`].
    ///
    /// # Errors
    /// Dimensions that the codec does not divide.
    pub fn file(&self, index: usize) -> Result<FilePlan> {
        match index.checked_sub(1) {
            None => self.dense(),
            Some(layer) => self.layer(&self.blueprint.experts[layer]),
        }
    }

    /// The manifest's list of codecs.
    ///
    /// # Errors
    /// As [`Planner::file`].
    pub fn codecs(&self) -> Result<BTreeMap<String, String>> {
        let mut used = BTreeMap::new();
        for decl in &self.blueprint.weights {
            if let WeightKind::Matrix { cols, class, .. } = decl.kind {
                let codec = self.codec(&decl.name, Some(class), cols)?;
                note_codec(&mut used, Some(class), Codec::Affine(codec));
            }
        }
        let vectors = "norms and other vectors".to_owned();
        used.insert(vectors, "as in the source".to_owned());
        for layer in &self.blueprint.experts {
            for (name, _, cols) in expert_matrices(layer) {
                note_codec(
                    &mut used,
                    None,
                    Codec::Affine(self.codec(name, None, cols)?),
                );
            }
        }
        Ok(used)
    }

    /// Everything but routed experts.
    fn dense(&self) -> Result<FilePlan> {
        let mut tensors = Vec::new();
        for decl in &self.blueprint.weights {
            let name = full_name(&decl.name);
            match &decl.kind {
                WeightKind::Matrix { rows, cols, class } => {
                    let layer = layer_of(&decl.name);
                    let matrix = self.matrix(&name, Some(*class), layer, (*rows, *cols))?;
                    tensors.extend(matrix);
                }
                WeightKind::Table { .. } => {
                    bail!("{name}: tables that are read by rows are not made")
                }
                WeightKind::Vector { shape, fold } => {
                    let elements = shape.iter().product();
                    tensors.push(Tensor {
                        values: Values::Bytes(self.law.vector(&name, *fold, elements)),
                        spec: TensorSpec::new(name, DType::Bf16, shape.clone()),
                    });
                }
            }
        }
        Ok(FilePlan {
            name: DENSE_NAME.to_owned(),
            tensors,
            record_tensors: 0,
        })
    }

    /// The routed experts of a layer.
    fn layer(&self, layer: &ExpertLayer) -> Result<FilePlan> {
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut record_tensors = 0;
        for expert in 0..layer.experts {
            let first = tensors.len();
            for (matrix, rows, cols) in expert_matrices(layer) {
                let short = format!("experts.{expert}.{matrix}");
                let name = format!("layers.{}.{short}", layer.layer);
                for mut tensor in self.matrix(&name, None, layer.layer, (rows, cols))? {
                    let part = tensor.spec.name.split_off(name.len());
                    tensor.spec.name = format!("{short}{part}");
                    tensors.push(tensor);
                }
            }
            let bytes: u64 = tensors[first..].iter().map(Tensor::bytes).sum();
            let pad = (bytes.next_multiple_of(RECORD_ALIGN) - bytes) as usize;
            tensors.push(Tensor {
                spec: TensorSpec::new(format!("experts.{expert}.pad"), DType::U8, [pad]),
                values: Values::Zeros,
            });
            record_tensors = tensors.len() - first;
        }
        Ok(FilePlan {
            name: layer_name(layer.layer),
            tensors,
            record_tensors,
        })
    }

    /// The tensors of a matrix.
    fn matrix(
        &self,
        name: &str,
        class: Option<MatrixClass>,
        layer: usize,
        (rows, cols): (usize, usize),
    ) -> Result<[Tensor; 3]> {
        let affine = self.codec(name, class, cols)?;
        let codec = Codec::Affine(affine);
        let matrix = self.law.matrix(name, class, layer, (rows, cols), affine);
        let [weights, scales, biases] = codec.tensors(rows, cols)[..] else {
            bail!("{name}: {codec} is not of three tensors");
        };
        let tensor = |part: PartTensor, values| Tensor {
            spec: TensorSpec::new(format!("{name}.{}", part.name), part.dtype, part.shape),
            values,
        };
        Ok([
            tensor(weights, Values::Codes(matrix.clone())),
            tensor(scales, Values::Scales(matrix.clone())),
            tensor(biases, Values::Biases(matrix)),
        ])
    }

    fn codec(&self, name: &str, class: Option<MatrixClass>, cols: usize) -> Result<AffineCodec> {
        match self.pack.codec(class, cols, Codec::Bf16)? {
            Codec::Affine(codec) => Ok(codec),
            other => {
                bail!("{name}: {cols} columns would be stored as {other}; only affine is made")
            }
        }
    }
}

/// Name, rows and columns of an expert's matrices.
fn expert_matrices(layer: &ExpertLayer) -> [(&'static str, usize, usize); 3] {
    [
        ("gate_proj", layer.intermediate, layer.hidden),
        ("up_proj", layer.intermediate, layer.hidden),
        ("down_proj", layer.hidden, layer.intermediate),
    ]
}

/// The name in a checkpoint of the text form.
fn full_name(name: &str) -> String {
    match name.starts_with("lm_head") {
        true => name.to_owned(),
        false => format!("model.{name}"),
    }
}

/// The layer that a weight's name says.
fn layer_of(name: &str) -> usize {
    let number = name
        .strip_prefix("layers.")
        .and_then(|rest| rest.split('.').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
