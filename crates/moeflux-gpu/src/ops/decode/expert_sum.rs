//! The experts' second half: their weighted sum, with the shared expert and the residual stream.

use super::super::ExpertSlots;
use super::super::check::{holds, product};
use super::runs;
use crate::matrix::{Form, Place, TILE, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "expert_sum",
    parts: &[
        include_str!("../common.wgsl"),
        include_str!("../form.wgsl"),
        include_str!("dot.wgsl"),
        "//#if SHARED",
        "//#form B mB",
        include_str!("../form.wgsl"),
        include_str!("dot.wgsl"),
        "//#form  m",
        "//#endif",
        include_str!("join.wgsl"),
        include_str!("expert_sum.wgsl"),
    ],
};
/// Threads of a workgroup.
const THREADS: usize = 256;

/// Elements of the shared expert's activations that workgroup memory takes at a time.
const STAGED: usize = 2048;

/// The expert that every token uses.
#[derive(Clone, Copy)]
pub struct SharedExpert<'a> {
    /// Its down matrix, `[hidden, shared intermediate]`, and where it lies.
    pub down: (&'a Form, Place, View<'a>),
    /// The buffer with the results of its gate and up, and of the gate for all of it.
    pub inputs: View<'a>,
    /// Where those of gate and up begin there, `[tokens, shared intermediate]`, in elements.
    pub gates: usize,
    /// As `gates`.
    pub ups: usize,
    /// Where the gates for all of it begin, `[tokens]`; it is added as it is without.
    pub scales: Option<usize>,
}

/// What the experts of a layer give.
pub struct ExpertSum<'a> {
    /// The experts; `n` choices of all tokens. `ids` also has the weights.
    pub experts: ExpertSlots<'a>,
    /// Where the choices' weights begin in `ids`, in elements.
    pub weights: usize,
    /// The form of downs, `[hidden, intermediate]`, and where they lie in a slot.
    pub down: (&'a Form, Place),
    /// `[choices of all tokens, intermediate]`.
    pub act: View<'a>,
    /// Experts that a token uses.
    pub top_k: usize,
    /// The tokens to compute.
    pub tokens: std::ops::Range<usize>,
    /// The expert that every token uses.
    pub shared: Option<SharedExpert<'a>>,
    /// Added to the result, `[tokens, hidden]`.
    pub added: Option<View<'a>>,
    /// `[tokens, hidden]`.
    pub out: View<'a>,
}

fn params(form: &Form, top_k: usize, shared: Option<(&Form, bool)>, is_added: bool) -> Vec<Param> {
    let mut params = form.params();
    let lanes = runs(form).next_power_of_two().min(THREADS / 4);
    if let Some((form, is_gated)) = shared {
        params.extend(form.second_params());
        let staged = form.cols.next_multiple_of(32).min(STAGED);
        params.extend([("SHARED", 1), ("SHARED_GATE", u32::from(is_gated))]);
        let more = form.cols > staged || runs(form) > THREADS / 4;
        params.extend([("BSTAGED", staged as u32), ("SHARED_MORE", u32::from(more))]);
    }
    let ahead = top_k.div_ceil(THREADS / 4 / lanes).min(2);
    let added = 5 + 2 * u32::from(shared.is_some());
    params.extend([
        ("THREADS", THREADS as u32),
        ("LANES", lanes as u32),
        ("RUNS", runs(form) as u32),
        ("MORE", u32::from(runs(form) > lanes)),
        ("AHEAD", ahead as u32),
        ("TWO", u32::from(ahead == 2)),
        ("TOP_K", top_k as u32),
        ("ADDED", u32::from(is_added) * added),
    ]);
    params
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    let (mut forms, mut others) = (all_forms(512), all_forms(1024));
    for forms in [&mut forms, &mut others] {
        forms.retain(super::is_readable);
    }
    for (form, other) in forms.iter().zip(others.iter().rev()) {
        all.push(params(form, 8, Some((other, true)), true));
        all.push(params(form, 10, Some((form, false)), false));
        all.push(params(other, 2, None, true));
    }
    (&SHADER, all)
}

/// Runs it.
///
/// # Errors
/// Views that are too small, matrices that do not go together, and what [`Recorder::dispatch`] says.
pub fn expert_sum(r: &mut Recorder, s: &ExpertSum<'_>) -> Result<(), GpuError> {
    let name = SHADER.name;
    check(s)?;
    let (form, place) = s.down;
    let mut views = vec![
        s.experts.slots,
        s.act,
        s.out,
        s.experts.ids,
        s.experts.table,
    ];
    let mut immediates = vec![form.rows, form.cols, s.tokens.start, s.weights];
    immediates.push(s.experts.slot_bytes / 16);
    immediates.extend([place.weights, place.scales, place.biases].map(|at| at as usize));
    if let Some(shared) = &s.shared {
        let (down, place, matrices) = shared.down;
        let start = |at: usize| match at.is_multiple_of(4) {
            true => Ok(at / 4),
            false => Err(GpuError::Refused {
                problem: format!("{name}: the shared expert's inputs begin at {at}"),
            }),
        };
        immediates.extend([down.cols, start(shared.gates)?, start(shared.ups)?]);
        immediates.push(shared.scales.unwrap_or(0));
        immediates.extend([place.weights, place.scales, place.biases].map(|at| at as usize));
        views.extend([matrices, shared.inputs]);
    }
    views.extend(s.added);
    let immediates: Vec<u32> = immediates.iter().map(|&n| n as u32).collect();
    let shared = s
        .shared
        .map(|shared| (shared.down.0, shared.scales.is_some()));
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(form, s.top_k, shared, s.added.is_some()),
        views: &views,
        immediates: &immediates,
        groups: [form.rows.div_ceil(TILE) as u32, s.tokens.len() as u32, 1],
    })
}

fn check(s: &ExpertSum<'_>) -> Result<(), GpuError> {
    let name = SHADER.name;
    let (form, place) = s.down;
    let tokens = s.tokens.end;
    let len = product(name, &[tokens, form.rows])? as usize;
    holds(name, "out", &s.out, len)?;
    if let Some(added) = &s.added {
        holds(name, "what is added", added, len)?;
    }
    let choices = product(name, &[tokens, s.top_k])? as usize;
    holds(name, "choices", &s.experts.ids, s.weights + choices)?;
    let act = product(name, &[choices, form.cols])? as usize;
    holds(name, "act", &s.act, act)?;
    let mut is_sound = super::is_readable(form) && form.end(place) <= s.experts.slot_bytes;
    if let Some(shared) = &s.shared {
        let (down, place, matrices) = shared.down;
        is_sound &= super::is_readable(down) && down.rows == form.rows;
        holds(name, "the shared expert", &matrices, down.end(place) / 4)?;
        let width = tokens * down.cols;
        let last = (shared.gates + width).max(shared.ups + width);
        let last = last.max(
            shared
                .scales
                .map_or(0, |at| (at + tokens).next_multiple_of(4)),
        );
        holds(name, "the shared expert's inputs", &shared.inputs, last)?;
    }
    match is_sound {
        true => Ok(()),
        false => Err(GpuError::Refused {
            problem: format!("{name}: matrices of form {form:?}"),
        }),
    }
}
