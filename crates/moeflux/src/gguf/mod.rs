//! GGUF files as they are: what the model files and the text module read from a Hugging Face
//! directory, taken from one file's metadata and tensors instead.
//!
//! `architecture.rs` lists which there are; `fields/` turns metadata into the fields of
//! `config.json`, so that an architecture's file reads both alike. `names.rs` gives a blueprint the
//! names and forms that conversions to GGUF give its weights; what differs is listed there.
//! `tokenizer.rs` and `text.rs` do the same for tokenizer, chat template and stop tokens. Parsing
//! is `moeflux-formats`' matter.
//!
//! Facts about conversions: `convert_hf_to_gguf.py` of llama.cpp (`conversion/`) and the
//! loaders in its `src/models/`.

mod architecture;
mod fields;
mod names;
mod text;
mod tokenizer;
mod words;

use std::path::{Path, PathBuf};

use moeflux_formats::gguf::Metadata;
use moeflux_formats::{Checkpoint, PackedModel};

use architecture::Architecture;

use crate::Error;
use crate::config::Config;
use crate::models::{self, Blueprint};

pub(crate) use text::{chat_template, generation_config};
pub(crate) use tokenizer::tokenizer;

/// A GGUF model that the engine can run, opened by its header.
pub(crate) struct GgufModel {
    pub config: Config,
    pub blueprint: Blueprint,
    pub files: Checkpoint,
}

/// Opens the GGUF model at `path`.
///
/// # Errors
/// A malformed file, an unknown architecture, or metadata that is missing or not supported.
pub(crate) fn open(path: &Path) -> Result<GgufModel, Error> {
    let files = Checkpoint::open(path)?;
    let (config, blueprint) = describe(&files)?;
    Ok(GgufModel {
        config,
        blueprint,
        files,
    })
}

/// Configuration and blueprint of a GGUF model, from its header alone.
///
/// # Errors
/// As [`open`].
pub(crate) fn describe(header: &Checkpoint) -> Result<(Config, Blueprint), Error> {
    let metadata = header.gguf().ok_or_else(|| Error::NotAModel {
        path: header.place().to_owned(),
    })?;
    let architecture = Architecture::of(metadata)?;
    let described = fields::config(header, metadata, architecture)?;
    let mut blueprint = models::blueprint(&described.config)?;
    names::adapt(&mut blueprint, architecture, described.extra_layers);
    if described.splits_latent {
        names::split_latent(&mut blueprint);
    }
    names::fit_shapes(&mut blueprint, header);
    Ok((described.config, blueprint))
}

/// The key of the architecture's name.
const ARCHITECTURE: &str = "general.architecture";

/// What a GGUF file says about itself, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufInfo {
    /// `general.name`, if it is there.
    pub name: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
    /// `general.file_type` in words: which type most of the weights have.
    pub file_type: Option<String>,
}

impl GgufInfo {
    /// What `metadata` says; anything that is missing or of another type is left out.
    pub(crate) fn of(metadata: &Metadata) -> GgufInfo {
        let text = |key| metadata.string(key).ok().map(str::to_owned);
        GgufInfo {
            name: text("general.name"),
            architecture: text(ARCHITECTURE).unwrap_or_default(),
            file_type: metadata.u64("general.file_type").ok().map(file_type),
        }
    }
}

/// The name of a value of `general.file_type`.
fn file_type(number: u64) -> String {
    let name = match number {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        21 => "Q2_K_S",
        25 => "IQ4_NL",
        30 => "IQ4_XS",
        32 => "BF16",
        38 => "MXFP4",
        1024 => "mixed",
        other => return format!("number {other}"),
    };
    name.to_owned()
}

/// The model at `path`: the GGUF file that a directory without `config.json` holds (the first
/// part, if it is split), else `path` itself.
///
/// # Errors
/// [`Error::SeveralModels`] if the directory holds more than one.
pub fn model_path(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() || path.join("config.json").exists() || PackedModel::is_packed(path) {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|e| e == "gguf") && is_model(file))
        .collect();
    files.sort();
    match files.as_slice() {
        [] => Ok(path.to_owned()),
        [only] => Ok(only.clone()),
        _ => Err(Error::SeveralModels {
            path: path.to_owned(),
            files,
        }),
    }
}

/// Whether the file is named as a model or its first part: not as a later one, and not as what
/// converters put beside a model (vision tower, multi-token prediction head).
fn is_model(file: &Path) -> bool {
    let Some(stem) = file.file_stem().and_then(|stem| stem.to_str()) else {
        return true;
    };
    let part = || {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (_, number) = rest.rsplit_once('-')?;
        count.parse::<u32>().ok()?;
        number.parse::<u32>().ok()
    };
    let beside = ["mmproj", "mtp-"];
    !beside.iter().any(|start| stem.starts_with(start)) && part().is_none_or(|number| number == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_parts_and_what_lies_beside_are_no_models() {
        for (name, expected) in [
            ("qwen-Q4_K_M.gguf", true),
            ("qwen-00001-of-00003.gguf", true),
            ("qwen-00002-of-00003.gguf", false),
            ("best-of-breed.gguf", true),
            ("mmproj-F16.gguf", false),
            ("mtp-qwen.gguf", false),
        ] {
            assert_eq!(is_model(Path::new(name)), expected, "{name}");
        }
    }
}
