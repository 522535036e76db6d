//! Rotary positions.

use moeflux_kernels::RopeStyle;

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{check, grid};

static SHADER: Shader = Shader {
    name: "rope",
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

fn params(shape: RopeShape) -> [Param; 4] {
    [
        ("HEADS", shape.heads as u32),
        ("DIM", shape.head_dim as u32),
        ("PAIRS", shape.pairs as u32),
        (
            "INTERLEAVED",
            u32::from(shape.style == RopeStyle::Interleaved),
        ),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        for (heads, head_dim, pairs) in [(16, 256, 32), (2, 256, 32), (32, 128, 64), (3, 8, 4)] {
            let attention_scale = 1.0;
            let shape = RopeShape {
                heads,
                head_dim,
                pairs,
                style,
                attention_scale,
            };
            all.push(params(shape).to_vec());
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
    const OP: &str = "rope";
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
    check::holds(OP, "x", &x, len)?;
    check::holds(OP, "out", &out, len)?;
    check::holds(OP, "positions", &positions, tokens)?;
    check::holds(OP, "inv_freq", &inv_freq, pairs)?;
    let units = (tokens * heads * (head_dim - pairs)) as u32;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(shape),
        views: &[x, positions, inv_freq, out],
        immediates: &[tokens as u32, shape.attention_scale.to_bits()],
        groups: grid(units.div_ceil(THREADS)),
    })
}
