//! Operations that only move elements: splitting pairs and selecting rows.

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{check, grid};

static SPLIT: Shader = Shader {
    name: "split_pairs",
    parts: &[
        include_str!("common.wgsl"),
        include_str!("split_pairs.wgsl"),
    ],
};
static SELECT: Shader = Shader {
    name: "select_rows",
    parts: &[
        include_str!("common.wgsl"),
        include_str!("select_rows.wgsl"),
    ],
};
/// Threads of a workgroup.
const THREADS: u32 = 128;

pub(super) fn kernels() -> [(&'static Shader, Vec<Vec<Param>>); 2] {
    [(&SPLIT, vec![vec![]]), (&SELECT, vec![vec![]])]
}

/// Splits `x` `[heads, 2, dim]` (of all tokens) into `first` and `second`, `[heads, dim]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn split_pairs(
    r: &mut Recorder,
    (x, first, second): (View<'_>, View<'_>, View<'_>),
    heads: usize,
    dim: usize,
) -> Result<(), GpuError> {
    const OP: &str = "split_pairs";
    check::positive(OP, "the size of a half", dim)?;
    let len = check::product(OP, &[heads, dim])? as usize;
    check::holds(OP, "x", &x, 2 * len)?;
    check::holds(OP, "first", &first, len)?;
    check::holds(OP, "second", &second, len)?;
    r.dispatch(&Dispatch {
        shader: &SPLIT,
        params: &[],
        views: &[x, first, second],
        immediates: &[len as u32, dim as u32],
        groups: grid((len as u32).div_ceil(THREADS)),
    })
}

/// Copies the rows of `x` `[any, width]` that `list` `[rows]` (u32, below `x`'s number) names to
/// `out` `[rows, width]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn select_rows(
    r: &mut Recorder,
    (x, list, out): (View<'_>, View<'_>, View<'_>),
    rows: usize,
    width: usize,
) -> Result<(), GpuError> {
    const OP: &str = "select_rows";
    check::positive(OP, "the width", width)?;
    let len = check::product(OP, &[rows, width])?;
    check::holds(OP, "list", &list, rows)?;
    check::holds(OP, "out", &out, len as usize)?;
    r.dispatch(&Dispatch {
        shader: &SELECT,
        params: &[],
        views: &[x, list, out],
        immediates: &[rows as u32, width as u32],
        groups: grid(len.div_ceil(THREADS)),
    })
}
