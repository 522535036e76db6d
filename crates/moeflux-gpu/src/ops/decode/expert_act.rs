//! The experts' first half: `silu(gate x) * (up x)`.

use super::super::check::{holds, positive, product};
use super::super::{ExpertSlots, RouterShape};
use super::choice;
use super::input::{Input, Kind};
use super::{ahead, runs, threads};
use crate::matrix::{Form, Place, TILE, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "expert_act",
    parts: &[
        include_str!("../common.wgsl"),
        include_str!("../form.wgsl"),
        include_str!("dot.wgsl"),
        include_str!("ahead.wgsl"),
        include_str!("stage.wgsl"),
        include_str!("join.wgsl"),
        "//#if CHOOSES",
        include_str!("choose.wgsl"),
        "//#endif",
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
    /// Logits of which the choices are made here, and where their weights go (their ids go where
    /// `experts` has them); without, they are there already.
    pub choose: Option<Choose<'a>>,
    /// `[choices of all tokens, intermediate]`.
    pub out: View<'a>,
}

/// A choice that is made on the way; see [`can_choose`](super::can_choose).
#[derive(Clone, Copy)]
pub struct Choose<'a> {
    /// `[tokens, experts]`.
    pub logits: View<'a>,
    /// `[tokens, top_k]`.
    pub weights: View<'a>,
    /// Of what.
    pub shape: RouterShape,
}

fn params(form: &Form, input: Kind, is_noted: bool, chooser: Option<Vec<Param>>) -> Vec<Param> {
    let threads = threads(runs(form), 128);
    let mut params = form.params();
    params.extend(input.params(form.cols, threads));
    let besides = 5 + input.besides() as u32;
    let (ahead, more) = ahead(form, input.staged(form.cols), threads);
    params.extend([
        ("THREADS", threads),
        ("AHEAD", ahead),
        ("MORE", more),
        ("NOTED", u32::from(is_noted) * besides),
    ]);
    if let Some(chooser) = chooser {
        params.push(("CHOOSES", besides + u32::from(is_noted)));
        params.extend(chooser);
    }
    params
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let shape = RouterShape {
        experts: 256,
        top_k: 8,
        renormalize: true,
    };
    let forms = all_forms(2048).into_iter().chain(all_forms(6144));
    let forms = forms.filter(super::is_readable);
    let sets = forms.flat_map(|form| {
        let chooser = choice::params(shape, 32);
        [
            params(&form, Kind::Plain, true, None),
            params(&form, Kind::Norm, false, chooser),
        ]
    });
    (&SHADER, sets.collect())
}

/// Runs it.
///
/// # Errors
/// Views that are too small, an input of another kind, a choice that is not of this device, and what
/// [`Recorder::dispatch`] says.
pub fn expert_act(r: &mut Recorder, a: &ExpertAct<'_>) -> Result<(), GpuError> {
    let name = SHADER.name;
    let (form, gate, up) = a.matrices;
    positive(name, "experts of a token", a.top_k)?;
    let len = product(name, &[a.experts.n, form.rows])? as usize;
    holds(name, "out", &a.out, len)?;
    holds(name, "ids", &a.experts.ids, a.experts.n)?;
    let tokens = a.experts.n / a.top_k;
    a.input.check(name, tokens, form)?;
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
    let mut chooser = None;
    if let Some(choose) = &a.choose {
        let ids = &a.experts.ids;
        choice::check(
            name,
            (&choose.logits, ids, &choose.weights),
            choose.shape,
            tokens,
        )?;
        chooser = choice::chooser_params(r.gpu(), choose.shape);
        if chooser.is_none() || choose.shape.top_k != a.top_k {
            let problem = format!("{name}: a choice of shape {:?}", choose.shape);
            return Err(GpuError::Refused { problem });
        }
        views.extend([choose.logits, choose.weights]);
    }
    let note = a.notes.map_or(0, |(_, number)| number);
    let mut immediates = vec![form.cols as u32, form.rows as u32, a.input.eps().to_bits()];
    immediates
        .extend([a.top_k, a.choices.start, note, a.experts.slot_bytes / 16].map(|n| n as u32));
    for place in [gate, up] {
        immediates.extend([place.weights, place.scales, place.biases]);
    }
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(form, a.input.kind(), a.notes.is_some(), chooser),
        views: &views,
        immediates: &immediates,
        groups: [form.rows.div_ceil(TILE) as u32, a.choices.len() as u32, 1],
    })
}
