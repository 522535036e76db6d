//! A set of safetensors or GGUF files read as one name space. Opening reads headers only.

mod opened;
mod part;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::DType;
use crate::codec::to_f32;
use crate::error::{FormatError, HeaderProblem, Result, io_error};
use crate::gguf;
use crate::header::{Header, HeaderTensor, header_end, parse_header};
use crate::io::{read_exact_at, read_small};
use opened::OpenedFile;

/// Name of the file that maps tensors to shards.
const INDEX_NAME: &str = "model.safetensors.index.json";
/// Name of an unsharded checkpoint.
const SINGLE_NAME: &str = "model.safetensors";
/// The largest index that is read.
const MAX_INDEX_BYTES: u64 = 100 << 20;
/// Bytes read at a time when converting to f32.
const READ_BYTES: usize = 1 << 20;

/// Where a tensor lies and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// Place of the first byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.bytes / self.dtype.block_bytes() as u64 * self.dtype.block_elements() as u64
    }
}

/// One or more safetensors or GGUF files, open for reading.
#[derive(Debug)]
pub struct Checkpoint {
    place: PathBuf,
    files: Vec<PathBuf>,
    handles: Vec<File>,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: Option<gguf::Metadata>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a Hugging Face directory (the shards of `model.safetensors.index.json` if that file
    /// exists, else `model.safetensors`) or a file, as [`Checkpoint::open_files`]. A shard that is not
    /// there may have its header in `SHARD.header`: all but its data is then known.
    ///
    /// # Errors
    /// No checkpoint there, a missing or truncated shard, a malformed header or index, or a tensor
    /// that the index lists and its shard lacks.
    pub fn open(dir: &Path) -> Result<Self> {
        let named_gguf = dir.extension().is_some_and(|ending| ending == "gguf");
        if dir.is_file() || (named_gguf && !dir.is_dir()) {
            return Self::open_files(vec![dir.to_path_buf()]);
        }
        let index_path = dir.join(INDEX_NAME);
        if index_path.exists() {
            return Self::open_index(dir, &index_path);
        }
        let single = dir.join(SINGLE_NAME);
        if !opened::is_here(&single) {
            return Err(FormatError::NotACheckpoint {
                dir: dir.to_path_buf(),
            });
        }
        Self::join(
            dir.to_path_buf(),
            vec![OpenedFile::new(single)?],
            &BTreeMap::new(),
        )
    }

    /// Opens the given files as one name space. A file that starts as GGUF files do, or is named
    /// `.gguf`, is read as one; of a model in several parts any part leads to the others.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; a name in two files is an error.
    pub fn open_files(files: Vec<PathBuf>) -> Result<Self> {
        let place = match files.as_slice() {
            [only] => only.clone(),
            _ => files
                .first()
                .and_then(|file| file.parent())
                .unwrap_or(Path::new(""))
                .into(),
        };
        let single = files.len() == 1;
        let mut opened = Vec::with_capacity(files.len());
        for file in files {
            if single {
                opened = OpenedFile::with_parts(file)?;
            } else {
                opened.push(OpenedFile::new(file)?);
            }
        }
        Self::join(place, opened, &BTreeMap::new())
    }

    /// The headers of a GGUF model's parts, with the lengths of the files that they come from: all
    /// is there but the data.
    pub(crate) fn open_headers(parts: Vec<(PathBuf, u64)>) -> Result<Self> {
        let place = parts.first().map(|(path, _)| path.clone());
        let opened = parts
            .into_iter()
            .map(|(path, bytes)| OpenedFile::header(path, bytes));
        let opened = opened.collect::<Result<Vec<_>>>()?;
        Self::join(place.unwrap_or_default(), opened, &BTreeMap::new())
    }

    fn open_index(dir: &Path, index_path: &Path) -> Result<Self> {
        let malformed = |reason: String| FormatError::Json {
            path: index_path.to_path_buf(),
            reason,
        };
        let index: Index = serde_json::from_slice(&read_small(index_path, MAX_INDEX_BYTES)?)
            .map_err(|error| malformed(error.to_string()))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        for name in &names {
            let plain = |part| matches!(part, Component::Normal(_));
            if name.is_empty() || !Path::new(name.as_str()).components().all(plain) {
                return Err(malformed(format!(
                    "the shard name {name:?} leaves the directory"
                )));
            }
        }
        let files: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
        if let Some(path) = files.iter().find(|path| !opened::is_here(path)) {
            let needed_for = format!("{} lists it", index_path.display());
            return Err(FormatError::MissingFile {
                path: path.clone(),
                needed_for,
            });
        }
        let opened = files.into_iter().map(OpenedFile::new);
        let opened = opened.collect::<Result<Vec<_>>>()?;
        let checkpoint = Self::join(dir.to_path_buf(), opened, &index.weight_map)?;
        for (tensor, file) in &index.weight_map {
            let place = dir.join(file);
            let found = checkpoint
                .get(tensor)
                .map(|info| &checkpoint.files[info.file]);
            if found != Some(&place) {
                let (tensor, close) = (tensor.clone(), Vec::new());
                return Err(FormatError::MissingTensor {
                    place,
                    tensor,
                    close,
                });
            }
        }
        Ok(checkpoint)
    }

    /// `owners` decides between files that define the same name.
    fn join(
        place: PathBuf,
        opened: Vec<OpenedFile>,
        owners: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut checkpoint = Self {
            place,
            files: Vec::with_capacity(opened.len()),
            handles: Vec::with_capacity(opened.len()),
            tensors: BTreeMap::new(),
            metadata: None,
        };
        for OpenedFile {
            path,
            handle,
            tensors,
            metadata,
        } in opened
        {
            let file = checkpoint.files.len();
            checkpoint.files.push(path);
            checkpoint.handles.push(handle);
            if file == 0 {
                checkpoint.metadata = metadata;
            }
            for tensor in tensors {
                let owner = owners
                    .get(&tensor.name)
                    .map(|owner| checkpoint.place.join(owner));
                if owner.is_none_or(|owner| owner == checkpoint.files[file]) {
                    checkpoint.add(file, tensor)?;
                }
            }
        }
        Ok(checkpoint)
    }

    fn add(&mut self, file: usize, tensor: HeaderTensor) -> Result<()> {
        let info = TensorInfo {
            dtype: tensor.dtype,
            shape: tensor.shape,
            file,
            offset: tensor.offset,
            bytes: tensor.bytes,
        };
        if let Some(other) = self.tensors.get(&tensor.name) {
            return Err(FormatError::DuplicateTensor {
                tensor: tensor.name,
                first: self.files[other.file].clone(),
                second: self.files[file].clone(),
            });
        }
        self.tensors.insert(tensor.name, info);
        Ok(())
    }

    /// The keys of a GGUF model (of its first file); `None` of safetensors.
    #[must_use]
    pub fn gguf(&self) -> Option<&gguf::Metadata> {
        self.metadata.as_ref()
    }

    /// The files, in the order that [`TensorInfo::file`] counts.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The directory or file that was opened, for messages.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The tensor of that name, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`], with names that look alike.
    pub fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.get(name).ok_or_else(|| FormatError::MissingTensor {
            place: self.place.clone(),
            tensor: name.to_owned(),
            close: close_names(name, self.names()),
        })
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Fills `out` with a tensor's bytes from `first_byte` on.
    ///
    /// # Errors
    /// A range outside the tensor, or a failed read.
    pub fn read(&self, info: &TensorInfo, first_byte: u64, out: &mut [u8]) -> Result<()> {
        let path = &self.files[info.file];
        let end = first_byte.saturating_add(out.len() as u64);
        if end > info.bytes {
            let (path, bytes) = (path.clone(), info.bytes);
            return Err(FormatError::ReadOutOfRange {
                path,
                first: first_byte,
                end,
                bytes,
            });
        }
        read_exact_at(
            &self.handles[info.file],
            path,
            out,
            info.offset + first_byte,
        )
    }

    /// A whole f32, f16 or bf16 tensor as f32.
    ///
    /// # Errors
    /// No such tensor, another shape or another type (naming tensor, file, expected and found), or
    /// a failed read.
    pub fn read_f32(&self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>> {
        let info = self.require(name)?;
        if info.shape != expected_shape {
            return Err(FormatError::WrongShape {
                tensor: name.to_owned(),
                path: self.files[info.file].clone(),
                expected: expected_shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        self.require_float(name)?;
        let mut values = vec![0.0; info.elements() as usize];
        let size = info.dtype.block_bytes();
        let mut buffer = vec![0; READ_BYTES.min(info.bytes as usize)];
        let mut offset = 0;
        for out in values.chunks_mut(READ_BYTES / size) {
            let bytes = &mut buffer[..out.len() * size];
            self.read(info, offset, bytes)?;
            to_f32(info.dtype, bytes, out);
            offset += bytes.len() as u64;
        }
        Ok(values)
    }

    /// The tensor of that name, which must be f32, f16 or bf16.
    ///
    /// # Errors
    /// No such tensor, or another type.
    pub fn require_float(&self, name: &str) -> Result<&TensorInfo> {
        let info = self.require(name)?;
        if info.dtype.is_plain_float() {
            return Ok(info);
        }
        Err(FormatError::WrongDType {
            tensor: name.to_owned(),
            path: self.files[info.file].clone(),
            expected: "F32, F16 or BF16",
            found: info.dtype,
        })
    }
}

/// Reads and checks the header of an open file.
pub(crate) fn read_header(file: &File, path: &Path) -> Result<Header> {
    let wrap = |problem| FormatError::Header {
        path: path.to_path_buf(),
        problem,
    };
    let file_bytes = file
        .metadata()
        .map_err(|error| io_error("read", path, error))?
        .len();
    if file_bytes < 8 {
        return Err(wrap(HeaderProblem::ShorterThanHeader {
            needed: 8,
            found: file_bytes,
        }));
    }
    let mut first_bytes = [0; 8];
    read_exact_at(file, path, &mut first_bytes, 0)?;
    let end = header_end(first_bytes, file_bytes).map_err(wrap)?;
    let mut start = vec![0; end as usize];
    read_exact_at(file, path, &mut start, 0)?;
    parse_header(&start, file_bytes).map_err(wrap)
}

/// Up to three names that share most of their beginning and end with `wanted`.
fn close_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let alike = |name: &str| {
        let count =
            |pairs: &mut dyn Iterator<Item = (u8, u8)>| pairs.take_while(|(a, b)| a == b).count();
        let prefix = count(&mut wanted.bytes().zip(name.bytes()));
        let suffix = count(&mut wanted.bytes().rev().zip(name.bytes().rev()));
        (prefix + suffix).min(wanted.len()).min(name.len())
    };
    let mut scored: Vec<(usize, &str)> = names.map(|name| (alike(name), name)).collect();
    scored.retain(|(score, _)| 2 * score > wanted.len());
    scored.sort_by_key(|&(score, name)| (std::cmp::Reverse(score), name.len(), name));
    scored
        .into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}
