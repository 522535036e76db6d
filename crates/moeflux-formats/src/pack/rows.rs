//! Reading rows of a source matrix and encoding them.

use super::plan::{CodedSource, ElementSteps, PlannedMatrix};
use crate::codec::{Encoded, EncodedMut, decode, e2m1, encode_weighted, f8, nvfp4, to_f32};
use crate::error::{CodecError, FormatError, Result};
use crate::{Checkpoint, Codec, TensorInfo};

/// Source bytes converted at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// Buffers that a worker keeps.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    values: Vec<f32>,
    /// For whoever assembles what is written.
    pub output: Vec<u8>,
}

/// A matrix to be encoded, with its source looked up.
pub(super) struct RowSource<'a> {
    source: &'a Checkpoint,
    info: &'a TensorInfo,
    matrix: &'a PlannedMatrix,
    coded: Option<Coded<'a>>,
}

/// A coded source with the tensors of its scales and biases.
struct Coded<'a> {
    form: &'a CodedSource,
    maps: [Option<&'a TensorInfo>; 2],
}

/// Rows of a coded source as they are.
struct Raw {
    encoded: Encoded,
    /// Rows that come before those that were asked for.
    before: usize,
}

impl<'a> RowSource<'a> {
    /// Looks up the source of a matrix.
    pub(super) fn new(source: &'a Checkpoint, matrix: &'a PlannedMatrix) -> Result<Self> {
        let tensor = &matrix.source.tensor;
        let (info, coded) = match &matrix.source.coded {
            None => (source.require_float(tensor)?, None),
            Some(coded) => {
                let map = |name: &Option<String>| {
                    let name = name.as_ref();
                    name.map(|name| source.require(name)).transpose()
                };
                let maps = [map(&coded.scales)?, map(&coded.biases)?];
                (source.require(tensor)?, Some(Coded { form: coded, maps }))
            }
        };
        Ok(Self {
            source,
            info,
            matrix,
            coded,
        })
    }

    /// Source bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        let cols = self.matrix.cols;
        match &self.coded {
            None => cols * self.info.dtype.block_bytes(),
            // The plan is checked.
            Some(coded) => coded.form.row_bytes(cols).unwrap_or(0),
        }
    }

    /// Reads `rows` rows of a coded source as they are.
    fn read_raw(&self, coded: &Coded<'_>, first_row: usize, rows: usize) -> Result<Raw> {
        let (codec, cols) = (coded.form.codec, self.matrix.cols);
        let place = self.matrix.source.first_element as usize / cols;
        let place = place + first_row * coded.form.row_step;
        if let Some(scales) = coded.form.apart() {
            let encoded = self.read_apart(coded, scales, place, rows)?;
            return Ok(Raw { encoded, before: 0 });
        }
        let end = place + rows;
        // Scales of squares are read for whole squares.
        let first = match codec {
            Codec::F8(_) => place / f8::BLOCK * f8::BLOCK,
            _ => place,
        };
        let (before, sizes) = (
            codec.encoded_bytes(first, cols)?,
            codec.encoded_bytes(end - first, cols)?,
        );
        let [scales, biases] = coded.maps;
        let encoded = Encoded {
            weights: self.part(Some(self.info), before.weights, sizes.weights)?,
            scales: self.part(scales, before.scales, sizes.scales)?,
            biases: self.part(biases, before.biases, sizes.biases)?,
        };
        let before = place - first;
        Ok(Raw { encoded, before })
    }

    /// Bytes of a tensor of the source; none of one that the codec does not have.
    fn part(&self, info: Option<&TensorInfo>, start: usize, bytes: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; bytes];
        match info {
            Some(info) => self.source.read(info, start as u64, &mut out)?,
            None => debug_assert_eq!(bytes, 0, "the plan names what the codec has"),
        }
        Ok(out)
    }

    /// Blocks from codes and scales that are apart, `scales` bytes a block, and the matrix's scale.
    fn read_apart(
        &self,
        coded: &Coded<'_>,
        scales: usize,
        place: usize,
        rows: usize,
    ) -> Result<Encoded> {
        let (cols, step) = (self.matrix.cols, coded.form.row_step.max(1));
        let span = rows.saturating_sub(1) * step + usize::from(rows > 0);
        let (row_codes, row_scales) = (cols / 2, cols / e2m1::BLOCK * scales);
        let codes = self.part(Some(self.info), place * row_codes, span * row_codes)?;
        let maps = self.part(coded.maps[0], place * row_scales, span * row_scales)?;
        let mut weights = Vec::with_capacity(rows * (row_codes + row_scales));
        for row in (0..span).step_by(step) {
            let start = weights.len();
            weights.extend_from_slice(&codes[row * row_codes..][..row_codes]);
            weights.extend_from_slice(&maps[row * row_scales..][..row_scales]);
            e2m1::join(&mut weights[start..], scales);
        }
        let global = match &coded.form.global {
            Some(global) => {
                let info = self.source.require(&global.tensor)?;
                let mut bytes = self.part(Some(info), 0, 4)?;
                if global.divides {
                    nvfp4::invert(&mut bytes);
                }
                bytes
            }
            None => Vec::new(),
        };
        Ok(Encoded {
            weights,
            scales: global,
            ..Encoded::default()
        })
    }

    /// The weights of a row as they are in the source, if the matrix keeps its codec.
    pub(super) fn kept_row(&self, row: usize) -> Result<Option<Vec<u8>>> {
        let Some(coded) = self.coded.as_ref().filter(|_| self.matrix.is_kept()) else {
            return Ok(None);
        };
        let raw = self.read_raw(coded, row, 1)?;
        let bytes = self.matrix.codec.encoded_bytes(1, self.matrix.cols)?;
        Ok(Some(
            raw.encoded.weights[raw.before * bytes.weights..].to_vec(),
        ))
    }

    /// Reads rows of a coded source as f32.
    fn read_coded(&self, coded: &Coded<'_>, first_row: usize, values: &mut [f32]) -> Result<()> {
        let cols = self.matrix.cols;
        let raw = self.read_raw(coded, first_row, values.len() / cols)?;
        let rows = raw.before + values.len() / cols;
        let decoded = decode(coded.form.codec, &raw.encoded, rows, cols)?;
        values.copy_from_slice(&decoded[raw.before * cols..]);
        Ok(())
    }

    /// Reads rows as f32.
    pub(super) fn read(
        &self,
        first_row: usize,
        bytes: &mut Vec<u8>,
        values: &mut [f32],
    ) -> Result<()> {
        if let Some(coded) = &self.coded {
            return self.read_coded(coded, first_row, values);
        }
        let size = self.info.dtype.block_bytes();
        if let Some(steps) = self.matrix.source.steps {
            return self.gather(steps, first_row, bytes, values);
        }
        let first = self.matrix.source.first_element + (first_row * self.matrix.cols) as u64;
        bytes.resize(values.len() * size, 0);
        self.source.read(self.info, first * size as u64, bytes)?;
        to_f32(self.info.dtype, bytes, values);
        Ok(())
    }

    /// Reads rows whose elements lie apart.
    fn gather(
        &self,
        steps: ElementSteps,
        first_row: usize,
        bytes: &mut Vec<u8>,
        values: &mut [f32],
    ) -> Result<()> {
        let (size, cols) = (self.info.dtype.block_bytes(), self.matrix.cols);
        let Some(rows) = values.len().checked_div(cols).filter(|&rows| rows > 0) else {
            return Ok(());
        };
        let first = self.matrix.source.first_element + (first_row * steps.row) as u64;
        bytes.resize(steps.span(rows, cols) as usize * size, 0);
        self.source.read(self.info, first * size as u64, bytes)?;
        for (row, values) in values.chunks_exact_mut(cols).enumerate() {
            for (col, value) in values.iter_mut().enumerate() {
                let at = (row * steps.row + col * steps.col) * size;
                to_f32(
                    self.info.dtype,
                    &bytes[at..at + size],
                    std::slice::from_mut(value),
                );
            }
        }
        Ok(())
    }

    /// Encodes rows `first_row ..` as many as `out` has room for; `advanced` is told of source
    /// bytes.
    pub(super) fn encode(
        &self,
        first_row: usize,
        rows: usize,
        out: EncodedMut<'_>,
        scratch: (&mut Vec<u8>, &mut Vec<f32>),
        advanced: &dyn Fn(u64),
    ) -> Result<()> {
        let (bytes, values) = scratch;
        let (cols, codec) = (self.matrix.cols, self.matrix.codec);
        if let Some(coded) = self.coded.as_ref().filter(|_| self.matrix.is_kept()) {
            let Raw { encoded, before } = self.read_raw(coded, first_row, rows)?;
            debug_assert_eq!(before, 0, "units begin where squares do");
            out.weights.copy_from_slice(&encoded.weights);
            out.scales.copy_from_slice(&encoded.scales);
            out.biases.copy_from_slice(&encoded.biases);
            advanced((rows * self.row_bytes()) as u64);
            return Ok(());
        }
        // Rows whose elements lie apart are read together, for each takes most of the tensor.
        let block_rows = match self.matrix.source.steps {
            Some(_) => rows.max(1),
            None => (BLOCK_BYTES / self.row_bytes().max(1)).max(1),
        };
        let EncodedMut {
            mut weights,
            mut scales,
            mut biases,
        } = out;
        let mut done = 0;
        while done < rows {
            let count = block_rows.min(rows - done);
            values.resize(count * cols, 0.0);
            self.read(first_row + done, bytes, values)?;
            let sizes = codec.encoded_bytes(count, cols)?;
            let part;
            (part, weights) = weights.split_at_mut(sizes.weights);
            let scale_part;
            (scale_part, scales) = scales.split_at_mut(sizes.scales);
            let bias_part;
            (bias_part, biases) = biases.split_at_mut(sizes.biases);
            let out = EncodedMut {
                weights: part,
                scales: scale_part,
                biases: bias_part,
            };
            let first_value = (first_row + done) * cols;
            let importance = self.matrix.importance.get();
            encode_weighted(codec, values, (count, cols), importance, out)
                .map_err(|problem| self.named(problem, first_value))?;
            advanced((count * self.row_bytes()) as u64);
            done += count;
        }
        Ok(())
    }

    /// Names the tensor, and counts the index of a bad value from the matrix's start.
    fn named(&self, problem: CodecError, first_value: usize) -> FormatError {
        let problem = match problem {
            CodecError::Value {
                codec,
                index,
                value,
            } => CodecError::Value {
                codec,
                index: first_value + index,
                value,
            },
            other => other,
        };
        FormatError::Encode {
            tensor: self.matrix.source.tensor.clone(),
            problem,
        }
    }
}

impl Scratch {
    /// The buffers apart: bytes and values for reading, and the output.
    pub(super) fn split(&mut self) -> ((&mut Vec<u8>, &mut Vec<f32>), &mut Vec<u8>) {
        ((&mut self.bytes, &mut self.values), &mut self.output)
    }
}
