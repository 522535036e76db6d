//! The experts' first half: `silu(gate x) * (up x)`.

use super::super::ExpertSlots;
use super::super::check::{holds, positive, product};
use super::input::{Input, Kind};
use super::{runs, threads};
use crate::matrix::{Form, Place, TILE, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "expert_act",
    parts: &[
        include_str!("../common.wgsl"),
        include_str!("../form.wgsl"),
        include_str!("dot.wgsl"),
        include_str!("stage.wgsl"),
        include_str!("join.wgsl"),
        include_str!("expert_act.wgsl"),
    ],
};

/// What the experts of a layer compute first, and for whom.
pub struct ExpertAct<'a> {
    /// The experts; `n` choices of all tokens.
    pub experts: ExpertSlots<'a>,
    /// The form of gates and ups, `[intermediate, hidden]`, and where they lie in a slot.
    pub matrices: (&'a Form, Place, Place),
    /// The tokens' vectors: as they are, or normed as a whole.
    pub input: Input<'a>,
    /// Experts that a token uses.
    pub top_k: usize,
    /// The choices to compute, of all tokens.
    pub choices: std::ops::Range<usize>,
    /// Where a choice without a slot is noted: a buffer of u32, and the number of the one to set.
    pub notes: Option<(View<'a>, usize)>,
    /// `[choices of all tokens, intermediate]`.
    pub out: View<'a>,
}

fn params(form: &Form, input: Kind, is_noted: bool) -> Vec<Param> {
    let mut params = form.params();
    params.extend(input.params(form.cols));
    let noted = u32::from(is_noted) * (5 + input.besides() as u32);
    params.extend([("THREADS", threads(runs(form), 128)), ("NOTED", noted)]);
    params
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let forms = all_forms(2048).into_iter().chain(all_forms(6144));
    let forms = forms.filter(super::is_readable);
    let sets = forms.flat_map(|form| {
        [(Kind::Plain, true), (Kind::Norm, false)].map(|(kind, noted)| params(&form, kind, noted))
    });
    (&SHADER, sets.collect())
}

/// Runs it.
///
/// # Errors
/// Views that are too small, an input of another kind, and what [`Recorder::dispatch`] says.
pub fn expert_act(r: &mut Recorder, a: &ExpertAct<'_>) -> Result<(), GpuError> {
    let name = SHADER.name;
    let (form, gate, up) = a.matrices;
    positive(name, "experts of a token", a.top_k)?;
    let len = product(name, &[a.experts.n, form.rows])? as usize;
    holds(name, "out", &a.out, len)?;
    holds(name, "ids", &a.experts.ids, a.experts.n)?;
    a.input.check(name, a.experts.n / a.top_k, form)?;
    let is_known = matches!(a.input.kind(), Kind::Plain | Kind::Norm);
    let end = form.end(gate).max(form.end(up));
    if !super::is_readable(form)
        || !is_known
        || end > a.experts.slot_bytes
        || a.choices.end > a.experts.n
    {
        let problem = format!("{name}: {form:?} to byte {end} of slots, {:?}", a.choices);
        return Err(GpuError::Refused { problem });
    }
    let (x, besides) = a.input.views();
    let mut views = vec![a.experts.slots, x, a.out, a.experts.ids, a.experts.table];
    views.extend(besides);
    views.extend(a.notes.iter().map(|(view, _)| *view));
    let note = a.notes.map_or(0, |(_, number)| number);
    let mut immediates = vec![form.cols as u32, form.rows as u32, a.input.eps().to_bits()];
    immediates
        .extend([a.top_k, a.choices.start, note, a.experts.slot_bytes / 16].map(|n| n as u32));
    for place in [gate, up] {
        immediates.extend([place.weights, place.scales, place.biases]);
    }
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(form, a.input.kind(), a.notes.is_some()),
        views: &views,
        immediates: &immediates,
        groups: [form.rows.div_ceil(TILE) as u32, a.choices.len() as u32, 1],
    })
}
