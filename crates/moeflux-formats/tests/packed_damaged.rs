//! Packed directories that were damaged: what is wrong is found and named.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

mod common;

use std::fs;

use common::{SMALL, affine, case, flip, pack_quietly, plan};
use moeflux_formats::{FormatError, MANIFEST_NAME, PackedLayer, PackedModel};

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

    for name in ["experts/layer-001.safetensors", "dense.safetensors"] {
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
    // Small files may be edited; only a verification minds.
    let model = PackedModel::open(&case.dst).unwrap();
    model.verify(&mut |_| {}).unwrap();
    fs::write(case.dst.join("config.json"), "{ }").unwrap();
    let model = PackedModel::open(&case.dst).unwrap();
    let edited = model.verify(&mut |_| {}).unwrap_err();
    assert!(
        matches!(edited, FormatError::CorruptFile { .. }),
        "{edited}"
    );
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
        match PackedLayer::open(&layer.path) {
            Err(_) => refused += 1,
            Ok(found) => assert_eq!(found.record_bytes, layer.record_bytes),
        }
    }
    assert!(refused > 50, "{refused}");
}
