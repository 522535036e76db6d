//! A model's files: a packed directory, a Hugging Face checkpoint as it is, or a GGUF file as it
//! is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moeflux_formats::gguf::Metadata;
use moeflux_formats::{Checkpoint, PackedLayer, PackedModel};
use xxhash_rust::xxh3::Xxh3;

use crate::Error;
use crate::config::Config;
use crate::models::Blueprint;

/// Values that count of a tensor when models are told apart.
const SAMPLE_BYTES: usize = 4096;
/// Of so many experts' tensors one counts: there may be a hundred thousand.
const SAMPLED_EXPERTS: usize = 256;

/// The files of a model, opened by header.
pub struct ModelFiles {
    dir: PathBuf,
    dense: Checkpoint,
    packed: Option<BTreeMap<usize, PackedLayer>>,
    codecs: Vec<(String, String)>,
    /// Of the GGUF model that the files were packed from.
    header: Option<Checkpoint>,
    prefix: &'static str,
}

impl ModelFiles {
    /// Opens `dir` and finds the prefix of the model's tensor names.
    ///
    /// # Errors
    /// Missing, truncated or malformed files, each named.
    pub fn open(dir: &Path, blueprint: &Blueprint) -> Result<ModelFiles, Error> {
        let (dense, packed, codecs) = if PackedModel::is_packed(dir) {
            let model = PackedModel::open(dir)?;
            let codecs = model.manifest.codecs.into_iter().collect();
            (model.dense, Some(model.layers), codecs)
        } else {
            (Checkpoint::open(dir)?, None, Vec::new())
        };
        let fits = |p: &&&str| dense.get(&format!("{p}embed_tokens.weight")).is_some();
        let default = match blueprint.prefixes {
            [only] => only,
            _ => "model.",
        };
        let prefix = blueprint.prefixes.iter().find(fits).copied();
        let prefix = prefix.unwrap_or(default);
        Ok(ModelFiles {
            dir: dir.to_owned(),
            dense,
            packed,
            codecs,
            header: None,
            prefix,
        })
    }

    /// The same files, packed from the GGUF model of `header`.
    pub(crate) fn described_by(self, header: Checkpoint) -> ModelFiles {
        let header = Some(header);
        ModelFiles { header, ..self }
    }

    /// The files of a GGUF model, already open. The blueprint has the tensors' own names.
    pub fn gguf(dense: Checkpoint) -> ModelFiles {
        ModelFiles {
            dir: dense.place().to_owned(),
            dense,
            packed: None,
            codecs: Vec::new(),
            header: None,
            prefix: "",
        }
    }

    /// The model's directory or GGUF file.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files with the resident weights (and, if the model is not packed, the experts).
    pub fn dense(&self) -> &Checkpoint {
        &self.dense
    }

    /// The keys of the GGUF model that this is or was packed from.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        self.header.as_ref().unwrap_or(&self.dense).gguf()
    }

    /// The packed layers, if the model is packed.
    pub fn packed(&self) -> Option<&BTreeMap<usize, PackedLayer>> {
        self.packed.as_ref()
    }

    /// What `moeflux.json` says of the codec of each tensor class; empty if not packed.
    pub fn codecs(&self) -> &[(String, String)] {
        &self.codecs
    }

    /// The full name of a weight: with the model's prefix, or without where it stands so.
    pub fn full_name(&self, name: &str) -> String {
        let at_top = |n: &str| {
            self.dense.get(n).is_some() || self.dense.get(&format!("{n}.weight")).is_some()
        };
        if name.starts_with("lm_head") && at_top(name) {
            return name.to_owned();
        }
        // MLX puts the head of a multimodal model's text part beside that part's layers.
        if let Some(outer) = self.prefix.strip_suffix("model.")
            && name.starts_with("lm_head")
            && at_top(&format!("{outer}{name}"))
        {
            return format!("{outer}{name}");
        }
        format!("{}{name}", self.prefix)
    }

    /// Tensors that are left out on purpose: their number by what they are.
    pub fn skipped(&self, blueprint: &Blueprint) -> Vec<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.dense.names() {
            let known = blueprint
                .skipped
                .iter()
                .find(|(start, _)| name.starts_with(start.as_str()));
            if let Some((_, what)) = known {
                *counts.entry(what).or_default() += 1;
            }
        }
        counts
            .into_iter()
            .map(|(what, n)| format!("{what} ({n} tensors)"))
            .collect()
    }

    /// A number that tells this model from others: its configuration, tensor table, and the first
    /// values of every dense tensor (and of some experts), so that two that were trained from one
    /// differ.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn identity(&self, config: &Config) -> Result<u64, Error> {
        let mut hash = Xxh3::new();
        hash.update(config.file_text().as_bytes());
        let mut sample = [0; SAMPLE_BYTES];
        for (index, name) in self.dense.names().enumerate() {
            let Some(info) = self.dense.get(name) else {
                continue;
            };
            hash.update(name.as_bytes());
            hash.update(info.dtype.name().as_bytes());
            hash.update(&info.bytes.to_le_bytes());
            if !name.contains(".experts.") || index.is_multiple_of(SAMPLED_EXPERTS) {
                let sample = &mut sample[..info.bytes.min(SAMPLE_BYTES as u64) as usize];
                self.dense.read(info, 0, sample)?;
                hash.update(sample);
            }
        }
        for layer in self.packed.iter().flat_map(BTreeMap::values) {
            for record in &layer.records {
                hash.update(&record.checksum.to_le_bytes());
            }
        }
        Ok(hash.digest())
    }
}
