//! Tiles of products: what a workgroup computes, and how.

use crate::matrix::Form;
use crate::{Gpu, GpuError, Param};

const OP: &str = "matmul";

/// How elements are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// In f32.
    Floats,
    /// Rounded to binary16, products and sums in f32.
    Halves,
    /// The same by the device's matrix unit, in squares of so many elements (8 or 16).
    Unit(u32),
}

/// A tile of a product: what a workgroup computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Vectors.
    pub vectors: u32,
    /// Rows of the matrix.
    pub rows: u32,
    /// Elements of the inner dimension at a time: 32 or 64.
    pub depth: u32,
    /// Vectors and rows of 32 threads.
    pub part: (u32, u32),
    /// How elements are multiplied.
    pub arithmetic: Arithmetic,
}

impl Tile {
    /// What suits the device; `exact`: in f32.
    pub fn of(gpu: &Gpu, exact: bool) -> Tile {
        let arithmetic = match gpu.matrix_unit() {
            Some(size) if !exact => Arithmetic::Unit(size),
            _ => Arithmetic::Floats,
        };
        let (rows, part) = match arithmetic {
            Arithmetic::Unit(_) => (128, (32, 64)),
            _ => (64, (32, 32)),
        };
        Tile {
            vectors: 64,
            rows,
            depth: 32,
            part,
            arithmetic,
        }
    }

    /// Whether elements are rounded to binary16.
    pub fn is_half(&self) -> bool {
        self.arithmetic != Arithmetic::Floats
    }

    /// Bytes of workgroup memory.
    fn shared_bytes(&self) -> u32 {
        let (element, unit) = match self.arithmetic {
            Arithmetic::Floats => (4, 0),
            Arithmetic::Halves => (2, 0),
            Arithmetic::Unit(size) => (2, size),
        };
        let parts = (self.vectors / self.part.0) * (self.rows / self.part.1);
        (self.vectors + self.rows) * (self.depth + 8) * element
            + 12 * self.vectors
            + 4 * parts * unit * unit
    }

    pub(super) fn check(&self, gpu: &Gpu) -> Result<(), GpuError> {
        let (m, n) = self.part;
        let fits = |whole: u32, part: u32| {
            part > 0 && part.is_multiple_of(32) && whole.is_multiple_of(part)
        };
        let limits = gpu.limits();
        let most = limits.max_compute_invocations_per_workgroup;
        if fits(self.vectors, m)
            && fits(self.rows, n)
            && self.threads() <= most
            && matches!(self.depth, 32 | 64)
            && self.weights_each(1) >= 1
            && self.shared_bytes() <= limits.max_compute_workgroup_storage_size
        {
            return Ok(());
        }
        let problem = format!("a workgroup cannot have {self:?}");
        Err(GpuError::Unsupported { op: OP, problem })
    }

    fn threads(&self) -> u32 {
        self.vectors / self.part.0 * (self.rows / self.part.1) * 32
    }

    /// Items of weights that a thread brings to the workgroup's memory at a time, where an item has
    /// so many quads of each of four rows.
    fn weights_each(&self, quads: u32) -> u32 {
        self.rows * self.depth / (16 * quads) / self.threads()
    }

    /// What the kernels need to know.
    pub(super) fn params(&self, form: &Form, experts: bool, fused: bool) -> Vec<Param> {
        let half = self.is_half();
        let unit = match self.arithmetic {
            Arithmetic::Unit(size) => size,
            _ => 0,
        };
        let (quads, weights_each) = match form.rounding() {
            Some(_) if self.weights_each(2) > 0 => (2, self.weights_each(2)),
            Some(_) => (1, self.weights_each(1)),
            None => {
                let span = form.span() as u32;
                (1, self.rows * self.depth / span / self.threads())
            }
        };
        let width = if fused { self.part.1 / 2 } else { self.part.1 };
        let mut params = form.params();
        params.extend([
            ("TM", self.vectors),
            ("TN", self.rows),
            ("TK", self.depth),
            ("WM", self.part.0),
            ("WN", self.part.1),
            ("HALF", u32::from(half)),
            ("COOP", u32::from(unit > 0)),
            ("FRAG", unit),
            // Metal's loads take pointers to scalars.
            ("SCALARS", u32::from(unit == 8)),
            // Of a thread, where there is no matrix unit.
            ("EACH_M", self.part.0 / 4),
            ("EACH_N", width / 8),
            ("FOUR", 4),
            ("LANE_ELEMENTS", unit * unit / 32),
            ("FRAGS_M", self.part.0.checked_div(unit).unwrap_or(0)),
            ("FRAGS_N", width.checked_div(unit).unwrap_or(0)),
            ("STEPS", self.depth.checked_div(unit).unwrap_or(0)),
            (
                "X_EACH",
                self.vectors * self.depth / 4 / self.threads().max(1),
            ),
            ("W_EACH", weights_each),
            ("QUADS", quads),
            ("TWO_QUADS", u32::from(quads == 2)),
            ("BITS", if half { 16 } else { 32 }),
            ("EXPERTS", u32::from(experts)),
            ("FUSED", u32::from(fused)),
            ("ORDER_AT", 3 + u32::from(half)),
            ("TILES_AT", 4 + u32::from(half)),
        ]);
        params
    }
}
