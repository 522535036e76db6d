//! One layer file of a packed model: where each expert's record lies and what is in it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::RECORD_ALIGN;
use crate::DType;
use crate::checkpoint::read_header;
use crate::checksum::{FileChecksums, checksum_file};
use crate::error::{FormatError, Result, io_error};
use crate::header::HeaderTensor;
use crate::io::read_exact_at;

/// The experts of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedLayer {
    /// The file.
    pub path: PathBuf,
    /// Length of every record, a multiple of [`RECORD_ALIGN`].
    pub record_bytes: u64,
    /// The records, by expert.
    pub records: Vec<PackedRecord>,
    /// The tensors of a record, in order, the same for every expert.
    pub parts: Vec<PackedPart>,
}

/// The record of one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedRecord {
    /// Place in the file, a multiple of [`RECORD_ALIGN`].
    pub offset: u64,
    /// xxh3 (64 bits) of the whole record with its pad.
    pub checksum: u64,
}

/// A tensor within a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedPart {
    /// Such as `gate_proj.weight`.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Place in the record.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Name of the pad tensor within a record.
const PAD_PART: &str = "pad";

impl PackedLayer {
    /// Reads a layer file's header and checksums.
    ///
    /// # Errors
    /// A missing, truncated or malformed file.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |reason: &str| FormatError::BadLayerFile {
            path: path.to_path_buf(),
            reason: reason.to_owned(),
        };
        let file = File::open(path).map_err(|error| io_error("read", path, error))?;
        let tensors = read_header(&file, path)?.tensors;
        let (last, tensors) = tensors.split_last().ok_or_else(|| bad("it is empty"))?;
        if last.name != "checksums" || last.dtype != DType::U64 || last.shape.len() != 1 {
            return Err(bad("it does not end with the tensor checksums"));
        }
        let experts = last.shape[0];
        if experts == 0 || !tensors.len().is_multiple_of(experts) {
            return Err(bad("its experts differ in their tensors"));
        }
        let mut checksums = vec![0; last.bytes as usize];
        read_exact_at(&file, path, &mut checksums, last.offset)?;
        let checksums = checksums
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&bytes| u64::from_le_bytes(bytes));
        let count = tensors.len() / experts;
        let first = tensors.get(..count).filter(|first| !first.is_empty());
        let first = first.ok_or_else(|| bad("its experts have no tensors"))?;
        let start = first[0].offset;
        let end = first.last().map_or(start, |pad| pad.offset + pad.bytes);
        let record_bytes = end - start;
        if !start.is_multiple_of(RECORD_ALIGN) || !record_bytes.is_multiple_of(RECORD_ALIGN) {
            return Err(bad("its records are not aligned"));
        }
        let mut parts =
            record_parts(first, 0, start).ok_or_else(|| bad("expert 0 is malformed"))?;
        for (expert, tensors) in tensors.chunks(count).enumerate() {
            // The header is checked: tensors follow one another, so records do too.
            let start = tensors[0].offset;
            if record_parts(tensors, expert, start).as_ref() != Some(&parts) {
                return Err(bad("its experts differ in their tensors"));
            }
        }
        if parts.pop().is_none_or(|pad| pad.name != PAD_PART) {
            return Err(bad("its records do not end with a pad"));
        }
        let record = |(expert, checksum)| PackedRecord {
            offset: start + expert as u64 * record_bytes,
            checksum,
        };
        let records = checksums.enumerate().map(record).collect();
        Ok(Self {
            path: path.to_path_buf(),
            record_bytes,
            records,
            parts,
        })
    }

    /// Reads every record and compares it with its checksum; `layer` is for the message.
    ///
    /// # Errors
    /// [`FormatError::CorruptRecord`], or a failed read.
    pub fn verify(&self, layer: usize) -> Result<()> {
        let found = checksum_file(&self.path, self.pieces(), &mut |_| ())?;
        self.compare(layer, &found)
    }

    /// Lengths of what comes before the records and of each record.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = u64> {
        let start = self.records.first().map_or(0, |record| record.offset);
        std::iter::once(start).chain(self.records.iter().map(|_| self.record_bytes))
    }

    /// Compares the checksums of [`PackedLayer::pieces`] with those that were written.
    pub(crate) fn compare(&self, layer: usize, found: &FileChecksums) -> Result<()> {
        let found = found.pieces.iter().skip(1);
        for (expert, (record, &found)) in self.records.iter().zip(found).enumerate() {
            let expected = record.checksum;
            if expected != found {
                let path = self.path.clone();
                return Err(FormatError::CorruptRecord {
                    path,
                    layer,
                    expert,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// The tensors of an expert's record relative to its start, or `None` if one is not of that expert.
fn record_parts(tensors: &[HeaderTensor], expert: usize, start: u64) -> Option<Vec<PackedPart>> {
    let prefix = format!("experts.{expert}.");
    let part = |tensor: &HeaderTensor| {
        Some(PackedPart {
            name: tensor.name.strip_prefix(&prefix)?.to_owned(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            offset: tensor.offset.checked_sub(start)?,
            bytes: tensor.bytes,
        })
    };
    tensors.iter().map(part).collect()
}
