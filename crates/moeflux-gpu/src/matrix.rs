//! Weight matrices on the device.
//!
//! Integer-coded ones lie in tiles of 16 rows as in the host's memory, so that experts need no
//! rearrangement on their way; a last tile of fewer rows is filled up. Floats lie row after row,
//! each row filled up to whole 16 bytes. Parts (weights, scales, biases) begin at 16 bytes.

mod bands;

use std::collections::HashMap;
use std::sync::OnceLock;

use moeflux_kernels::{Coded, Coding, Matrix, MatrixData, Rounding};

pub use bands::{Band, DeviceMatrix};

use crate::{GpuError, Param};

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
    /// Floats of 8 bits, which have no kernels yet.
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

/// A form of each kind, of a tile's rows: for checking what kernels become.
pub(crate) fn all_forms(cols: usize) -> Vec<Form> {
    let affine = |bits| [32, 64, 128].map(|group| Coding::Affine { bits, group });
    let mut codings: Vec<Coding> = [2, 3, 4, 5, 6, 8].into_iter().flat_map(affine).collect();
    codings.extend([
        Coding::Q4_0,
        Coding::Q8_0,
        Coding::Q4K,
        Coding::Q5K,
        Coding::Q6K,
    ]);
    let floats = [Elements::F32, Elements::F16, Elements::Bf16];
    let elements = codings.into_iter().map(Elements::Coded).chain(floats);
    let form = |elements| Form {
        rows: TILE,
        cols,
        elements,
    };
    elements.map(form).collect()
}

/// Names of a form's parameters, and of a second form's.
const SECOND_NAMES: [(&str, &str); 23] = [
    ("IS_F32", "BIS_F32"),
    ("IS_F16", "BIS_F16"),
    ("IS_BF16", "BIS_BF16"),
    ("IS_AFFINE", "BIS_AFFINE"),
    ("IS_SIMPLE", "BIS_SIMPLE"),
    ("IS_K", "BIS_K"),
    ("IS_Q6K", "BIS_Q6K"),
    ("CODED", "BCODED"),
    ("SPAN", "BSPAN"),
    ("BITS_IS_3", "BBITS_IS_3"),
    ("BITS_IS_5", "BBITS_IS_5"),
    ("BITS_IS_6", "BBITS_IS_6"),
    ("BITS_IS_8", "BBITS_IS_8"),
    ("BITS_BELOW_8", "BBITS_BELOW_8"),
    ("HAS_TWO", "BHAS_TWO"),
    ("HAS_FOUR", "BHAS_FOUR"),
    ("WORDS", "BWORDS"),
    ("UNITS", "BUNITS"),
    ("SCALE_BYTES", "BSCALE_BYTES"),
    ("BLOCK_BYTES", "BBLOCK_BYTES"),
    ("GROUP", "BGROUP"),
    ("ZERO", "BZERO"),
    ("BIASED", "BBIASED"),
];

/// Where a matrix lies in a buffer, in units of 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The integers or floats.
    pub weights: u32,
    /// Scales of affine codings.
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
            Elements::F8 => [self.rows * row(1), 0, 0],
            Elements::Coded(coding) => {
                let lengths = coding.part_lengths(rows, self.cols).unwrap_or_default();
                let [weights, scales, biases] = lengths;
                [weights, scales * 2, biases * 2].map(|bytes| bytes.next_multiple_of(16))
            }
        }
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

    /// What `form.wgsl` needs to know of the second form of a kernel (see [`crate::Shader`]).
    pub(crate) fn second_params(&self) -> Vec<Param> {
        static NAMES: OnceLock<HashMap<&str, &'static str>> = OnceLock::new();
        let names = NAMES.get_or_init(|| SECOND_NAMES.into_iter().collect());
        let params = self.params().into_iter();
        let second = params.map(|(name, value)| names.get(name).map(|second| (*second, value)));
        second.flatten().collect()
    }

    /// What `form.wgsl` needs to know.
    pub fn params(&self) -> Vec<Param> {
        let coding = match self.elements {
            Elements::F32 => return vec![("IS_F32", 1), ("SPAN", 4)],
            Elements::F16 => return vec![("IS_F16", 1), ("SPAN", 8)],
            Elements::Bf16 => return vec![("IS_BF16", 1), ("SPAN", 8)],
            // Refused by `check`.
            Elements::F8 => return Vec::new(),
            Elements::Coded(coding) => coding,
        };
        let Some((form, bits, units, scale_bytes)) = kind(coding) else {
            return Vec::new();
        };
        let Rounding { group, zero } = coding.rounding();
        vec![
            (form, 1),
            ("CODED", 1),
            ("SPAN", UNIT as u32),
            ("BITS_IS_3", u32::from(bits == 3)),
            ("BITS_IS_5", u32::from(bits == 5)),
            ("BITS_IS_6", u32::from(bits == 6)),
            ("BITS_IS_8", u32::from(bits == 8)),
            ("BITS_BELOW_8", u32::from(bits < 8)),
            ("HAS_TWO", u32::from(bits < 4)),
            ("HAS_FOUR", u32::from((4..8).contains(&bits))),
            ("WORDS", bits * 4),
            ("UNITS", units),
            ("SCALE_BYTES", scale_bytes),
            ("BLOCK_BYTES", units * bits * 4 + scale_bytes),
            ("GROUP", group as u32),
            ("ZERO", zero as u32),
            ("BIASED", u32::from(form != "IS_SIMPLE" && form != "IS_Q6K")),
        ]
    }

    /// Whether there are kernels for it.
    ///
    /// # Errors
    /// [`GpuError::Unsupported`], with the coding.
    pub fn check(&self) -> Result<(), GpuError> {
        match self.elements {
            Elements::Coded(coding) if kind(coding).is_none() => Err(GpuError::Unsupported {
                op: "weights",
                problem: format!(
                    "{coding:?} has no kernels on graphics processors yet; run with --device cpu"
                ),
            }),
            Elements::F8 => Err(GpuError::Unsupported {
                op: "weights",
                problem: "F8_E4M3 has no kernels on graphics processors yet; run with --device cpu"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Appends the matrix in this form.
    pub fn pack(&self, matrix: &Matrix<'_>, out: &mut Vec<u8>) {
        match matrix.data() {
            MatrixData::F32(values) => self.pack_rows(bytemuck::cast_slice(values), 4, out),
            MatrixData::F16(values) | MatrixData::Bf16(values) => {
                self.pack_rows(bytemuck::cast_slice(values), 2, out);
            }
            MatrixData::F8(_) => {}
            MatrixData::Coded(coded) => self.pack_tiles(&coded, out),
        }
    }

    /// Gives `put` the matrix in this form: parts of it, each with its first byte.
    pub(crate) fn put(&self, matrix: &Matrix<'_>, put: &mut dyn FnMut(usize, &[u8])) {
        if let MatrixData::Coded(coded) = matrix.data()
            && self.rows.is_multiple_of(TILE)
        {
            let [weights, scales, _] = self.parts();
            put(0, coded.weights);
            put(weights, bytemuck::cast_slice(coded.scales));
            put(weights + scales, bytemuck::cast_slice(coded.biases));
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

    /// Tiles as they are; in a last tile of fewer rows each run of words has a place for 16.
    fn pack_tiles(&self, coded: &Coded<'_>, out: &mut Vec<u8>) {
        let whole = self.rows / TILE * TILE;
        let lanes = self.rows - whole;
        let share = |bytes: usize| bytes / self.rows * whole;
        let [scales, biases] = [coded.scales, coded.biases].map(bytemuck::cast_slice::<u16, u8>);
        let (tiles, rest) = coded.weights.split_at(share(coded.weights.len()));
        out.extend_from_slice(tiles);
        if lanes > 0 {
            widen(rest, &runs(coded.coding), lanes, out);
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

/// The parameter that says how a coding's scales lie, its bits, units of a block and bytes of
/// their scales; `None` of codings without kernels.
fn kind(coding: Coding) -> Option<(&'static str, u32, u32, u32)> {
    Some(match coding {
        Coding::Affine { bits, .. } => ("IS_AFFINE", bits, 1, 0),
        Coding::Q4_0 => ("IS_SIMPLE", 4, 1, 2),
        Coding::Q8_0 => ("IS_SIMPLE", 8, 1, 2),
        Coding::Q4K => ("IS_K", 4, 8, 16),
        Coding::Q5K => ("IS_K", 5, 8, 16),
        Coding::Q6K => ("IS_Q6K", 6, 8, 18),
        _ => return None,
    })
}

/// Bytes a lane of the runs of a block, in their order.
fn runs(coding: Coding) -> Vec<usize> {
    let words = |count: usize| vec![4; count];
    match coding {
        Coding::Affine { .. } => vec![4],
        Coding::Q4_0 => [vec![2], words(4)].concat(),
        Coding::Q8_0 => [vec![2], words(8)].concat(),
        Coding::Q4K => [words(3), vec![2, 2], words(32)].concat(),
        Coding::Q5K => [words(3), vec![2, 2], words(40)].concat(),
        Coding::Q6K => [words(4), vec![2], words(48)].concat(),
        // Refused by `Form::check`.
        _ => Vec::new(),
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
