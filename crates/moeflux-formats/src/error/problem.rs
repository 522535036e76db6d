//! What is wrong with a header, a matrix or a plan, without the file that it is about.

use crate::DType;

/// What is wrong with a safetensors header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderProblem {
    /// The file is shorter than its header.
    #[error(
        "it is {found} bytes long, its header alone needs {needed}: it is truncated, get it again"
    )]
    ShorterThanHeader {
        /// Length needed.
        needed: u64,
        /// Length of the file.
        found: u64,
    },
    /// The header's length is beyond any sensible one.
    #[error("its header claims {found} bytes, the limit is {limit}")]
    TooLarge {
        /// Length claimed.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The header is not the JSON that it should be.
    #[error("its header is not the expected JSON: {message}")]
    NotJson {
        /// The parser's message, with the place.
        message: String,
    },
    /// A tensor has a type without a known size.
    #[error("tensor {tensor} has the unknown element type {dtype:?}")]
    UnknownDType {
        /// The tensor.
        tensor: String,
        /// The type's name.
        dtype: String,
    },
    /// A name occurs twice.
    #[error("it defines tensor {tensor} twice")]
    Duplicate {
        /// The tensor.
        tensor: String,
    },
    /// A tensor's byte range does not hold its shape.
    #[error(
        "tensor {tensor} of type {dtype} and shape {shape:?} cannot lie at bytes {begin}..{end}"
    )]
    SizeMismatch {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
        /// Its shape.
        shape: Vec<usize>,
        /// First byte in the data.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// The data of a tensor ends after the file.
    #[error(
        "tensor {tensor} ends at byte {needed} but the file has {found}: it is \
         truncated, get it again"
    )]
    Truncated {
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
    /// Bytes belong to no tensor.
    #[error("bytes {begin}..{end} of its data belong to no tensor")]
    Unclaimed {
        /// First unclaimed byte of the data.
        begin: u64,
        /// One past the last.
        end: u64,
    },
}

/// Why a matrix cannot be encoded or decoded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// No such number of bits.
    #[error("{0} bits are not supported; use 2, 3, 4, 5, 6 or 8")]
    Bits(u32),
    /// No such group length.
    #[error("groups of {0} are not supported; use 32, 64 or 128")]
    Group(usize),
    /// A codec's name is not known.
    #[error(
        "unknown codec {0:?}; known are f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, \
         q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4, f8-e4m3, f8-e4m3-bf16, \
         centered-bB-gG and affine-bB-gG such as affine-b4-g64"
    )]
    UnknownName(String),
    /// A codec that is read but not written.
    #[error("{0} is only read, not written; use q8_0, q4_0 or affine-b4-g64")]
    NoEncoder(&'static str),
    /// The inner dimension does not divide into groups.
    #[error(
        "rows of {cols} elements do not divide into groups of {group}; use a smaller group or bf16"
    )]
    Columns {
        /// Elements in a row.
        cols: usize,
        /// Group length.
        group: usize,
    },
    /// A buffer has not the length that the shape needs.
    #[error("{what} has length {found}, the shape {rows} x {cols} needs {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Length needed.
        expected: usize,
        /// Length given.
        found: usize,
    },
    /// An importance that errors cannot be weighed by.
    #[error("{weight} is no importance of a column; give finite numbers above zero")]
    Importance {
        /// The number.
        weight: f32,
    },
    /// The shape's size is beyond the address space.
    #[error("a matrix of {rows} x {cols} is too large")]
    TooLarge {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A value that the codec cannot hold (not a number, infinite, or beyond its range).
    #[error(
        "{codec} cannot hold the value {value} of element {index}; the source is \
         damaged or needs bf16"
    )]
    Value {
        /// The codec.
        codec: &'static str,
        /// Position in the matrix or block, in row order.
        index: usize,
        /// The value.
        value: f32,
    },
}

/// Why a pack plan cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanProblem {
    /// Two planned tensors or layers have the same name.
    #[error("it is planned twice")]
    Duplicate,
    /// A matrix lies partly outside its source.
    #[error("elements {first}..{end} were asked of {tensor}, which has {elements}")]
    OutsideSource {
        /// The source tensor.
        tensor: String,
        /// First element.
        first: u64,
        /// One past the last element.
        end: u64,
        /// Elements of the source.
        elements: u64,
    },
    /// Experts of one layer differ in shape, codec or order of their matrices.
    #[error("expert {expert} is laid out otherwise than expert 0")]
    UnequalExperts {
        /// The expert that differs.
        expert: usize,
    },
    /// A layer without experts, or an expert without matrices.
    #[error("it has no experts or no matrices")]
    Empty,
    /// A name that cannot be used for a file or tensor.
    #[error("the name cannot be used here")]
    BadName,
}
