//! What is wrong with a GGUF header, without the file that it is about.

use std::fmt;

use super::types::{SUPPORTED, TensorType};
use crate::DType;

/// What is wrong with a GGUF header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufProblem {
    /// The first bytes are not GGUF's.
    #[error("it starts with the bytes {found:02x?}, not with \"GGUF\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The numbers' bytes are in the other order.
    #[error("it is big-endian; only little-endian files are read, convert the model again")]
    BigEndian,
    /// A version that is not read.
    #[error(
        "its version is {found}, versions 2 and 3 are read; convert the model again (older files) \
         or update this program (newer files)"
    )]
    Version {
        /// The version.
        found: u32,
    },
    /// The file ends inside its header.
    #[error(
        "it ends at byte {found}, inside {place}, which needs {needed}: it is truncated or \
         damaged, get it again"
    )]
    Truncated {
        /// What was being read.
        place: Place,
        /// Length needed.
        needed: u64,
        /// Length of the file.
        found: u64,
    },
    /// The header is beyond any sensible size.
    #[error("its header does not end within {limit} bytes ({place} goes beyond): it is damaged")]
    TooLarge {
        /// What was being read.
        place: Place,
        /// The limit.
        limit: u64,
    },
    /// More keys or tensors than any model has.
    #[error("it claims {found} {what}, the limit is {limit}: it is damaged")]
    TooMany {
        /// `keys` or `tensors`.
        what: &'static str,
        /// The count claimed.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A string longer than any may be.
    #[error("{place} claims {found} bytes, the limit is {limit}: the file is damaged")]
    StringTooLong {
        /// What was being read.
        place: Place,
        /// The length claimed.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// An array longer than any may be.
    #[error("{place} claims {found} elements, the limit is {limit}: the file is damaged")]
    ArrayTooLong {
        /// What was being read.
        place: Place,
        /// The count claimed.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// An array of arrays.
    #[error("{place} is an array of arrays, which is not supported")]
    NestedArray {
        /// What was being read.
        place: Place,
    },
    /// Text that is not UTF-8.
    #[error("{place} is not valid UTF-8: the file is damaged")]
    NotUtf8 {
        /// What was being read.
        place: Place,
    },
    /// A truth value other than 0 and 1.
    #[error("{place} holds the truth value {found}, which is neither 0 nor 1: the file is damaged")]
    BadBool {
        /// What was being read.
        place: Place,
        /// The byte.
        found: u8,
    },
    /// A value type that GGUF does not have.
    #[error("{place} has the unknown value type {found}: the file is damaged or too new")]
    UnknownValueType {
        /// What was being read.
        place: Place,
        /// The type's number.
        found: u32,
    },
    /// A key without a name.
    #[error("{place} has an empty name: the file is damaged")]
    EmptyName {
        /// The key or tensor.
        place: Place,
    },
    /// A key occurs twice.
    #[error("it defines key {key} twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The alignment is not a power of two in a u32.
    #[error("its general.alignment is {found}, it must be a power of two of type u32")]
    Alignment {
        /// The value, or its type.
        found: String,
    },
    /// A tensor occurs twice.
    #[error("it defines tensor {tensor} twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A number of dimensions that GGUF does not have.
    #[error("tensor {tensor} has {found} dimensions, 1 to 4 are possible: the file is damaged")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Number of dimensions.
        found: u32,
    },
    /// A dimension of nothing.
    #[error("tensor {tensor} has a dimension of size 0 (dimension {dimension}, innermost first)")]
    ZeroDimension {
        /// The tensor.
        tensor: String,
        /// Which one, counted from the innermost.
        dimension: usize,
    },
    /// A size beyond the address space.
    #[error("tensor {tensor} of shape {shape:?} is too large: the file is damaged")]
    TensorTooLarge {
        /// The tensor.
        tensor: String,
        /// Its sizes, outermost first.
        shape: Vec<u64>,
    },
    /// A type that is not read.
    #[error(
        "tensor {tensor} has the type {found}, which is not supported; use a version of the model \
         in {SUPPORTED}"
    )]
    UnknownTensorType {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: TensorType,
    },
    /// Rows that do not divide into blocks.
    #[error(
        "tensor {tensor} of type {dtype} has rows of {cols} elements, which do not divide into \
         blocks of {block}: the file is damaged"
    )]
    RowLength {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
        /// Elements of a row.
        cols: u64,
        /// Elements of a block.
        block: u64,
    },
    /// A place that is not a multiple of the alignment.
    #[error("tensor {tensor} lies at {offset} of the data, which is no multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its place in the data.
        offset: u64,
        /// The alignment.
        alignment: u32,
    },
    /// The data of a tensor ends after the file.
    #[error(
        "tensor {tensor} ends at byte {needed} but the file has {found}: it is truncated, get it \
         again"
    )]
    DataTruncated {
        /// The tensor.
        tensor: String,
        /// Where it ends in the file.
        needed: u64,
        /// Length of the file.
        found: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors {first} and {second} overlap")]
    Overlap {
        /// The tensor that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// A part of a model whose name does not lead to the other parts.
    #[error(
        "it is part {part} of {parts}, but its name does not end in -{part:05}-of-{parts:05}.gguf, \
         so the other parts cannot be found; give all parts their original names"
    )]
    PartName {
        /// Which part, from 1.
        part: u64,
        /// How many there are.
        parts: u64,
    },
    /// A part that states another place or count than its name and the other parts.
    #[error("it states {key} = {found}, expected {expected}; the parts are of different models")]
    PartMismatch {
        /// The key.
        key: &'static str,
        /// The value expected.
        expected: u64,
        /// The value found.
        found: u64,
    },
}

/// A place in a header, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// Magic, version and counts.
    Start,
    /// The name of the n-th key, from 0.
    KeyName(u64),
    /// A key's value.
    Key(String),
    /// The name of the n-th tensor, from 0.
    TensorName(u64),
    /// A tensor's shape, type or place.
    Tensor(String),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => formatter.write_str("its first 24 bytes"),
            Self::KeyName(index) => write!(formatter, "the name of key number {index}"),
            Self::Key(key) => write!(formatter, "the value of key {key}"),
            Self::TensorName(index) => write!(formatter, "the name of tensor number {index}"),
            Self::Tensor(tensor) => write!(formatter, "the description of tensor {tensor}"),
        }
    }
}
