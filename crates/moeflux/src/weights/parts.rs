//! Weights given as bytes instead of files: for graphs that run by themselves.

use std::collections::BTreeMap;

use moeflux_experts::{Catalog, Record, Segment};
use moeflux_formats::{Codec, Encoded};

use super::experts::{ExpertLayout, ExpertTable};
use super::layout::MatrixLayout;
use crate::Error;

/// A matrix as a checkpoint holds it: encoded, row after row.
#[derive(Clone, Debug)]
pub struct MatrixPart {
    /// How its elements are coded.
    pub codec: Codec,
    /// Output elements.
    pub rows: usize,
    /// Input elements.
    pub cols: usize,
    /// Weights, scales and biases, each of the length that the codec asks for.
    pub encoded: Encoded,
}

/// A resident weight in bytes.
#[derive(Clone, Debug)]
pub enum WeightPart {
    /// A matrix.
    Matrix(MatrixPart),
    /// A vector (or any small tensor) as kernels take it.
    Vector(Vec<f32>),
    /// A table that is read by rows.
    Table {
        /// Elements of a row.
        cols: usize,
        /// The rows, one after another.
        values: Vec<f32>,
    },
}

/// The matrices of one routed expert: `down(silu(gate x) * (up x))`.
#[derive(Clone, Debug)]
pub struct ExpertPart {
    /// `[intermediate, hidden]`.
    pub gate: MatrixPart,
    /// `[intermediate, hidden]`.
    pub up: MatrixPart,
    /// `[hidden, intermediate]`.
    pub down: MatrixPart,
}

impl MatrixPart {
    /// Checks the lengths of the encoded parts.
    fn check(&self) -> Result<(), Error> {
        let bytes = self.codec.encoded_bytes(self.rows, self.cols);
        let bytes = bytes.map_err(|e| Error::Internal(format!("a matrix in bytes: {e}")))?;
        let (scales, biases) = (self.encoded.scales.len(), self.encoded.biases.len());
        let given = (self.encoded.weights.len(), scales, biases);
        let wanted = (bytes.weights, bytes.scales, bytes.biases);
        if given == wanted {
            return Ok(());
        }
        let (rows, cols, codec) = (self.rows, self.cols, self.codec);
        Err(Error::Internal(format!(
            "a {codec} matrix of {rows} x {cols} has parts of {wanted:?} bytes, not {given:?}"
        )))
    }

    /// Writes the parts into `memory`, placed from `start` on; gives their places.
    pub(super) fn place(&self, memory: &mut Vec<u8>, start: usize) -> Result<MatrixLayout, Error> {
        self.check()?;
        let layout = MatrixLayout::sequential(self.codec, self.rows, self.cols, start);
        memory.resize(memory.len().max(layout.end()), 0);
        let Encoded {
            weights,
            scales,
            biases,
        } = &self.encoded;
        for (start, part) in layout.starts().into_iter().zip([weights, scales, biases]) {
            memory[start..start + part.len()].copy_from_slice(part);
        }
        Ok(layout)
    }
}

impl ExpertTable {
    /// A table of experts in bytes, by layer, and the bytes of the one file that it names. All
    /// experts of a layer have the same codecs and shapes.
    ///
    /// # Errors
    /// [`Error::Internal`] if parts do not fit their codecs, or experts of a layer differ.
    pub fn from_parts(
        layers: &BTreeMap<usize, Vec<ExpertPart>>,
    ) -> Result<(ExpertTable, Vec<u8>), Error> {
        let mut catalog = Catalog {
            files: vec!["experts in memory".into()],
            ..Catalog::default()
        };
        let mut layouts = BTreeMap::new();
        let mut file = Vec::new();
        for (&layer, experts) in layers {
            let mut records = Vec::with_capacity(experts.len());
            for expert in experts {
                let mut record = Vec::new();
                let gate = expert.gate.place(&mut record, 0)?;
                let up = expert.up.place(&mut record, gate.end())?;
                let down = expert.down.place(&mut record, up.end())?;
                let layout = ExpertLayout::new(gate, up, down);
                if *layouts.entry(layer).or_insert(layout.clone()) != layout {
                    let problem = format!("the experts of layer {layer} are not alike");
                    return Err(Error::Internal(problem));
                }
                records.push(Record {
                    segments: vec![Segment {
                        file: 0,
                        offset: file.len() as u64,
                        bytes: record.len() as u64,
                        slot_offset: 0,
                    }],
                    checksum: None,
                });
                file.extend(record);
            }
            catalog.layers.insert(layer, records);
        }
        Ok((ExpertTable::new(catalog, layouts), file))
    }
}
