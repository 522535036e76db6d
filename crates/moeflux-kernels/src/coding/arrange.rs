//! From rows as they lie in files to tiles, in place.

use super::source::Rows;
use super::{CodedTile, Coding, TILE, UNIT};
use crate::lanes::{Backend, Kernel, Lanes};
use crate::{Isa, KernelError, check};

/// Rearranges a matrix from rows, as files have it, to the tiles that kernels take. `weights`,
/// `scales` and `biases` are the bytes of its parts, empty where the coding has none apart.
///
/// # Errors
/// If the shape does not fit the coding or a part has another length; nothing has changed then.
pub fn arrange(
    coding: Coding,
    rows: usize,
    cols: usize,
    weights: &mut [u8],
    scales: &mut [u8],
    biases: &mut [u8],
) -> Result<(), KernelError> {
    const OP: &str = "arrange";
    let [weight_bytes, scale_count, bias_count] = coding.part_lengths(rows, cols)?;
    check::size(OP, "weight bytes", weight_bytes, weights.len())?;
    check::size(OP, "scale bytes", scale_count * 2, scales.len())?;
    check::size(OP, "bias bytes", bias_count * 2, biases.len())?;
    let backend = Backend::detect(Isa::detect()).unwrap_or(Backend::Scalar);
    let row_bytes = coding.row_bytes(cols);
    let (mut copy, mut tile) = (Vec::new(), Vec::new());
    for bytes in weights.chunks_mut(TILE * row_bytes) {
        let lanes = bytes.len() / row_bytes;
        copy.clear();
        copy.extend_from_slice(bytes);
        copy.resize(TILE * row_bytes, 0);
        tile.resize(TILE * row_bytes, 0);
        let rows = Rows {
            coding,
            bytes: &copy,
            row_bytes,
        };
        let full = lanes == TILE;
        let out = if full { &mut *bytes } else { &mut tile[..] };
        backend.run(Arrange { rows, out });
        if !full {
            squeeze(coding, cols, lanes, &tile, bytes);
        }
    }
    for part in [scales, biases].into_iter().filter(|part| !part.is_empty()) {
        let groups = part.len() / 2 / rows;
        for bytes in part.chunks_mut(TILE * groups * 2) {
            copy.clear();
            copy.extend_from_slice(bytes);
            transpose_halves(&copy, groups, bytes);
        }
    }
    Ok(())
}

/// `[lanes, groups]` of two bytes to `[groups, lanes]`.
fn transpose_halves(rows: &[u8], groups: usize, out: &mut [u8]) {
    let lanes = rows.len() / 2 / groups;
    let rows = rows.as_chunks::<2>().0;
    let out = out.as_chunks_mut::<2>().0;
    for (group, out) in out.chunks_exact_mut(lanes).enumerate() {
        let halves = rows[group..].iter().step_by(groups);
        out.iter_mut()
            .zip(halves)
            .for_each(|(out, half)| *out = *half);
    }
}

/// Takes the lanes that exist out of a full tile.
fn squeeze(coding: Coding, cols: usize, lanes: usize, tile: &[u8], out: &mut [u8]) {
    let mut at = 0;
    pieces(coding, cols, &mut |from, bytes| {
        let piece = &tile[from * TILE..][..lanes * bytes];
        out[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    });
}

/// Lays a tile of fewer rows out as one of 16, the missing ones zeros. `weights` and `maps`
/// (scales, then biases) receive it.
pub(crate) fn spread_tile(tile: &CodedTile<'_>, weights: &mut Vec<u8>, maps: &mut Vec<u16>) {
    let lanes = tile.lanes;
    weights.clear();
    weights.resize(TILE * tile.coding.row_bytes(tile.cols), 0);
    let mut at = 0;
    pieces(tile.coding, tile.cols, &mut |to, bytes| {
        let piece = &tile.bytes[at..at + lanes * bytes];
        weights[to * TILE..][..piece.len()].copy_from_slice(piece);
        at += piece.len();
    });
    maps.clear();
    for part in [tile.scales, tile.biases] {
        for group in part.chunks_exact(lanes) {
            maps.extend_from_slice(group);
            maps.resize(maps.len() + TILE - lanes, 0);
        }
    }
}

/// Calls `piece(start, bytes)` for each run of equal pieces, one a lane, that a tile consists
/// of: `start` bytes a lane come before it, `bytes` bytes a lane belong to it.
fn pieces(coding: Coding, cols: usize, piece: &mut dyn FnMut(usize, usize)) {
    let mut start = 0;
    let mut next = |bytes: usize| {
        piece(start, bytes);
        start += bytes;
    };
    let (units, _) = coding.block_parts();
    for _ in 0..cols / UNIT / units {
        for &(_, bytes) in scale_pieces(coding) {
            next(bytes);
        }
        for _ in 0..units * coding.bits() {
            next(4);
        }
    }
}

/// The pieces of a block's scales: place in the block as files have it, and bytes.
fn scale_pieces(coding: Coding) -> &'static [(usize, usize)] {
    match coding {
        Coding::Affine { .. } | Coding::Centered { .. } => &[],
        Coding::Q4_0 | Coding::Q5_0 | Coding::Q8_0 | Coding::Iq4Nl => &[(0, 2)],
        Coding::Q4_1 | Coding::Q5_1 => &[(0, 2), (2, 2)],
        Coding::Mxfp4 => &[(0, 1)],
        Coding::Nvfp4 => &[(0, 1), (1, 1)],
        Coding::Q2K => &[(0, 4), (4, 4), (8, 4), (12, 4), (80, 2), (82, 2)],
        Coding::Q3K => &[(96, 4), (100, 4), (104, 4), (108, 2)],
        Coding::Q4K | Coding::Q5K => &[(4, 4), (8, 4), (12, 4), (0, 2), (2, 2)],
        Coding::Q6K => &[(192, 4), (196, 4), (200, 4), (204, 4), (208, 2)],
        Coding::Iq4Xs => &[(4, 4), (0, 2), (2, 1), (3, 1)],
    }
}

/// Writes a tile of 16 rows.
struct Arrange<'a> {
    rows: Rows<'a>,
    /// As many bytes as the rows.
    out: &'a mut [u8],
}

impl Kernel for Arrange<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Arrange { rows, out } = self;
        let bits = rows.coding.bits();
        let (units, scale_bytes) = rows.coding.block_parts();
        let block_bytes = rows.coding.block_bytes();
        for (block, out) in out.chunks_exact_mut(TILE * block_bytes).enumerate() {
            let (scales, words) = out.split_at_mut(TILE * scale_bytes);
            let mut at = 0;
            for &(place, bytes) in scale_pieces(rows.coding) {
                let source = &rows.bytes[block * block_bytes + place..];
                let out = &mut scales[at..at + TILE * bytes];
                // Constant lengths become plain moves.
                match bytes {
                    1 => gather::<1>(source, rows.row_bytes, out),
                    2 => gather::<2>(source, rows.row_bytes, out),
                    _ => gather::<4>(source, rows.row_bytes, out),
                }
                at += TILE * bytes;
            }
            let (words, _) = words.as_chunks_mut::<64>();
            for (unit, words) in words.chunks_exact_mut(bits).enumerate() {
                store_planes(l, rows.unit(l, block * units + unit), words);
            }
        }
    }
}

/// The first `N` bytes of 16 rows.
#[inline(always)]
fn gather<const N: usize>(rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    for (lane, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        out.copy_from_slice(&rows[lane * row_bytes..][..N]);
    }
}

/// Stores a unit's quads as the planes of `words.len()` bits.
#[inline(always)]
fn store_planes<L: Lanes>(l: L, quads: [L::I; 8], words: &mut [[u8; 64]]) {
    let (bits, mut at, mut rest) = (words.len(), 0, quads);
    if bits == 8 {
        for (quad, word) in quads.into_iter().zip(words) {
            l.store_bytes(quad, word);
        }
        return;
    }
    if bits >= 4 {
        let mask = l.splat_i(0x0f0f_0f0f);
        for j in 0..4 {
            let high = l.shift_left::<4>(l.and_i(quads[j + 4], mask));
            l.store_bytes(l.add_i(l.and_i(quads[j], mask), high), &mut words[j]);
        }
        for quad in &mut rest {
            *quad = l.and_i(l.shift_right::<4>(*quad), mask);
        }
        at = 4;
    }
    if bits % 4 >= 2 {
        let mask = l.splat_i(0x0303_0303);
        for half in [0, 4] {
            let mut word = l.and_i(rest[half + 3], mask);
            for j in [2, 1, 0] {
                word = l.add_i(l.shift_left::<2>(word), l.and_i(rest[half + j], mask));
            }
            l.store_bytes(word, &mut words[at + half / 4]);
        }
        for quad in &mut rest {
            *quad = l.and_i(l.shift_right::<2>(*quad), mask);
        }
        at += 2;
    }
    if bits % 2 == 1 {
        let mut word = rest[7];
        for j in [6, 5, 4, 3, 2, 1, 0] {
            word = l.add_i(l.shift_left::<1>(word), rest[j]);
        }
        l.store_bytes(word, &mut words[at]);
    }
}
