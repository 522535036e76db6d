//! GGUF files put together by hand, for tests of what is wrong with them.

#![allow(dead_code)] // each test binary uses its part of this
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use moeflux_formats::FormatError;
use moeflux_formats::gguf::{GgufProblem, Header, parse_header};

pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const F32: u32 = 0;
pub const Q4_K: u32 = 12;

/// Bytes of a GGUF file, put together by hand.
#[derive(Clone)]
pub struct File(pub Vec<u8>);

impl File {
    pub fn new(tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(keys)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    pub fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    pub fn string(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    pub fn key(self, name: &str, value_type: u32) -> Self {
        self.string(name).u32(value_type)
    }

    pub fn tensor(self, name: &str, sizes: &[u64], tensor_type: u32, offset: u64) -> Self {
        let described = self.string(name).u32(sizes.len() as u32);
        let described = sizes.iter().fold(described, |file, &size| file.u64(size));
        described.u32(tensor_type).u64(offset)
    }

    /// Pads to the data and adds `bytes` of it.
    pub fn data(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 0);
        self
    }
}

/// Two keys, an array and two tensors, the first of them second in the data.
pub fn valid() -> File {
    File::new(2, 3)
        .key("general.name", STRING)
        .string("small")
        .key("tokens", ARRAY)
        .u32(STRING)
        .u64(2)
        .string("a")
        .string("bc")
        .key("flag", BOOL)
        .bytes(&[1])
        .tensor("second", &[256, 2], Q4_K, 64)
        .tensor("first", &[4, 3], F32, 0)
        .data(64 + 288)
}

/// Parses `file`; what is wrong with it must be of the header.
pub fn parse(file: &[u8]) -> Result<Header, GgufProblem> {
    let path = Path::new("model.gguf");
    parse_header(file, file.len() as u64, path).map_err(|error| match error {
        FormatError::Gguf {
            path: named,
            problem,
        } => {
            assert_eq!(named, path);
            problem
        }
        other => panic!("{other}"),
    })
}

/// What a header that was accepted must fulfil.
pub fn assert_consistent(header: &Header, file_bytes: u64) {
    let mut covered = header.data_start;
    for tensor in &header.tensors {
        assert!(tensor.offset >= covered, "{}", tensor.name);
        assert_eq!(tensor.dtype.tensor_bytes(&tensor.shape), Some(tensor.bytes));
        covered = tensor.offset + tensor.bytes;
    }
    assert!(header.tensors.is_empty() || covered <= file_bytes);
}
