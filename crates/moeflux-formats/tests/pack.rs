//! Packing: what is on disk afterwards.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

mod common;

use std::fs;
use std::path::Path;

use common::{SMALL, affine, assert_same, case, contents, pack_quietly, pack_with, plan};
use moeflux_formats::{
    BlockCodec, Checkpoint, Codec, ColumnWeights, DType, Encoded, FormatError, MatrixSource,
    PackPlan, PackedModel, PlannedMatrix, PlannedTensor, RECORD_ALIGN, decode, encode,
    write_safetensors,
};

fn bytes_at(path: &Path, offset: u64, bytes: u64) -> Vec<u8> {
    fs::read(path).unwrap()[offset as usize..(offset + bytes) as usize].to_vec()
}

#[test]
fn records_are_aligned_and_decode_to_the_source() {
    let case = case();
    let codecs = [
        (affine(4, 64), 9),
        (affine(3, 32), 9),
        (Codec::Bf16, 3),
        (Codec::Block(BlockCodec::Q4_0), 3),
        (Codec::Block(BlockCodec::Q8_0), 3),
    ];
    for (codec, parts) in codecs {
        let dst = case.dst.with_extension(codec.to_string());
        let report = pack_quietly(&case.source, &plan(SMALL, codec), &dst).unwrap();
        assert_eq!(
            (report.files, report.resumed_files, report.started_over),
            (5, 0, false)
        );
        let weights = codec.tensors(1, 256)[0].name;
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
                    weights: part(&format!("up_proj.{weights}")).unwrap(),
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
        plan.dense.push(PlannedTensor::Matrix(PlannedMatrix {
            name: name.to_owned(),
            source: MatrixSource {
                tensor: "big".to_owned(),
                first_element: 0,
                steps: None,
                coded: None,
            },
            rows,
            cols,
            codec,
            importance: ColumnWeights::default(),
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
