//! Experts that lie transposed in their file, gate and up in turn: brought into order as they
//! arrive.

use std::cell::RefCell;

use moeflux_experts::Record;
use moeflux_formats::Checkpoint;

use super::experts::{ExpertLayout, Form, segment};
use super::find::{check_shape, plain_codec};
use super::layout::MatrixLayout;
use crate::Error;
use crate::models::ExpertLayer;

/// Experts in `gate_up_proj [experts, hidden, (gate, up) pairs]` and
/// `down_proj [experts, intermediate, hidden]`, of plain floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turned {
    /// Bytes of an element.
    element: usize,
    hidden: usize,
    intermediate: usize,
}

thread_local! {
    /// An expert as it was read; each reading thread has one of its own.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Turned {
    /// Brings an expert's bytes into the order of its layout: gate, up, down, row by row.
    ///
    /// # Errors
    /// [`Error::Internal`] if there are fewer bytes.
    pub(super) fn arrange(&self, bytes: &mut [u8]) -> Result<(), Error> {
        let &Turned {
            element,
            hidden,
            intermediate,
        } = self;
        let matrix = hidden * intermediate * element;
        let Some(bytes) = bytes.get_mut(..3 * matrix) else {
            return Err(Error::Internal(
                "an expert is shorter than its matrices".into(),
            ));
        };
        READ.with_borrow_mut(|read| {
            read.clear();
            read.extend_from_slice(bytes);
            let (gate_up, down) = read.split_at(2 * matrix);
            let (gate, rest) = bytes.split_at_mut(matrix);
            let (up, out) = rest.split_at_mut(matrix);
            let pair = 2 * element;
            transpose(gate_up, (intermediate * pair, pair), element, hidden, gate);
            transpose(
                &gate_up[element..],
                (intermediate * pair, pair),
                element,
                hidden,
                up,
            );
            transpose(
                down,
                (hidden * element, element),
                element,
                intermediate,
                out,
            );
        });
        Ok(())
    }
}

/// Fills rows of `cols` elements; `steps` are the bytes from one column to the next, and from one
/// row to the next, in `from`.
fn transpose(from: &[u8], steps: (usize, usize), element: usize, cols: usize, into: &mut [u8]) {
    for (row, into) in into.chunks_exact_mut(cols * element).enumerate() {
        for (col, into) in into.chunks_exact_mut(element).enumerate() {
            let at = col * steps.0 + row * steps.1;
            into.copy_from_slice(&from[at..at + element]);
        }
    }
}

/// The experts of a layer whose tensors' names begin with `name`; `None` if they are not in this
/// form.
pub(super) fn layer(
    files: &Checkpoint,
    name: &str,
    layer: &ExpertLayer,
) -> Result<Option<(ExpertLayout, Vec<Record>)>, Error> {
    let &ExpertLayer {
        experts,
        hidden,
        intermediate,
        ..
    } = layer;
    let names = [format!("{name}.gate_up_proj"), format!("{name}.down_proj")];
    if !layer.is_turned || files.get(&names[0]).is_none() {
        return Ok(None);
    }
    let shapes = [
        [experts, hidden, 2 * intermediate],
        [experts, intermediate, hidden],
    ];
    let mut found = Vec::with_capacity(2);
    for (tensor, shape) in names.iter().zip(shapes) {
        let info = files.require_float(tensor)?;
        check_shape(files, tensor, info, &shape)?;
        found.push((info, plain_codec(files, tensor, info)?));
    }
    let [(gate_up, codec), (down, down_codec)] = found[..] else {
        return Err(Error::Internal("experts lie in two tensors".into()));
    };
    if codec != down_codec {
        return Err(Error::Weight {
            path: files.place().to_owned(),
            tensor: names[1].clone(),
            problem: "has another type than gate_up_proj",
        });
    }
    let turned = Turned {
        element: gate_up.dtype.block_bytes(),
        hidden,
        intermediate,
    };
    let matrix = hidden * intermediate * turned.element;
    let place = |rows, cols, index| MatrixLayout::placed(codec, rows, cols, [index * matrix; 3]);
    let [gate, up] = [0, 1].map(|index| place(intermediate, hidden, index));
    let layout = ExpertLayout {
        form: Form::Turned(turned),
        ..ExpertLayout::new(gate, up, place(hidden, intermediate, 2))
    };
    let record = |expert: u64| {
        let (both, one) = (2 * matrix as u64, matrix as u64);
        Record {
            segments: vec![
                segment(gate_up, expert * both, both, 0),
                segment(down, expert * one, one, 2 * matrix),
            ],
            checksum: None,
        }
    };
    let records = (0..experts as u64).map(record).collect();
    Ok(Some((layout, records)))
}
