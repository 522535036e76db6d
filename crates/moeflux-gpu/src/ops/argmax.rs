//! The most probable token: the index of the largest logit.

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::check;

static SHADER: Shader = Shader {
    name: "argmax",
    parts: &[include_str!("argmax.wgsl")],
};
/// Elements of a row that a workgroup looks through.
const PART: usize = 2048;

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    (&SHADER, vec![vec![("LAST", 0)], vec![("LAST", 1)]])
}

/// What stands for the index of a row with an element that is not finite.
pub const NOT_FINITE: u32 = u32::MAX;

/// The index (u32) of the largest element of each row of `x` `[rows, width]`, the lowest one among
/// equals, to `out` `[rows]`; [`NOT_FINITE`] of a row with one that is not finite.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn argmax(
    r: &mut Recorder,
    x: View<'_>,
    out: View<'_>,
    rows: usize,
    width: usize,
) -> Result<(), GpuError> {
    const OP: &str = "argmax";
    check::positive(OP, "the width", width)?;
    let len = check::product(OP, &[rows, width])? as usize;
    check::holds(OP, "x", &x, len)?;
    check::holds(OP, "out", &out, rows)?;
    let parts = width.div_ceil(PART);
    let scratch = r.scratch(OP, (rows * parts * 8) as u64)?;
    let scratch = View::from(&*scratch);
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &[("LAST", 0)],
        views: &[x, scratch],
        immediates: &[width as u32, PART as u32],
        groups: [parts as u32, rows as u32, 1],
    })?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &[("LAST", 1)],
        views: &[scratch, out],
        immediates: &[width as u32, parts as u32],
        groups: [1, rows as u32, 1],
    })
}
