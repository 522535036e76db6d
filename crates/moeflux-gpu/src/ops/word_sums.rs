//! The sums of the words of a buffer's parts: how fast memory can be read is measured by it.

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::check;

const OP: &str = "word_sums";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("word_sums.wgsl")],
};
const THREADS: usize = 256;
/// vec4s that a thread adds up.
const EACH: usize = 16;
/// Words of a part.
pub const PART_WORDS: usize = THREADS * EACH * 4;

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    (&SHADER, vec![vec![]])
}

/// The sum (modulo 2^32) of each [`PART_WORDS`] words of `x`, the last ones maybe fewer, to `out`.
///
/// # Errors
/// `x` of other than whole vec4s, `out` too small, and what [`Recorder::dispatch`] says.
pub fn word_sums(r: &mut Recorder, x: View<'_>, out: View<'_>) -> Result<(), GpuError> {
    let words = (x.bytes / 4) as usize;
    if !words.is_multiple_of(4) {
        let problem = format!("{words} words, which are not of four each");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    let parts = words.div_ceil(PART_WORDS);
    check::holds(OP, "out", &out, parts)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &[],
        views: &[x, out],
        immediates: &[(words / 4) as u32, EACH as u32],
        groups: super::grid(parts as u32),
    })
}
