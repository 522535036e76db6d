//! Products of experts' integer-coded matrices with vectors rounded to 8 bits, in the processor's
//! order: its bits, as [`crate::exactness`] checks.

use super::check::positive;
use super::expert_matvec::ExpertSlots;
use crate::matrix::{Form, Place, TILE, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "expert_exact",
    parts: &[
        include_str!("form.wgsl"),
        include_str!("exact.wgsl"),
        include_str!("expert_exact.wgsl"),
    ],
};
/// The most columns that are rounded at once.
const CHUNK: usize = 2048;
/// Columns of a segment.
const SEGMENT: usize = moeflux_kernels::SEGMENT;

fn params(form: &Form, is_fused: bool, has_fma: bool) -> Vec<Param> {
    let chunk = form.cols.next_multiple_of(SEGMENT).min(CHUNK);
    let mut params = form.params();
    params.extend([
        ("THREADS", if chunk > SEGMENT { 128 } else { 64 }),
        ("MATRICES", if is_fused { 2 } else { 1 }),
        ("FUSED", u32::from(is_fused)),
        ("CHUNK", chunk as u32),
        ("HAS_FMA", u32::from(has_fma)),
        ("WIDE", u32::from(form.is_wide())),
    ]);
    params
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let forms = all_forms(4096).into_iter().chain(all_forms(512));
    let forms = forms.filter(|form| form.rounding().is_some());
    let both = [false, true];
    let all = forms.flat_map(|form| {
        both.into_iter()
            .flat_map(move |fused| both.map(|has_fma| params(&form, fused, has_fma)))
    });
    (&SHADER, all.collect())
}

fn run(
    r: &mut Recorder,
    experts: &ExpertSlots<'_>,
    (form, places, is_fused): (&Form, [Place; 2], bool),
    (x, share): (View<'_>, usize),
    out: View<'_>,
) -> Result<(), GpuError> {
    positive(SHADER.name, "share", share)?;
    let used = if is_fused { &places[..] } else { &places[..1] };
    experts.check(form, used, (&x, share), &out)?;
    if form.rounding().is_none() {
        let problem = "its weights are not integers".to_owned();
        return Err(GpuError::Unsupported {
            op: SHADER.name,
            problem,
        });
    }
    let has_fma = r.gpu().has_fma();
    let slot = experts.slot_bytes / 16;
    let sizes = [experts.n, form.cols, form.rows, share, slot].map(|size| size as u32);
    let mut immediates = sizes.to_vec();
    for place in places {
        immediates.extend([place.weights, place.scales, place.biases]);
    }
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(form, is_fused, has_fma),
        views: &[experts.slots, x, out, experts.ids, experts.table],
        immediates: &immediates,
        groups: [form.rows.div_ceil(TILE) as u32, experts.n as u32, 1],
    })
}

/// `out[n, rows]` = each expert's matrix at `place` of its slot times its row of `x`, rounded to 8
/// bits; `share` vectors in a row have the same row.
///
/// # Errors
/// As [`Recorder::dispatch`], views that are too short, and matrices of floats.
pub fn expert_exact(
    r: &mut Recorder,
    experts: &ExpertSlots<'_>,
    (form, place): (&Form, Place),
    x: (View<'_>, usize),
    out: View<'_>,
) -> Result<(), GpuError> {
    run(r, experts, (form, [place, Place::default()], false), x, out)
}

/// `out[n, rows]` = `silu(gate * x) * (up * x)` with each expert's two matrices of one form, `x`
/// rounded to 8 bits.
///
/// # Errors
/// As [`expert_exact`].
pub fn expert_exact_swiglu(
    r: &mut Recorder,
    experts: &ExpertSlots<'_>,
    (form, gate, up): (&Form, Place, Place),
    x: (View<'_>, usize),
    out: View<'_>,
) -> Result<(), GpuError> {
    run(r, experts, (form, [gate, up], true), x, out)
}
