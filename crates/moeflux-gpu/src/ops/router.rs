//! The router's choice.

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{check, grid};

const OP: &str = "router";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("router.wgsl"),
        include_str!("reduce.wgsl"),
    ],
};
/// The most experts that a workgroup's memory takes.
const MAX_EXPERTS: usize = 4096;

/// How experts are chosen.
#[derive(Clone, Copy, Debug)]
pub struct RouterShape {
    /// Number of experts.
    pub experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Whether the chosen weights are divided by their sum.
    pub renormalize: bool,
}

fn params(shape: RouterShape) -> [Param; 4] {
    let threads = shape.experts.next_power_of_two().clamp(32, 256);
    [
        ("THREADS", threads as u32),
        ("EXPERTS", shape.experts as u32),
        ("TOP_K", shape.top_k as u32),
        ("RENORMALIZE", u32::from(shape.renormalize)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for renormalize in [false, true] {
        for (experts, top_k) in [(256, 8), (512, 10), (128, 8), (5, 3), (4096, 16)] {
            let shape = RouterShape {
                experts,
                top_k,
                renormalize,
            };
            all.push(params(shape).to_vec());
        }
    }
    (&SHADER, all)
}

/// Softmax of `logits` `[tokens, experts]`, then the `top_k` most probable experts, the lowest id
/// first among equals: `ids` (u32) and `weights`, `[tokens, top_k]`.
///
/// # Errors
/// A buffer too small, a shape that the kernel does not have, and what [`Recorder::dispatch`] says.
pub fn router(
    r: &mut Recorder,
    (logits, ids, weights): (View<'_>, View<'_>, View<'_>),
    shape: RouterShape,
    tokens: usize,
) -> Result<(), GpuError> {
    let RouterShape { experts, top_k, .. } = shape;
    if experts > MAX_EXPERTS || top_k > experts {
        let problem = format!("{top_k} of {experts} experts (at most {MAX_EXPERTS})");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    if top_k == 0 {
        return Ok(());
    }
    let len = check::product(OP, &[tokens, experts])? as usize;
    check::holds(OP, "logits", &logits, len)?;
    check::holds(OP, "ids", &ids, tokens * top_k)?;
    check::holds(OP, "weights", &weights, tokens * top_k)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(shape),
        views: &[logits, ids, weights],
        immediates: &[tokens as u32],
        groups: grid(tokens as u32),
    })
}
