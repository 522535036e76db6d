//! One file of a checkpoint with its header read, whatever its format.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::read_header;
use crate::error::{FormatError, Result, io_error};
use crate::gguf::{self, split};
use crate::header::{HeaderTensor, MAX_HEADER_BYTES, parse_header_alone};
use crate::io::read_small;

/// An open file and what its header says.
pub(super) struct OpenedFile {
    pub path: PathBuf,
    pub handle: File,
    pub tensors: Vec<HeaderTensor>,
    /// The keys of a GGUF file.
    pub metadata: Option<gguf::Metadata>,
}

/// What follows a shard's name in that of a file with its header alone.
const HEADER_ENDING: &str = ".header";

/// The file with the header alone of the shard `path`.
pub(super) fn header_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(HEADER_ENDING);
    name.into()
}

/// Whether the shard, or its header alone, is there.
pub(super) fn is_here(path: &Path) -> bool {
    path.exists() || header_path(path).exists()
}

impl OpenedFile {
    /// Opens a file as what it is: GGUF, else safetensors; of one that is not there, the header
    /// alone, if that is. Reading data then fails as it does in any file that is cut short.
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        let alone = header_path(&path);
        if !path.exists() && alone.exists() {
            let handle = File::open(&alone).map_err(|error| io_error("read", &alone, error))?;
            let start = read_small(&alone, MAX_HEADER_BYTES + 8)?;
            let header = parse_header_alone(&start);
            let header = header.map_err(|problem| FormatError::Header {
                path: alone,
                problem,
            })?;
            return Ok(Self {
                path,
                handle,
                tensors: header.tensors,
                metadata: None,
            });
        }
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
