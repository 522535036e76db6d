//! Safetensors files: what is written is read, and what is malformed ends in a typed error.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

use std::fs;
use std::path::{Path, PathBuf};

use moeflux_formats::{
    Checkpoint, DType, FormatError, Header, HeaderProblem, MAX_HEADER_BYTES, SafetensorsWriter,
    TensorSpec, parse_header, write_safetensors,
};
use proptest::prelude::*;

fn file_of(json: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.resize(file.len() + data_bytes, 7);
    file
}

fn parse(file: &[u8]) -> Result<Header, HeaderProblem> {
    parse_header(file, file.len() as u64)
}

fn parse_json(json: &str, data_bytes: usize) -> Result<Header, HeaderProblem> {
    parse(&file_of(json, data_bytes))
}

const VALID: &str = r#"{"__metadata__":{"format":"pt"},
    "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},
    "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
    "none":{"dtype":"U8","shape":[0,5],"data_offsets":[8,8]},
    "scalar":{"dtype":"I64","shape":[],"data_offsets":[20,28]}}   "#;

/// What a header that was accepted must fulfil.
fn assert_consistent(header: &Header, file_bytes: u64) {
    let mut covered = header.data_start;
    for tensor in &header.tensors {
        assert_eq!(tensor.offset, covered, "{}", tensor.name);
        let elements: u64 = tensor.shape.iter().map(|&size| size as u64).product();
        assert_eq!(
            tensor.bytes,
            elements * tensor.dtype.block_bytes() as u64,
            "{}",
            tensor.name
        );
        covered += tensor.bytes;
    }
    assert_eq!(covered, file_bytes);
}

#[test]
fn a_valid_header_is_read() {
    let file = file_of(VALID, 28);
    let header = parse(&file).unwrap();
    assert_consistent(&header, file.len() as u64);
    let names: Vec<&str> = header
        .tensors
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!(names, ["a", "none", "b", "scalar"]);
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(header.tensors[2].shape, [2, 3]);
}

#[test]
fn every_kind_of_bad_header_has_its_problem() {
    use HeaderProblem as P;
    let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!("{{{}}}", entry("t", dtype, shape, offsets))
    };
    let two = |a: (&str, &str), b: (&str, &str)| {
        format!(
            "{{{},{}}}",
            entry(a.0, "U8", "[4]", a.1),
            entry(b.0, "U8", "[4]", b.1)
        )
    };
    let problem = |json: &str, data: usize| parse_json(json, data).unwrap_err();

    assert!(matches!(
        parse(&[1, 2, 3]),
        Err(P::ShorterThanHeader {
            needed: 8,
            found: 3
        })
    ));
    assert!(matches!(
        parse(&file_of(VALID, 0)[..40]),
        Err(P::ShorterThanHeader { found: 40, .. })
    ));
    let mut large = file_of(VALID, 28);
    large[..8].copy_from_slice(&(MAX_HEADER_BYTES + 1).to_le_bytes());
    assert!(matches!(parse(&large), Err(P::TooLarge { .. })));
    large[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(parse(&large), Err(P::TooLarge { .. })));
    for json in [
        "",
        "[]",
        "{",
        "nul",
        "{\"t\":{}}",
        "{\"t\":1}",
        &one("U8", "[-1]", "[0,1]"),
    ] {
        assert!(matches!(problem(json, 0), P::NotJson { .. }), "{json}");
    }
    let deep = format!("{{\"t\":{}", "[".repeat(100_000));
    assert!(matches!(problem(&deep, 0), P::NotJson { .. }));
    let ranks = format!("[{}1]", "1,".repeat(1000));
    assert!(matches!(
        problem(&one("U8", &ranks, "[0,1]"), 1),
        P::NotJson { .. }
    ));
    assert!(matches!(
        problem(&one("Q4", "[1]", "[0,1]"), 1),
        P::UnknownDType { .. }
    ));
    let twice = two(("t", "[0,4]"), ("t", "[4,8]"));
    assert_eq!(
        problem(&twice, 8),
        P::Duplicate {
            tensor: "t".to_owned()
        }
    );
    for (shape, offsets) in [
        ("[3]", "[0,4]"),
        ("[4]", "[4,0]"),
        ("[4611686018427387904,4]", "[0,4]"),
        ("[18446744073709551615]", "[0,18446744073709551615]"),
    ] {
        let dtype = if shape.len() > 10 { "F32" } else { "U8" };
        assert!(matches!(
            problem(&one(dtype, shape, offsets), 4),
            P::SizeMismatch { .. }
        ));
    }
    assert!(matches!(
        problem(&one("U8", "[8]", "[0,8]"), 7),
        P::Truncated { .. }
    ));
    let far = one("U8", "[1]", "[18446744073709551614,18446744073709551615]");
    assert!(matches!(problem(&far, 7), P::Truncated { .. }));
    let overlap = two(("first", "[0,4]"), ("second", "[3,7]"));
    let names = ("first".to_owned(), "second".to_owned());
    assert_eq!(
        problem(&overlap, 8),
        P::Overlap {
            first: names.0,
            second: names.1
        }
    );
    let hole = two(("first", "[0,4]"), ("second", "[6,10]"));
    assert_eq!(problem(&hole, 10), P::Unclaimed { begin: 4, end: 6 });
    assert_eq!(
        problem(&one("U8", "[4]", "[0,4]"), 9),
        P::Unclaimed { begin: 4, end: 9 }
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// No mutation of a file makes the parser panic or accept something inconsistent.
    #[test]
    fn mutated_headers_are_rejected_or_consistent(
        changes in prop::collection::vec((0_usize..400, any::<u8>(), 0_u8..4), 1..6),
    ) {
        let mut file = file_of(VALID, 28);
        for (place, byte, kind) in changes {
            let place = place % file.len().max(1);
            match kind {
                0 if !file.is_empty() => file[place] = byte,
                1 => file.insert(place, byte),
                2 => file.truncate(place.max(8)),
                // Digits keep the JSON valid more often than any byte does.
                _ => {
                    let mut rest = file[8..].iter_mut().skip(place);
                    if let Some(digit) = rest.find(|byte| byte.is_ascii_digit()) {
                        *digit = b'0' + byte % 10;
                    }
                }
            }
        }
        if let Ok(header) = parse(&file) {
            assert_consistent(&header, file.len() as u64);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(header) = parse(&bytes) {
            assert_consistent(&header, bytes.len() as u64);
        }
    }
}

fn write_one(path: &Path, name: &str, values: &[f32]) {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    write_safetensors(path, &[(name, DType::F32, &[values.len()], &bytes)]).unwrap();
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let specs = [
        TensorSpec::new("z \"quoted\"\n\u{1F600}", DType::F32, [2, 2]),
        TensorSpec::new("half", DType::F16, [3]),
        TensorSpec::new("empty", DType::U8, [0]),
        TensorSpec::new("brain", DType::Bf16, [1, 2]),
    ];
    let mut writer = SafetensorsWriter::create(&path, &specs, 4096).unwrap();
    for value in [1.0_f32, -2.5, 1e-40, f32::INFINITY] {
        writer.write(&value.to_le_bytes()).unwrap();
    }
    writer.write(&[0x00, 0x3C, 0x00, 0xC0, 0x01, 0x00]).unwrap();
    writer.write(&[0x80, 0x3F, 0x20, 0xC1]).unwrap();
    writer.finish().unwrap();

    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>()[3], specs[0].name);
    assert_eq!(checkpoint.require(&specs[0].name).unwrap().offset % 4096, 0);
    let read = |name: &str, shape: &[usize]| checkpoint.read_f32(name, shape).unwrap();
    assert_eq!(
        read(&specs[0].name, &[2, 2]),
        [1.0, -2.5, 1e-40, f32::INFINITY]
    );
    assert_eq!(read("half", &[3]), [1.0, -2.0, 2.0_f32.powi(-24)]);
    assert_eq!(read("brain", &[1, 2]), [1.0, -10.0]);
    let mut two = [0; 2];
    let info = checkpoint.require("half").unwrap();
    checkpoint.read(info, 2, &mut two).unwrap();
    assert_eq!(two, [0x00, 0xC0]);
    let outside = checkpoint.read(info, 5, &mut two);
    assert!(matches!(
        outside,
        Err(FormatError::ReadOutOfRange {
            first: 5,
            end: 7,
            bytes: 6,
            ..
        })
    ));
}

#[test]
fn the_writer_checks_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.safetensors");
    let spec = TensorSpec::new("t", DType::U8, [4]);
    let misuse = |result: Result<(), FormatError>| {
        assert!(
            matches!(result, Err(FormatError::WriterMisuse { .. })),
            "{result:?}"
        );
    };
    let mut writer = SafetensorsWriter::create(&path, std::slice::from_ref(&spec), 8).unwrap();
    writer.write(&[0; 3]).unwrap();
    misuse(writer.write(&[0; 2]));
    misuse(writer.finish().map(|_| ()));
    misuse(SafetensorsWriter::create(&path, &[spec.clone(), spec], 8).map(|_| ()));
    let huge = TensorSpec::new("t", DType::F32, [usize::MAX, 2]);
    misuse(SafetensorsWriter::create(&path, &[huge], 8).map(|_| ()));
    misuse(write_safetensors(
        &path,
        &[("t", DType::F32, &[2], &[0; 7])],
    ));
}

fn sharded(dir: &Path, map: &str) -> PathBuf {
    write_one(&dir.join("one.safetensors"), "a.weight", &[1.0]);
    write_one(&dir.join("two.safetensors"), "b.weight", &[2.0, 3.0]);
    let index = dir.join("model.safetensors.index.json");
    fs::write(&index, format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#)).unwrap();
    index
}

const MAP: &str = r#"{"a.weight":"one.safetensors","b.weight":"two.safetensors"}"#;

#[test]
fn shards_are_one_name_space() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), MAP);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.files().len(), 2);
    assert_eq!(checkpoint.read_f32("b.weight", &[2]).unwrap(), [2.0, 3.0]);
    assert_eq!(
        checkpoint.names().collect::<Vec<_>>(),
        ["a.weight", "b.weight"]
    );
}

#[test]
fn bad_checkpoints_name_the_file_at_fault() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(open(), FormatError::NotACheckpoint { .. }));

    let index = sharded(dir.path(), MAP);
    let two = dir.path().join("two.safetensors");
    let whole = fs::read(&two).unwrap();
    fs::write(&two, &whole[..whole.len() - 1]).unwrap();
    let FormatError::Header {
        path,
        problem: HeaderProblem::Truncated { .. },
    } = open()
    else {
        panic!("a truncated shard was not seen");
    };
    assert_eq!(path, two);
    fs::write(&two, &whole[..5]).unwrap();
    assert!(matches!(open(), FormatError::Header { path, .. } if path == two));
    fs::remove_file(&two).unwrap();
    let missing = open();
    assert!(matches!(&missing, FormatError::MissingFile { path, .. } if *path == two));
    assert!(missing.to_string().contains("two.safetensors"), "{missing}");

    sharded(dir.path(), &MAP.replace("b.weight", "c.weight"));
    assert!(matches!(open(), FormatError::MissingTensor { tensor, .. } if tensor == "c.weight"));
    sharded(dir.path(), &MAP.replace("two.safe", "../two.safe"));
    assert!(matches!(open(), FormatError::Json { path, .. } if path == index));
    fs::write(&index, "{\"weight_map\": 5}").unwrap();
    assert!(matches!(open(), FormatError::Json { path, .. } if path == index));
}

#[test]
fn a_name_in_two_files_is_an_error_unless_the_index_decides() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), MAP);
    let (one, two) = (
        dir.path().join("one.safetensors"),
        dir.path().join("two.safetensors"),
    );
    let bytes = 9.0_f32.to_le_bytes();
    let both = [
        ("a.weight", DType::F32, &[1_usize][..], &bytes[..]),
        ("b.weight", DType::F32, &[1], &bytes),
    ];
    write_safetensors(&two, &both).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.read_f32("a.weight", &[1]).unwrap(), [1.0]);
    let clash = Checkpoint::open_files(vec![one.clone(), two.clone()]).unwrap_err();
    let FormatError::DuplicateTensor {
        tensor,
        first,
        second,
    } = clash
    else {
        panic!("a duplicate was not seen");
    };
    assert_eq!((tensor.as_str(), first, second), ("a.weight", one, two));
}

#[test]
fn bad_tensors_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let names = [
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "integers",
    ];
    let tensors = names.map(|name| (name, DType::I32, &[2_usize][..], &[0_u8; 8][..]));
    write_safetensors(&path, &tensors).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();

    let missing = checkpoint
        .require("model.layers.0.mlp.gate_prj.weight")
        .unwrap_err();
    let FormatError::MissingTensor { close, .. } = &missing else {
        panic!("{missing}")
    };
    assert_eq!(close[0], names[0]);
    assert!(missing.to_string().contains(names[0]), "{missing}");
    assert!(matches!(
        checkpoint.require("unrelated"),
        Err(FormatError::MissingTensor { close, .. }) if close.is_empty()
    ));
    let shape = checkpoint.read_f32("integers", &[1, 2]).unwrap_err();
    assert!(matches!(&shape, FormatError::WrongShape { .. }));
    for part in ["integers", "model.safetensors", "[2]", "[1, 2]"] {
        assert!(shape.to_string().contains(part), "{shape}");
    }
    let dtype = checkpoint.read_f32("integers", &[2]).unwrap_err();
    assert!(matches!(
        &dtype,
        FormatError::WrongDType {
            found: DType::I32,
            ..
        }
    ));
}
