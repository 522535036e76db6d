//! Products of a matrix with vectors in f32, the matrix read once for a few vectors at a time.

use super::check::{holds, product};
use crate::matrix::{DeviceMatrix, Form, TILE, UNIT, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

pub(super) static SHADER: Shader = Shader {
    name: "matvec",
    parts: &[include_str!("form.wgsl"), include_str!("matvec.wgsl")],
};

/// Vectors that a workgroup takes at once; results do not depend on it.
fn tokens(n: usize) -> u32 {
    match n {
        0 | 1 => 1,
        2 => 2,
        3 | 4 => 4,
        _ => 8,
    }
}

/// Threads of a workgroup: as many as have something to add up. Results depend on it, so it depends
/// on the matrix alone.
fn threads(form: &Form) -> u32 {
    let span = if form.rounding().is_some() { UNIT } else { 8 };
    let runs = form.cols.div_ceil(span) as u32;
    (runs * 4).next_power_of_two().clamp(32, 128)
}

pub(super) fn params(form: &Form, tokens: u32) -> Vec<Param> {
    let mut params = form.params();
    params.push(("THREADS", threads(form)));
    params.push(("TOKENS", tokens));
    let is_padded = !form.cols.is_multiple_of(form.span());
    params.push(("X_SCALAR", u32::from(is_padded)));
    params
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let forms = all_forms(2048).into_iter().chain(all_forms(512));
    let all = forms.flat_map(|form| [1, 2, 4, 8].map(|tokens| params(&form, tokens)));
    (&SHADER, all.collect())
}

/// `out[n, rows]` = `x[n, cols]` times the matrix.
///
/// # Errors
/// As [`Recorder::dispatch`], and views that are too short.
pub fn matvec(
    r: &mut Recorder,
    matrix: &DeviceMatrix,
    x: View<'_>,
    n: usize,
    out: View<'_>,
) -> Result<(), GpuError> {
    let (name, form) = (SHADER.name, &matrix.form);
    holds(name, "x", &x, product(name, &[n, form.cols])? as usize)?;
    holds(name, "out", &out, product(name, &[n, form.rows])? as usize)?;
    let tokens = tokens(n);
    for band in &matrix.bands {
        let form = &band.form;
        let place = form.place(band.start);
        let immediates = [
            n as u32,
            form.cols as u32,
            form.rows as u32,
            matrix.form.rows as u32,
            band.first_row as u32,
            1,
            0,
            0,
            place.weights,
            place.scales,
            place.biases,
            0,
            0,
            0,
        ];
        let tiles = form.rows.div_ceil(TILE) as u32;
        r.dispatch(&Dispatch {
            shader: &SHADER,
            params: &params(form, tokens),
            views: &[(&band.buffer).into(), x, out],
            immediates: &immediates,
            groups: [tiles, (n as u32).div_ceil(tokens), 1],
        })?;
    }
    Ok(())
}
