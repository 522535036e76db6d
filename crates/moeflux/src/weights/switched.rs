//! Experts as MLX stores them: each matrix of all experts in tensors of its own.

use moeflux_experts::Record;
use moeflux_formats::Checkpoint;

use super::experts::{ExpertLayout, matrices, segment, three};
use super::find::find_stack;
use super::layout::MatrixLayout;
use crate::Error;
use crate::models::ExpertLayer;

/// What the names of MLX's tensors of all experts begin with, if the files have them.
pub(crate) fn switched(files: &Checkpoint, name: &str) -> Option<String> {
    let switched = format!("{}.switch_mlp", name.strip_suffix(".experts")?);
    let first = format!("{switched}.gate_proj.weight");
    files.get(&first).map(|_| switched)
}

/// Experts as MLX stores them: gate, up and down of all in tensors of their own, quantized or not.
pub(super) fn switched_layer(
    files: &Checkpoint,
    name: &str,
    layer: &ExpertLayer,
) -> Result<(ExpertLayout, Vec<Record>), Error> {
    let mut places: Vec<MatrixLayout> = Vec::with_capacity(3);
    let mut pieces = Vec::new();
    for (matrix, rows, cols) in matrices(layer) {
        let size = (rows, cols);
        let found = find_stack(files, &format!("{name}.{matrix}"), layer.experts, size)?;
        let end = places.last().map_or(0, MatrixLayout::end);
        let place = MatrixLayout::sequential(found.codec, rows, cols, end);
        for (start, info) in place.starts().into_iter().zip(found.parts) {
            pieces.push((info, info.bytes / layer.experts as u64, start));
        }
        places.push(place);
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
