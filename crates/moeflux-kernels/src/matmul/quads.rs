//! Taking quads out of the planes of a tile's words.

use crate::coding::TILE;
use crate::lanes::Lanes;

/// Bytes to prefetch ahead of the words in use.
const AHEAD: usize = 4096;

/// The quads of a tile, unit by unit.
pub(super) trait Quads: Copy {
    /// Whether bytes may be 128 or more.
    const WIDE: bool;
    /// Whether the coding is in such use that batches of every size deserve their own code.
    const COMMON: bool;

    /// Quads 0 to 3 (or, `HIGH`, 4 to 7) of a unit.
    fn half<L: Lanes, const HIGH: bool>(self, l: L, unit: usize) -> [L::I; 4];

    /// Announces that the units after this one will be wanted.
    fn prefetch<L: Lanes>(self, l: L, unit: usize);
}

/// Quads as bytes, ready for use.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a>(pub &'a [[u8; 64]]);

impl Panel<'_> {
    /// Quads 0 to 3 (or, `HIGH`, 4 to 7) of a unit.
    #[inline(always)]
    pub fn half<L: Lanes, const HIGH: bool>(self, l: L, unit: usize) -> [L::I; 4] {
        bytes::<L, HIGH>(l, &self.0[unit * 8..][..8])
    }
}

/// Planes of `BITS` bits, as [`crate::coding`] lays them out, in blocks of `UNITS` units that begin
/// with `SCALES` bytes a lane.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a, const BITS: usize, const UNITS: usize, const SCALES: usize>(
    pub &'a [u8],
);

impl<const BITS: usize, const UNITS: usize, const SCALES: usize> Planes<'_, BITS, UNITS, SCALES> {
    /// Where a unit's words begin.
    #[inline(always)]
    fn start(unit: usize) -> usize {
        let block = (UNITS * BITS * 4 + SCALES) * TILE;
        unit / UNITS * block + SCALES * TILE + unit % UNITS * BITS * 64
    }
}

/// The bits of one quad in a word: `$mask` after a shift to the right.
macro_rules! field {
    ($l:ident, $word:expr, $shift:literal, $mask:expr) => {
        $l.and_i($l.shift_right::<$shift>($word), $l.splat_i($mask))
    };
}

impl<const BITS: usize, const UNITS: usize, const SCALES: usize> Quads
    for Planes<'_, BITS, UNITS, SCALES>
{
    const WIDE: bool = BITS == 8;
    const COMMON: bool = BITS >= 4;

    #[inline(always)]
    fn half<L: Lanes, const HIGH: bool>(self, l: L, unit: usize) -> [L::I; 4] {
        let words = self.0[Self::start(unit)..][..BITS * 64].as_chunks().0;
        match BITS {
            8 => bytes::<L, HIGH>(l, words),
            4 => four::<L, HIGH>(l, words),
            2 => two::<L, HIGH>(l, words),
            3 => join(l, two::<L, HIGH>(l, words), one::<L, HIGH, 2>(l, &words[2])),
            5 => join(
                l,
                four::<L, HIGH>(l, words),
                one::<L, HIGH, 4>(l, &words[4]),
            ),
            _ => {
                let high = shift_left::<L, 4>(l, two::<L, HIGH>(l, &words[4..]));
                join(l, four::<L, HIGH>(l, words), high)
            }
        }
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, l: L, unit: usize) {
        // One line more where scales lie between the words.
        for line in 0..BITS + SCALES.min(1) {
            l.prefetch(self.0, Self::start(unit) + line * 64 + AHEAD);
        }
    }
}

/// Codes of four bits that stand for levels; `WIDE` says whether those may be 128 or more.
#[derive(Clone, Copy)]
pub(super) struct Leveled<'a, Q, const WIDE: bool>(pub Q, pub &'a [u8; 16]);

impl<Q: Quads, const WIDE: bool> Quads for Leveled<'_, Q, WIDE> {
    const WIDE: bool = WIDE;
    const COMMON: bool = Q::COMMON;

    #[inline(always)]
    fn half<L: Lanes, const HIGH: bool>(self, l: L, unit: usize) -> [L::I; 4] {
        let mut quads = self.0.half::<L, HIGH>(l, unit);
        for quad in &mut quads {
            *quad = l.look_up(self.1, *quad);
        }
        quads
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(self, l: L, unit: usize) {
        self.0.prefetch(l, unit);
    }
}

/// Four quads that are stored as they are.
#[inline(always)]
fn bytes<L: Lanes, const HIGH: bool>(l: L, quads: &[[u8; 64]]) -> [L::I; 4] {
    let at = if HIGH { 4 } else { 0 };
    [
        l.load_bytes(&quads[at]),
        l.load_bytes(&quads[at + 1]),
        l.load_bytes(&quads[at + 2]),
        l.load_bytes(&quads[at + 3]),
    ]
}

/// Four quads of the 4-bit plane that begins with `words`.
#[inline(always)]
fn four<L: Lanes, const HIGH: bool>(l: L, words: &[[u8; 64]]) -> [L::I; 4] {
    let mut quads = [l.splat_i(0); 4];
    for q in 0..4 {
        let word = l.load_bytes(&words[q]);
        let word = if HIGH { l.shift_right::<4>(word) } else { word };
        quads[q] = l.and_i(word, l.splat_i(0x0f0f_0f0f));
    }
    quads
}

/// Four quads of the 2-bit plane that begins with `words`.
#[inline(always)]
fn two<L: Lanes, const HIGH: bool>(l: L, words: &[[u8; 64]]) -> [L::I; 4] {
    const MASK: i32 = 0x0303_0303;
    let word = l.load_bytes(&words[usize::from(HIGH)]);
    [
        l.and_i(word, l.splat_i(MASK)),
        field!(l, word, 2, MASK),
        field!(l, word, 4, MASK),
        field!(l, word, 6, MASK),
    ]
}

/// Four quads of the 1-bit plane `word`, at bit `AT` of their bytes.
#[inline(always)]
fn one<L: Lanes, const HIGH: bool, const AT: u32>(l: L, word: &[u8; 64]) -> [L::I; 4] {
    const MASK: i32 = 0x0101_0101;
    let word = l.load_bytes(word);
    let word = if HIGH { l.shift_right::<4>(word) } else { word };
    let bits = [
        l.and_i(word, l.splat_i(MASK)),
        field!(l, word, 1, MASK),
        field!(l, word, 2, MASK),
        field!(l, word, 3, MASK),
    ];
    shift_left::<L, AT>(l, bits)
}

#[inline(always)]
fn shift_left<L: Lanes, const N: u32>(l: L, mut quads: [L::I; 4]) -> [L::I; 4] {
    for quad in &mut quads {
        *quad = l.shift_left::<N>(*quad);
    }
    quads
}

#[inline(always)]
fn join<L: Lanes>(l: L, mut low: [L::I; 4], high: [L::I; 4]) -> [L::I; 4] {
    for q in 0..4 {
        low[q] = l.add_i(low[q], high[q]);
    }
    low
}
