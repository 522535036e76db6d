//! `cargo xtask synth` as a process: reproducible, laid out as `moeflux pack` lays out, and sane
//! when it runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use moeflux::formats::{
    Checkpoint, Codec, DType, Encoded, Manifest, PackedModel, SafetensorsWriter, TensorSpec, decode,
};
use moeflux::graph::Op;
use moeflux::{Engine, EngineOptions, PackOptions, Span, Want};

fn synth(arguments: &[&str], output: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("synth").args(arguments).arg("-o").arg(output);
    command.output().expect("xtask starts")
}

/// A tiny model in `dir`.
fn tiny(dir: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let output = dir.join(name);
    let done = synth(&[&["tiny"], arguments].concat(), &output);
    let message = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{message}");
    output
}

/// All files of a directory by their path in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("inside").to_owned();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

fn engine(dir: &Path) -> Engine {
    let options = EngineOptions {
        memory_bytes: Some(1 << 30),
        threads: Some(1),
        ..EngineOptions::default()
    };
    Engine::open(dir, &options).expect("the model opens")
}

/// `count` tokens all over the vocabulary.
fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| i * 389 % 1021).collect()
}

#[test]
fn the_same_command_makes_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let once = files(&tiny(dir.path(), "once", &["--seed", "7"]));
    let again = files(&tiny(dir.path(), "again", &["--seed", "7"]));
    assert_eq!(once.len(), 7, "config, manifest, dense and 4 layers");
    assert!(once == again);
    let other = files(&tiny(dir.path(), "other", &["--seed", "8"]));
    for (name, bytes) in &once {
        assert_eq!(
            bytes == &other[name],
            name == Path::new("config.json"),
            "{name:?}"
        );
    }
    let left = fs::read_dir(dir.path()).expect("a directory").count();
    assert_eq!(left, 3, "nothing else is left behind");
}

#[test]
fn checksums_hold_and_codecs_are_as_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    for (bits, expected) in [("4", "affine-b4-g64"), ("8", "affine-b8-g64")] {
        let path = tiny(dir.path(), bits, &["--bits", bits, "--layers", "2"]);
        PackedModel::open(&path)
            .expect("opens")
            .verify(&mut |_| ())
            .expect("checksums hold");
        let info = moeflux::inspect(&path).expect("a model");
        assert_eq!((info.packed, info.layers, info.moe_layers), (true, 2, 2));
        let codecs: BTreeMap<_, _> = info.codecs.into_iter().collect();
        assert_eq!(codecs["routed experts"], expected);
        assert_eq!(codecs["attention and shared expert"], expected);
        for class in ["embedding", "output head", "router and gates"] {
            assert_eq!(codecs[class], "affine-b8-g64", "{class}");
        }
    }
}

/// Headers, lengths and manifest are those that `pack` writes for a checkpoint of these tensors.
#[test]
fn files_are_laid_out_as_pack_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = tiny(dir.path(), "made", &[]);
    let source = dir.path().join("source");
    fs::create_dir(&source).expect("a directory");
    fs::copy(made.join("config.json"), source.join("config.json")).expect("copies");
    write_checkpoint(&made, &source.join("model.safetensors"));
    let packed = dir.path().join("packed");
    let options = PackOptions {
        group: Some(64),
        ..PackOptions::default()
    };
    moeflux::pack(&source, &packed, &options, &mut |_| ()).expect("packs");

    let (made_files, packed_files) = (files(&made), files(&packed));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made_files), names(&packed_files));
    for (name, bytes) in &made_files {
        if name.extension().is_some_and(|kind| kind == "safetensors") {
            let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
            assert_eq!(bytes.len(), packed_files[name].len(), "{name:?}");
            assert!(
                bytes[..length + 8] == packed_files[name][..length + 8],
                "{name:?}"
            );
        }
    }
    let manifests = [&made, &packed].map(|dir| Manifest::read(dir).expect("a manifest"));
    assert_eq!(manifests[0].codecs, manifests[1].codecs);
    assert_eq!(manifests[0].created_by, manifests[1].created_by);
    assert_eq!(manifests[0].files.len(), manifests[1].files.len());
}

/// Writes a checkpoint of zeros with the names and shapes of a packed model's tensors.
fn write_checkpoint(packed: &Path, path: &Path) {
    let model = PackedModel::open(packed).expect("opens");
    let mut specs = Vec::new();
    let coded = |name: &str| name.ends_with(".scales") || name.ends_with(".biases");
    for name in model.dense.names().filter(|name| !coded(name)) {
        let info = model.dense.require(name).expect("listed");
        let mut shape = info.shape.clone();
        if info.dtype == DType::U32 {
            let scales = name.replace(".weight", ".scales");
            shape[1] = model.dense.require(&scales).expect("scales").shape[1] * 64;
        }
        specs.push(TensorSpec::new(name, DType::Bf16, shape));
    }
    for (number, layer) in &model.layers {
        for expert in 0..layer.records.len() {
            for part in layer
                .parts
                .iter()
                .filter(|part| part.name.ends_with(".scales"))
            {
                let matrix = part.name.trim_end_matches(".scales");
                let name = format!("model.layers.{number}.mlp.experts.{expert}.{matrix}.weight");
                let shape = [part.shape[0], part.shape[1] * 64];
                specs.push(TensorSpec::new(name, DType::Bf16, shape));
            }
        }
    }
    let bytes = |spec: &TensorSpec| vec![0; spec.shape.iter().product::<usize>() * 2];
    let mut writer = SafetensorsWriter::create(path, &specs, 8).expect("creates");
    for spec in &specs {
        writer.write(&bytes(spec)).expect("writes");
    }
    writer.finish().expect("finishes");
}

#[test]
fn a_matrix_is_spread_around_zero() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = tiny(dir.path(), "tiny", &[]);
    let dense = Checkpoint::open_files(vec![path.join("dense.safetensors")]).expect("opens");
    let read = |part: &str| {
        let name = format!("model.layers.0.mlp.shared_expert.gate_proj.{part}");
        let info = dense.require(&name).expect("the tensor");
        let mut bytes = vec![0; info.bytes as usize];
        dense.read(info, 0, &mut bytes).expect("reads");
        bytes
    };
    let encoded = Encoded {
        weights: read("weight"),
        scales: read("scales"),
        biases: read("biases"),
    };
    let codec: Codec = "affine-b4-g64".parse().expect("a codec");
    let values = decode(codec, &encoded, 64, 256).expect("decodes");
    let count = values.len() as f32;
    let mean = values.iter().sum::<f32>() / count;
    let spread = (values.iter().map(|v| v * v).sum::<f32>() / count).sqrt();
    assert!(mean.abs() < 0.003, "mean {mean}");
    assert!(
        (spread * 16.0 - 1.0).abs() < 0.05,
        "spread {spread} for 256 columns"
    );
}

#[test]
fn logits_are_finite_and_of_ordinary_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let kinds = [
        &[][..],
        &["--layers", "24"],
        &["--zipf", "1", "--bits", "8"],
    ];
    for (number, arguments) in kinds.into_iter().enumerate() {
        let path = tiny(dir.path(), &number.to_string(), arguments);
        let engine = engine(&path);
        let logits = engine
            .prefill(&mut engine.session(), &tokens(200), Want::All)
            .expect("runs");
        assert_eq!(logits.rows, 200);
        for row in 0..logits.rows {
            let row = logits.row(row);
            assert!(row.iter().all(|x| x.is_finite()), "{arguments:?}");
            let size = (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32).sqrt();
            assert!((1.0..4.0).contains(&size), "{arguments:?}: {size}");
        }
    }
}

/// The share of choices that fall on the top fifth of experts, averaged over layers.
fn top_fifth(dir: &Path) -> f64 {
    let engine = engine(dir);
    let experts = engine.info().experts;
    let mut session = engine.session();
    let mut spans = [Span {
        session: &mut session,
        tokens: &tokens(400),
        want: Want::None,
        is_prompt: true,
    }];
    let mut shares = Vec::new();
    engine
        .forward_observed(&mut spans, &mut |op, buffers| {
            if let Op::Router { ids, .. } = op {
                let ids = buffers.get_u32(*ids);
                let mut counts = vec![0; experts];
                ids.iter().for_each(|&id| counts[id as usize] += 1);
                counts.sort_unstable_by(|a, b| b.cmp(a));
                let top: usize = counts[..experts / 5].iter().sum();
                shares.push(top as f64 / ids.len() as f64);
            }
        })
        .expect("runs");
    assert_eq!(shares.len(), engine.info().moe_layers);
    shares.iter().sum::<f64>() / shares.len() as f64
}

#[test]
fn zipf_skews_routing() {
    let dir = tempfile::tempdir().expect("a directory");
    let even = top_fifth(&tiny(dir.path(), "even", &[]));
    let skewed = top_fifth(&tiny(dir.path(), "skewed", &["--zipf", "1"]));
    let steep = top_fifth(&tiny(dir.path(), "steep", &["--zipf", "2"]));
    assert!(even < 0.45, "{even} without skew");
    assert!(skewed > even + 0.1, "{skewed} against {even}");
    assert!(steep > skewed + 0.1, "{steep} against {skewed}");
}

#[test]
fn mistakes_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let fails = |arguments: &[&str], name: &str, expected: &str| {
        let done = synth(arguments, &dir.path().join(name));
        let message = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            !done.status.success() && message.contains(expected),
            "{message}"
        );
    };
    tiny(dir.path(), "taken", &[]);
    fails(&["tiny"], "taken", "taken exists");
    fs::create_dir(dir.path().join("half.partial")).expect("a directory");
    fails(&["tiny"], "half", "half.partial exists");
    fails(
        &["gigantic"],
        "new",
        "no shape is called gigantic; there are qwen3.6-35b-a3b",
    );
    fails(&["tiny", "--bits", "5"], "new", "--bits");
    fails(&["tiny", "--layers", "0"], "new", "--layers");
    fails(&["tiny", "--zipf", "NaN"], "new", "--zipf");
    assert!(!dir.path().join("new").exists() && !dir.path().join("new.partial").exists());
}
