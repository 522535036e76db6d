//! Kernels for steps of few tokens, where what counts is how many dispatches follow one another: each
//! does what several operations of a graph do. A row's arithmetic does not depend on the others.

mod choice;
mod delta_step;
mod expert_act;
mod expert_sum;
mod heads;
mod input;
mod products;

pub use choice::{can_choose, choice};
pub(crate) use delta_step::has_shape as has_delta_shape;
pub use delta_step::{DeltaStep, delta_step};
pub use expert_act::{Choose, ExpertAct, expert_act};
pub use expert_sum::{ExpertSum, SharedExpert, expert_sum};
pub use heads::{Heads, heads};
pub use input::Input;
pub(crate) use input::has_pieces;
pub use products::{MAX_SEGMENTS, Segment, products};

use crate::matrix::{Elements, Form};
use crate::{Param, Shader};

/// Every kernel of this module with sets of parameters, for checking translations.
pub(super) fn all_kernels() -> Vec<(&'static Shader, Vec<Vec<Param>>)> {
    vec![
        products::kernels(),
        choice::kernels(),
        expert_act::kernels(),
        expert_sum::kernels(),
        heads::kernels(),
        delta_step::kernels(),
    ]
}

/// Whether these kernels can read a matrix of this form.
pub fn is_readable(form: &Form) -> bool {
    let run = match form.rounding() {
        Some(_) => 32,
        None => 8,
    };
    form.cols > 0 && form.cols.is_multiple_of(run) && form.elements != Elements::F8
}

/// Threads of a workgroup for this many runs of a row.
fn threads(runs: usize, least: usize) -> u32 {
    (runs * 4).next_power_of_two().clamp(least, 256) as u32
}

/// Runs of a row.
fn runs(form: &Form) -> usize {
    form.cols.div_ceil(form.span())
}

/// Runs that a thread of `threads` asks for before the vector of `staged` elements is there, few
/// enough for its registers, and whether it has more.
fn ahead(form: &Form, staged: usize, threads: u32) -> (u32, u32) {
    /// 16-byte words.
    const ROOM: usize = 16;
    let planes = form.params().into_iter().find(|p| p.0 == "PLANES");
    let words = planes.map_or(8, |(_, planes)| 2 + planes as usize);
    let own = staged.div_ceil(form.span()).div_ceil(threads as usize / 4);
    let ahead = own.clamp(1, (ROOM / words).max(1));
    (ahead as u32, u32::from(own > ahead))
}
