//! The packed model directory, for reading: `moeflux.json`, `dense.safetensors` and one file of
//! expert records a layer.
//!
//! An expert's record is its tensors one after another and a pad, starting at a multiple of
//! [`RECORD_ALIGN`] and as long as one, so that it is read with one aligned request. All records of
//! a layer have the same layout. The file ends with `checksums`, the xxh3 of each record.
//!
//! A model packed from GGUF has that model's headers beside them (keys and tensor table, no data),
//! and its tensors under their names there; it has no `config.json`.

mod layer;
mod manifest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use layer::{PackedLayer, PackedPart, PackedRecord};
pub use manifest::{FORMAT_VERSION, FileEntry, MANIFEST_NAME, Manifest, SourceEntry, SourceFile};

use crate::Checkpoint;
use crate::checksum::{checksum_file, checksum_text};
use crate::error::{FormatError, Result, io_error};
use crate::pack::PackProgress;

/// What a record's place and length are multiples of.
pub const RECORD_ALIGN: u64 = 4096;
/// Name of the file of everything but routed experts.
pub const DENSE_NAME: &str = "dense.safetensors";
/// Name of the list of finished files while a pack is under way.
pub(crate) const JOURNAL_NAME: &str = "pack.journal";

/// The name of a layer's file in the directory.
#[must_use]
pub fn layer_name(layer: usize) -> String {
    format!("experts/layer-{layer:03}.safetensors")
}

/// The name of the header of a GGUF model's part, counted from 1, that the model was packed from.
pub(crate) fn header_name(part: usize) -> String {
    format!("source-{part:05}.gguf-header")
}

/// The layer of a file's name, if it is a layer file.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("experts/layer-")?
        .strip_suffix(".safetensors")?
        .parse()
        .ok()
}

/// An open packed model: headers and checksums are read, weights are not.
#[derive(Debug)]
pub struct PackedModel {
    /// The directory.
    pub dir: PathBuf,
    /// What `moeflux.json` says.
    pub manifest: Manifest,
    /// Everything but routed experts.
    pub dense: Checkpoint,
    /// The layers that have routed experts.
    pub layers: BTreeMap<usize, PackedLayer>,
}

impl PackedModel {
    /// Whether the directory is a packed model, finished or not.
    #[must_use]
    pub fn is_packed(dir: &Path) -> bool {
        dir.join(MANIFEST_NAME).exists() || dir.join(JOURNAL_NAME).exists()
    }

    /// The headers of the GGUF model that `dir` was packed from, as one of which no data can be
    /// read; `None` if it was packed from something else or is no packed model.
    ///
    /// # Errors
    /// A malformed manifest or header, or one that is missing.
    pub fn gguf_header(dir: &Path) -> Result<Option<Checkpoint>> {
        if !dir.join(MANIFEST_NAME).exists() {
            return Ok(None);
        }
        let manifest = Manifest::read(dir)?;
        if !manifest.files.contains_key(&header_name(1)) {
            return Ok(None);
        }
        let parts = manifest.source.files.iter().enumerate();
        let parts = parts.map(|(index, file)| (dir.join(header_name(index + 1)), file.bytes));
        Checkpoint::open_headers(parts.collect()).map(Some)
    }

    /// Opens a packed model.
    ///
    /// # Errors
    /// An unfinished directory, an unknown format version, a missing weight file or one of another
    /// length than was written, or a malformed file. The small files beside the weights (chat
    /// template, generation settings) may be edited.
    pub fn open(dir: &Path) -> Result<Self> {
        let unfinished_name = dir
            .extension()
            .is_some_and(|extension| extension == "partial");
        if unfinished_name || dir.join(JOURNAL_NAME).exists() {
            return Err(FormatError::UnfinishedPack {
                dir: dir.to_path_buf(),
            });
        }
        let manifest = Manifest::read(dir)?;
        let weights = manifest
            .files
            .iter()
            .filter(|(name, _)| name.ends_with(".safetensors"));
        for (name, entry) in weights {
            check_length(&dir.join(name), entry.bytes)?;
        }
        let dense = Checkpoint::open_files(vec![dir.join(DENSE_NAME)])?;
        let mut layers = BTreeMap::new();
        for name in manifest.files.keys() {
            if let Some(layer) = layer_of(name) {
                layers.insert(layer, PackedLayer::open(&dir.join(name))?);
            }
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            manifest,
            dense,
            layers,
        })
    }

    /// Reads every file and compares it with its checksums.
    ///
    /// # Errors
    /// [`FormatError::CorruptRecord`] for an expert, [`FormatError::CorruptFile`] for anything
    /// else.
    pub fn verify(&self, progress: &mut dyn FnMut(PackProgress)) -> Result<()> {
        let total_bytes = self.manifest.files.values().map(|entry| entry.bytes).sum();
        let mut done_bytes = 0;
        for (name, entry) in &self.manifest.files {
            let path = self.dir.join(name);
            let layer = layer_of(name).and_then(|number| self.layers.get_key_value(&number));
            let pieces = layer.iter().flat_map(|(_, layer)| layer.pieces());
            let stage = format!("checking {name}");
            let found = checksum_file(&path, pieces, &mut |bytes| {
                done_bytes += bytes;
                let stage = stage.clone();
                progress(PackProgress {
                    done_bytes,
                    total_bytes,
                    resumed_bytes: 0,
                    stage,
                });
            })?;
            if let Some((&number, layer)) = layer {
                layer.compare(number, &found)?;
            }
            if entry.xxh3 != checksum_text(found.file) {
                let reason = format!(
                    "its checksum is {:016x}, expected {}",
                    found.file, entry.xxh3
                );
                return Err(FormatError::CorruptFile { path, reason });
            }
        }
        Ok(())
    }
}

fn check_length(path: &Path, expected: u64) -> Result<()> {
    let found = std::fs::metadata(path)
        .map_err(|error| io_error("read", path, error))?
        .len();
    if found == expected {
        return Ok(());
    }
    let reason = format!("it is {found} bytes long, {expected} were written");
    Err(FormatError::CorruptFile {
        path: path.to_path_buf(),
        reason,
    })
}
