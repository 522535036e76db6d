//! One file of a checkpoint with its header read, whatever its format.

use std::fs::File;
use std::path::PathBuf;

use super::read_header;
use crate::error::{Result, io_error};
use crate::gguf::{self, split};
use crate::header::HeaderTensor;

/// An open file and what its header says.
pub(super) struct OpenedFile {
    pub path: PathBuf,
    pub handle: File,
    pub tensors: Vec<HeaderTensor>,
    /// The keys of a GGUF file.
    pub metadata: Option<gguf::Metadata>,
}

impl OpenedFile {
    /// Opens a file as what it is: GGUF, else safetensors.
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        let handle = File::open(&path).map_err(|error| io_error("read", &path, error))?;
        let (tensors, metadata) = if gguf::is_gguf(&path) {
            let header = gguf::read_header(&handle, &path)?;
            (header.tensors, Some(header.metadata))
        } else {
            (read_header(&handle, &path)?.tensors, None)
        };
        Ok(Self {
            path,
            handle,
            tensors,
            metadata,
        })
    }

    /// Opens the header of a GGUF file of `file_bytes` bytes whose data is not there.
    pub(super) fn header(path: PathBuf, file_bytes: u64) -> Result<Self> {
        let handle = File::open(&path).map_err(|error| io_error("read", &path, error))?;
        let header = gguf::parse_header(&handle, file_bytes, &path)?;
        Ok(Self {
            path,
            handle,
            tensors: header.tensors,
            metadata: Some(header.metadata),
        })
    }

    /// Opens a file and, if it is a part of a GGUF model, all other parts.
    pub(super) fn with_parts(path: PathBuf) -> Result<Vec<Self>> {
        let only = Self::new(path)?;
        let Some(metadata) = &only.metadata else {
            return Ok(vec![only]);
        };
        let Some(paths) = split::parts(metadata)? else {
            return Ok(vec![only]);
        };
        let parts = paths.into_iter().map(Self::new);
        let parts = parts.collect::<Result<Vec<Self>>>()?;
        let tensors = parts.iter().map(|part| part.tensors.len() as u64).sum();
        let keys: Vec<_> = parts
            .iter()
            .filter_map(|part| part.metadata.as_ref())
            .collect();
        split::check_parts(&keys, tensors)?;
        Ok(parts)
    }
}
