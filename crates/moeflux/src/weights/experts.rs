//! Where each expert's bytes lie on disk, and where its matrices lie in its slot.

use std::collections::BTreeMap;

use moeflux_experts::{Catalog, Prepare, Record, Segment};
use moeflux_formats::{Checkpoint, FormatError, PackedLayer, TensorInfo};

use super::files::ModelFiles;
use super::find::{check_shape, find_matrix, plain_codec};
use super::layout::{MatrixLayout, PART_ALIGN};
use super::mxfp4::{self, Joined};
use super::record::record_matrix;
use super::switched::{switched, switched_layer};
use super::turned::{self, Turned};
use crate::Error;
use crate::models::{Blueprint, ExpertLayer};

/// What disks commonly ask of the alignment of memory that is read into directly.
const DISK_ALIGN: usize = 512;

/// The three matrices of each expert of a layer, as they lie in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertLayout {
    /// `[intermediate, hidden]`.
    pub gate: MatrixLayout,
    /// `[intermediate, hidden]`.
    pub up: MatrixLayout,
    /// `[hidden, intermediate]`.
    pub down: MatrixLayout,
    /// How its bytes lie when they were read.
    pub(super) form: Form,
}

/// What is to be done with an expert's bytes before its matrices are where a layout says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing.
    Placed,
    /// Runs of them are put together.
    Joined([Joined; 2]),
    /// All are brought into another order.
    Turned(Turned),
}

impl ExpertLayout {
    /// Three matrices that lie as they were read.
    pub fn new(gate: MatrixLayout, up: MatrixLayout, down: MatrixLayout) -> ExpertLayout {
        ExpertLayout {
            gate,
            up,
            down,
            form: Form::Placed,
        }
    }

    /// Turns an expert's bytes, as read, into what the layouts' views take.
    ///
    /// # Errors
    /// [`Error::Internal`] if the matrices leave the bytes.
    pub fn arrange(&self, bytes: &mut [u8]) -> Result<(), Error> {
        match &self.form {
            Form::Placed => {}
            Form::Joined([first, second]) => {
                first.arrange(bytes)?;
                second.arrange(bytes)?;
            }
            Form::Turned(turned) => turned.arrange(bytes)?,
        }
        self.gate.arrange(bytes)?;
        self.up.arrange(bytes)?;
        self.down.arrange(bytes)
    }

    /// Bytes of the three matrices.
    pub fn bytes(&self) -> usize {
        self.gate.bytes() + self.up.bytes() + self.down.bytes()
    }
}

/// All routed experts of a model.
pub struct ExpertTable {
    /// Where their bytes are.
    pub catalog: Catalog,
    /// What is where in a slot, by layer.
    pub layouts: BTreeMap<usize, ExpertLayout>,
}

impl ExpertTable {
    /// Finds the experts' tensors in the model's files; reads headers only.
    ///
    /// # Errors
    /// A missing tensor, or one of another type or shape.
    pub fn find(files: &ModelFiles, blueprint: &Blueprint) -> Result<ExpertTable, Error> {
        let mut catalog = Catalog {
            files: Vec::new(),
            layers: BTreeMap::new(),
            prepare: None,
        };
        let mut layouts = BTreeMap::new();
        if files.packed().is_none() {
            catalog.files = files.dense().files().to_vec();
        }
        for layer in &blueprint.experts {
            let (layout, records) = match files.packed() {
                Some(packed) => packed_layer(files, packed, layer, &mut catalog)?,
                None => plain_layer(files, layer)?,
            };
            layouts.insert(layer.layer, layout);
            catalog.layers.insert(layer.layer, records);
        }
        Ok(ExpertTable::new(catalog, layouts))
    }

    /// Puts a table together; experts are arranged as they arrive.
    pub(super) fn new(mut catalog: Catalog, layouts: BTreeMap<usize, ExpertLayout>) -> ExpertTable {
        let arranged = layouts.clone();
        catalog.prepare = Some(Prepare::new(move |layer, bytes| {
            let layout = arranged.get(&layer).ok_or("its layer has no layout")?;
            layout.arrange(bytes).map_err(|e| e.to_string())
        }));
        ExpertTable { catalog, layouts }
    }
}

/// The three matrices as packed records name them: name, rows, cols.
pub(super) fn matrices(layer: &ExpertLayer) -> [(&'static str, usize, usize); 3] {
    [
        ("gate_proj", layer.intermediate, layer.hidden),
        ("up_proj", layer.intermediate, layer.hidden),
        ("down_proj", layer.hidden, layer.intermediate),
    ]
}

fn packed_layer(
    files: &ModelFiles,
    packed: &BTreeMap<usize, PackedLayer>,
    layer: &ExpertLayer,
    catalog: &mut Catalog,
) -> Result<(ExpertLayout, Vec<Record>), Error> {
    let found = packed
        .get(&layer.layer)
        .ok_or_else(|| FormatError::MissingFile {
            path: files
                .dir()
                .join(format!("experts/layer-{:03}.safetensors", layer.layer)),
            needed_for: format!("the experts of layer {}", layer.layer),
        })?;
    let bad = |reason: String| FormatError::BadLayerFile {
        path: found.path.clone(),
        reason,
    };
    if found.records.len() != layer.experts {
        let reason = format!(
            "it has {} experts, config.json says {}",
            found.records.len(),
            layer.experts
        );
        return Err(bad(reason).into());
    }
    let [gate, up, down] = matrices(layer).map(|(name, rows, cols)| {
        record_matrix(&found.parts, name, rows, cols).map_err(|reason| Error::from(bad(reason)))
    });
    let file = catalog.files.len() as u32;
    catalog.files.push(found.path.clone());
    let record = |r: &moeflux_formats::PackedRecord| Record {
        segments: vec![Segment {
            file,
            offset: r.offset,
            bytes: found.record_bytes,
            slot_offset: 0,
        }],
        checksum: Some(r.checksum),
    };
    let layout = ExpertLayout::new(gate?, up?, down?);
    Ok((layout, found.records.iter().map(record).collect()))
}

/// Experts of an unpacked checkpoint: stacked tensors of all experts, or tensors for each.
fn plain_layer(
    files: &ModelFiles,
    layer: &ExpertLayer,
) -> Result<(ExpertLayout, Vec<Record>), Error> {
    let name = files.full_name(&layer.name);
    let dense = files.dense();
    if let Some(found) = turned::layer(dense, &name, layer)? {
        return Ok(found);
    }
    if let Some(found) = mxfp4::layer(dense, &name, layer)? {
        return Ok(found);
    }
    if let Some(switched) = switched(dense, &name) {
        return switched_layer(dense, &switched, layer);
    }
    if let Some(stacks) = stacks(dense, &name) {
        return stacked_layer(dense, &stacks, layer);
    }
    let mut layout: Option<ExpertLayout> = None;
    let mut records = Vec::with_capacity(layer.experts);
    for expert in 0..layer.experts {
        let mut places = Vec::with_capacity(3);
        let mut segments = Vec::with_capacity(3);
        let mut end = 0;
        for ((_, rows, cols), matrix) in matrices(layer).into_iter().zip(layer.matrices) {
            let found = find_matrix(dense, &format!("{name}.{expert}.{matrix}"), rows, cols)?;
            let place = MatrixLayout::of(&found, (rows, cols), end);
            end = place.end();
            for (start, info) in place.starts().into_iter().zip(found.parts) {
                segments.push(segment(info, 0, info.bytes, start));
            }
            places.push(place);
        }
        let [gate, up, down] = three(places)?;
        let this = ExpertLayout::new(gate, up, down);
        if layout.get_or_insert_with(|| this.clone()) != &this {
            let path = dense.place().to_owned();
            let reason = format!("{name}.{expert} has another type than {name}.0");
            return Err(FormatError::BadLayerFile { path, reason }.into());
        }
        records.push(Record {
            segments,
            checksum: None,
        });
    }
    let layout = layout.ok_or_else(|| Error::Internal("a layer without experts".to_owned()))?;
    Ok((layout, records))
}

/// A tensor with a piece for every expert: one matrix, or two below each other.
pub(crate) struct Stack {
    pub tensor: String,
    pub matrices: usize,
}

/// The tensors with all experts of a layer, in the order gate, up, down; `None` if each expert has
/// its own. `name` is what their names begin with.
pub(crate) fn stacks(files: &Checkpoint, name: &str) -> Option<Vec<Stack>> {
    let forms: [&[(&str, usize)]; 3] = [
        &[(".gate_up_proj", 2), (".down_proj", 1)],
        &[("_gate_up_exps.weight", 2), ("_down_exps.weight", 1)],
        &[
            ("_gate_exps.weight", 1),
            ("_up_exps.weight", 1),
            ("_down_exps.weight", 1),
        ],
    ];
    let exists = |form: &&[(&str, usize)]| {
        let first = form.first().map(|(suffix, _)| format!("{name}{suffix}"));
        first.is_some_and(|tensor| files.get(&tensor).is_some())
    };
    let form = forms.into_iter().find(exists)?;
    let stack = |&(suffix, matrices): &(&str, usize)| Stack {
        tensor: format!("{name}{suffix}"),
        matrices,
    };
    Some(form.iter().map(stack).collect())
}

/// Experts in tensors `[experts, rows of one or two matrices, cols]`.
fn stacked_layer(
    files: &Checkpoint,
    stacks: &[Stack],
    layer: &ExpertLayer,
) -> Result<(ExpertLayout, Vec<Record>), Error> {
    let mut rest = matrices(layer).into_iter();
    let mut places: Vec<MatrixLayout> = Vec::with_capacity(3);
    let mut pieces = Vec::with_capacity(stacks.len());
    for Stack { tensor, matrices } in stacks {
        let info = files.require(tensor)?;
        let codec = plain_codec(files, tensor, info)?;
        let end = places.last().map_or(0, MatrixLayout::end);
        let mut start = congruent(end, info.offset);
        let mut shape = [layer.experts, 0, 0];
        for (index, (_, rows, cols)) in rest.by_ref().take(*matrices).enumerate() {
            shape = [layer.experts, shape[1] + rows, cols];
            // Matrices of one tensor lie close together, as in the file.
            places.push(match index {
                0 => MatrixLayout::sequential(codec, rows, cols, start),
                _ => MatrixLayout::placed(codec, rows, cols, [start; 3]),
            });
            start = places.last().map_or(0, MatrixLayout::end);
        }
        check_shape(files, tensor, info, &shape)?;
        let first = places.len() - *matrices;
        let bytes = info.bytes / layer.experts as u64;
        pieces.push((info, bytes, places[first].starts()[0]));
    }
    let record = |expert: u64| Record {
        segments: pieces
            .iter()
            .map(|&(info, bytes, start)| segment(info, expert * bytes, bytes, start))
            .collect(),
        checksum: None,
    };
    let [gate, up, down] = three(places)?;
    let records = (0..layer.experts as u64).map(record).collect();
    Ok((ExpertLayout::new(gate, up, down), records))
}

/// The next place from `end` on that is aligned as the file is at `offset`, if matrices may lie
/// there at all: direct reads then bring whole blocks straight to their place, without a copy.
/// (Experts' lengths are mostly multiples of a block, so that this holds for all of them.)
fn congruent(end: usize, offset: u64) -> usize {
    let phase = (offset % DISK_ALIGN as u64) as usize;
    if !phase.is_multiple_of(PART_ALIGN) {
        return end;
    }
    let before = end.saturating_sub(phase).next_multiple_of(DISK_ALIGN);
    before + phase
}

pub(super) fn three(places: Vec<MatrixLayout>) -> Result<[MatrixLayout; 3], Error> {
    <[MatrixLayout; 3]>::try_from(places)
        .map_err(|_| Error::Internal("an expert has three matrices".to_owned()))
}

pub(super) fn segment(
    info: &TensorInfo,
    first_byte: u64,
    bytes: u64,
    slot_offset: usize,
) -> Segment {
    Segment {
        file: info.file as u32,
        offset: info.offset + first_byte,
        bytes,
        slot_offset: slot_offset as u64,
    }
}
