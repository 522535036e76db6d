//! Panels: the quads and scales of a tile, taken out of its planes once for all tokens.

use super::{
    quads::{Panel, Quads},
    scales::{Maps, Scales, with_coding},
};
use crate::coding::{Coded, CodedTile, TILE, spread_tile};
use crate::lanes::{Backend, Kernel, Lanes};

/// Working memory of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    /// The last rows of a matrix as a whole tile.
    pub tail: Tail,
    pub panel: PanelMemory,
}

/// Memory for one tile.
#[derive(Default)]
pub(super) struct Tail {
    weights: Vec<u8>,
    maps: Vec<u16>,
}

impl Tail {
    /// The tile that begins at `row`, filled up to 16 lanes where it has fewer.
    #[inline(always)]
    pub fn whole<'a>(
        &'a mut self,
        coded: &Coded<'a>,
        rows: usize,
        cols: usize,
        row: usize,
    ) -> CodedTile<'a> {
        let tile = coded.tile(rows, cols, row);
        if tile.lanes == TILE {
            return tile;
        }
        spread_tile(&tile, &mut self.weights, &mut self.maps);
        let of_scales = tile.scales.len() / tile.lanes * TILE;
        let (scales, biases) = self.maps.split_at(of_scales);
        CodedTile {
            lanes: TILE,
            bytes: &self.weights,
            scales,
            biases,
            ..tile
        }
    }
}

/// Memory for a panel.
#[derive(Default)]
pub(super) struct PanelMemory {
    quads: Vec<[u8; 64]>,
    scales: Vec<[f32; TILE]>,
    biases: Vec<[f32; TILE]>,
}

impl PanelMemory {
    /// Takes in a tile of `units` units.
    pub fn fill(&mut self, backend: Backend, tile: &CodedTile<'_>, units: usize) {
        if self.quads.len() < units * 8 {
            self.quads.resize(units * 8, [0; 64]);
            self.scales.resize(units * 2, [0.0; TILE]);
            self.biases.resize(units * 2, [0.0; TILE]);
        }
        with_coding!(tile, |quads, scales| {
            backend.run(Fill {
                quads,
                scales,
                units,
                panel: self,
            });
        });
    }

    pub fn quads(&self) -> Panel<'_> {
        Panel(&self.quads)
    }

    pub fn maps(&self) -> Maps<'_> {
        Maps {
            scales: &self.scales,
            biases: &self.biases,
        }
    }
}

struct Fill<'a, Q, S> {
    quads: Q,
    scales: S,
    units: usize,
    panel: &'a mut PanelMemory,
}

impl<Q: Quads, S: Scales> Kernel for Fill<'_, Q, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Fill {
            quads,
            scales,
            units,
            panel,
        } = self;
        let out = panel.quads.as_chunks_mut::<8>().0;
        for (unit, out) in (0..units).zip(out) {
            quads.prefetch(l, unit);
            let (low, high) = (
                quads.half::<L, false>(l, unit),
                quads.half::<L, true>(l, unit),
            );
            for q in 0..4 {
                l.store_bytes(low[q], &mut out[q]);
                l.store_bytes(high[q], &mut out[q + 4]);
            }
        }
        for g in 0..units * S::SPLIT / scales.units() {
            l.store(scales.scale(l, g), &mut panel.scales[g]);
            l.store(scales.bias(l, g), &mut panel.biases[g]);
        }
    }
}
