//! Reading and checking a header.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::metadata::Metadata;
use super::problem::{GgufProblem, Place};
use super::reader::Reader;
use super::types::TensorType;
use super::value::Value;
use crate::error::{Result, io_error};
use crate::header::HeaderTensor;

/// The first bytes of every GGUF file.
const MAGIC: [u8; 4] = *b"GGUF";
/// The longest header that is read. A vocabulary of 250,000 tokens takes about 16 MB.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;
/// The most keys that a file may have.
pub const MAX_KEYS: u64 = 1 << 16;
/// The most tensors that a file may have.
pub const MAX_TENSORS: u64 = 1 << 20;

/// The longest name of a key or tensor.
const MAX_NAME_BYTES: u64 = 65_535;
/// The most dimensions of a tensor.
const MAX_RANK: u32 = 4;
/// The alignment of files that state none.
const DEFAULT_ALIGNMENT: u32 = 32;
/// The shortest description of a key and of a tensor: empty strings, one byte, one dimension.
const MIN_KEY_BYTES: u64 = 13;
const MIN_TENSOR_BYTES: u64 = 32;

/// A checked header.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The tensors in the order of their data, with sizes outermost first.
    pub tensors: Vec<HeaderTensor>,
    /// All keys.
    pub metadata: Metadata,
    /// Where the data starts in the file.
    pub data_start: u64,
}

/// A tensor's description whose place is not checked yet.
struct RawTensor {
    tensor: HeaderTensor,
    /// Place in the data.
    data_offset: u64,
}

/// Whether `path` is a file to be read as GGUF: by its name, so that a damaged one is told as such,
/// or by its first bytes.
pub fn is_gguf(path: &Path) -> bool {
    let begins_so = || {
        let mut start = [0; MAGIC.len()];
        File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start == MAGIC
    };
    let is_named_so = path.extension().is_some_and(|ending| ending == "gguf");
    path.is_file() && (is_named_so || begins_so())
}

/// Reads the header of an open file.
pub(crate) fn read_header(file: &File, path: &Path) -> Result<Header> {
    let wrap = |error| io_error("read", path, error);
    let file_bytes = file.metadata().map_err(wrap)?.len();
    parse_header(file, file_bytes, path)
}

/// Reads and checks the header of a file of `file_bytes` bytes from its start; `path` is for
/// messages.
///
/// # Errors
/// Whatever is wrong with the header, as a [`GgufProblem`] in
/// [`crate::FormatError::Gguf`], or a failed
/// read.
pub fn parse_header(source: impl Read, file_bytes: u64, path: &Path) -> Result<Header> {
    let mut reader = Reader::new(source, path, file_bytes, MAX_HEADER_BYTES);
    let (tensor_count, key_count) = read_start(&mut reader)?;
    let metadata = Metadata::new(path.to_path_buf(), read_keys(&mut reader, key_count)?);
    let alignment = alignment(metadata.get("general.alignment"))
        .map_err(|found| reader.wrong(GgufProblem::Alignment { found }))?;
    let tensors = read_tensors(&mut reader, tensor_count)?;
    let data_start = reader.position().next_multiple_of(alignment.into());
    let wrong = |problem| reader.wrong(problem);
    let mut placed = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        placed.push(place(tensor, data_start, alignment, file_bytes).map_err(wrong)?);
    }
    placed.sort_by_key(|tensor| tensor.offset);
    check_overlap(&placed).map_err(wrong)?;
    Ok(Header {
        tensors: placed,
        metadata,
        data_start,
    })
}

/// Magic, version and the counts of tensors and keys.
fn read_start<R: Read>(reader: &mut Reader<'_, R>) -> Result<(u64, u64)> {
    let found = reader.bytes()?;
    if found != MAGIC {
        return Err(reader.wrong(GgufProblem::Magic { found }));
    }
    match reader.u32()? {
        2 | 3 => {}
        // A small number in the other byte order.
        found if found & 0xFFFF == 0 && found != 0 => {
            return Err(reader.wrong(GgufProblem::BigEndian));
        }
        found => return Err(reader.wrong(GgufProblem::Version { found })),
    }
    let (tensors, keys) = (reader.u64()?, reader.u64()?);
    for (what, found, limit) in [("tensors", tensors, MAX_TENSORS), ("keys", keys, MAX_KEYS)] {
        if found > limit {
            return Err(reader.wrong(GgufProblem::TooMany { what, found, limit }));
        }
    }
    reader.check_left(keys * MIN_KEY_BYTES + tensors * MIN_TENSOR_BYTES)?;
    Ok((tensors, keys))
}

fn read_keys<R: Read>(reader: &mut Reader<'_, R>, count: u64) -> Result<BTreeMap<String, Value>> {
    let mut keys = BTreeMap::new();
    for index in 0..count {
        reader.place = Place::KeyName(index);
        let key = read_name(reader)?;
        if keys.contains_key(&key) {
            return Err(reader.wrong(GgufProblem::DuplicateKey { key }));
        }
        reader.place = Place::Key(key.clone());
        keys.insert(key, Value::read(reader)?);
    }
    Ok(keys)
}

fn read_name<R: Read>(reader: &mut Reader<'_, R>) -> Result<String> {
    let name = reader.string(MAX_NAME_BYTES)?;
    if name.is_empty() {
        let place = reader.place.clone();
        return Err(reader.wrong(GgufProblem::EmptyName { place }));
    }
    Ok(name)
}

fn alignment(value: Option<&Value>) -> Result<u32, String> {
    match value {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment),
        Some(Value::U32(other)) => Err(other.to_string()),
        Some(other) => Err(format!("of type {}", other.type_name())),
    }
}

fn read_tensors<R: Read>(reader: &mut Reader<'_, R>, count: u64) -> Result<Vec<RawTensor>> {
    let mut names = BTreeSet::new();
    // `count` is bounded by the file's length.
    let mut tensors = Vec::with_capacity(count as usize);
    for index in 0..count {
        reader.place = Place::TensorName(index);
        let tensor = read_name(reader)?;
        if !names.insert(tensor.clone()) {
            return Err(reader.wrong(GgufProblem::DuplicateTensor { tensor }));
        }
        reader.place = Place::Tensor(tensor.clone());
        tensors.push(read_tensor(reader, tensor)?);
    }
    Ok(tensors)
}

fn read_tensor<R: Read>(reader: &mut Reader<'_, R>, name: String) -> Result<RawTensor> {
    let tensor = || name.clone();
    let rank = reader.u32()?;
    if rank == 0 || rank > MAX_RANK {
        let (tensor, found) = (tensor(), rank);
        return Err(reader.wrong(GgufProblem::Rank { tensor, found }));
    }
    let mut sizes = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        sizes.push(reader.u64()?);
    }
    let found = TensorType(reader.u32()?);
    let data_offset = reader.u64()?;
    if let Some(dimension) = sizes.iter().position(|&size| size == 0) {
        let tensor = tensor();
        return Err(reader.wrong(GgufProblem::ZeroDimension { tensor, dimension }));
    }
    let Some(dtype) = found.dtype() else {
        let tensor = tensor();
        return Err(reader.wrong(GgufProblem::UnknownTensorType { tensor, found }));
    };
    let block = dtype.block_elements() as u64;
    if !sizes[0].is_multiple_of(block) {
        let (tensor, cols) = (tensor(), sizes[0]);
        return Err(reader.wrong(GgufProblem::RowLength {
            tensor,
            dtype,
            cols,
            block,
        }));
    }
    sizes.reverse();
    let shape: Option<Vec<usize>> = sizes.iter().map(|&size| size.try_into().ok()).collect();
    let sized = shape.and_then(|shape| dtype.tensor_bytes(&shape).map(|bytes| (shape, bytes)));
    let Some((shape, bytes)) = sized else {
        let (tensor, shape) = (tensor(), sizes);
        return Err(reader.wrong(GgufProblem::TensorTooLarge { tensor, shape }));
    };
    let tensor = HeaderTensor {
        name,
        dtype,
        shape,
        offset: 0,
        bytes,
    };
    Ok(RawTensor {
        tensor,
        data_offset,
    })
}

/// Checks a tensor's place and counts it from the file's start.
fn place(
    raw: RawTensor,
    data_start: u64,
    alignment: u32,
    file_bytes: u64,
) -> Result<HeaderTensor, GgufProblem> {
    let RawTensor {
        mut tensor,
        data_offset: offset,
    } = raw;
    if !offset.is_multiple_of(alignment.into()) {
        return Err(GgufProblem::Misaligned {
            tensor: tensor.name,
            offset,
            alignment,
        });
    }
    tensor.offset = data_start.saturating_add(offset);
    let needed = tensor.offset.saturating_add(tensor.bytes);
    if needed > file_bytes {
        return Err(GgufProblem::DataTruncated {
            tensor: tensor.name,
            needed,
            found: file_bytes,
        });
    }
    Ok(tensor)
}

/// `tensors` are in order of place. Gaps between them are padding.
fn check_overlap(tensors: &[HeaderTensor]) -> Result<(), GgufProblem> {
    let overlaps = |pair: &&[HeaderTensor]| pair[0].offset + pair[0].bytes > pair[1].offset;
    match tensors.windows(2).find(overlaps) {
        Some(pair) => Err(GgufProblem::Overlap {
            first: pair[0].name.clone(),
            second: pair[1].name.clone(),
        }),
        None => Ok(()),
    }
}
