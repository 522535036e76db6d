//! Turning a checkpoint into a packed model directory: which codec each tensor gets, and why.

use std::collections::BTreeMap;
use std::path::Path;

use moeflux_formats::{
    AffineCodec, Codec, CodedSource, ElementSteps, MatrixSource, PackPlan, PackProgress,
    PackReport, PlannedLayer, PlannedMatrix, PlannedTensor,
};

use crate::Error;
use crate::info::{Opened, class_name};
use crate::models::{ExpertLayer, MatrixClass, WeightKind};
use crate::weights::{MatrixTensors, find_matrix, find_stack, find_table, switched};

/// Files beside the weights that go along as they are.
const COPIED_FILES: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tiktoken.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

/// Bits of the small matrices that steer: a wrong expert costs more than their few bytes.
const SENSITIVE_BITS: u32 = 8;
/// Bits of the embedding table: a token reads one row of it, so they cost no speed.
const EMBEDDING_BITS: u32 = 8;
/// Fewest bits of the output head by default: every token's choice passes through it.
const HEAD_BITS: u32 = 8;
/// Fewest bits of attention and shared experts by default: every token uses them.
const DENSE_BITS: u32 = 4;

/// How to pack. 16 bits mean: as in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// Bits of routed experts: 2, 3, 4, 5, 6, 8 or 16.
    pub bits: u32,
    /// Weights that share a scale: 32, 64 or 128.
    pub group: usize,
    /// Bits of attention and shared experts; default as `bits`, at least 4.
    pub dense_bits: Option<u32>,
    /// Bits of the output head; default 8.
    pub head_bits: Option<u32>,
    /// Threads; default one per core.
    pub threads: Option<usize>,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions {
            bits: 4,
            group: 64,
            dense_bits: None,
            head_bits: None,
            threads: None,
        }
    }
}

/// Packs the checkpoint in `source` into a new directory `destination`.
///
/// # Errors
/// Anything wrong with the source, an existing destination, or a full disk. What was finished is
/// kept beside the destination, and the same call resumes from it.
pub fn pack(
    source: &Path,
    destination: &Path,
    options: &PackOptions,
    progress: &mut dyn FnMut(PackProgress),
) -> Result<PackReport, Error> {
    let opened = Opened::open(source)?;
    if opened.files.packed().is_some() {
        let problem = format!("{} is packed already; give the original", source.display());
        return Err(Error::Option {
            flag: "SRC",
            problem,
        });
    }
    if opened.files.dense().gguf().is_some() {
        let problem = format!(
            "{} is a GGUF file, which opens as it is (-m FILE); pack takes the original \
             safetensors checkpoint",
            source.display()
        );
        return Err(Error::Option {
            flag: "SRC",
            problem,
        });
    }
    let turned = |name: &str| name.ends_with(".gate_up_proj_blocks");
    if opened.files.dense().names().any(turned) {
        let problem = format!(
            "{} has experts in MXFP4, which open as they are (-m DIR); pack takes floats, FP8, \
             affine groups and packed integers",
            source.display()
        );
        return Err(Error::Option {
            flag: "SRC",
            problem,
        });
    }
    let plan = plan(&opened, options)?;
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let files = opened.files.dense();
    Ok(moeflux_formats::pack(
        files,
        source,
        &plan,
        destination,
        threads,
        progress,
    )?)
}

impl PackOptions {
    fn bits(&self, class: Option<MatrixClass>) -> u32 {
        let lossless = self.bits == 16;
        match class {
            None => self.bits,
            Some(MatrixClass::Dense) => self.dense_bits.unwrap_or(self.bits.max(DENSE_BITS)),
            Some(MatrixClass::Head) => self.head_bits.unwrap_or(self.bits.max(HEAD_BITS)),
            Some(_) if lossless => 16,
            Some(MatrixClass::Sensitive) => SENSITIVE_BITS,
            Some(MatrixClass::Embedding) => EMBEDDING_BITS,
        }
    }

    /// The codec for a matrix of `cols` columns of a class (`None`: of a routed expert) whose
    /// source is coded as `source`: groups of the size asked for, else the largest that divides
    /// `cols`, else as in the source.
    ///
    /// # Errors
    /// [`Error::Option`] for bits or a group length that no codec has.
    pub fn codec(
        &self,
        class: Option<MatrixClass>,
        cols: usize,
        source: Codec,
    ) -> Result<Codec, Error> {
        let bits = self.bits(class);
        let is_plain = matches!(source, Codec::F32 | Codec::F16 | Codec::Bf16);
        if bits == 16 && is_plain {
            return Ok(source);
        }
        let flag = match class {
            Some(MatrixClass::Dense) if self.dense_bits.is_some() => "--dense-bits",
            Some(MatrixClass::Head) if self.head_bits.is_some() => "--head-bits",
            _ => "--bits",
        };
        let wrong = |e: moeflux_formats::CodecError| Error::Option {
            flag,
            problem: e.to_string(),
        };
        if bits == 16 {
            return Err(Error::Option {
                flag,
                problem: format!("16 keeps floats, but the source is coded as {source}"),
            });
        }
        let asked = AffineCodec::new(bits, self.group).map_err(wrong)?;
        let smaller = [128, 64, 32].into_iter().filter(|&g| g < asked.group);
        let fits = std::iter::once(asked.group)
            .chain(smaller)
            .find(|g| cols.is_multiple_of(*g));
        match fits {
            Some(group) => Ok(Codec::Affine(AffineCodec { bits, group })),
            None if is_plain => Ok(source),
            None => Ok(Codec::Bf16),
        }
    }
}

fn plan(opened: &Opened, options: &PackOptions) -> Result<PackPlan, Error> {
    // Checked before any file is looked at, so that the flag is what the message names.
    AffineCodec::new(4, options.group).map_err(|e| Error::Option {
        flag: "--group",
        problem: e.to_string(),
    })?;
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    let mut dense = Vec::new();
    for decl in &opened.blueprint.weights {
        let name = opened.files.full_name(&decl.name);
        match &decl.kind {
            WeightKind::Matrix { rows, cols, class } => {
                let found = find_matrix(opened.files.dense(), &name, *rows, *cols)?;
                let codec = options.codec(Some(*class), *cols, found.codec)?;
                note_codec(&mut used, Some(*class), codec);
                dense.push(PlannedTensor::Matrix(PlannedMatrix {
                    name,
                    source: source_of(found, 0),
                    rows: *rows,
                    cols: *cols,
                    codec,
                }));
            }
            WeightKind::Table { rows, cols } => {
                let found = find_table(opened.files.dense(), &name, (*rows, *cols))?;
                let copies = found.into_iter().map(|(name, _)| PlannedTensor::Copy {
                    source: name.clone(),
                    name,
                });
                dense.extend(copies);
            }
            WeightKind::Vector { .. } => {
                let copy = PlannedTensor::Copy {
                    source: name.clone(),
                    name,
                };
                // Two vectors may come from one tensor.
                if !dense.contains(&copy) {
                    dense.push(copy);
                }
            }
        }
    }
    used.insert(
        "norms and other vectors".to_owned(),
        "as in the source".to_owned(),
    );
    let mut layers = Vec::new();
    for layer in &opened.blueprint.experts {
        let planned = plan_layer(opened, options, layer, &mut used)?;
        layers.push(planned);
    }
    Ok(PackPlan {
        dense,
        layers,
        copied_files: COPIED_FILES.map(str::to_owned).to_vec(),
        codecs: used,
        skipped: opened.files.skipped(&opened.blueprint),
    })
}

fn plan_layer(
    opened: &Opened,
    options: &PackOptions,
    layer: &ExpertLayer,
    used: &mut BTreeMap<String, String>,
) -> Result<PlannedLayer, Error> {
    let name = opened.files.full_name(&layer.name);
    let (hidden, intermediate) = (layer.hidden, layer.intermediate);
    let files = opened.files.dense();
    let fused = files.get(&format!("{name}.gate_up_proj")).is_some();
    let stacked = switched(files, &name);
    let matrices = [
        ("gate_proj", intermediate, hidden),
        ("up_proj", intermediate, hidden),
        ("down_proj", hidden, intermediate),
    ];
    let mut experts = Vec::with_capacity(layer.experts);
    for expert in 0..layer.experts {
        let mut planned = Vec::with_capacity(3);
        for (index, (matrix, rows, cols)) in matrices.into_iter().enumerate() {
            let size = (rows, cols);
            let (codec, source) = if layer.is_turned && fused {
                let source = turned_source(&name, expert, index, (hidden, intermediate));
                (source_codec(opened, &source.tensor)?, source)
            } else if fused {
                let source = fused_source(&name, expert, index, hidden * intermediate);
                (source_codec(opened, &source.tensor)?, source)
            } else if let Some(stacked) = &stacked {
                let full = format!("{stacked}.{matrix}");
                let found = find_stack(files, &full, layer.experts, size)?;
                (found.codec, source_of(found, expert * rows * cols))
            } else {
                let full = format!("{name}.{expert}.{}", layer.matrices[index]);
                let found = find_matrix(files, &full, rows, cols)?;
                (found.codec, source_of(found, 0))
            };
            let codec = options.codec(None, cols, codec)?;
            note_codec(used, None, codec);
            planned.push(PlannedMatrix {
                name: matrix.to_owned(),
                source,
                rows,
                cols,
                codec,
            });
        }
        experts.push(planned);
    }
    Ok(PlannedLayer {
        layer: layer.layer,
        experts,
    })
}

/// Gate and up lie one after the other in `gate_up_proj`, down in a tensor of its own.
fn fused_source(name: &str, expert: usize, matrix: usize, elements: usize) -> MatrixSource {
    let (suffix, first) = match matrix {
        0 => ("gate_up_proj", 2 * expert * elements),
        1 => ("gate_up_proj", (2 * expert + 1) * elements),
        _ => ("down_proj", expert * elements),
    };
    MatrixSource::plain(format!("{name}.{suffix}"), first as u64)
}

/// The source of a matrix in any form, from one of its elements on.
fn source_of(found: MatrixTensors<'_>, first_element: usize) -> MatrixSource {
    let mut names = found.names.into_iter();
    let tensor = names.next().unwrap_or_default();
    let coded = match found.codec {
        Codec::F32 | Codec::F16 | Codec::Bf16 => None,
        codec => Some(CodedSource {
            codec,
            scales: names.next(),
            biases: names.next(),
        }),
    };
    MatrixSource {
        tensor,
        first_element: first_element as u64,
        steps: None,
        coded,
    }
}

/// All matrices are transposed; columns of gate and up lie in turn in `gate_up_proj`.
fn turned_source(
    name: &str,
    expert: usize,
    matrix: usize,
    (hidden, intermediate): (usize, usize),
) -> MatrixSource {
    let (suffix, first, row, col) = match matrix {
        0 | 1 => {
            let first = 2 * expert * hidden * intermediate + matrix;
            ("gate_up_proj", first, 2, 2 * intermediate)
        }
        _ => ("down_proj", expert * hidden * intermediate, 1, hidden),
    };
    MatrixSource {
        steps: Some(ElementSteps { row, col }),
        ..MatrixSource::plain(format!("{name}.{suffix}"), first as u64)
    }
}

fn source_codec(opened: &Opened, tensor: &str) -> Result<Codec, Error> {
    let info = opened.files.dense().require_float(tensor)?;
    Ok(match info.dtype {
        moeflux_formats::DType::F32 => Codec::F32,
        moeflux_formats::DType::F16 => Codec::F16,
        _ => Codec::Bf16,
    })
}

fn why(class: MatrixClass) -> &'static str {
    match class {
        MatrixClass::Embedding => "a token reads one row, so its bits cost no speed",
        MatrixClass::Head => "every choice of a token passes through it",
        MatrixClass::Dense => "every token uses them",
        MatrixClass::Sensitive => "small, and a wrong choice of expert costs more than their bytes",
    }
}

/// Records in a manifest's list of codecs that matrices of `class` (`None`: of routed experts) are
/// stored in `codec`.
pub fn note_codec(used: &mut BTreeMap<String, String>, class: Option<MatrixClass>, codec: Codec) {
    let codec = codec.to_string();
    let name = class.map_or("routed experts", class_name);
    let entry = used.entry(name.to_owned()).or_default();
    if !entry.split(['(', ',']).any(|c| c.trim() == codec) {
        let reason = class.map_or_else(String::new, |class| format!(" ({})", why(class)));
        *entry = match entry.is_empty() {
            true => format!("{codec}{reason}"),
            false => format!("{codec}, {entry}"),
        };
    }
}
