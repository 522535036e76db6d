//! What there is to know about a model without loading it.

use std::path::Path;

use moeflux_formats::PackedModel;
use moeflux_kernels::KvType;

use crate::Error;
use crate::config::Config;
use crate::gguf::{self, GgufInfo, model_path};
use crate::graph::StateDecl;
use crate::models::{self, Blueprint, MatrixClass};
use crate::weights::{self, ExpertTable, ModelFiles, Survey};

/// A model in figures.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The configuration's `model_type`.
    pub model_type: String,
    /// Whether the directory was written by `pack`.
    pub packed: bool,
    /// What a GGUF file says about itself; of a packed model, the file that it was packed from.
    pub gguf: Option<GgufInfo>,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Layers with routed experts.
    pub moe_layers: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The longest sequence that the model was made for.
    pub context_tokens: usize,
    /// Routed experts in a layer (the most, if layers differ).
    pub experts: usize,
    /// Routed experts that a token uses in a layer.
    pub top_k: usize,
    /// Weights in all tensors that are used.
    pub parameters: u64,
    /// Bytes of the resident weights.
    pub dense_bytes: u64,
    /// Bytes of all routed experts.
    pub expert_bytes: u64,
    /// Bytes of one expert's record in memory (the largest).
    pub expert_record_bytes: u64,
    /// Number of expert records.
    pub expert_records: usize,
    /// Bytes of resident weights that a token reads.
    pub token_dense_bytes: u64,
    /// Bytes of routed experts that a token reads.
    pub token_expert_bytes: u64,
    /// Multiply-adds of a token in all matrices but the output head.
    pub token_multiply_adds: u64,
    /// Bytes that the session's state grows by with each token, once past its first page and all
    /// windows, with the engine's type of keys and values (the default one before the model is
    /// opened).
    pub token_state_bytes: u64,
    /// Codecs by class of weights.
    pub codecs: Vec<(String, String)>,
    /// What was left out on purpose.
    pub skipped: Vec<String>,
}

/// A model opened by its headers.
pub(crate) struct Opened {
    pub config: Config,
    pub blueprint: Blueprint,
    pub files: ModelFiles,
    pub survey: Survey,
    pub table: ExpertTable,
}

impl Opened {
    pub(crate) fn open(path: &Path) -> Result<Opened, Error> {
        let path = model_path(path)?;
        let (config, blueprint, files) = if moeflux_formats::gguf::is_gguf(&path) {
            let model = gguf::open(&path)?;
            (model.config, model.blueprint, ModelFiles::gguf(model.files))
        } else if let Some(header) = PackedModel::gguf_header(&path)? {
            let (config, blueprint) = gguf::describe(&header)?;
            let files = ModelFiles::open(&path, &blueprint)?.described_by(header);
            (config, blueprint, files)
        } else {
            let config = Config::open(&path)?;
            let mut blueprint = models::blueprint(&config)?;
            let files = ModelFiles::open(&path, &blueprint)?;
            weights::adapt(&mut blueprint, &files);
            (config, blueprint, files)
        };
        let survey = Survey::of(&files, &blueprint)?;
        let table = ExpertTable::find(&files, &blueprint)?;
        Ok(Opened {
            config,
            blueprint,
            files,
            survey,
            table,
        })
    }

    /// The model in figures, with keys and values kept as `kv`.
    pub(crate) fn info(&self, kv: KvType) -> ModelInfo {
        let Opened {
            blueprint,
            files,
            survey,
            table,
            ..
        } = self;
        let mut codecs = Vec::new();
        let mut experts: Vec<String> = Vec::new();
        for layout in table.layouts.values() {
            for matrix in [&layout.gate, &layout.up, &layout.down] {
                let name = matrix.codec().to_string();
                if !experts.contains(&name) {
                    experts.push(name);
                }
            }
        }
        codecs.push(("routed experts".to_owned(), experts.join(", ")));
        for (class, found) in &survey.codecs {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            codecs.push((class_name(*class).to_owned(), found.join(", ")));
        }
        let token_expert_bytes: u64 = table
            .layouts
            .values()
            .map(|l| (l.bytes() * blueprint.top_k) as u64)
            .sum();
        let expert_multiply_adds: u64 = blueprint
            .experts
            .iter()
            .map(|e| (3 * e.hidden * e.intermediate * blueprint.top_k) as u64)
            .sum();
        let per_token = |s: &StateDecl| match s.has_window() {
            true => 0,
            false => s.position_bytes(kv),
        };
        ModelInfo {
            model_type: blueprint.model_type.clone(),
            packed: files.packed().is_some(),
            gguf: files.metadata().map(GgufInfo::of),
            hidden: blueprint.hidden,
            layers: blueprint.layers,
            moe_layers: blueprint.experts.len(),
            vocab_size: blueprint.vocab,
            context_tokens: blueprint.context_tokens,
            experts: blueprint
                .experts
                .iter()
                .map(|e| e.experts)
                .max()
                .unwrap_or(0),
            top_k: blueprint.top_k,
            parameters: blueprint.parameters(),
            dense_bytes: survey.bytes,
            expert_bytes: table.catalog.total_bytes(),
            expert_record_bytes: table.catalog.slot_bytes(),
            expert_records: table.catalog.expert_count(),
            token_dense_bytes: survey.token_bytes,
            token_multiply_adds: survey.token_multiply_adds + expert_multiply_adds,
            token_expert_bytes,
            token_state_bytes: blueprint.graph.states.iter().map(per_token).sum(),
            codecs,
            skipped: files.skipped(blueprint),
        }
    }
}

/// The name of a class of matrices, for people.
pub(crate) fn class_name(class: MatrixClass) -> &'static str {
    match class {
        MatrixClass::Embedding => "embedding",
        MatrixClass::Head => "output head",
        MatrixClass::Dense => "attention and shared expert",
        MatrixClass::Sensitive => "router and gates",
    }
}

/// Describes the model at `path` (a directory or GGUF file) from its headers.
///
/// # Errors
/// Whatever would keep it from being opened: missing or malformed files, an unknown architecture.
pub fn inspect(path: &Path) -> Result<ModelInfo, Error> {
    Ok(Opened::open(path)?.info(KvType::default()))
}
