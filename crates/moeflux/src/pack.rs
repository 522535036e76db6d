//! Turning a checkpoint into a packed model directory: which codec each tensor gets, and why.

mod experts;
mod shards;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moeflux_formats::{
    AffineCodec, BlockCodec, Codec, ColumnWeights, PackPlan, PackProgress, PackReport,
    PlannedLayer, PlannedMatrix, PlannedTensor,
};

use crate::Error;
use crate::importance::{ExpertInput, Importance};
use crate::info::{Opened, class_name};
use crate::models::{ExpertLayer, MatrixClass, WeightKind};
use crate::weights::{find_matrix, find_table};
use experts::{ExpertSources, source_of};

pub use shards::{ShardedSource, pack_shards};

/// Files beside the weights that go along as they are.
const COPIED_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tiktoken.model",
    "tokenizer.model",
    "added_tokens.json",
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
/// Weights that share a scale by default.
const GROUP: usize = 64;
/// Fewest bits of attention and shared experts by default: every token uses them.
const DENSE_BITS: u32 = 4;

/// How to pack. 16 bits mean floats as in the source, [`PackOptions::KEEP`] whatever is there.
///
/// Integers that take no more bytes in the source than they would as asked stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// Bits of routed experts: 2, 3, 4, 5, 6, 8, 16 or [`PackOptions::KEEP`].
    pub bits: u32,
    /// Weights that share a scale: 32, 64 or 128, or [`PackOptions::BLOCKS`]; default 64.
    pub group: Option<usize>,
    /// Bits of attention and shared experts; default as `bits`, at least 4.
    pub dense_bits: Option<u32>,
    /// Bits of the output head; default 8.
    pub head_bits: Option<u32>,
    /// Threads; default one per core.
    pub threads: Option<usize>,
    /// A file that [`ImportanceRecorder`](crate::ImportanceRecorder) wrote: errors weigh by it.
    pub importance: Option<PathBuf>,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions {
            bits: 4,
            group: None,
            dense_bits: None,
            head_bits: None,
            threads: None,
            importance: None,
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
    let importance = match &options.importance {
        Some(file) => Some(Importance::open(file, &opened)?),
        None => None,
    };
    let plan = plan(&opened, options, importance.as_ref())?;
    if importance.is_some() && !plan.is_weighed() {
        return Err(Error::Option {
            flag: "--importance",
            problem: "nothing is rounded with these bits; leave it out".to_owned(),
        });
    }
    drop(importance);
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
    /// As in the source, in the same codec.
    pub const KEEP: u32 = u32::MAX;
    /// Blocks of 256 with scales of their parts, in place of groups.
    pub const BLOCKS: usize = 256;

    fn bits(&self, class: Option<MatrixClass>) -> u32 {
        match class {
            None => self.bits,
            Some(MatrixClass::Dense) => self.dense_bits.unwrap_or(self.bits.max(DENSE_BITS)),
            Some(MatrixClass::Head) => self.head_bits.unwrap_or(self.bits.max(HEAD_BITS)),
            Some(_) if self.bits >= 16 => self.bits,
            Some(MatrixClass::Sensitive) => SENSITIVE_BITS,
            Some(MatrixClass::Embedding) => EMBEDDING_BITS,
        }
    }

    /// The codec for a matrix of `cols` columns of a class (`None`: of a routed expert) whose
    /// source is coded as `source`. It is groups of the size asked for, or the largest that divides
    /// `cols`, or as in the source; with [`PackOptions::BLOCKS`] it is Q4_K (else IQ4_NL) at 4 bits
    /// and Q5_K at 5 where they divide `cols`, and groups of 64 elsewhere.
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
        if bits == Self::KEEP || (bits == 16 && is_plain) {
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
                problem: format!(
                    "16 keeps floats, but the source is coded as {source}; `keep` keeps that"
                ),
            });
        }
        let in_blocks = self.group == Some(Self::BLOCKS);
        let group = self.group.filter(|_| !in_blocks).unwrap_or(GROUP);
        let asked = AffineCodec::new(bits, group).map_err(wrong)?;
        let blocks = match (in_blocks, bits) {
            (true, 4) => [Some(BlockCodec::Q4K), Some(BlockCodec::Iq4Nl)],
            (true, 5) => [Some(BlockCodec::Q5K), None],
            _ => [None, None],
        };
        let blocks = blocks.into_iter().flatten();
        let block = blocks
            .map(Codec::Block)
            .find(|codec| codec.encoded_bytes(1, cols).is_ok());
        let smaller = [128, 64, 32].into_iter().filter(|&g| g < asked.group);
        let fits = std::iter::once(asked.group)
            .chain(smaller)
            .find(|g| cols.is_multiple_of(*g));
        let target = match (block, fits) {
            (Some(block), _) => block,
            (None, Some(group)) => Codec::Affine(AffineCodec { bits, group }),
            (None, None) if is_plain => source,
            (None, None) => Codec::Bf16,
        };
        let is_integer = !is_plain && !matches!(source, Codec::F8(_));
        Ok(
            match is_integer && row_bytes(source, cols) <= row_bytes(target, cols) {
                true => source,
                false => target,
            },
        )
    }
}

/// Bytes of a row of `cols` columns; the most, of a codec that does not divide it.
fn row_bytes(codec: Codec, cols: usize) -> usize {
    codec.encoded_bytes(1, cols).map_or(usize::MAX, |bytes| {
        match codec {
            // Its one scale belongs to all rows.
            Codec::Nvfp4 => bytes.weights,
            _ => bytes.total(),
        }
    })
}

fn plan(
    opened: &Opened,
    options: &PackOptions,
    importance: Option<&Importance>,
) -> Result<PackPlan, Error> {
    // Before any file is looked at, so that the flag is what the message names.
    check_group(options)?;
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    let dense = plan_dense(opened, options, importance, &mut used)?;
    used.insert(
        "norms and other vectors".to_owned(),
        "as in the source".to_owned(),
    );
    if let Some(importance) = importance {
        let tokens = importance.tokens();
        used.insert(
            "rounding".to_owned(),
            format!("by the importance of columns in a text of {tokens} tokens"),
        );
    }
    let mut layers = Vec::new();
    for layer in &opened.blueprint.experts {
        let planned = plan_layer(opened, options, layer, importance, &mut used)?;
        layers.push(planned);
    }
    Ok(PackPlan {
        dense,
        layers,
        copied_files: match opened.files.metadata() {
            None => COPIED_FILES.map(str::to_owned).to_vec(),
            // All of it is in the header.
            Some(_) => Vec::new(),
        },
        codecs: used,
        skipped: opened.files.skipped(&opened.blueprint),
    })
}

fn check_group(options: &PackOptions) -> Result<(), Error> {
    let wrong = |problem| Error::Option {
        flag: "--group",
        problem,
    };
    match (options.group, options.bits) {
        (Some(PackOptions::BLOCKS), 4 | 5) => Ok(()),
        (Some(PackOptions::BLOCKS), bits) => {
            Err(wrong(format!("256 is for 4 and 5 bits, not {bits}")))
        }
        (group, _) => {
            let checked = AffineCodec::new(4, group.unwrap_or(GROUP));
            checked.map(|_| ()).map_err(|e| wrong(e.to_string()))
        }
    }
}

fn plan_dense(
    opened: &Opened,
    options: &PackOptions,
    importance: Option<&Importance>,
    used: &mut BTreeMap<String, String>,
) -> Result<Vec<PlannedTensor>, Error> {
    let mut dense = Vec::new();
    let copy = |name: String| PlannedTensor::Copy {
        source: name.clone(),
        name,
    };
    for decl in &opened.blueprint.weights {
        let name = opened.files.full_name(&decl.name);
        match &decl.kind {
            WeightKind::Matrix { rows, cols, class } => {
                let found = find_matrix(opened.files.dense(), &name, *rows, *cols)?;
                let codec = options.codec(Some(*class), *cols, found.codec)?;
                note_codec(used, Some(*class), codec);
                dense.push(PlannedTensor::Matrix(PlannedMatrix {
                    name,
                    source: source_of(found, 0),
                    rows: *rows,
                    cols: *cols,
                    codec,
                    importance: importance
                        .map_or_else(ColumnWeights::default, |found| found.dense(&decl.name)),
                }));
            }
            WeightKind::Table { rows, cols } => {
                let found = find_table(opened.files.dense(), &name, (*rows, *cols))?;
                dense.extend(found.into_iter().map(|(name, _)| copy(name)));
            }
            WeightKind::Vector { .. } => {
                let copy = copy(name);
                // Two vectors may come from one tensor.
                if !dense.contains(&copy) {
                    dense.push(copy);
                }
            }
        }
    }
    Ok(dense)
}

fn plan_layer(
    opened: &Opened,
    options: &PackOptions,
    layer: &ExpertLayer,
    importance: Option<&Importance>,
    used: &mut BTreeMap<String, String>,
) -> Result<PlannedLayer, Error> {
    let (hidden, intermediate) = (layer.hidden, layer.intermediate);
    let sources = ExpertSources::find(opened, layer);
    let matrices = [
        ("gate_proj", intermediate, hidden),
        ("up_proj", intermediate, hidden),
        ("down_proj", hidden, intermediate),
    ];
    let mut experts = Vec::with_capacity(layer.experts);
    for expert in 0..layer.experts {
        let mut planned = Vec::with_capacity(3);
        let weights = |input| {
            let found = importance.map(|found| found.expert(layer.layer, expert, input));
            found.unwrap_or_default()
        };
        let [hidden, inner] = [ExpertInput::Hidden, ExpertInput::Inner].map(weights);
        for (index, (matrix, rows, cols)) in matrices.into_iter().enumerate() {
            let (codec, source) = sources.matrix(expert, index, (rows, cols))?;
            let codec = options.codec(None, cols, codec)?;
            note_codec(used, None, codec);
            planned.push(PlannedMatrix {
                name: matrix.to_owned(),
                source,
                rows,
                cols,
                codec,
                importance: if index < 2 { &hidden } else { &inner }.clone(),
            });
        }
        experts.push(planned);
    }
    Ok(PlannedLayer {
        layer: layer.layer,
        experts,
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
