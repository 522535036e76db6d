//! Weight matrices on the device.
//!
//! Integer-coded ones lie in tiles of 16 rows as in the host's memory, so that experts need no
//! rearrangement on their way; a last tile of fewer rows is filled up. Floats lie row after row,
//! each row filled up to whole 16 bytes. Parts (weights, scales, biases) begin at 16 bytes.

mod bands;
mod kind;

use moeflux_kernels::{Coded, Coding, F8, F8_BLOCK, Matrix, MatrixData, Rounding};

pub use bands::{Band, DeviceMatrix};
pub(crate) use kind::all_forms;

/// Rows of a tile.
pub const TILE: usize = 16;
/// Elements of a row in a unit of a tile.
pub const UNIT: usize = 32;

/// How a matrix's elements are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Floats of 8 bits (E4M3) with a scale to each square of elements.
    F8,
    /// Integers with scales.
    Coded(Coding),
}

/// The form of a matrix on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// How they are coded.
    pub elements: Elements,
}

/// Where a matrix lies in a buffer, in units of 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The integers or floats.
    pub weights: u32,
    /// Scales that do not lie among the integers.
    pub scales: u32,
    /// Biases of affine codings.
    pub biases: u32,
}

impl Form {
    /// The form of `matrix`.
    pub fn of(matrix: &Matrix<'_>) -> Form {
        Form {
            rows: matrix.rows(),
            cols: matrix.cols(),
            elements: match matrix.data() {
                MatrixData::F32(_) => Elements::F32,
                MatrixData::F16(_) => Elements::F16,
                MatrixData::Bf16(_) => Elements::Bf16,
                MatrixData::F8(_) => Elements::F8,
                MatrixData::Coded(coded) => Elements::Coded(coded.coding),
            },
        }
    }

    /// How activations are rounded for it; `None` of floats.
    pub fn rounding(&self) -> Option<Rounding> {
        match self.elements {
            Elements::Coded(coding) => Some(coding.rounding()),
            _ => None,
        }
    }

    /// Bytes of weights, scales and biases, each in whole 16 bytes.
    fn parts(&self) -> [usize; 3] {
        let rows = self.rows.next_multiple_of(TILE);
        let row = |bytes: usize| (self.cols * bytes).next_multiple_of(16);
        match self.elements {
            Elements::F32 => [self.rows * row(4), 0, 0],
            Elements::F16 | Elements::Bf16 => [self.rows * row(2), 0, 0],
            Elements::F8 => [self.rows * row(1), self.f8_scales() * 16, 0],
            Elements::Coded(coding) => {
                let lengths = coding.part_lengths(rows, self.cols).unwrap_or_default();
                let [weights, scales, biases] = lengths;
                let scales = match coding {
                    // The matrix's own, in 16 bytes to each tile.
                    Coding::Nvfp4 => rows / TILE * 16,
                    _ => scales * 2,
                };
                [weights, scales, biases * 2].map(|bytes| bytes.next_multiple_of(16))
            }
        }
    }

    /// Scales of 8-bit floats: one a tile of rows and [`F8_BLOCK`] columns, in 16 bytes.
    fn f8_scales(&self) -> usize {
        self.rows.div_ceil(TILE) * self.cols.div_ceil(F8_BLOCK)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.parts().iter().sum()
    }

    /// Its place if it begins at byte `start`, a multiple of 16.
    pub fn place(&self, start: usize) -> Place {
        let [weights, scales, _] = self.parts();
        Place {
            weights: (start / 16) as u32,
            scales: ((start + weights) / 16) as u32,
            biases: ((start + weights + scales) / 16) as u32,
        }
    }

    /// The byte after the last that it takes at `place`.
    pub(crate) fn end(&self, place: Place) -> usize {
        let starts = [place.weights, place.scales, place.biases];
        let ends = starts.iter().zip(self.parts());
        let ends = ends.map(|(start, bytes)| *start as usize * 16 + bytes);
        ends.max().unwrap_or(0)
    }

    /// Elements of a row that a thread takes at a time.
    pub(crate) fn span(&self) -> usize {
        match self.elements {
            Elements::F32 => 4,
            Elements::F16 | Elements::Bf16 => 8,
            Elements::F8 => 16,
            Elements::Coded(_) => UNIT,
        }
    }

    /// Appends the matrix in this form.
    pub fn pack(&self, matrix: &Matrix<'_>, out: &mut Vec<u8>) {
        match matrix.data() {
            MatrixData::F32(values) => self.pack_rows(bytemuck::cast_slice(values), 4, out),
            MatrixData::F16(values) | MatrixData::Bf16(values) => {
                self.pack_rows(bytemuck::cast_slice(values), 2, out);
            }
            MatrixData::F8(f8) => self.pack_f8(&f8, out),
            MatrixData::Coded(coded) => self.pack_tiles(&coded, out),
        }
    }

    /// Gives `put` the matrix in this form, or the share `part` of `parts` of it: pieces, each with its
    /// first byte.
    pub(crate) fn put(
        &self,
        matrix: &Matrix<'_>,
        (part, parts): (usize, usize),
        put: &mut dyn FnMut(usize, &[u8]),
    ) {
        if let MatrixData::Coded(coded) = matrix.data()
            && self.rows.is_multiple_of(TILE)
        {
            let [weights, scales, _] = self.parts();
            let mut share = |start: usize, bytes: &[u8]| {
                let each = bytes.len().div_ceil(parts.max(1)).next_multiple_of(64);
                let first = (part * each).min(bytes.len());
                let end = (first + each).min(bytes.len());
                put(start + first, &bytes[first..end]);
            };
            share(0, coded.weights);
            match coded.coding {
                Coding::Nvfp4 => share(weights, bytemuck::cast_slice(&self.globals(&coded))),
                _ => share(weights, bytemuck::cast_slice(coded.scales)),
            }
            share(weights + scales, bytemuck::cast_slice(coded.biases));
            return;
        }
        if part > 0 {
            return;
        }
        let mut packed = Vec::with_capacity(self.bytes());
        self.pack(matrix, &mut packed);
        put(0, &packed);
    }

    fn pack_rows(&self, bytes: &[u8], element_bytes: usize, out: &mut Vec<u8>) {
        let row_bytes = self.cols * element_bytes;
        for row in bytes.chunks_exact(row_bytes) {
            out.extend_from_slice(row);
            out.resize(out.len().next_multiple_of(16), 0);
        }
    }

    /// Rows, then scales, each four times over.
    fn pack_f8(&self, f8: &F8<'_>, out: &mut Vec<u8>) {
        self.pack_rows(f8.weights, 1, out);
        for first_row in (0..self.rows).step_by(TILE) {
            for first_col in (0..self.cols).step_by(F8_BLOCK) {
                let scale = f8.scale(self.cols, first_row, first_col);
                out.extend_from_slice(bytemuck::cast_slice(&[scale; 4]));
            }
        }
    }

    /// Half of the matrix's own scale, as levels are doubled, four times over for each tile.
    fn globals(&self, coded: &Coded<'_>) -> Vec<f32> {
        vec![coded.global * 0.5; self.rows.div_ceil(TILE) * 4]
    }

    /// Tiles as they are; in a last tile of fewer rows each run of words has a place for 16.
    fn pack_tiles(&self, coded: &Coded<'_>, out: &mut Vec<u8>) {
        let whole = self.rows / TILE * TILE;
        let lanes = self.rows - whole;
        let share = |bytes: usize| bytes / self.rows * whole;
        let [scales, biases] = [coded.scales, coded.biases].map(bytemuck::cast_slice::<u16, u8>);
        let (tiles, rest) = coded.weights.split_at(share(coded.weights.len()));
        out.extend_from_slice(tiles);
        if lanes > 0 {
            widen(rest, &kind::runs(coded.coding), lanes, out);
        }
        if coded.coding == Coding::Nvfp4 {
            out.extend_from_slice(bytemuck::cast_slice(&self.globals(coded)));
            return;
        }
        for part in [scales, biases] {
            let (tiles, rest) = part.split_at(share(part.len()));
            out.extend_from_slice(tiles);
            if lanes > 0 {
                widen(rest, &[2], lanes, out);
            }
            out.resize(out.len().next_multiple_of(16), 0);
        }
    }
}

/// Appends a tile of `lanes` lanes, whose runs repeat, as one of 16.
fn widen(tile: &[u8], runs: &[usize], lanes: usize, out: &mut Vec<u8>) {
    let mut rest = tile;
    for &bytes in runs.iter().cycle() {
        let Some((run, behind)) = rest.split_at_checked(bytes * lanes) else {
            return;
        };
        if run.is_empty() {
            return;
        }
        out.extend_from_slice(run);
        out.resize(out.len() + bytes * (TILE - lanes), 0);
        rest = behind;
    }
}
