//! GGUF files that the Python package `gguf` wrote (`tools/goldens/gguf/make_gguf.py`).

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

use std::fs;
use std::path::{Path, PathBuf};

use moeflux_formats::codec::{block::mxfp4, e2m1};
use moeflux_formats::gguf::{Array, GgufProblem, Value};
use moeflux_formats::{
    BlockCodec, Checkpoint, Codec, CodecError, DType, Encoded, FormatError, SafetensorsWriter,
    TensorSpec, decode, encode,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/gguf")
        .join(name)
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let info = checkpoint.require(name).unwrap();
    let mut out = vec![0; info.bytes as usize];
    checkpoint.read(info, 0, &mut out).unwrap();
    out
}

fn only_weights(weights: Vec<u8>) -> Encoded {
    Encoded {
        weights,
        ..Encoded::default()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_type_decodes_as_the_python_package_does() {
    let file = Checkpoint::open(&fixture("blocks.gguf")).unwrap();
    let mut codecs = vec![
        ("F32", Codec::F32),
        ("F16", Codec::F16),
        ("BF16", Codec::Bf16),
    ];
    codecs.extend(BlockCodec::ALL.map(|codec| (DType::Block(codec).name(), Codec::Block(codec))));
    for (name, codec) in codecs {
        let info = file.require(&format!("{name}.weight")).unwrap();
        assert_eq!(info.dtype.name(), name);
        assert_eq!(Codec::of_dtype(info.dtype), Some(codec));
        assert_eq!(
            (info.shape.as_slice(), info.elements()),
            ([2, 512].as_slice(), 1024)
        );
        let sizes = codec.encoded_bytes(2, 512).unwrap();
        assert_eq!((sizes.weights as u64, sizes.scales), (info.bytes, 0));
        let expected = file
            .read_f32(&format!("{name}.decoded"), &[2, 512])
            .unwrap();
        let weights = only_weights(bytes(&file, &format!("{name}.weight")));
        let found = decode(codec, &weights, 2, 512).unwrap();
        // Every product is exact and the one sum or difference rounds alike: equal in all bits
        // but for the sign of zero.
        let signed = |values: &[f32]| bits(&values.iter().map(|x| x + 0.0).collect::<Vec<_>>());
        assert_eq!(signed(&found), signed(&expected), "{name}");
    }
}

/// The two tensors of a safetensors file hold the numbers of the blocks.
#[test]
fn mxfp4_blocks_are_made_of_codes_and_exponents() {
    let file = Checkpoint::open(&fixture("blocks.gguf")).unwrap();
    let blocks = bytes(&file, "MXFP4.weight");
    let (mut codes, mut exponents) = (Vec::new(), Vec::new());
    for block in blocks.as_chunks::<17>().0 {
        exponents.push(block[0]);
        let code = |j: usize| block[1 + j % 16] >> (j / 16 * 4) & 15;
        codes.extend((0..16).map(|pair| code(2 * pair) | code(2 * pair + 1) << 4));
    }
    let mut made = codes;
    made.append(&mut exponents);
    e2m1::join(&mut made, mxfp4::SCALES);
    assert_eq!(made, blocks);
}

#[test]
fn what_we_quantize_is_what_the_python_package_quantizes() {
    let file = Checkpoint::open(&fixture("blocks.gguf")).unwrap();
    for codec in [BlockCodec::Q4_0, BlockCodec::Q8_0] {
        let name = DType::Block(codec).name();
        let values = file.read_f32(&format!("{name}.values"), &[2, 512]).unwrap();
        let encoded = encode(Codec::Block(codec), &values, 2, 512).unwrap();
        assert_eq!(
            encoded.weights,
            bytes(&file, &format!("{name}.weight")),
            "{name}"
        );
        assert!(encoded.scales.is_empty() && encoded.biases.is_empty());
    }
}

#[test]
fn shapes_are_outermost_first() {
    let file = Checkpoint::open(&fixture("blocks.gguf")).unwrap();
    let values: Vec<f32> = (0..24_u8).map(f32::from).collect();
    assert_eq!(file.read_f32("stacked", &[2, 3, 4]).unwrap(), values);
    let error = file.read_f32("Q4_K.weight", &[2, 512]).unwrap_err();
    assert!(matches!(error, FormatError::WrongDType { .. }), "{error}");
}

#[test]
fn block_codecs_say_what_they_cannot_do() {
    for codec in BlockCodec::ALL {
        assert_eq!(codec.name().parse(), Ok(Codec::Block(codec)));
        assert_eq!(Codec::Block(codec).to_string(), codec.name());
        assert_eq!(
            DType::from_name(DType::Block(codec).name()),
            None,
            "not of safetensors"
        );
        let spec = TensorSpec::new("t", DType::Block(codec), [1, 256]);
        let path = Path::new("never-written.safetensors");
        let written = SafetensorsWriter::create(path, &[spec], 8).map(drop);
        assert!(
            matches!(written, Err(FormatError::WriterMisuse { .. })),
            "{written:?}"
        );
        let cols = codec.block_elements() + 16;
        let group = codec.block_elements();
        let found = Codec::Block(codec).encoded_bytes(3, cols);
        assert_eq!(found, Err(CodecError::Columns { cols, group }));
    }
    let encoded = encode(Codec::Block(BlockCodec::Q6K), &[0.0; 256], 1, 256).unwrap_err();
    assert!(
        matches!(encoded, FormatError::Codec(CodecError::NoEncoder("q6_k"))),
        "{encoded}"
    );
    for (codec, limit) in [
        (BlockCodec::Q4_0, 8.0 * 65_504.0),
        (BlockCodec::Q8_0, 127.0 * 65_504.0),
    ] {
        let mut values = [0.0_f32; 64];
        values[40] = -limit;
        let kept = encode(Codec::Block(codec), &values, 1, 64).unwrap();
        assert_eq!(
            decode(Codec::Block(codec), &kept, 1, 64).unwrap()[40],
            -limit
        );
        for bad in [limit * 1.01, f32::NAN, f32::NEG_INFINITY] {
            values[40] = bad;
            let FormatError::Codec(CodecError::Value { index, .. }) =
                encode(Codec::Block(codec), &values, 1, 64).unwrap_err()
            else {
                panic!("{bad} is refused as a value")
            };
            assert_eq!(index, 40);
        }
    }
}

#[test]
fn metadata_of_every_type_is_read() {
    let file = Checkpoint::open(&fixture("metadata.gguf")).unwrap();
    let keys = file.gguf().unwrap();
    let value = |key: &str| keys.require(key).unwrap().clone();
    assert_eq!(value("uint8"), Value::U8(255));
    assert_eq!(value("int8"), Value::I8(127));
    assert_eq!(value("uint16"), Value::U16(65_535));
    assert_eq!(value("int16"), Value::I16(32_767));
    assert_eq!(value("uint32"), Value::U32(u32::MAX));
    assert_eq!(value("int32"), Value::I32(i32::MAX));
    assert_eq!(value("float32"), Value::F32(-1.5e30));
    assert_eq!(value("uint64"), Value::U64(u64::MAX));
    assert_eq!(value("int64"), Value::I64(i64::MAX));
    assert_eq!(value("float64"), Value::F64(-1e300));
    assert_eq!(value("bool"), Value::Bool(true));
    assert_eq!(value("string"), Value::String("Grüße, 世界 🦊".into()));
    let array = |key: &str| match value(key) {
        Value::Array(array) => array,
        other => panic!("{key} is {other:?}"),
    };
    assert_eq!(array("uint8s"), Array::U8(vec![0, 255]));
    assert_eq!(array("int8s"), Array::I8(vec![-128, 127]));
    assert_eq!(array("uint16s"), Array::U16(vec![0, 65_535]));
    assert_eq!(array("int16s"), Array::I16(vec![-32_768, 32_767]));
    assert_eq!(array("uint32s"), Array::U32(vec![0, u32::MAX]));
    assert_eq!(array("int32s"), Array::I32(vec![i32::MIN, i32::MAX]));
    assert_eq!(array("float32s"), Array::F32(vec![0.5, -1.5e30]));
    assert_eq!(array("uint64s"), Array::U64(vec![0, u64::MAX]));
    assert_eq!(array("int64s"), Array::I64(vec![i64::MIN, i64::MAX]));
    assert_eq!(array("float64s"), Array::F64(vec![0.1, -1e300]));
    assert_eq!(array("bools"), Array::Bool(vec![false, true]));
    assert_eq!(
        keys.strings("strings").unwrap().iter().collect::<Vec<_>>(),
        ["", "Grüße, 世界 🦊"]
    );
    assert_eq!(array("long"), Array::U16((0..5000).collect()));
    let tokens = keys.strings("tokens").unwrap();
    assert_eq!(
        (tokens.len(), tokens.get(0), tokens.get(300)),
        (300, Some("token 0"), None)
    );
    assert!(
        tokens
            .iter()
            .enumerate()
            .all(|(index, text)| text == format!("token {index}"))
    );
    assert_eq!(keys.iter().count(), 1 + 1 + 12 + 12 + 2);
    // The alignment of 64 that the file states is that of its tensors.
    assert_eq!(file.read_f32("one", &[3]).unwrap(), [1.0; 3]);
    assert_eq!(file.read_f32("two", &[2, 2]).unwrap(), [2.0; 4]);
}

#[test]
fn keys_are_read_as_what_is_asked_or_refused_by_name() {
    let file = Checkpoint::open(&fixture("metadata.gguf")).unwrap();
    let keys = file.gguf().unwrap();
    assert_eq!(keys.u64("uint64").unwrap(), u64::MAX);
    assert_eq!(keys.u64("int8").unwrap(), 127);
    assert_eq!(keys.f32("float32").unwrap(), -1.5e30);
    assert!(keys.bool("bool").unwrap());
    assert_eq!(keys.string("string").unwrap(), "Grüße, 世界 🦊");
    assert_eq!(keys.u32s("uint8s").unwrap(), [0, 255]);
    assert_eq!(keys.i32s("int16s").unwrap(), [-32_768, 32_767]);
    assert_eq!(keys.f32s("float32s").unwrap(), [0.5, -1.5e30]);
    assert_eq!(
        keys.optional("absent", |keys, key| keys.u64(key)).unwrap(),
        None
    );
    assert_eq!(
        keys.optional("int8", |keys, key| keys.u64(key)).unwrap(),
        Some(127)
    );

    let absent = keys.u64("general.absent").unwrap_err();
    assert!(matches!(&absent, FormatError::MissingKey { key, .. } if key == "general.absent"));
    let refused = [
        keys.u64("int8s").unwrap_err(),
        keys.f32("uint8").unwrap_err(),
        keys.bool("uint8").unwrap_err(),
        keys.string("strings").unwrap_err(),
        keys.strings("string").unwrap_err(),
        keys.u32s("int8s").unwrap_err(),
        keys.i32s("uint32s").unwrap_err(),
        keys.f32s("float64s").unwrap_err(),
    ];
    for error in refused {
        let FormatError::WrongKeyType { key, .. } = &error else {
            panic!("{error}")
        };
        let message = error.to_string();
        assert!(
            message.contains("metadata.gguf") && message.contains(key.as_str()),
            "{message}"
        );
    }
}

#[test]
fn version_2_and_names_without_the_ending_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    let mut file = fs::read(fixture("metadata.gguf")).unwrap();
    file[4] = 2;
    fs::write(&path, file).unwrap();
    let opened = Checkpoint::open_files(vec![path]).unwrap();
    assert_eq!(opened.read_f32("one", &[3]).unwrap(), [1.0; 3]);
}

#[test]
fn any_part_opens_the_whole_model() {
    for part in 1..=3 {
        let file = Checkpoint::open(&fixture(&format!("parts-0000{part}-of-00003.gguf"))).unwrap();
        assert_eq!(file.files().len(), 3);
        assert_eq!(file.names().count(), 5);
        for index in 0..5_u8 {
            let values = file.read_f32(&format!("tensor.{index}"), &[4]).unwrap();
            assert_eq!(values, [f32::from(index); 4]);
        }
        // Only the first part has the model's keys.
        assert_eq!(
            file.gguf().unwrap().string("general.architecture").unwrap(),
            "test"
        );
    }
}

fn copy_parts(dir: &Path, names: [&str; 3]) {
    for (part, name) in names.iter().enumerate() {
        if !name.is_empty() {
            let source = fixture(&format!("parts-0000{}-of-00003.gguf", part + 1));
            fs::copy(source, dir.join(name)).unwrap();
        }
    }
}

#[test]
fn wrong_parts_are_refused() {
    let (first, second, third) = (
        "m-00001-of-00003.gguf",
        "m-00002-of-00003.gguf",
        "m-00003-of-00003.gguf",
    );
    let open = |names: [&str; 3], open: &str| {
        let dir = tempfile::tempdir().unwrap();
        copy_parts(dir.path(), names);
        Checkpoint::open(&dir.path().join(open)).unwrap_err()
    };
    let missing = open([first, "", third], first);
    assert!(
        matches!(&missing, FormatError::MissingFile { path, .. } if path.ends_with(second)),
        "{missing}"
    );
    let renamed = open(["model.gguf", second, third], "model.gguf");
    let problem = GgufProblem::PartName { part: 1, parts: 3 };
    assert!(
        matches!(&renamed, FormatError::Gguf { problem: p, .. } if *p == problem),
        "{renamed}"
    );
    let swapped = open([first, third, second], first);
    assert!(
        matches!(&swapped, FormatError::Gguf { path, problem: GgufProblem::PartMismatch {
            key: "split.no", expected: 1, found: 2 } } if path.ends_with(second)),
        "{swapped}"
    );
}

/// A part that belongs to another model is seen by the count of tensors or by its type of file.
#[test]
fn parts_of_other_models_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let name = |part: usize| format!("m-0000{part}-of-00003.gguf");
    copy_parts(dir.path(), [&name(1), &name(2), &name(3)]);
    let third = fs::read(dir.path().join(name(3))).unwrap();
    // The total of tensors, in each part, is an i32.
    let place = third
        .windows(19)
        .position(|bytes| bytes == b"split.tensors.count")
        .unwrap()
        + 23;
    let mut other = third.clone();
    other[place] += 1;
    fs::write(dir.path().join(name(3)), other).unwrap();
    let error = Checkpoint::open(&dir.path().join(name(1))).unwrap_err();
    let problem = GgufProblem::PartMismatch {
        key: "split.tensors.count",
        expected: 5,
        found: 6,
    };
    assert!(
        matches!(&error, FormatError::Gguf { problem: p, .. } if *p == problem),
        "{error}"
    );

    fs::copy(fixture("metadata.gguf"), dir.path().join(name(3))).unwrap();
    let error = Checkpoint::open(&dir.path().join(name(1))).unwrap_err();
    assert!(
        matches!(&error, FormatError::MissingKey { key, .. } if key == "split.no"),
        "{error}"
    );
}

#[test]
fn a_file_named_gguf_that_is_none_is_refused_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(matches!(error, FormatError::MissingFile { .. }), "{error}");
    fs::write(&path, b"<!DOCTYPE html><html>Not found</html>").unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    let problem = GgufProblem::Magic { found: *b"<!DO" };
    assert!(
        matches!(&error, FormatError::Gguf { problem: p, .. } if *p == problem),
        "{error}"
    );
    fs::write(&path, b"GG").unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    let FormatError::Gguf {
        problem:
            GgufProblem::Truncated {
                needed: 4,
                found: 2,
                ..
            },
        ..
    } = error
    else {
        panic!("{error}")
    };
}
