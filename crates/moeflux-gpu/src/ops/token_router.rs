//! Experts that a table has for each token, with the router's scores as their weights.

use moeflux_kernels::{GroupedRouting, Scores};

use super::{check, grid};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "token_router";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("token_router.wgsl"),
    ],
};
/// Scores by softmax need a sum over the workgroup.
static SOFTMAX: Shader = Shader {
    name: "token_router_softmax",
    parts: &[
        include_str!("common.wgsl"),
        include_str!("token_router.wgsl"),
        include_str!("reduce.wgsl"),
    ],
};

fn kernel(rule: &GroupedRouting) -> (&'static Shader, [Param; 5]) {
    let is_softmax = rule.scores == Scores::Softmax;
    let params = [
        ("EXPERTS", rule.experts as u32),
        ("TOP_K", rule.top_k as u32),
        ("SOFTMAX", u32::from(is_softmax)),
        ("SOFTPLUS", u32::from(rule.scores == Scores::SqrtSoftplus)),
        ("RENORMALIZE", u32::from(rule.renormalize)),
    ];
    (if is_softmax { &SOFTMAX } else { &SHADER }, params)
}

pub(super) fn kernels() -> [(&'static Shader, Vec<Vec<Param>>); 2] {
    let sets = |kinds: &[Scores]| {
        let mut all = Vec::new();
        for &scores in kinds {
            for renormalize in [false, true] {
                let rule = GroupedRouting {
                    experts: 256,
                    top_k: 6,
                    groups: 1,
                    kept_groups: 1,
                    scores,
                    renormalize,
                    scale: 1.0,
                };
                all.push(kernel(&rule).1.to_vec());
            }
        }
        all
    };
    [
        (&SHADER, sets(&[Scores::Sigmoid, Scores::SqrtSoftplus])),
        (&SOFTMAX, sets(&[Scores::Softmax])),
    ]
}

/// The experts that `table` `[vocab, top_k]` has for `list` `[tokens]` (u32, below vocab): `ids`
/// (u32) and `weights` `[tokens, top_k]`, of `logits` `[tokens, experts]`.
///
/// # Errors
/// A buffer too small, no experts, and what [`Recorder::dispatch`] says.
pub fn token_router(
    r: &mut Recorder,
    (logits, list, table): (View<'_>, View<'_>, View<'_>),
    (ids, weights): (View<'_>, View<'_>),
    rule: &GroupedRouting,
    tokens: usize,
) -> Result<(), GpuError> {
    check::positive(OP, "the number of experts", rule.experts)?;
    check::positive(OP, "the number of chosen experts", rule.top_k)?;
    let len = check::product(OP, &[tokens, rule.experts])? as usize;
    check::holds(OP, "logits", &logits, len)?;
    check::holds(OP, "list", &list, tokens)?;
    check::holds(OP, "ids", &ids, tokens * rule.top_k)?;
    check::holds(OP, "weights", &weights, tokens * rule.top_k)?;
    let (shader, params) = kernel(rule);
    r.dispatch(&Dispatch {
        shader,
        params: &params,
        views: &[logits, list, table, ids, weights],
        immediates: &[tokens as u32, rule.scale.to_bits()],
        groups: grid(tokens as u32),
    })
}
