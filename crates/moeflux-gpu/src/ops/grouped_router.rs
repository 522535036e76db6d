//! The router's choice with a correction of scores and with groups of experts.

use moeflux_kernels::{GroupedRouting, Scores};

use super::{check, grid};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "grouped_router";
static SIGMOID: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("grouped_router.wgsl"),
    ],
};
/// Scores by softmax need a sum over the workgroup.
static SOFTMAX: Shader = Shader {
    name: "grouped_router_softmax",
    parts: &[
        include_str!("common.wgsl"),
        include_str!("grouped_router.wgsl"),
        include_str!("reduce.wgsl"),
    ],
};
/// The most experts that a workgroup's memory takes.
const MAX_EXPERTS: usize = 2048;

fn kernel(rule: &GroupedRouting, has_bias: bool) -> (&'static Shader, [Param; 10]) {
    let (shader, is_sigmoid) = match rule.scores {
        Scores::Sigmoid | Scores::SqrtSoftplus => (&SIGMOID, true),
        Scores::Softmax => (&SOFTMAX, false),
    };
    let sums = is_sigmoid && rule.experts > rule.groups;
    let threads = rule.experts.next_power_of_two().clamp(32, 256);
    let params = [
        ("THREADS", threads as u32),
        ("EXPERTS", rule.experts as u32),
        ("GROUPS", rule.groups as u32),
        ("KEPT", rule.kept_groups as u32),
        ("TOP_K", rule.top_k as u32),
        ("SIGMOID", u32::from(is_sigmoid)),
        ("SOFTPLUS", u32::from(rule.scores == Scores::SqrtSoftplus)),
        ("SUM_OF_TWO", u32::from(sums)),
        ("RENORMALIZE", u32::from(rule.renormalize)),
        ("BIAS", u32::from(has_bias)),
    ];
    (shader, params)
}

pub(super) fn kernels() -> [(&'static Shader, Vec<Vec<Param>>); 2] {
    let sizes = [
        (256, 8, 8, 4),
        (128, 8, 1, 1),
        (2048, 16, 64, 8),
        (6, 3, 6, 4),
    ];
    let one_by_one = &[Scores::Sigmoid, Scores::SqrtSoftplus][..];
    [(&SIGMOID, one_by_one), (&SOFTMAX, &[Scores::Softmax][..])].map(|(shader, kinds)| {
        let mut all = Vec::new();
        for (experts, top_k, groups, kept_groups) in sizes {
            for (both, &scores) in [false, true]
                .into_iter()
                .flat_map(|both| kinds.iter().map(move |kind| (both, kind)))
            {
                let rule = GroupedRouting {
                    experts,
                    top_k,
                    groups,
                    kept_groups,
                    scores,
                    renormalize: both,
                    scale: 1.0,
                };
                all.push(kernel(&rule, both).1.to_vec());
            }
        }
        (shader, all)
    })
}

/// Chooses `top_k` experts for each token of `logits` `[tokens, experts]`, ranked by their scores
/// plus `bias` `[experts]`: `ids` (u32) and `weights`, `[tokens, top_k]`.
///
/// # Errors
/// A buffer too small, a rule that the kernel does not have, and what [`Recorder::dispatch`] says.
pub fn grouped_router(
    r: &mut Recorder,
    (logits, ids, weights): (View<'_>, View<'_>, View<'_>),
    bias: Option<View<'_>>,
    rule: &GroupedRouting,
    tokens: usize,
) -> Result<(), GpuError> {
    let &GroupedRouting {
        experts,
        top_k,
        groups,
        kept_groups,
        ..
    } = rule;
    let is_whole = groups > 0 && experts.is_multiple_of(groups);
    let reachable = if is_whole {
        experts / groups * kept_groups
    } else {
        0
    };
    if experts > MAX_EXPERTS || kept_groups > groups || top_k == 0 || top_k > reachable {
        let problem = format!("{rule:?} (at most {MAX_EXPERTS} experts)");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    let len = check::product(OP, &[tokens, experts])? as usize;
    check::holds(OP, "logits", &logits, len)?;
    check::holds(OP, "ids", &ids, tokens * top_k)?;
    check::holds(OP, "weights", &weights, tokens * top_k)?;
    let mut views = vec![logits, ids, weights];
    if let Some(bias) = bias {
        check::holds(OP, "bias", &bias, experts)?;
        views.push(bias);
    }
    let (shader, params) = kernel(rule, bias.is_some());
    r.dispatch(&Dispatch {
        shader,
        params: &params,
        views: &views,
        immediates: &[tokens as u32, rule.scale.to_bits()],
        groups: grid(tokens as u32),
    })
}
