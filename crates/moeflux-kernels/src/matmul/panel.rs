//! The panel: a segment of 16 rows of integer weights, transposed into quads.

use super::TILE;
use crate::{SEGMENT, lanes::Lanes};

/// The quads of a segment.
const QUADS: usize = SEGMENT / 4;
/// Low halves of all bytes.
pub(super) const NIBBLES: i32 = 0x0f0f_0f0f;

/// Four consecutive elements of each of 16 rows, one byte an element, quad after quad.
#[repr(align(64))]
pub(super) struct Panel(pub(super) [[i32; TILE]; QUADS]);

impl Default for Panel {
    fn default() -> Self {
        Panel([[0; TILE]; QUADS])
    }
}

/// A segment's bytes of 16 rows, and what to prefetch while they are read: rows are read in
/// pieces too short for the hardware to see where it is going.
pub(super) struct Source<'a> {
    pub(super) rows: &'a [u8],
    pub(super) stride: usize,
    /// All weights.
    pub(super) all: &'a [u8],
    /// Where in them to prefetch.
    pub(super) ahead: usize,
}

impl Source<'_> {
    /// Bytes at .. at + 16 of each row; as many bytes are prefetched.
    #[inline(always)]
    pub(super) fn quads<L: Lanes>(&self, l: L, at: usize) -> [L::I; 4] {
        for line in 0..4 {
            l.prefetch(self.all, self.ahead + at * TILE + line * 64);
        }
        l.load_quads(&self.rows[at..], self.stride)
    }
}

/// Fills the panel from `width` bytes of 16 rows: bytes as they are (`BYTES`), or 4-bit integers
/// split into the even and the odd ones of every eight.
#[inline(always)]
pub(super) fn fill<L: Lanes, const BYTES: bool>(
    l: L,
    source: &Source<'_>,
    width: usize,
    panel: &mut Panel,
) {
    let nibbles = l.splat_i(NIBBLES);
    for chunk in 0..width / 16 {
        let quads = source.quads(l, chunk * 16);
        for q in 0..4 {
            let at = chunk * 4 + q;
            if BYTES {
                l.store_i(quads[q], &mut panel.0[at]);
            } else {
                l.store_i(l.and_i(quads[q], nibbles), &mut panel.0[2 * at]);
                let odd = l.and_i(l.shift_right::<4>(quads[q]), nibbles);
                l.store_i(odd, &mut panel.0[2 * at + 1]);
            }
        }
    }
}
