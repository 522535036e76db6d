//! Products of each token's experts' matrices with its vector: the matrices lie in slots, and a
//! table on the device tells which slot an expert has.

use super::check::{holds, positive, product};
use super::matvec::{self, SHADER};
use crate::matrix::{Form, Place, TILE, all_forms};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

/// Experts' matrices in slots, and who needs them.
#[derive(Clone, Copy, Debug)]
pub struct ExpertSlots<'a> {
    /// All slots, each of the same size.
    pub slots: View<'a>,
    /// Bytes of a slot, a multiple of 16.
    pub slot_bytes: usize,
    /// Slot of each expert, u32; all ones where it has none: such products are left out.
    pub table: View<'a>,
    /// Expert of each vector, u32.
    pub ids: View<'a>,
    /// Vectors.
    pub n: usize,
}

fn params(form: &Form, is_fused: bool) -> Vec<Param> {
    let mut params = matvec::params(form, 1);
    params.extend([("EXPERTS", 1), ("FUSED", u32::from(is_fused))]);
    params
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let forms = all_forms(2048).into_iter().chain(all_forms(512));
    let all = forms.flat_map(|form| [false, true].map(|is_fused| params(&form, is_fused)));
    (&SHADER, all.collect())
}

impl ExpertSlots<'_> {
    /// Requires views that hold what a product with matrices of this form touches. Slots named in
    /// the table are the caller's word; a matrix must lie within its slot.
    pub(super) fn check(
        &self,
        form: &Form,
        places: &[Place],
        (x, share): (&View<'_>, usize),
        out: &View<'_>,
    ) -> Result<(), GpuError> {
        let name = SHADER.name;
        positive(name, "share", share)?;
        let rows = self.n.div_ceil(share);
        holds(name, "x", x, product(name, &[rows, form.cols])? as usize)?;
        holds(
            name,
            "out",
            out,
            product(name, &[self.n, form.rows])? as usize,
        )?;
        holds(name, "ids", &self.ids, self.n)?;
        self.holds_matrices(form, places)
    }

    /// Requires matrices of this form that lie within a slot.
    pub(super) fn holds_matrices(&self, form: &Form, places: &[Place]) -> Result<(), GpuError> {
        let name = SHADER.name;
        holds(name, "slots", &self.slots, self.slot_bytes / 4)?;
        for place in places {
            let end = form.end(*place);
            if end > self.slot_bytes {
                let problem = format!(
                    "{name}: a matrix ends at byte {end} of its slot of {}",
                    self.slot_bytes
                );
                return Err(GpuError::Refused { problem });
            }
        }
        Ok(())
    }

    fn immediates(&self, form: &Form, share: usize, places: [Place; 2]) -> Vec<u32> {
        let (rows, slot) = (form.rows as u32, (self.slot_bytes / 16) as u32);
        let mut all = vec![self.n as u32, form.cols as u32, rows, rows, 0];
        all.extend([share as u32, slot, 0]);
        for place in places {
            all.extend([place.weights, place.scales, place.biases]);
        }
        all
    }
}

/// `out[n, rows]` = each expert's matrix at `place` of its slot times its row of `x`; `share`
/// vectors in a row have the same row.
///
/// # Errors
/// As [`Recorder::dispatch`], and views that are too short.
pub fn expert_matvec(
    r: &mut Recorder,
    experts: &ExpertSlots<'_>,
    (form, place): (&Form, Place),
    (x, share): (View<'_>, usize),
    out: View<'_>,
) -> Result<(), GpuError> {
    experts.check(form, &[place], (&x, share), &out)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(form, false),
        views: &[experts.slots, x, out, experts.ids, experts.table],
        immediates: &experts.immediates(form, share, [place, Place::default()]),
        groups: [form.rows.div_ceil(TILE) as u32, experts.n as u32, 1],
    })
}

/// `out[n, rows]` = `silu(gate * x) * (up * x)` with each expert's two matrices of one form.
///
/// # Errors
/// As [`Recorder::dispatch`], and views that are too short.
pub fn expert_swiglu(
    r: &mut Recorder,
    experts: &ExpertSlots<'_>,
    (form, gate, up): (&Form, Place, Place),
    (x, share): (View<'_>, usize),
    out: View<'_>,
) -> Result<(), GpuError> {
    experts.check(form, &[gate, up], (&x, share), &out)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(form, true),
        views: &[experts.slots, x, out, experts.ids, experts.table],
        immediates: &experts.immediates(form, share, [gate, up]),
        groups: [form.rows.div_ceil(TILE) as u32, experts.n as u32, 1],
    })
}
