//! The weighted sum of a token's experts, in ascending expert id.

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{check, grid};

const OP: &str = "combine";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("combine.wgsl")],
};
/// Threads of a workgroup.
const THREADS: usize = 128;

fn params(width: usize, top_k: usize, has_places: bool) -> [Param; 3] {
    [
        ("WIDTH", width as u32),
        ("TOP_K", top_k as u32),
        ("PLACES", u32::from(has_places)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for has_places in [false, true] {
        for (width, top_k) in [(2048, 8), (4096, 10), (7, 1)] {
            all.push(params(width, top_k, has_places).to_vec());
        }
    }
    (&SHADER, all)
}

/// What the experts gave, and whose it is.
pub struct CombineViews<'a> {
    /// Results of experts, `[any, width]`.
    pub rows: View<'a>,
    /// Row of each slot, `[tokens, top_k]` of u32, below `rows`' number; `None`: slot by slot.
    pub places: Option<View<'a>>,
    /// Chosen experts, `[tokens, top_k]` of u32.
    pub ids: View<'a>,
    /// Their weights, `[tokens, top_k]`.
    pub weights: View<'a>,
    /// Sums, `[tokens, width]`.
    pub out: View<'a>,
}

/// Adds up the results of each token's experts.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn combine(
    r: &mut Recorder,
    v: &CombineViews<'_>,
    width: usize,
    top_k: usize,
    tokens: usize,
) -> Result<(), GpuError> {
    check::positive(OP, "the width", width)?;
    check::positive(OP, "the number of experts of a token", top_k)?;
    let len = check::product(OP, &[tokens, top_k, width])? as usize;
    check::holds(OP, "out", &v.out, tokens * width)?;
    for view in [&v.ids, &v.weights].into_iter().chain(&v.places) {
        check::holds(OP, "ids, weights or places", view, tokens * top_k)?;
    }
    if v.places.is_none() {
        check::holds(OP, "rows", &v.rows, len)?;
    }
    let mut views = vec![v.rows, v.ids, v.weights, v.out];
    views.extend(v.places);
    let [y, z, _] = grid(tokens as u32);
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(width, top_k, v.places.is_some()),
        views: &views,
        immediates: &[tokens as u32],
        groups: [width.div_ceil(THREADS) as u32, y, z],
    })
}
