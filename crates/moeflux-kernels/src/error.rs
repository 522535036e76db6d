//! What can be wrong with a call: sizes, shapes and instruction sets.

use crate::Isa;

/// An error of a kernel call. Every message names the operation and the operand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// An operand's length does not fit the others.
    #[error("{op}: {what} has length {got}, expected {expected}; pass slices that fit the shape")]
    Size {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// Length that the other operands imply.
        expected: usize,
        /// Length given.
        got: usize,
    },
    /// A dimension is zero, or does not divide as it must.
    #[error("{op}: {what} is {got}, which must be a positive multiple of {of}; check the shape")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The dimension.
        what: &'static str,
        /// Value given.
        got: usize,
        /// What it must be a multiple of.
        of: usize,
    },
    /// An index points past the end of what it indexes.
    #[error("{op}: {what} {index} is out of range, there are {limit}; check the indices")]
    Index {
        /// The operation.
        op: &'static str,
        /// What is indexed.
        what: &'static str,
        /// Index given.
        index: usize,
        /// Number of things there are.
        limit: usize,
    },
    /// Bits per weight that no kernel knows.
    #[error("affine weights of {bits} bits are not supported; use 2, 3, 4, 5, 6 or 8")]
    Bits {
        /// Bits given.
        bits: u32,
    },
    /// A group length that no kernel knows.
    #[error("affine groups of {group} elements are not supported; use 32, 64 or 128")]
    Group {
        /// Group length given.
        group: usize,
    },
    /// This processor lacks the instruction set.
    #[error("instruction set {isa} is not available on this processor; the best here is {best}")]
    IsaUnavailable {
        /// The instruction set asked for.
        isa: Isa,
        /// The best one that is available.
        best: Isa,
    },
    /// A name that is no type of keys and values.
    #[error("unknown type of keys and values {name:?}; use f16 or f32")]
    KvTypeUnknown {
        /// The name given.
        name: String,
    },
    /// A name that is no instruction set.
    #[error("unknown instruction set {name:?}; use scalar, neon, avx2 or avx512")]
    IsaUnknown {
        /// The name given.
        name: String,
    },
}
