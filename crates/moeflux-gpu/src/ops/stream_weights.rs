//! Weights that collapse, spread and mix the streams of a residual.

use moeflux_kernels::StreamRule;

use super::{check, grid};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "stream_weights";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("stream_weights.wgsl"),
    ],
};
/// The most streams: as many as a workgroup has threads.
const MAX_STREAMS: usize = 64;

fn params(rule: StreamRule) -> [Param; 2] {
    [
        ("STREAMS", rule.streams as u32),
        ("ROUNDS", (2 * rule.iterations).saturating_sub(1) as u32),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let sizes = [(4, 20), (4, 0), (64, 1), (1, 3)];
    let all = sizes.map(|(streams, iterations)| {
        let eps = 1e-6;
        let rule = StreamRule {
            streams,
            iterations,
            eps,
        };
        params(rule).to_vec()
    });
    (&SHADER, all.to_vec())
}

/// `out` `[tokens, rule.width()]` of `projected`, shaped alike, by factors `[rule.scales()]` and
/// offsets `[rule.width()]`.
///
/// # Errors
/// A buffer too small, more than 64 streams, and what [`Recorder::dispatch`] says.
pub fn stream_weights(
    r: &mut Recorder,
    (projected, scale, base, out): (View<'_>, View<'_>, View<'_>, View<'_>),
    rule: StreamRule,
    tokens: usize,
) -> Result<(), GpuError> {
    check::positive(OP, "the number of streams", rule.streams)?;
    if rule.streams > MAX_STREAMS || rule.iterations > usize::from(u16::MAX) {
        let problem = format!("{rule:?} (at most {MAX_STREAMS} streams)");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    let len = check::product(OP, &[tokens, rule.width()])? as usize;
    check::holds(OP, "projected", &projected, len)?;
    check::holds(OP, "scale", &scale, rule.scales())?;
    check::holds(OP, "base", &base, rule.width())?;
    check::holds(OP, "out", &out, len)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(rule),
        views: &[projected, scale, base, out],
        immediates: &[tokens as u32, rule.eps.to_bits()],
        groups: grid(tokens as u32),
    })
}
