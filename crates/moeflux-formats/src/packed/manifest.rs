//! `moeflux.json`: what a packed model consists of.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::DENSE_NAME;
use crate::error::{FormatError, Result};
use crate::io::read_small;

/// Name of the manifest in a packed model's directory.
pub const MANIFEST_NAME: &str = "moeflux.json";
/// The version of the packed format that is written and read.
pub const FORMAT_VERSION: u64 = 1;
/// The largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// The contents of `moeflux.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u64,
    /// Program and version that wrote the model.
    pub created_by: String,
    /// Fingerprint of source and options.
    pub plan: String,
    /// Codec of each class of tensors, and why.
    pub codecs: BTreeMap<String, String>,
    /// Tensors of the source that were left out.
    #[serde(default)]
    pub skipped: Vec<String>,
    /// Length and checksum of every other file, by its path in the directory.
    pub files: BTreeMap<String, FileEntry>,
    /// What the model was made from.
    pub source: SourceEntry,
}

/// A file of a packed model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// xxh3 (64 bits) of the whole file, 16 hexadecimal digits.
    pub xxh3: String,
}

/// What a model was packed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// The checkpoint's files.
    pub files: Vec<SourceFile>,
}

/// A file of a source checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// File name without directories.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
}

impl Manifest {
    /// Reads and checks the manifest of a directory.
    ///
    /// # Errors
    /// No manifest, one of another format version, or a malformed one.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST_NAME);
        let malformed = |reason| FormatError::Json {
            path: path.clone(),
            reason,
        };
        let json: serde_json::Value =
            serde_json::from_slice(&read_small(&path, MAX_MANIFEST_BYTES)?)
                .map_err(|error| malformed(error.to_string()))?;
        // The version is looked at first: another version may have other fields.
        let version = json
            .get("format_version")
            .and_then(serde_json::Value::as_u64);
        let found = version.ok_or_else(|| malformed("it has no format_version".to_owned()))?;
        if found != FORMAT_VERSION {
            return Err(FormatError::UnknownVersion {
                path,
                found,
                known: FORMAT_VERSION,
            });
        }
        let manifest: Self =
            serde_json::from_value(json).map_err(|error| malformed(error.to_string()))?;
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        let leaves = |name: &&String| !Path::new(name.as_str()).components().all(plain);
        if let Some(name) = manifest.files.keys().find(leaves) {
            return Err(malformed(format!(
                "the file name {name:?} leaves the directory"
            )));
        }
        if !manifest.files.contains_key(DENSE_NAME) {
            return Err(malformed(format!("it does not list {DENSE_NAME}")));
        }
        Ok(manifest)
    }

    /// The manifest as JSON text, for the file at `path`.
    pub(crate) fn to_json(&self, path: &Path) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| FormatError::Json {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })
    }
}
