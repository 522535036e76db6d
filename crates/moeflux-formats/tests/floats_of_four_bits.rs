//! 4-bit floats from the tensors that published checkpoints have: codes, scales of groups, and a
//! scale of the whole matrix.

#![allow(clippy::unwrap_used)] // helpers of tests too

use std::path::Path;

use moeflux_formats::codec::{block::mxfp4, e2m1, nvfp4};
use moeflux_formats::{BlockCodec, Checkpoint, Codec, CodecError, Encoded, decode};

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let info = checkpoint.require(name).unwrap();
    let mut out = vec![0; info.bytes as usize];
    checkpoint.read(info, 0, &mut out).unwrap();
    out
}

/// Codes and scales as files have them, as blocks.
fn joined(codes: &[u8], scales: &[u8], a_block: usize) -> Vec<u8> {
    let mut blocks = [codes, scales].concat();
    e2m1::join(&mut blocks, a_block);
    blocks
}

/// `tools/goldens/codecs/make_nvfp4.py` made the fixture with compressed-tensors.
#[test]
fn nvfp4_decodes_as_compressed_tensors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nvfp4.safetensors");
    let fixture = Checkpoint::open_files(vec![path]).unwrap();
    let shape = fixture.require("divided").unwrap().shape.clone();
    let (rows, cols) = (shape[0], shape[1]);
    let (codes, scales) = (bytes(&fixture, "codes"), bytes(&fixture, "scales"));
    let mut encoded = Encoded {
        weights: joined(&codes, &scales, nvfp4::SCALES),
        scales: bytes(&fixture, "global"),
        ..Encoded::default()
    };
    nvfp4::invert(&mut encoded.scales);
    let ours = decode(Codec::Nvfp4, &encoded, rows, cols).unwrap();
    assert_eq!(ours, fixture.read_f32("multiplied", &shape).unwrap());
    // Where a division is one rounding, the reciprocal and a product are two.
    let divided = fixture.read_f32("divided", &shape).unwrap();
    for (place, (ours, divided)) in ours.iter().zip(&divided).enumerate() {
        let error = (ours - divided).abs();
        assert!(
            error <= 2.5e-7 * divided.abs(),
            "{place}: {ours} for {divided}"
        );
    }
    assert!(ours.iter().any(|value| *value != 0.0));
}

#[test]
fn neighbours_in_a_byte_become_halves_of_a_block() {
    // Two blocks whose codes count up, of scales 1 and 2^3.
    let codes: Vec<u8> = (0..32)
        .map(|j| ((2 * j) % 16) | (((2 * j + 1) % 16) << 4))
        .collect();
    let blocks = joined(&codes, &[127, 130], mxfp4::SCALES);
    let values = decode(
        Codec::Block(BlockCodec::Mxfp4),
        &Encoded {
            weights: blocks,
            ..Encoded::default()
        },
        1,
        64,
    );
    let levels = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let negative = levels.map(|x: f32| -x);
    let signed = [levels, negative].concat();
    let expected: Vec<f32> = (0..64)
        .map(|j| signed[j % 16] * if j < 32 { 1.0 } else { 8.0 })
        .collect();
    assert_eq!(values.unwrap(), expected);
}

#[test]
fn columns_and_names_are_checked() {
    let found = Codec::Nvfp4.encoded_bytes(4, 48);
    assert!(matches!(
        found,
        Err(CodecError::Columns {
            cols: 48,
            group: 32
        })
    ));
    assert_eq!("nvfp4".parse(), Ok(Codec::Nvfp4));
    for name in ["f8-e4m3", "f8-e4m3-bf16", "f8-e4m3-e8m0"] {
        let codec: Codec = name.parse().unwrap();
        assert_eq!(codec.to_string(), name);
    }
    assert_eq!(
        Codec::Nvfp4.check_encoder(),
        Err(CodecError::NoEncoder("nvfp4"))
    );
}
