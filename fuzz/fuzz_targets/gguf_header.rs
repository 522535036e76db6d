//! Any bytes as a GGUF file: an error, or a header that keeps its promises.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use moeflux_formats::gguf::{Array, Value, parse_header};

fuzz_target!(|file: &[u8]| {
    let file_bytes = file.len() as u64;
    let header = match parse_header(file, file_bytes, Path::new("fuzz.gguf")) {
        Ok(header) => header,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut covered = header.data_start;
    for tensor in &header.tensors {
        assert!(tensor.offset >= covered && tensor.offset + tensor.bytes <= file_bytes);
        assert_eq!(tensor.dtype.tensor_bytes(&tensor.shape), Some(tensor.bytes));
        assert!((1..=4).contains(&tensor.shape.len()) && tensor.bytes > 0);
        covered = tensor.offset + tensor.bytes;
    }
    for (key, value) in header.metadata.iter() {
        let integer = value
            .as_integer()
            .and_then(|integer| u64::try_from(integer).ok());
        assert_eq!(header.metadata.u64(key).ok(), integer);
        if let Value::Array(Array::Strings(strings)) = value {
            let length: usize = strings.iter().map(str::len).sum();
            assert!(length + 8 * strings.len() <= file.len());
        }
        if let Value::Array(array) = value {
            assert!(array.len() <= file.len());
        }
    }
});
