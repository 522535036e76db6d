//! Writing the planned files: in order, in pieces, into a directory that gets its name at the end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use moeflux::formats::{
    DType, FORMAT_VERSION, FileEntry, MANIFEST_NAME, Manifest, RECORD_ALIGN, SafetensorsWriter,
    SourceEntry, TensorSpec,
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::plan::{FilePlan, Planner, Tensor};

/// Bytes made at a time.
const PIECE_BYTES: usize = 256 << 10;

/// A directory in the making; it is removed unless it is finished.
pub struct Directory {
    partial: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Directory {
    /// Makes `TARGET.partial`.
    pub fn create(target: &Path) -> Result<Directory> {
        let Some(name) = target.file_name() else {
            bail!("{} is no name for a new directory", target.display());
        };
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = target.with_file_name(partial);
        for taken in [target, &partial] {
            if taken.symlink_metadata().is_ok() {
                bail!(
                    "{} exists; remove it or choose another place",
                    taken.display()
                );
            }
        }
        let experts = partial.join("experts");
        fs::create_dir_all(&experts)
            .with_context(|| format!("cannot create {}", experts.display()))?;
        Ok(Directory {
            partial,
            target: target.to_owned(),
            finished: false,
        })
    }

    /// Writes a small file.
    pub fn write_text(&self, name: &str, text: &str) -> Result<FileEntry> {
        let path = self.partial.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(FileEntry {
            bytes: text.len() as u64,
            xxh3: format!("{:016x}", xxh3_64(text.as_bytes())),
        })
    }

    /// Writes a file of tensors; `advanced` is told of the bytes made.
    pub fn write_tensors(
        &self,
        file: &FilePlan,
        advanced: &mut dyn FnMut(u64),
    ) -> Result<FileEntry> {
        let mut specs: Vec<TensorSpec> = file.tensors.iter().map(|t| t.spec.clone()).collect();
        if file.record_tensors > 0 {
            specs.push(TensorSpec::new("checksums", DType::U64, [file.records()]));
        }
        let path = self.partial.join(&file.name);
        let mut writer = SafetensorsWriter::create(&path, &specs, RECORD_ALIGN)?;
        let mut checksums = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        // A file without records counts as one, whose checksum nobody asks for.
        let record_tensors = match file.record_tensors {
            0 => file.tensors.len(),
            count => count,
        };
        for record in file.tensors.chunks(record_tensors) {
            checksums.push(write_record(&mut writer, record, &mut piece, advanced)?);
        }
        if file.record_tensors > 0 {
            let bytes: Vec<u8> = checksums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            writer.write(&bytes)?;
        }
        Ok(writer.finish()?)
    }

    /// Writes the manifest and gives the directory its name.
    pub fn finish(
        mut self,
        planner: &Planner<'_>,
        made_by: String,
        files: BTreeMap<String, FileEntry>,
    ) -> Result<()> {
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            created_by: concat!("moeflux ", env!("CARGO_PKG_VERSION")).to_owned(),
            plan: made_by,
            codecs: planner.codecs()?,
            skipped: Vec::new(),
            files,
            source: SourceEntry { files: Vec::new() },
        };
        self.write_text(MANIFEST_NAME, &serde_json::to_string_pretty(&manifest)?)?;
        fs::rename(&self.partial, &self.target)
            .with_context(|| format!("cannot rename to {}", self.target.display()))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.finished {
            // What failed before is what matters; a leftover is named by the next run.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Writes tensors one after another; gives the checksum of all.
fn write_record(
    writer: &mut SafetensorsWriter,
    tensors: &[Tensor],
    piece: &mut [u8],
    advanced: &mut dyn FnMut(u64),
) -> Result<u64> {
    let mut checksum = Xxh3::new();
    for tensor in tensors {
        let bytes = tensor.bytes();
        let mut done = 0;
        while done < bytes {
            let left = usize::try_from(bytes - done).unwrap_or(usize::MAX);
            let piece = &mut piece[..PIECE_BYTES.min(left)];
            tensor.fill(done, piece);
            checksum.update(piece);
            writer.write(piece)?;
            done += piece.len() as u64;
            advanced(piece.len() as u64);
        }
    }
    Ok(checksum.digest())
}
