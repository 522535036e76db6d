//! Packing: what is on disk afterwards, and every way in which it is refused.

mod common;

use std::fs;
use std::path::Path;

use common::{
    SMALL, affine, assert_same, contents, flip, pack_quietly, pack_with, plan, write_checkpoint,
};
use moeflux_formats::{
    Checkpoint, Codec, CodecError, DType, Encoded, FormatError, MANIFEST_NAME, PackPlan,
    PackedModel, PlanProblem, PlannedTensor, RECORD_ALIGN, decode, encode, write_safetensors,
};

struct Case {
    _temporary: tempfile::TempDir,
    source: std::path::PathBuf,
    dst: std::path::PathBuf,
    partial: std::path::PathBuf,
}

fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_checkpoint(&at("source"), SMALL);
    Case {
        source: at("source"),
        dst: at("dst"),
        partial: at("dst.partial"),
        _temporary: dir,
    }
}

fn bytes_at(path: &Path, offset: u64, bytes: u64) -> Vec<u8> {
    fs::read(path).unwrap()[offset as usize..(offset + bytes) as usize].to_vec()
}

#[test]
fn records_are_aligned_and_decode_to_the_source() {
    let case = case();
    for (codec, parts) in [(affine(4, 64), 9), (affine(3, 32), 9), (Codec::Bf16, 3)] {
        let dst = case.dst.with_extension(codec.to_string());
        let report = pack_quietly(&case.source, &plan(SMALL, codec), &dst).unwrap();
        assert_eq!(
            (report.files, report.resumed_files, report.started_over),
            (5, 0, false)
        );
        let model = PackedModel::open(&dst).unwrap();
        model.verify(&mut |_| ()).unwrap();
        let source = Checkpoint::open(&case.source).unwrap();
        assert_eq!(model.layers.len(), SMALL.layers);
        for (number, layer) in &model.layers {
            assert_eq!(
                (layer.records.len(), layer.parts.len()),
                (SMALL.experts, parts)
            );
            assert_eq!(layer.record_bytes % RECORD_ALIGN, 0);
            let shape = [SMALL.experts, 2 * SMALL.inner, SMALL.hidden];
            let name = format!("layers.{number}.experts.gate_up");
            let values = source.read_f32(&name, &shape).unwrap();
            for (expert, record) in layer.records.iter().enumerate() {
                assert_eq!(record.offset % RECORD_ALIGN, 0);
                let bytes = bytes_at(&layer.path, record.offset, layer.record_bytes);
                assert_eq!(record.checksum, xxhash_rust::xxh3::xxh3_64(&bytes));
                let part = |name: &str| {
                    let part = layer.parts.iter().find(|part| part.name == name);
                    part.map(|part| bytes[part.offset as usize..][..part.bytes as usize].to_vec())
                };
                let encoded = Encoded {
                    weights: part("up_proj.weight").unwrap(),
                    scales: part("up_proj.scales").unwrap_or_default(),
                    biases: part("up_proj.biases").unwrap_or_default(),
                };
                let size = SMALL.inner * SMALL.hidden;
                let values = &values[(2 * expert + 1) * size..][..size];
                let expected = encode(codec, values, SMALL.inner, SMALL.hidden).unwrap();
                assert_eq!(encoded, expected, "layer {number}, expert {expert}");
            }
        }
    }
}

#[test]
fn dense_tensors_are_encoded_or_copied() {
    let case = case();
    pack_quietly(&case.source, &plan(SMALL, affine(4, 64)), &case.dst).unwrap();
    let model = PackedModel::open(&case.dst).unwrap();
    let source = Checkpoint::open(&case.source).unwrap();
    let read = |name: &str| {
        let info = model.dense.require(name).unwrap();
        let mut bytes = vec![0; info.bytes as usize];
        model.dense.read(info, 0, &mut bytes).unwrap();
        (info.dtype, info.shape.clone(), bytes)
    };
    let norm = model
        .dense
        .read_f32("norm.weight", &[SMALL.hidden])
        .unwrap();
    assert_eq!(
        norm,
        source.read_f32("norm.weight", &[SMALL.hidden]).unwrap()
    );
    let half = source.read_f32("half.weight", &[8, SMALL.hidden]).unwrap();
    assert_eq!(
        model
            .dense
            .read_f32("half.weight", &[8, SMALL.hidden])
            .unwrap(),
        half
    );
    let lower = model
        .dense
        .read_f32("lower_half.weight", &[4, SMALL.hidden])
        .unwrap();
    assert_eq!(lower, half[4 * SMALL.hidden..]);

    let (dtype, shape, weights) = read("embed.weight");
    assert_eq!(
        (dtype, shape),
        (DType::U32, vec![SMALL.vocab, SMALL.hidden * 6 / 32])
    );
    let (dtype, shape, scales) = read("embed.scales");
    assert_eq!(
        (dtype, shape),
        (DType::Bf16, vec![SMALL.vocab, SMALL.hidden / 32])
    );
    let encoded = Encoded {
        weights,
        scales,
        biases: read("embed.biases").2,
    };
    let values = source
        .read_f32("embed.weight", &[SMALL.vocab, SMALL.hidden])
        .unwrap();
    assert_eq!(
        encoded,
        encode(affine(6, 32), &values, SMALL.vocab, SMALL.hidden).unwrap()
    );
    assert_eq!(
        decode(affine(6, 32), &encoded, SMALL.vocab, SMALL.hidden)
            .unwrap()
            .len(),
        values.len()
    );

    assert_eq!(model.manifest.skipped, ["vision.weight"]);
    assert_eq!(
        model.manifest.codecs["experts"],
        "affine-b4-g64 (largest part)"
    );
    assert_eq!(model.manifest.source.files[0].name, "model.safetensors");
    let copied = fs::read(case.dst.join("config.json")).unwrap();
    assert_eq!(copied, fs::read(case.source.join("config.json")).unwrap());
    assert!(!case.dst.join("tokenizer.json").exists() && !case.partial.exists());
}

#[test]
fn a_tensor_of_many_blocks_is_packed_in_order() {
    let case = case();
    let (rows, cols) = (21_000, 128);
    let values: Vec<f32> = (0..rows * cols).map(|index| (index as f32).sin()).collect();
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let path = case.source.join("model.safetensors");
    write_safetensors(&path, &[("big", DType::F32, &[rows, cols], &bytes)]).unwrap();
    let mut plan = PackPlan::default();
    for (name, codec) in [("quantized", affine(4, 64)), ("plain", Codec::F32)] {
        plan.dense
            .push(PlannedTensor::Matrix(moeflux_formats::PlannedMatrix {
                name: name.to_owned(),
                source: moeflux_formats::MatrixSource {
                    tensor: "big".to_owned(),
                    first_element: 0,
                },
                rows,
                cols,
                codec,
            }));
    }
    plan.dense.push(PlannedTensor::Copy {
        name: "copy".to_owned(),
        source: "big".to_owned(),
    });
    let report = pack_quietly(&case.source, &plan, &case.dst).unwrap();
    assert_eq!(report.source_bytes, 3 * bytes.len() as u64);
    let dense = PackedModel::open(&case.dst).unwrap().dense;
    assert_eq!(dense.read_f32("copy", &[rows, cols]).unwrap(), values);
    assert_eq!(
        dense.read_f32("plain.weight", &[rows, cols]).unwrap(),
        values
    );
    let expected = encode(affine(4, 64), &values, rows, cols).unwrap();
    for (part, expected) in [("weight", expected.weights), ("scales", expected.scales)] {
        let info = dense.require(&format!("quantized.{part}")).unwrap();
        let mut found = vec![0; info.bytes as usize];
        dense.read(info, 0, &mut found).unwrap();
        assert!(found == expected, "{part}");
    }
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let case = case();
    let plan = plan(SMALL, affine(4, 32));
    pack_with(&case.source, &plan, &case.dst, 1, &mut |_| ()).unwrap();
    for threads in [0, 3, 16] {
        let other = case.dst.with_extension(threads.to_string());
        pack_with(&case.source, &plan, &other, threads, &mut |_| ()).unwrap();
        assert_same(&case.dst, &other);
    }
}

#[test]
fn progress_ends_at_its_total() {
    let case = case();
    let mut seen = Vec::new();
    let plan = plan(SMALL, affine(4, 32));
    let report = pack_with(&case.source, &plan, &case.dst, 2, &mut |progress| {
        seen.push(progress)
    })
    .unwrap();
    let last = seen.last().unwrap();
    assert_eq!(
        (last.done_bytes, last.resumed_bytes),
        (report.source_bytes, 0)
    );
    assert!(
        seen.iter()
            .all(|progress| progress.total_bytes == report.source_bytes)
    );
    assert!(
        seen.windows(2)
            .all(|pair| pair[0].done_bytes <= pair[1].done_bytes)
    );
    assert!(
        seen.iter()
            .any(|progress| progress.stage.contains("layer-002"))
    );
}

#[test]
fn an_existing_destination_is_left_alone() {
    let case = case();
    let plan = plan(SMALL, affine(4, 32));
    fs::create_dir(&case.dst).unwrap();
    let refused = pack_quietly(&case.source, &plan, &case.dst);
    assert!(matches!(refused, Err(FormatError::DestinationExists { dst }) if dst == case.dst));
    fs::remove_dir(&case.dst).unwrap();
    fs::create_dir(&case.partial).unwrap();
    fs::write(case.partial.join("precious.txt"), "not ours").unwrap();
    let refused = pack_quietly(&case.source, &plan, &case.dst);
    assert!(matches!(refused, Err(FormatError::DestinationExists { dst }) if dst == case.partial));
    assert_eq!(
        fs::read(case.partial.join("precious.txt")).unwrap(),
        b"not ours"
    );
    for bad in ["/", "..", "a/.."] {
        assert!(
            pack_quietly(&case.source, &plan, Path::new(bad)).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn plans_that_do_not_fit_are_refused_before_anything_is_written() {
    let case = case();
    let good = plan(SMALL, affine(4, 32));
    let refused = |change: &dyn Fn(&mut PackPlan)| {
        let mut plan = good.clone();
        change(&mut plan);
        let error = pack_quietly(&case.source, &plan, &case.dst).unwrap_err();
        assert!(!case.dst.exists() && !case.partial.exists(), "{error}");
        error
    };
    let problem = |change: &dyn Fn(&mut PackPlan)| match refused(change) {
        FormatError::Plan { problem, .. } => problem,
        other => panic!("{other}"),
    };
    let missing = refused(&|plan| plan.layers[0].experts[0][0].source.tensor = "absent".into());
    assert!(matches!(missing, FormatError::MissingTensor { tensor, .. } if tensor == "absent"));
    let columns = refused(&|plan| plan.layers[1].experts[2][2].codec = affine(4, 128));
    let FormatError::Encode {
        tensor,
        problem: CodecError::Columns {
            cols: 64,
            group: 128,
        },
    } = columns
    else {
        panic!("{columns}");
    };
    assert_eq!(tensor, "layers.1.experts.down");
    let outside = problem(&|plan| plan.layers[2].experts[2][1].source.first_element += 1);
    assert!(matches!(outside, PlanProblem::OutsideSource { .. }));
    let twice = problem(&|plan| plan.dense.push(plan.dense[1].clone()));
    assert_eq!(twice, PlanProblem::Duplicate);
    assert_eq!(
        problem(&|plan| plan.layers[1].layer = 0),
        PlanProblem::Duplicate
    );
    let unequal = problem(&|plan| plan.layers[0].experts[1][0].rows -= 1);
    assert_eq!(unequal, PlanProblem::UnequalExperts { expert: 1 });
    assert_eq!(
        problem(&|plan| plan.layers[0].experts.clear()),
        PlanProblem::Empty
    );
    for name in [
        "../config.json",
        "/etc/passwd",
        "moeflux.json",
        "dense.safetensors",
        "a/b",
        ".",
    ] {
        let bad = problem(&|plan| plan.copied_files.push(name.to_owned()));
        assert_eq!(bad, PlanProblem::BadName, "{name}");
    }
}

#[test]
fn a_damaged_source_value_is_named() {
    let case = case();
    let mut values = vec![0.5_f32; 4 * 64];
    values[3 * 64 + 17] = f32::NAN;
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let path = case.source.join("model.safetensors");
    write_safetensors(&path, &[("t", DType::F32, &[4, 64], &bytes)]).unwrap();
    let matrix = moeflux_formats::PlannedMatrix {
        name: "t".into(),
        source: moeflux_formats::MatrixSource {
            tensor: "t".into(),
            first_element: 64,
        },
        rows: 3,
        cols: 64,
        codec: affine(4, 64),
    };
    let plan = PackPlan {
        dense: vec![PlannedTensor::Matrix(matrix)],
        ..PackPlan::default()
    };
    let error = pack_quietly(&case.source, &plan, &case.dst).unwrap_err();
    let FormatError::Encode {
        tensor,
        problem: CodecError::Value { index, .. },
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((tensor.as_str(), *index), ("t", 2 * 64 + 17));
    assert!(!case.dst.exists());
}

#[test]
fn a_flipped_bit_names_file_layer_and_expert() {
    let case = case();
    pack_quietly(&case.source, &plan(SMALL, affine(4, 32)), &case.dst).unwrap();
    let layer = PackedModel::open(&case.dst).unwrap().layers[&1].clone();
    for (expert, record) in layer.records.iter().enumerate() {
        for place in [0, layer.record_bytes / 2, layer.record_bytes - 1] {
            let place = (record.offset + place) as usize;
            flip(&layer.path, place);
            let model = PackedModel::open(&case.dst).unwrap();
            let error = model.verify(&mut |_| ()).unwrap_err();
            let FormatError::CorruptRecord {
                path,
                layer: 1,
                expert: found,
                ..
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!((path, *found), (&layer.path, expert));
            assert!(
                error
                    .to_string()
                    .contains(&format!("layer 1, expert {expert}")),
                "{error}"
            );
            flip(&layer.path, place);
        }
    }
    let dense = case.dst.join("dense.safetensors");
    flip(&dense, fs::metadata(&dense).unwrap().len() as usize - 1);
    let error = PackedModel::open(&case.dst)
        .unwrap()
        .verify(&mut |_| ())
        .unwrap_err();
    assert!(matches!(error, FormatError::CorruptFile { path, .. } if path == dense));
}

#[test]
fn damaged_directories_do_not_open() {
    let case = case();
    pack_quietly(&case.source, &plan(SMALL, affine(4, 32)), &case.dst).unwrap();
    let manifest = case.dst.join(MANIFEST_NAME);
    let text = fs::read_to_string(&manifest).unwrap();
    let open_with = |text: &str| {
        fs::write(&manifest, text).unwrap();
        PackedModel::open(&case.dst).unwrap_err()
    };
    let newer = open_with(&text.replace("\"format_version\": 1", "\"format_version\": 2"));
    assert!(
        matches!(
            newer,
            FormatError::UnknownVersion {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{newer}"
    );
    for bad in ["", "[]", "{}", "{\"format_version\": 1}"] {
        assert!(matches!(open_with(bad), FormatError::Json { .. }), "{bad}");
    }
    let leaving = text.replace("\"config.json\"", "\"../config.json\"");
    assert!(matches!(open_with(&leaving), FormatError::Json { .. }));
    fs::write(&manifest, &text).unwrap();

    for name in [
        "experts/layer-001.safetensors",
        "dense.safetensors",
        "config.json",
    ] {
        let path = case.dst.join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let short = PackedModel::open(&case.dst).unwrap_err();
        assert!(matches!(&short, FormatError::CorruptFile { path: found, .. } if *found == path));
        fs::remove_file(&path).unwrap();
        let gone = PackedModel::open(&case.dst).unwrap_err();
        assert!(matches!(&gone, FormatError::MissingFile { path: found, .. } if *found == path));
        fs::write(&path, &whole).unwrap();
    }
    PackedModel::open(&case.dst).unwrap();
}

/// Any bit of a layer file's header, flipped, is an error or changes nothing that is used.
#[test]
fn mutated_layer_headers_never_panic() {
    let case = case();
    pack_quietly(&case.source, &plan(SMALL, affine(4, 32)), &case.dst).unwrap();
    let layer = PackedModel::open(&case.dst).unwrap().layers[&0].clone();
    let whole = fs::read(&layer.path).unwrap();
    let (mut refused, header) = (0, layer.records[0].offset as usize);
    for place in (0..header).step_by(7) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&layer.path, bytes).unwrap();
        match moeflux_formats::PackedLayer::open(&layer.path) {
            Err(_) => refused += 1,
            Ok(found) => assert_eq!(found.record_bytes, layer.record_bytes),
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn a_finished_directory_that_was_not_renamed_is_completed() {
    let case = case();
    let plan = plan(SMALL, affine(4, 32));
    pack_quietly(&case.source, &plan, &case.dst).unwrap();
    let expected = contents(&case.dst);
    fs::rename(&case.dst, &case.partial).unwrap();
    assert!(matches!(
        PackedModel::open(&case.partial),
        Err(FormatError::UnfinishedPack { .. })
    ));
    let report = pack_quietly(&case.source, &plan, &case.dst).unwrap();
    assert_eq!(report.resumed_files, report.files);
    assert!(contents(&case.dst) == expected && !case.partial.exists());
}
