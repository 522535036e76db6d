//! The header of a safetensors file: 8 bytes of length, then JSON, then the data.
//!
//! Everything in it is untrusted: lengths are bounded, sums are checked, and the data must be
//! claimed by tensors without overlap or gap, as the format demands.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::DType;
use crate::error::HeaderProblem;

/// The longest header that is read.
pub const MAX_HEADER_BYTES: u64 = 100 << 20;

/// The most dimensions that a tensor may have.
const MAX_RANK: usize = 64;

/// One tensor of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderTensor {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Place of the first byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A checked header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The tensors in the order of their data.
    pub tensors: Vec<HeaderTensor>,
    /// The free text of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Where the data starts in the file.
    pub data_start: u64,
}

/// The length of the part of a file that [`parse_header`] needs (the length field and the JSON),
/// from the file's first 8 bytes.
///
/// # Errors
/// A header that is too large or longer than the file.
pub(crate) fn header_end(first_bytes: [u8; 8], file_bytes: u64) -> Result<u64, HeaderProblem> {
    let json_bytes = u64::from_le_bytes(first_bytes);
    if json_bytes > MAX_HEADER_BYTES {
        return Err(HeaderProblem::TooLarge {
            found: json_bytes,
            limit: MAX_HEADER_BYTES,
        });
    }
    let needed = json_bytes + 8;
    if needed > file_bytes {
        return Err(HeaderProblem::ShorterThanHeader {
            needed,
            found: file_bytes,
        });
    }
    Ok(needed)
}

/// Parses and checks a header.
///
/// `start` is the beginning of the file, at least up to the header's end; `file_bytes` the length
/// of the whole file.
///
/// # Errors
/// Whatever is wrong with the header, as a [`HeaderProblem`].
pub fn parse_header(start: &[u8], file_bytes: u64) -> Result<Header, HeaderProblem> {
    let available = file_bytes.min(start.len() as u64);
    let Some((first_bytes, _)) = start.split_first_chunk::<8>() else {
        return Err(HeaderProblem::ShorterThanHeader {
            needed: 8,
            found: available,
        });
    };
    let data_start = header_end(*first_bytes, available)?;
    let json = &start[8..data_start as usize];
    let raw: RawHeader = serde_json::from_slice(json).map_err(|error| HeaderProblem::NotJson {
        message: error.to_string(),
    })?;
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in raw.tensors {
        tensors.push(check_tensor(name, entry, data_start, file_bytes)?);
    }
    check_unique(&tensors)?;
    tensors.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
    check_coverage(&tensors, data_start, file_bytes)?;
    Ok(Header {
        tensors,
        metadata: raw.metadata,
        data_start,
    })
}

/// Parses a header whose data is elsewhere: the file is as long as its tensors make it.
///
/// # Errors
/// As [`parse_header`].
pub(crate) fn parse_header_alone(start: &[u8]) -> Result<Header, HeaderProblem> {
    let found = start.len() as u64;
    let Some((first_bytes, rest)) = start.split_first_chunk::<8>() else {
        let needed = 8;
        return Err(HeaderProblem::ShorterThanHeader { needed, found });
    };
    let data_start = header_end(*first_bytes, found)?;
    let json = &rest[..data_start as usize - 8];
    let raw: RawHeader = serde_json::from_slice(json).map_err(|error| HeaderProblem::NotJson {
        message: error.to_string(),
    })?;
    let ends = raw.tensors.iter().map(|(_, tensor)| tensor.data_offsets.1);
    parse_header(start, data_start.saturating_add(ends.max().unwrap_or(0)))
}

fn check_tensor(
    name: String,
    entry: RawTensor,
    data_start: u64,
    file_bytes: u64,
) -> Result<HeaderTensor, HeaderProblem> {
    let Some(dtype) = DType::from_name(&entry.dtype) else {
        return Err(HeaderProblem::UnknownDType {
            tensor: name,
            dtype: entry.dtype,
        });
    };
    let (begin, end) = entry.data_offsets;
    let shape = entry.shape.0;
    let bytes = dtype.tensor_bytes(&shape);
    if bytes.is_none() || end.checked_sub(begin) != bytes {
        return Err(HeaderProblem::SizeMismatch {
            tensor: name,
            dtype,
            shape,
            begin,
            end,
        });
    }
    let needed = data_start.saturating_add(end);
    if needed > file_bytes {
        return Err(HeaderProblem::Truncated {
            tensor: name,
            needed,
            found: file_bytes,
        });
    }
    Ok(HeaderTensor {
        name,
        dtype,
        shape,
        offset: data_start + begin,
        bytes: end - begin,
    })
}

fn check_unique(tensors: &[HeaderTensor]) -> Result<(), HeaderProblem> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(HeaderProblem::Duplicate {
            tensor: pair[0].to_owned(),
        }),
        None => Ok(()),
    }
}

/// The tensors, in order of place, must follow one another from the data's start to the file's end.
fn check_coverage(
    tensors: &[HeaderTensor],
    data_start: u64,
    file_bytes: u64,
) -> Result<(), HeaderProblem> {
    let mut covered = data_start;
    let mut last: Option<&HeaderTensor> = None;
    for tensor in tensors {
        if let Some(before) = last.filter(|_| tensor.offset < covered) {
            let (first, second) = (before.name.clone(), tensor.name.clone());
            return Err(HeaderProblem::Overlap { first, second });
        }
        if tensor.offset > covered {
            let (begin, end) = (covered - data_start, tensor.offset - data_start);
            return Err(HeaderProblem::Unclaimed { begin, end });
        }
        covered = tensor.offset + tensor.bytes;
        last = Some(tensor);
    }
    if covered < file_bytes {
        let (begin, end) = (covered - data_start, file_bytes - data_start);
        return Err(HeaderProblem::Unclaimed { begin, end });
    }
    Ok(())
}

/// The JSON as it is. Tensors are a list, so that a name given twice is seen.
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut raw = RawHeader {
                    tensors: Vec::new(),
                    metadata: BTreeMap::new(),
                };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        raw.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else {
                        raw.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = seq.next_element()? {
                    if sizes.len() == MAX_RANK {
                        return Err(A::Error::custom("a shape has too many dimensions"));
                    }
                    sizes.push(size);
                }
                Ok(Shape(sizes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}
