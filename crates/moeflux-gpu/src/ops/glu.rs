//! The gated activation of an MLP: that between experts' products, of one that is always used.

use moeflux_kernels::Glu;

use super::{ExpertExtras, Pairs};
use crate::{GpuError, Recorder, View};

/// `out` of what gate and up gave, all of `len` elements.
///
/// # Errors
/// As [`ExpertExtras::activate`].
pub fn glu(
    r: &mut Recorder,
    (gate, up, out): (View<'_>, View<'_>, View<'_>),
    rule: Glu,
    len: usize,
) -> Result<(), GpuError> {
    let form = ExpertExtras {
        glu: rule,
        biases: None,
    };
    // Without biases nobody asks whose they are.
    let pairs = Pairs {
        ids: gate,
        first: 0,
        len,
    };
    form.activate(r, (gate, up), pairs, out, 1)
}
