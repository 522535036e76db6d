//! The file of importances, in safetensors:
//!
//! | tensor | |
//! |---|---|
//! | `importance` U64 `[3]` | version of this layout, the model's identity, tokens of the text |
//! | `NAME` F32 `[cols]` | mean squares of the input of matrix `NAME` |
//! | `experts.L.tokens` U64 `[experts]` | tokens that chose each routed expert of layer `L` |
//! | `experts.L.input` F32 `[experts, hidden]` | mean squares of the input of gate and up |
//! | `experts.L.inner` F32 `[experts, intermediate]` | mean squares of the input of down |

use std::collections::BTreeMap;
use std::path::Path;

use moeflux_formats::{Checkpoint, DType, SafetensorsWriter, TensorSpec};

use super::{ExpertMeans, Importance, LayerImportance};
use crate::Error;
use crate::models::{Blueprint, ExpertLayer, WeightKind};

/// The version of the layout.
const VERSION: u64 = 1;
/// The tensor that says what the file is.
const HEAD: &str = "importance";

/// A tensor to be written.
pub(super) struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Values,
}

/// Its values.
pub(super) enum Values {
    Numbers(Vec<u64>),
    Floats(Vec<f32>),
}

/// The three tensors' names of a layer of experts.
pub(super) fn layer_names(layer: usize) -> [String; 3] {
    ["tokens", "input", "inner"].map(|part| format!("experts.{layer}.{part}"))
}

/// Writes the file, whole or not at all.
pub(super) fn write(
    path: &Path,
    identity: u64,
    tokens: u64,
    mut tensors: Vec<Tensor>,
) -> Result<(), Error> {
    let head = Tensor {
        name: HEAD.to_owned(),
        shape: vec![3],
        values: Values::Numbers(vec![VERSION, identity, tokens]),
    };
    tensors.insert(0, head);
    let specs = tensors.iter().map(|tensor| {
        let dtype = match tensor.values {
            Values::Numbers(_) => DType::U64,
            Values::Floats(_) => DType::F32,
        };
        TensorSpec::new(&tensor.name, dtype, tensor.shape.clone())
    });
    let specs: Vec<TensorSpec> = specs.collect();
    let mut partial = path.to_owned().into_os_string();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let mut writer = SafetensorsWriter::create(partial, &specs, 8)?;
    for tensor in &tensors {
        match &tensor.values {
            Values::Numbers(values) => {
                let bytes = values.iter().flat_map(|x| x.to_le_bytes());
                writer.write(&bytes.collect::<Vec<u8>>())?;
            }
            Values::Floats(values) => {
                for values in values.chunks(1 << 16) {
                    let bytes = values.iter().flat_map(|x| x.to_le_bytes());
                    writer.write(&bytes.collect::<Vec<u8>>())?;
                }
            }
        }
    }
    writer.finish()?;
    std::fs::rename(partial, path).map_err(|source| Error::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Reads what the file says of itself.
pub(super) fn read_head(path: &Path) -> Result<(Importance, Checkpoint), Error> {
    let file = Checkpoint::open_files(vec![path.to_owned()])?;
    let head = match file.get(HEAD) {
        Some(_) => numbers(&file, HEAD, 3)?,
        None => Vec::new(),
    };
    let &[VERSION, identity, tokens] = head.as_slice() else {
        let problem = "is no file of importances of this version".to_owned();
        return Err(wrong(path, problem));
    };
    let head = Importance {
        identity,
        tokens,
        dense: BTreeMap::new(),
        layers: BTreeMap::new(),
    };
    Ok((head, file))
}

/// Reads all that the file has of the model's matrices.
pub(super) fn read(
    file: &Checkpoint,
    path: &Path,
    mut into: Importance,
    blueprint: &Blueprint,
) -> Result<Importance, Error> {
    for decl in &blueprint.weights {
        if let WeightKind::Matrix { cols, .. } = decl.kind
            && file.get(&decl.name).is_some()
        {
            let means = means(file, path, &decl.name, &[cols])?;
            into.dense.insert(decl.name.clone(), means);
        }
    }
    for layer in &blueprint.experts {
        into.layers
            .insert(layer.layer, read_layer(file, path, layer)?);
    }
    Ok(into)
}

fn read_layer(
    file: &Checkpoint,
    path: &Path,
    layer: &ExpertLayer,
) -> Result<LayerImportance, Error> {
    let [tokens, input, inner] = layer_names(layer.layer);
    let tokens = numbers(file, &tokens, layer.experts)?;
    let read = |name: &str, cols| -> Result<ExpertMeans, Error> {
        let own = means(file, path, name, &[layer.experts, cols])?;
        Ok(ExpertMeans::new(own, &tokens))
    };
    Ok(LayerImportance {
        input: read(&input, layer.hidden)?,
        inner: read(&inner, layer.intermediate)?,
        tokens,
    })
}

fn means(file: &Checkpoint, path: &Path, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
    let means = file.read_f32(name, shape)?;
    match means.iter().find(|x| !(x.is_finite() && **x >= 0.0)) {
        None => Ok(means),
        Some(x) => Err(wrong(
            path,
            format!("tensor {name} holds {x}, no mean square"),
        )),
    }
}

fn numbers(file: &Checkpoint, name: &str, count: usize) -> Result<Vec<u64>, Error> {
    let info = file.require(name)?;
    if info.dtype != DType::U64 || info.shape != [count] {
        let (dtype, shape) = (info.dtype, &info.shape);
        let problem = format!("tensor {name} is {dtype} {shape:?}, not U64 [{count}]");
        return Err(wrong(file.place(), problem));
    }
    let mut bytes = vec![0; count * 8];
    file.read(info, 0, &mut bytes)?;
    let numbers = bytes.as_chunks().0.iter();
    Ok(numbers.map(|x| u64::from_le_bytes(*x)).collect())
}

fn wrong(path: &Path, problem: String) -> Error {
    let path = path.to_owned();
    Error::Importance { path, problem }
}
