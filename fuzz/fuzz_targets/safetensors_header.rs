//! Any bytes as a safetensors file: an error, or a header that keeps its promises.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moeflux_formats::parse_header;

fuzz_target!(|file: &[u8]| {
    let header = match parse_header(file, file.len() as u64) {
        Ok(header) => header,
        Err(problem) => {
            assert!(!problem.to_string().is_empty());
            return;
        }
    };
    let mut covered = header.data_start;
    for tensor in &header.tensors {
        assert_eq!(tensor.offset, covered);
        assert_eq!(tensor.dtype.tensor_bytes(&tensor.shape), Some(tensor.bytes));
        covered += tensor.bytes;
    }
    assert_eq!(covered, file.len() as u64);
});
