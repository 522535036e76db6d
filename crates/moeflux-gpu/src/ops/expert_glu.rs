//! What lies between experts' products where it is more than `silu(gate) * up`, and what is added
//! behind the last.

use moeflux_kernels::Glu;

use super::{check, grid, swiglu};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "expert_glu";
static GLU: Shader = Shader {
    name: OP,
    parts: &[include_str!("common.wgsl"), include_str!("expert_glu.wgsl")],
};
static BIAS: Shader = Shader {
    name: "expert_bias",
    parts: &[
        include_str!("common.wgsl"),
        include_str!("expert_bias.wgsl"),
    ],
};
/// Threads of a workgroup.
const THREADS: u32 = 256;

/// What a layer's experts compute beside the products with their matrices.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpertExtras<'a> {
    /// What becomes of the results of gate and up.
    pub glu: Glu,
    /// Added to the results of gate, up and down: `[experts, intermediate]` twice, then
    /// `[experts, hidden]`.
    pub biases: Option<[View<'a>; 3]>,
}

/// Pairs of a token and an expert in a row: their experts, the first, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// Expert of each pair of the step, u32.
    pub ids: View<'a>,
    /// The first.
    pub first: usize,
    /// Their number.
    pub len: usize,
}

fn params(is_biased: bool, is_clamped: bool) -> Vec<Param> {
    let biased = u32::from(is_biased);
    vec![("BIASED", biased), ("CLAMPED", u32::from(is_clamped))]
}

pub(super) fn kernels() -> [(&'static Shader, Vec<Vec<Param>>); 2] {
    let sets = [(true, true), (true, false), (false, true)];
    let sets = sets.map(|(biased, clamped)| params(biased, clamped));
    [(&GLU, sets.to_vec()), (&BIAS, vec![vec![]])]
}

impl ExpertExtras<'_> {
    /// Whether there is nothing but `silu(gate) * up`.
    pub fn is_plain(&self) -> bool {
        self.glu == Glu::Silu && self.biases.is_none()
    }

    /// `out` of what gate and up gave, all `[pairs of the step, width]`.
    ///
    /// # Errors
    /// A buffer too small, and what [`Recorder::dispatch`] says.
    pub fn activate(
        &self,
        r: &mut Recorder,
        (gate, up): (View<'_>, View<'_>),
        pairs: Pairs<'_>,
        out: View<'_>,
        width: usize,
    ) -> Result<(), GpuError> {
        if self.is_plain() {
            return swiglu(r, gate, up, out);
        }
        let end = check::product(OP, &[pairs.first + pairs.len, width])? as usize;
        for view in [&gate, &up, &out] {
            check::holds(OP, "gates, ups, or out", view, end)?;
        }
        let mut views = vec![gate, up, out];
        if let Some([gate_bias, up_bias, _]) = self.biases {
            check::holds(OP, "ids", &pairs.ids, pairs.first + pairs.len)?;
            views.extend([pairs.ids, gate_bias, up_bias]);
        }
        let (is_clamped, rule) = match self.glu {
            Glu::Silu => (false, [0.0; 3]),
            Glu::Clamped {
                limit,
                alpha,
                offset,
            } => (true, [limit, alpha, offset]),
        };
        let mut immediates = [pairs.first, pairs.len, width].map(|n| n as u32).to_vec();
        immediates.extend(rule.map(f32::to_bits));
        r.dispatch(&Dispatch {
            shader: &GLU,
            params: &params(self.biases.is_some(), is_clamped),
            views: &views,
            immediates: &immediates,
            groups: grid(((pairs.len * width) as u32).div_ceil(THREADS)),
        })
    }

    /// Adds the last bias to `results` `[pairs of the step, width]`.
    ///
    /// # Errors
    /// As [`ExpertExtras::activate`].
    pub fn finish(
        &self,
        r: &mut Recorder,
        results: View<'_>,
        pairs: Pairs<'_>,
        width: usize,
    ) -> Result<(), GpuError> {
        let Some([_, _, bias]) = self.biases else {
            return Ok(());
        };
        let end = pairs.first + pairs.len;
        check::holds(
            OP,
            "results",
            &results,
            check::product(OP, &[end, width])? as usize,
        )?;
        check::holds(OP, "ids", &pairs.ids, end)?;
        r.dispatch(&Dispatch {
            shader: &BIAS,
            params: &[],
            views: &[results, pairs.ids, bias],
            immediates: &[pairs.first, pairs.len, width].map(|n| n as u32),
            groups: grid(((pairs.len * width) as u32).div_ceil(THREADS)),
        })
    }
}
