//! Routed experts in MXFP4 as gpt-oss publishes them: codes and exponents in tensors of their
//! own, the rows of gate and up by turns in one.

use moeflux_experts::{Record, Segment};
use moeflux_formats::codec::block::mxfp4;
use moeflux_formats::codec::e2m1;
use moeflux_formats::{BlockCodec, Checkpoint, Codec, FormatError, TensorInfo};

use super::experts::{ExpertLayout, Form};
use super::find::check_shape;
use super::layout::MatrixLayout;
use crate::Error;
use crate::models::ExpertLayer;

/// A run of bytes with the two tensors of one or two matrices, which become blocks in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    start: usize,
    rows: usize,
    cols: usize,
    /// Whether rows belong to two matrices by turns; those of the first then come first.
    by_turns: bool,
}

impl Joined {
    fn row_bytes(&self) -> usize {
        self.cols / mxfp4::ELEMENTS * mxfp4::BYTES
    }

    fn end(&self) -> usize {
        self.start + self.rows * self.row_bytes()
    }

    /// Makes blocks of what was read.
    pub(super) fn arrange(&self, bytes: &mut [u8]) -> Result<(), Error> {
        let outside = || Error::Internal("an expert leaves its memory".to_owned());
        let bytes = bytes.get_mut(self.start..self.end()).ok_or_else(outside)?;
        e2m1::join(bytes, mxfp4::SCALES);
        if self.by_turns {
            sort_rows(bytes, self.rows, self.row_bytes());
        }
        Ok(())
    }
}

/// Moves the rows of even number before those of odd number, along the permutation's cycles.
fn sort_rows(bytes: &mut [u8], rows: usize, row_bytes: usize) {
    let goes_to = |row: usize| row % 2 * (rows / 2) + row / 2;
    let mut moved = vec![false; rows];
    let mut carried = vec![0; row_bytes];
    for first in 0..rows {
        if moved[first] {
            continue;
        }
        carried.copy_from_slice(&bytes[first * row_bytes..][..row_bytes]);
        let mut row = first;
        loop {
            moved[row] = true;
            row = goes_to(row);
            carried.swap_with_slice(&mut bytes[row * row_bytes..][..row_bytes]);
            if row == first {
                break;
            }
        }
    }
}

/// The two tensors of matrices: what their names begin with, rows and columns of an expert's.
struct Tensors<'a> {
    codes: &'a TensorInfo,
    exponents: &'a TensorInfo,
    joined: Joined,
}

impl<'a> Tensors<'a> {
    fn find(
        files: &'a Checkpoint,
        name: &str,
        experts: usize,
        joined: Joined,
    ) -> Result<Tensors<'a>, Error> {
        let Joined { rows, cols, .. } = joined;
        let (codes_name, exponents_name) = (format!("{name}_blocks"), format!("{name}_scales"));
        let (codes, exponents) = (files.require(&codes_name)?, files.require(&exponents_name)?);
        if !cols.is_multiple_of(mxfp4::ELEMENTS) {
            return Err(FormatError::WrongShape {
                tensor: codes_name,
                path: files.files()[codes.file].clone(),
                expected: vec![experts, rows, cols],
                found: codes.shape.clone(),
            }
            .into());
        }
        let blocks = cols / mxfp4::ELEMENTS;
        check_shape(files, &codes_name, codes, &[experts, rows, blocks, 16])?;
        check_shape(files, &exponents_name, exponents, &[experts, rows, blocks])?;
        for (tensor, info) in [(codes_name, codes), (exponents_name, exponents)] {
            if info.dtype.block_bytes() != 1 {
                return Err(FormatError::WrongDType {
                    tensor,
                    path: files.files()[info.file].clone(),
                    expected: "U8",
                    found: info.dtype,
                }
                .into());
            }
        }
        Ok(Tensors {
            codes,
            exponents,
            joined,
        })
    }

    /// What is read for an expert: codes, then exponents right behind them.
    fn segments(&self, expert: u64, experts: u64) -> [Segment; 2] {
        let mut at = self.joined.start as u64;
        [self.codes, self.exponents].map(|info| {
            let bytes = info.bytes / experts;
            let segment = Segment {
                file: info.file as u32,
                offset: info.offset + expert * bytes,
                bytes,
                slot_offset: at,
            };
            at += bytes;
            segment
        })
    }
}

/// The experts of a layer whose tensors' names begin with `name`; `None` if they are not in this
/// form.
pub(super) fn layer(
    files: &Checkpoint,
    name: &str,
    layer: &ExpertLayer,
) -> Result<Option<(ExpertLayout, Vec<Record>)>, Error> {
    let both = format!("{name}.gate_up_proj");
    if files.get(&format!("{both}_blocks")).is_none() {
        return Ok(None);
    }
    let (inner, hidden) = (layer.intermediate, layer.hidden);
    let joined = |start, rows, cols, by_turns| Joined {
        start,
        rows,
        cols,
        by_turns,
    };
    let first = joined(0, 2 * inner, hidden, true);
    let second = joined(first.end().next_multiple_of(64), hidden, inner, false);
    let codec = Codec::Block(BlockCodec::Mxfp4);
    let gate = MatrixLayout::placed(codec, inner, hidden, [0; 3]);
    let up = MatrixLayout::placed(codec, inner, hidden, [gate.end(); 3]);
    let down = MatrixLayout::placed(codec, hidden, inner, [second.start; 3]);
    let first = Tensors::find(files, &both, layer.experts, first)?;
    let down_name = format!("{name}.down_proj");
    let second = Tensors::find(files, &down_name, layer.experts, second)?;
    let count = layer.experts as u64;
    let record = |expert: u64| Record {
        segments: [&first, &second]
            .iter()
            .flat_map(|tensors| tensors.segments(expert, count))
            .collect(),
        checksum: None,
    };
    let records = (0..count).map(record).collect();
    let layout = ExpertLayout {
        form: Form::Joined([first.joined.clone(), second.joined.clone()]),
        ..ExpertLayout::new(gate, up, down)
    };
    Ok(Some((layout, records)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_by_turns_are_sorted() {
        for rows in [2, 4, 6, 10, 22, 5760] {
            let number = |row: usize| [(row / 256) as u8, (row % 256) as u8, 7];
            let mut bytes: Vec<u8> = (0..rows).flat_map(number).collect();
            sort_rows(&mut bytes, rows, 3);
            let sorted = (0..rows).step_by(2).chain((1..rows).step_by(2));
            let expected: Vec<u8> = sorted.flat_map(number).collect();
            assert_eq!(bytes, expected, "{rows}");
        }
    }
}
