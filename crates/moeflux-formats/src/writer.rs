//! Writing of safetensors files: all tensors are declared first, then their bytes follow in order.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::DType;
use crate::checksum::checksum_text;
use crate::error::{FormatError, Result, io_error};
use crate::header::MAX_HEADER_BYTES;
use crate::packed::FileEntry;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of that name, type and shape.
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
        }
    }
}

/// The header of a file to be, and where each tensor goes.
pub(crate) struct Layout {
    /// Length field, JSON and padding: everything before the data.
    pub header: Vec<u8>,
    /// Place of each tensor from the start of the file, in the order declared.
    pub offsets: Vec<u64>,
    /// Length of the whole file.
    pub file_bytes: u64,
}

impl Layout {
    /// Lays out `specs` one after another, the data starting at a multiple of `align`.
    pub(crate) fn new(path: &Path, specs: &[TensorSpec], align: u64) -> Result<Self> {
        let misuse = |reason: String| FormatError::WriterMisuse {
            path: path.to_path_buf(),
            reason,
        };
        let mut json = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
        let mut names = BTreeMap::new();
        let mut offsets = Vec::with_capacity(specs.len());
        let mut data_bytes = 0_u64;
        for spec in specs {
            if spec.name == "__metadata__" || names.insert(spec.name.as_str(), ()).is_some() {
                return Err(misuse(format!("tensor {} is declared twice", spec.name)));
            }
            if let DType::Block(codec) = spec.dtype {
                let name = &spec.name;
                return Err(misuse(format!(
                    "tensor {name} is declared as {codec} blocks"
                )));
            }
            let end = spec
                .dtype
                .tensor_bytes(&spec.shape)
                .and_then(|bytes| data_bytes.checked_add(bytes))
                .filter(|&end| end < u64::MAX / 2)
                .ok_or_else(|| misuse(format!("tensor {} is too large", spec.name)))?;
            let name = serde_json::Value::from(spec.name.as_str());
            let dtype = spec.dtype.name();
            let shape = &spec.shape;
            // Formatting into a string cannot fail.
            let _ = write!(
                json,
                ",{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\
                 \"data_offsets\":[{data_bytes},{end}]}}"
            );
            offsets.push(data_bytes);
            data_bytes = end;
        }
        json.push('}');
        let data_start = (json.len() as u64 + 8).next_multiple_of(align.max(8));
        let json_bytes = data_start - 8;
        if json_bytes > MAX_HEADER_BYTES {
            return Err(misuse(format!(
                "a header of {json_bytes} bytes is too large"
            )));
        }
        let mut header = json_bytes.to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        header.resize(data_start as usize, b' ');
        offsets.iter_mut().for_each(|offset| *offset += data_start);
        Ok(Self {
            header,
            offsets,
            file_bytes: data_start + data_bytes,
        })
    }
}

/// Writes one file from front to back.
pub struct SafetensorsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    file_bytes: u64,
    checksum: Xxh3,
}

impl SafetensorsWriter {
    /// Creates (or replaces) the file and writes its header, padded so that the data starts at a
    /// multiple of `align` bytes.
    ///
    /// # Errors
    /// Names that are not unique, sizes beyond any file's, or a failed write.
    pub fn create(path: &Path, tensors: &[TensorSpec], align: u64) -> Result<Self> {
        let layout = Layout::new(path, tensors, align)?;
        let file = File::create(path).map_err(|error| io_error("create", path, error))?;
        let written = layout.header.len() as u64;
        let file = BufWriter::with_capacity(1 << 20, file);
        let path = path.to_path_buf();
        let mut writer = Self {
            path,
            file,
            written: 0,
            file_bytes: layout.file_bytes,
            checksum: Xxh3::new(),
        };
        writer.write(&layout.header)?;
        debug_assert_eq!(writer.written, written);
        Ok(writer)
    }

    /// Writes the next bytes: of the first tensor, then of the second, and so on.
    ///
    /// # Errors
    /// More bytes than were declared, or a failed write.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.file_bytes - self.written;
        if bytes.len() as u64 > left {
            let reason = format!(
                "{} bytes were given, {left} are left of the declared",
                bytes.len()
            );
            return Err(FormatError::WriterMisuse {
                path: self.path.clone(),
                reason,
            });
        }
        self.file
            .write_all(bytes)
            .map_err(|error| io_error("write", &self.path, error))?;
        self.checksum.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Checks that everything declared was written, and makes the file durable. Gives its length
    /// and checksum.
    ///
    /// # Errors
    /// Missing bytes, or a failed write.
    pub fn finish(mut self) -> Result<FileEntry> {
        let missing = self.file_bytes - self.written;
        if missing > 0 {
            let reason = format!("{missing} of the declared bytes were not written");
            return Err(FormatError::WriterMisuse {
                path: self.path,
                reason,
            });
        }
        let synced = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|error| io_error("write", &self.path, error))?;
        Ok(FileEntry {
            bytes: self.file_bytes,
            xxh3: checksum_text(self.checksum.digest()),
        })
    }
}

/// Writes a whole file: name, type, shape and bytes of each tensor.
///
/// # Errors
/// As [`SafetensorsWriter`]; a tensor's bytes must be as many as its shape says.
pub fn write_safetensors(path: &Path, tensors: &[(&str, DType, &[usize], &[u8])]) -> Result<()> {
    let spec = |&(name, dtype, shape, _): &(&str, DType, &[usize], &[u8])| {
        TensorSpec::new(name, dtype, shape)
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    for ((name, dtype, shape, bytes), spec) in tensors.iter().zip(&specs) {
        let single = Layout::new(path, std::slice::from_ref(spec), 8)?;
        if single.file_bytes - single.header.len() as u64 != bytes.len() as u64 {
            let found = bytes.len();
            let reason = format!("tensor {name} ({dtype} {shape:?}) was given {found} bytes");
            return Err(FormatError::WriterMisuse {
                path: path.to_path_buf(),
                reason,
            });
        }
    }
    let mut writer = SafetensorsWriter::create(path, &specs, 8)?;
    for (_, _, _, bytes) in tensors {
        writer.write(bytes)?;
    }
    writer.finish().map(drop)
}
