//! The router's choice for few tokens.

use super::super::check::{holds, positive, product};
use super::super::{RouterShape, router};
use crate::{Dispatch, Gpu, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "choice",
    parts: &[
        include_str!("../common.wgsl"),
        include_str!("choose.wgsl"),
        include_str!("choice.wgsl"),
    ],
};
/// Experts that a thread keeps in registers.
const MAX_KEPT: usize = 32;
/// Threads that make a choice together, the more the better.
const CHOOSERS: [u32; 2] = [32, 8];

/// What `choose.wgsl` needs to know; `None` where this device has no way to choose by it.
pub(super) fn chooser_params(gpu: &Gpu, shape: RouterShape) -> Option<Vec<Param>> {
    let choosers = CHOOSERS.into_iter().find(|n| gpu.shares_lanes(*n))?;
    params(shape, choosers)
}

pub(super) fn params(shape: RouterShape, choosers: u32) -> Option<Vec<Param>> {
    let kept = shape.experts.div_ceil(choosers as usize);
    let params = vec![
        ("EXPERTS", shape.experts as u32),
        ("TOP_K", shape.top_k as u32),
        ("RENORMALIZE", u32::from(shape.renormalize)),
        ("CHOOSERS", choosers),
        ("PER", kept as u32),
    ];
    (1..=MAX_KEPT).contains(&kept).then_some(params)
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for renormalize in [false, true] {
        for (experts, top_k) in [(256, 8), (512, 10), (128, 8), (5, 3)] {
            let shape = RouterShape {
                experts,
                top_k,
                renormalize,
            };
            all.extend(CHOOSERS.iter().filter_map(|n| params(shape, *n)));
        }
    }
    (&SHADER, all)
}

/// Whether [`expert_act`](super::expert_act) can make this choice on a device.
pub fn can_choose(gpu: &Gpu, shape: RouterShape) -> bool {
    chooser_params(gpu, shape).is_some()
}

/// As [`router`].
///
/// # Errors
/// As it.
pub fn choice(
    r: &mut Recorder,
    (logits, ids, weights): (View<'_>, View<'_>, View<'_>),
    shape: RouterShape,
    tokens: usize,
) -> Result<(), GpuError> {
    let Some(params) = chooser_params(r.gpu(), shape) else {
        return router(r, (logits, ids, weights), shape, tokens);
    };
    check(SHADER.name, (&logits, &ids, &weights), shape, tokens)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params,
        views: &[logits, ids, weights],
        immediates: &[],
        groups: [tokens as u32, 1, 1],
    })
}

/// Requires views that hold logits and choices of `tokens` tokens.
pub(super) fn check(
    name: &'static str,
    (logits, ids, weights): (&View<'_>, &View<'_>, &View<'_>),
    shape: RouterShape,
    tokens: usize,
) -> Result<(), GpuError> {
    let RouterShape { experts, top_k, .. } = shape;
    if top_k > experts {
        let problem = format!("{top_k} of {experts} experts");
        return Err(GpuError::Unsupported { op: name, problem });
    }
    positive(name, "experts of a token", top_k)?;
    let len = product(name, &[tokens, experts])? as usize;
    holds(name, "logits", logits, len)?;
    holds(name, "ids", ids, tokens * top_k)?;
    holds(name, "weights", weights, tokens * top_k)
}
