//! Products of each head with rows of its own, of one matrix.

use moeflux_kernels::HeadRows;

use super::check::{holds, positive, product};
use crate::matrix::{DeviceMatrix, Form, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "head_matmul";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("form.wgsl"),
        include_str!("row.wgsl"),
        include_str!("head_matmul.wgsl"),
    ],
};
/// Columns of a workgroup of the transposed product.
const COLUMNS: usize = 256;
/// Pairs of a token and a head along a dispatch's second dimension, as the kernel counts them.
const PAIRS: usize = 32_768;

fn params(form: &Form, transposed: bool) -> Vec<Param> {
    let mut params = form.params();
    params.push(("TRANSPOSED", u32::from(transposed)));
    params
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let forms = all_forms(512);
    let all = forms
        .iter()
        .flat_map(|form| [false, true].map(|turned| params(form, turned)));
    (&SHADER, all.collect())
}

/// Multiplies each head of `x` with its rows of `matrix`: `[n, heads, cols]` to `[n, heads, rows]`,
/// or with their transpose, `[n, heads, rows]` to `[n, heads, cols]`.
///
/// # Errors
/// Sizes that do not fit, a matrix larger than the device binds at once, and what
/// [`Recorder::dispatch`] says.
pub fn head_matmul(
    r: &mut Recorder,
    matrix: &DeviceMatrix,
    (x, out): (View<'_>, View<'_>),
    shape: HeadRows,
    n: usize,
) -> Result<(), GpuError> {
    let (form, cols) = (&matrix.form, matrix.form.cols);
    positive(OP, "the number of heads", shape.heads)?;
    let end = shape.first.saturating_add(shape.rows);
    if shape.heads.checked_mul(shape.stride) != Some(form.rows) || end > shape.stride {
        let problem = format!("{shape:?} of {} rows", form.rows);
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    let [band] = &matrix.bands[..] else {
        return Err(GpuError::TooLarge {
            what: "a projection by heads",
            bytes: form.bytes() as u64,
            limit: r.gpu().most_bytes_bound(),
        });
    };
    let (before, after) = match shape.transposed {
        false => (cols, shape.rows),
        true => (shape.rows, cols),
    };
    let pairs = product(OP, &[n, shape.heads])?;
    holds(
        OP,
        "x",
        &x,
        product(OP, &[pairs as usize, before])? as usize,
    )?;
    holds(
        OP,
        "out",
        &out,
        product(OP, &[pairs as usize, after])? as usize,
    )?;
    let place = band.form.place(band.start);
    let sizes = [cols, shape.heads, shape.stride, shape.first, shape.rows].map(|s| s as u32);
    let mut immediates = sizes.to_vec();
    immediates.extend([pairs, place.weights, place.scales, place.biases]);
    let across = match shape.transposed {
        false => shape.rows,
        true => cols.div_ceil(COLUMNS),
    };
    let (y, z) = (
        (pairs as usize).min(PAIRS),
        (pairs as usize).div_ceil(PAIRS),
    );
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(&band.form, shape.transposed),
        views: &[(&band.buffer).into(), x, out],
        immediates: &immediates,
        groups: [across as u32, y as u32, z as u32],
    })
}
