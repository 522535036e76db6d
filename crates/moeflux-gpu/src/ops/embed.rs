//! Rows of a matrix: what tokens begin with.

use super::check::{holds, product};
use crate::matrix::{DeviceMatrix, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "embed",
    parts: &[
        include_str!("form.wgsl"),
        include_str!("row.wgsl"),
        include_str!("embed.wgsl"),
    ],
};

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let forms = all_forms(2048);
    (&SHADER, forms.iter().map(|form| form.params()).collect())
}

/// `out[n, cols]` = the rows of `table` that `tokens[n]` (u32) name.
///
/// # Errors
/// As [`Recorder::dispatch`], and views that are too short.
pub fn embed(
    r: &mut Recorder,
    table: &DeviceMatrix,
    tokens: View<'_>,
    n: usize,
    out: View<'_>,
) -> Result<(), GpuError> {
    let name = SHADER.name;
    holds(name, "tokens", &tokens, n)?;
    holds(
        name,
        "out",
        &out,
        product(name, &[n, table.form.cols])? as usize,
    )?;
    for band in &table.bands {
        let place = band.form.place(band.start);
        r.dispatch(&Dispatch {
            shader: &SHADER,
            params: &band.form.params(),
            views: &[(&band.buffer).into(), tokens, out],
            immediates: &[
                n as u32,
                band.form.cols as u32,
                band.form.rows as u32,
                band.first_row as u32,
                place.weights,
                place.scales,
                place.biases,
            ],
            groups: [n as u32, 1, 1],
        })?;
    }
    Ok(())
}
