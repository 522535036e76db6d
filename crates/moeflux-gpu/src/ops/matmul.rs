//! Products of a matrix with many vectors, by tiles: for prompts.
//!
//! An element's order of summation depends on the matrix and the device alone, so a prompt may be
//! cut into steps anywhere; it is another order than [`super::matvec`]'s.

use super::ExpertSlots;
use super::check::{holds, positive, product};
use super::group_experts::Groups;
use super::halves::{self, Halves, Names, halves};
pub use super::tile::{Arithmetic, Tile};
use crate::matrix::{DeviceMatrix, Elements, Form, Place, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "matmul";
static PLAIN: Shader = Shader {
    name: "matmul",
    parts: &[
        include_str!("matmul_head.wgsl"),
        include_str!("form.wgsl"),
        include_str!("matmul.wgsl"),
        include_str!("matmul_plain.wgsl"),
    ],
};
static COOP: Shader = Shader {
    name: "matmul_coop",
    parts: &[
        include_str!("matmul_head.wgsl"),
        include_str!("form.wgsl"),
        include_str!("matmul.wgsl"),
        include_str!("matmul_coop.wgsl"),
    ],
};

fn shader(tile: Tile) -> &'static Shader {
    match tile.arithmetic {
        Arithmetic::Unit(_) => &COOP,
        _ => &PLAIN,
    }
}

/// Tiles for checking translations.
fn all_params(arithmetics: &[Arithmetic], vectors: &[u32]) -> Vec<Vec<Param>> {
    let mut all = Vec::new();
    for form in all_forms(2048) {
        for &arithmetic in arithmetics {
            for &vectors in vectors {
                for (experts, fused) in [(false, false), (true, false), (true, true)] {
                    let (rows, part) = match arithmetic {
                        Arithmetic::Floats => (64, (32, 32)),
                        _ => (128, (32, 64)),
                    };
                    let tile = Tile {
                        vectors,
                        rows,
                        depth: 32,
                        part,
                        arithmetic,
                    };
                    all.push(tile.params(&form, experts, fused));
                }
            }
        }
    }
    all
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let plain = [Arithmetic::Floats, Arithmetic::Halves];
    (&PLAIN, all_params(&plain, &[32, 64]))
}

/// The kernels for matrix units of this size.
pub fn unit_kernels(size: u32) -> (&'static Shader, Vec<Vec<Param>>) {
    (&COOP, all_params(&[Arithmetic::Unit(size)], &[32, 64, 128]))
}

/// Vectors as a product takes them.
pub struct Vectors<'a> {
    x: View<'a>,
    halves: Option<Halves>,
    cols: usize,
    /// Rows of `x`: the first, and their number.
    rows: (usize, usize),
}

impl Vectors<'_> {
    /// Names of scratch memory for inputs of operations.
    pub const INPUTS: Names = ("halves of inputs", "scales of inputs");
    /// Names of scratch memory for what is between an operation's products.
    pub const BETWEEN: Names = ("halves within", "scales within");

    /// vec4s of a row, and the number of the first.
    fn place(&self) -> [usize; 2] {
        match self.halves {
            Some(_) => [halves::stride(self.cols), 0],
            None => [self.cols / 4, self.rows.0],
        }
    }
}

/// Rows `(first, count)` of `x` `[.., cols]` as products in such tiles take them. They are good
/// until the names' memory is used again.
///
/// # Errors
/// A buffer too small, rows of a length that the kernel does not have, and what
/// [`Recorder::dispatch`] says.
pub fn vectors<'a>(
    r: &mut Recorder,
    tile: Tile,
    names: Names,
    x: View<'a>,
    rows: (usize, usize),
    cols: usize,
) -> Result<Vectors<'a>, GpuError> {
    positive(OP, "the number of columns", cols)?;
    holds(OP, "x", &x, product(OP, &[rows.0 + rows.1, cols])? as usize)?;
    if !tile.is_half() && !has_floats(cols) {
        let problem = format!("vectors of {cols} elements");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    let halves = match tile.is_half() {
        true => Some(halves(r, names, x, rows, cols)?),
        false => None,
    };
    Ok(Vectors {
        x,
        halves,
        cols,
        rows,
    })
}

/// Whether products in f32 take vectors of this length.
pub fn has_floats(cols: usize) -> bool {
    cols.is_multiple_of(4)
}

/// Whether the form keeps its precision in binary16.
pub fn has_halves(form: &Form) -> bool {
    form.elements != Elements::F32
}

/// What is bound, and what is counted, besides the matrix.
struct Product<'a> {
    tile: Tile,
    form: &'a Form,
    places: &'a [Place],
    matrix: View<'a>,
    x: &'a Vectors<'a>,
    out: View<'a>,
    /// Elements of a row of the result, and the first that this matrix has.
    out_row: (usize, usize),
    out_first: usize,
    share: usize,
    slot_bytes: usize,
    groups: Option<&'a Groups>,
}

impl Product<'_> {
    fn record(&self, r: &mut Recorder) -> Result<(), GpuError> {
        self.tile.check(r.gpu())?;
        let (form, tile) = (self.form, self.tile);
        if form.cols != self.x.cols || tile.is_half() != self.x.halves.is_some() {
            let problem = format!("{form:?} with vectors of {}", self.x.cols);
            return Err(GpuError::Unsupported { op: OP, problem });
        }
        let fused = self.places.len() > 1;
        let two = self.places.last().copied().unwrap_or_default();
        let one = self.places.first().copied().unwrap_or_default();
        let [stride, x_first] = self.x.place();
        let n = self.x.rows.1;
        let mut immediates: Vec<u32> = [n, form.cols, form.rows, self.out_row.0, self.out_row.1]
            .into_iter()
            .chain([
                self.share,
                self.slot_bytes / 16,
                stride,
                x_first,
                self.out_first,
            ])
            .map(|n| n as u32)
            .collect();
        for place in [one, two] {
            immediates.extend([place.weights, place.scales, place.biases]);
        }
        let mut views = vec![self.matrix, self.x.x, self.out];
        if let Some(halves) = &self.x.halves {
            views[1] = (&*halves.values).into();
            views.push((&*halves.scales).into());
        }
        if let Some(groups) = self.groups {
            views.extend([View::from(&*groups.order), (&*groups.tiles).into()]);
        }
        let columns = if fused { tile.rows / 2 } else { tile.rows };
        let down = match self.groups {
            Some(groups) => groups.count as u32,
            None => (n as u32).div_ceil(tile.vectors),
        };
        r.dispatch(&Dispatch {
            shader: shader(tile),
            params: &tile.params(form, self.groups.is_some(), fused),
            views: &views,
            immediates: &immediates,
            groups: [(form.rows as u32).div_ceil(columns), down, 1],
        })
    }
}

/// `out[.., rows]` = `x` times the matrix; the vectors' results lie in the same rows as they do.
///
/// # Errors
/// As [`Recorder::dispatch`], and views that are too short.
pub fn matmul(
    r: &mut Recorder,
    tile: Tile,
    matrix: &DeviceMatrix,
    x: &Vectors<'_>,
    out: View<'_>,
) -> Result<(), GpuError> {
    let rows = matrix.form.rows;
    let len = product(OP, &[x.rows.0 + x.rows.1, rows])?;
    holds(OP, "out", &out, len as usize)?;
    for band in &matrix.bands {
        let product = Product {
            tile,
            form: &band.form,
            places: &[band.form.place(band.start)],
            matrix: (&*band.buffer).into(),
            x,
            out,
            out_row: (rows, band.first_row),
            out_first: x.rows.0,
            share: 1,
            slot_bytes: 0,
            groups: None,
        };
        product.record(r)?;
    }
    Ok(())
}

/// `out[pair, rows]` = each pair's expert's matrix at `places[0]` of its slot times its row of `x`,
/// or with two places `silu(first * x) * (second * x)`; `share` pairs in a row have the same
/// vector. `x` begins with pair 0's.
///
/// # Errors
/// As [`Recorder::dispatch`], and views that are too short.
pub fn expert_matmul(
    r: &mut Recorder,
    tile: Tile,
    (experts, groups): (&ExpertSlots<'_>, &Groups),
    (form, places): (&Form, &[Place]),
    (x, share): (&Vectors<'_>, usize),
    out: View<'_>,
) -> Result<(), GpuError> {
    positive(OP, "share", share)?;
    positive(OP, "the number of matrices", places.len())?;
    experts.holds_matrices(form, places)?;
    let len = product(OP, &[groups.end, form.rows])?;
    holds(OP, "out", &out, len as usize)?;
    let vectors = groups.end.div_ceil(share);
    if x.rows.0 != 0 || x.rows.1 < vectors || groups.tile != tile.vectors as usize {
        let problem = format!(
            "{} of {vectors} vectors, tiles of {}",
            x.rows.1, groups.tile
        );
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    let product = Product {
        tile,
        form,
        places,
        matrix: experts.slots,
        x,
        out,
        out_row: (form.rows, 0),
        out_first: 0,
        share,
        slot_bytes: experts.slot_bytes,
        groups: Some(groups),
    };
    product.record(r)
}
