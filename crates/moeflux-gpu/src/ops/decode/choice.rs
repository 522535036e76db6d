//! The router's choice for few tokens.

use super::super::RouterShape;
use super::super::check::{holds, positive, product};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "choice",
    parts: &[
        include_str!("../common.wgsl"),
        include_str!("../reduce.wgsl"),
        include_str!("choice.wgsl"),
    ],
};
/// The most experts that a workgroup's memory takes.
const MAX_EXPERTS: usize = 4096;

fn params(shape: RouterShape) -> Vec<Param> {
    vec![
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
            all.push(params(shape));
        }
    }
    (&SHADER, all)
}

/// As [`router`](crate::ops::router).
///
/// # Errors
/// As it.
pub fn choice(
    r: &mut Recorder,
    (logits, ids, weights): (View<'_>, View<'_>, View<'_>),
    shape: RouterShape,
    tokens: usize,
) -> Result<(), GpuError> {
    let name = SHADER.name;
    let RouterShape { experts, top_k, .. } = shape;
    if experts > MAX_EXPERTS || top_k > experts {
        let problem = format!("{top_k} of {experts} experts (at most {MAX_EXPERTS})");
        return Err(GpuError::Unsupported { op: name, problem });
    }
    positive(name, "experts of a token", top_k)?;
    let len = product(name, &[tokens, experts])? as usize;
    holds(name, "logits", &logits, len)?;
    holds(name, "ids", &ids, tokens * top_k)?;
    holds(name, "weights", &weights, tokens * top_k)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(shape),
        views: &[logits, ids, weights],
        immediates: &[],
        groups: [tokens as u32, 1, 1],
    })
}
