//! Rotary positions.

use moeflux_kernels::RopeStyle;

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{check, grid};

const OP: &str = "rope";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("turn.wgsl"),
        include_str!("rope.wgsl"),
    ],
};
/// Threads of a workgroup.
const THREADS: u32 = 64;

/// Which heads are rotated, and how.
#[derive(Clone, Copy, Debug)]
pub struct RopeShape {
    /// Number of heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rotated pairs.
    pub pairs: usize,
    /// Which elements form a pair.
    pub style: RopeStyle,
    /// Factor on sine and cosine.
    pub attention_scale: f32,
}

fn params(shape: RopeShape, stepped: bool) -> [Param; 6] {
    [
        ("HEADS", shape.heads as u32),
        ("DIM", shape.head_dim as u32),
        ("PAIRS", shape.pairs as u32),
        (
            "INTERLEAVED",
            u32::from(shape.style != RopeStyle::HalfSplit),
        ),
        ("TAIL", u32::from(shape.style == RopeStyle::InterleavedTail)),
        ("STEPPED", u32::from(stepped)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for style in [
        RopeStyle::HalfSplit,
        RopeStyle::Interleaved,
        RopeStyle::InterleavedTail,
    ] {
        for (heads, head_dim, pairs) in [(16, 256, 32), (2, 256, 32), (32, 128, 64), (3, 8, 4)] {
            let attention_scale = 1.0;
            let shape = RopeShape {
                heads,
                head_dim,
                pairs,
                style,
                attention_scale,
            };
            all.extend([false, true].map(|stepped| params(shape, stepped).to_vec()));
        }
    }
    (&SHADER, all)
}

/// Rotates the heads of `tokens` tokens: `x` and `out` `[tokens, heads, head_dim]`, `positions`
/// `[tokens]` of u32, `inv_freq` `[pairs]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn rope(
    r: &mut Recorder,
    (x, positions, inv_freq, out): (View<'_>, View<'_>, View<'_>, View<'_>),
    shape: RopeShape,
    tokens: usize,
) -> Result<(), GpuError> {
    check::holds(OP, "positions", &positions, tokens)?;
    let sizes = [tokens as u32, shape.attention_scale.to_bits()];
    let views = [x, inv_freq, out, positions];
    run(r, &views, shape, tokens, &sizes)
}

/// [`rope`] where row t is at position `start + t * step`.
///
/// # Errors
/// As there.
pub fn rope_stepped(
    r: &mut Recorder,
    (x, inv_freq, out): (View<'_>, View<'_>, View<'_>),
    shape: RopeShape,
    tokens: usize,
    (start, step): (usize, usize),
) -> Result<(), GpuError> {
    check::product(OP, &[start.saturating_add(tokens.saturating_mul(step))])?;
    let [tokens_of, start, step] = [tokens, start, step].map(|n| n as u32);
    let sizes = [tokens_of, shape.attention_scale.to_bits(), start, step];
    run(r, &[x, inv_freq, out], shape, tokens, &sizes)
}

/// `views`: x, inv_freq and out, and positions where they do not go by steps.
fn run(
    r: &mut Recorder,
    views: &[View<'_>],
    shape: RopeShape,
    tokens: usize,
    sizes: &[u32],
) -> Result<(), GpuError> {
    let RopeShape {
        heads,
        head_dim,
        pairs,
        ..
    } = shape;
    if 2 * pairs > head_dim {
        let problem = format!("{pairs} pairs in heads of {head_dim} elements");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    let len = check::product(OP, &[tokens, heads, head_dim])? as usize;
    check::holds(OP, "x", &views[0], len)?;
    check::holds(OP, "inv_freq", &views[1], pairs)?;
    check::holds(OP, "out", &views[2], len)?;
    let units = (tokens * heads * (head_dim - pairs)) as u32;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(shape, views.len() == 3),
        views,
        immediates: sizes,
        groups: grid(units.div_ceil(THREADS)),
    })
}
