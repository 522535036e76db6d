//! GGUF files: a header of typed metadata and tensor places, then the data.
//!
//! All integers are little-endian. A string is a u64 length and that many bytes of UTF-8.
//!
//! | part | |
//! |---|---|
//! | magic | `GGUF` |
//! | version | u32; 2 and 3 are alike and are read |
//! | counts | u64 of tensors, u64 of keys |
//! | keys | each: string name, u32 value type, the value; an array is a u32 element type, a u64 count and the elements |
//! | tensors | each: string name, u32 rank, u64 sizes with the innermost first, u32 type, u64 offset in the data |
//! | data | starts at the next multiple of `general.alignment` (32 if absent), as does each tensor |
//!
//! Everything in it is untrusted. The header is read as a stream, nothing is allocated beyond what
//! the file's length can fill, and what a header may claim is bounded.

mod header;
mod metadata;
mod problem;
mod reader;
pub(crate) mod split;
mod strings;
mod types;
mod value;

pub use header::{Header, MAX_HEADER_BYTES, MAX_KEYS, MAX_TENSORS, is_gguf, parse_header};
pub use metadata::Metadata;
pub use problem::{GgufProblem, Place};
pub use strings::StringArray;
pub use types::TensorType;
pub use value::{Array, Value};

pub(crate) use header::read_header;
