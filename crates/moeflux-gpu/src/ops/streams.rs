//! Streams of a residual become one before a block, and several again behind it.

use moeflux_kernels::StreamRule;

use super::{check, grid};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "streams";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("common.wgsl"), include_str!("streams.wgsl")],
};
/// Threads of a workgroup.
const THREADS: u32 = 256;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Collapse,
    Mean,
    Mix,
    Spread,
    Inject,
}

impl Kind {
    /// Whether the result has all streams.
    fn has_block(self) -> bool {
        matches!(self, Kind::Spread | Kind::Inject)
    }
}

fn params(kind: Kind, streams: usize) -> [Param; 7] {
    let is = |other: Kind| u32::from(kind == other);
    [
        ("STREAMS", streams as u32),
        ("COLLAPSE", is(Kind::Collapse)),
        ("MEAN", is(Kind::Mean)),
        ("MIX", is(Kind::Mix)),
        ("SPREAD", is(Kind::Spread)),
        ("INJECT", is(Kind::Inject)),
        ("BLOCK", u32::from(kind.has_block())),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let kinds = [
        Kind::Collapse,
        Kind::Mean,
        Kind::Mix,
        Kind::Spread,
        Kind::Inject,
    ];
    let all = kinds.map(|kind| params(kind, 4).to_vec());
    (&SHADER, all.to_vec())
}

/// Streams of each token, and elements of one.
pub type StreamSizes = (usize, usize);

/// `views`: x and out, then weights (or gates), then the block's result; `width` weights of a
/// token.
fn run(
    r: &mut Recorder,
    kind: Kind,
    views: &[View<'_>],
    (streams, dim): StreamSizes,
    (tokens, width): (usize, usize),
) -> Result<(), GpuError> {
    check::positive(OP, "the number of streams", streams)?;
    check::positive(OP, "the size of a stream", dim)?;
    let one = check::product(OP, &[tokens, dim])? as usize;
    let all = check::product(OP, &[one, streams])? as usize;
    let len = if kind.has_block() { all } else { one };
    let weights = check::product(OP, &[tokens, width])? as usize;
    let sizes = [all, len, weights, one];
    for (view, size) in views.iter().zip(sizes) {
        check::holds(OP, "an input or output", view, size)?;
    }
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(kind, streams),
        views,
        immediates: &[len, dim, width].map(|n| n as u32),
        groups: grid((len as u32).div_ceil(THREADS)),
    })
}

/// `out` `[tokens, dim]`: the sum of the streams of `x` `[tokens, streams, dim]` by `weights`
/// `[tokens, rule.width()]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn collapse_streams(
    r: &mut Recorder,
    (x, weights, out): (View<'_>, View<'_>, View<'_>),
    (rule, dim): (StreamRule, usize),
    tokens: usize,
) -> Result<(), GpuError> {
    let views = [x, out, weights];
    let counts = (tokens, rule.width());
    run(r, Kind::Collapse, &views, (rule.streams, dim), counts)
}

/// `out`, shaped as `x` `[tokens, streams, dim]`: the streams mixed by `weights`
/// `[tokens, rule.width()]`, with `block` `[tokens, dim]`.
///
/// # Errors
/// As [`collapse_streams`]; a rule that only collapses.
pub fn spread_streams(
    r: &mut Recorder,
    (x, block, weights, out): (View<'_>, View<'_>, View<'_>, View<'_>),
    (rule, dim): (StreamRule, usize),
    tokens: usize,
) -> Result<(), GpuError> {
    check::positive(OP, "the number of iterations", rule.iterations)?;
    let views = [x, out, weights, block];
    let counts = (tokens, rule.width());
    run(r, Kind::Spread, &views, (rule.streams, dim), counts)
}

/// `out` `[tokens, dim]`: the mean of the streams of `x` `[tokens, streams, dim]`.
///
/// # Errors
/// As [`collapse_streams`].
pub fn mean_streams(
    r: &mut Recorder,
    (x, out): (View<'_>, View<'_>),
    sizes: StreamSizes,
    tokens: usize,
) -> Result<(), GpuError> {
    run(r, Kind::Mean, &[x, out], sizes, (tokens, 0))
}

/// `out` `[tokens, dim]`: the mean of the streams of `x`, each element times the sigmoid of its
/// gate; `x` and `gates` `[tokens, streams, dim]`.
///
/// # Errors
/// As [`collapse_streams`].
pub fn mix_streams(
    r: &mut Recorder,
    (x, gates, out): (View<'_>, View<'_>, View<'_>),
    sizes: StreamSizes,
    tokens: usize,
) -> Result<(), GpuError> {
    let width = sizes.0.saturating_mul(sizes.1);
    run(r, Kind::Mix, &[x, out, gates], sizes, (tokens, width))
}

/// `out`, shaped as `x` `[tokens, streams, dim]`: `block` `[tokens, dim]` added to each stream by
/// its weight, `weights` `[tokens, streams]` before their sigmoid.
///
/// # Errors
/// As [`collapse_streams`].
pub fn inject_streams(
    r: &mut Recorder,
    (x, block, weights, out): (View<'_>, View<'_>, View<'_>, View<'_>),
    sizes: StreamSizes,
    tokens: usize,
) -> Result<(), GpuError> {
    let views = [x, out, weights, block];
    run(r, Kind::Inject, &views, sizes, (tokens, sizes.0))
}
