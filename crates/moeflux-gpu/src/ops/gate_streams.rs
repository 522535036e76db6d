//! One value for all streams, gated by how each stream's query meets its key.

use super::streams::StreamSizes;
use super::{check, grid};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "gate_streams";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("gate_streams.wgsl"),
        include_str!("reduce.wgsl"),
    ],
};

fn params((streams, dim): StreamSizes) -> [Param; 2] {
    [("STREAMS", streams as u32), ("DIM", dim as u32)]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let all = [(4, 2048), (1, 7)].map(|sizes| params(sizes).to_vec());
    (&SHADER, all.to_vec())
}

/// `out` `[tokens, streams, dim]` of `keys` and `queries`, shaped alike, and `values`
/// `[tokens, dim]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn gate_streams(
    r: &mut Recorder,
    (keys, queries, values, out): (View<'_>, View<'_>, View<'_>, View<'_>),
    sizes: StreamSizes,
    tokens: usize,
) -> Result<(), GpuError> {
    let (streams, dim) = sizes;
    check::positive(OP, "the size of a stream", dim)?;
    let rows = check::product(OP, &[tokens, streams])?;
    let len = check::product(OP, &[rows as usize, dim])? as usize;
    for view in [&keys, &queries, &out] {
        check::holds(OP, "keys, queries or out", view, len)?;
    }
    check::holds(OP, "values", &values, tokens * dim)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(sizes),
        views: &[keys, queries, values, out],
        immediates: &[tokens as u32],
        groups: grid(rows),
    })
}
