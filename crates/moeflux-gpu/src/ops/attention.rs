//! Attention, and the keys and values that it reads.
//!
//! Short spans (decode, and drafts being checked) are cut into chunks of positions that lie at fixed
//! places and are merged in order; long ones go through all positions in one workgroup.

use moeflux_kernels::AttentionShape;

use crate::kv_layout::{BLOCK, KvShape};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{check, grid};
use moeflux::KvType;

static APPEND: Shader = Shader {
    name: "kv_append",
    parts: &[include_str!("common.wgsl"), include_str!("kv_append.wgsl")],
};
static TILES: Shader = Shader {
    name: "attention",
    parts: &[include_str!("common.wgsl"), include_str!("attention.wgsl")],
};
static MERGE: Shader = Shader {
    name: "attention_merge",
    parts: &[include_str!("common.wgsl"), include_str!("attention_merge.wgsl")],
};
/// Threads of a workgroup of the tiles.
const THREADS: usize = 128;
/// Queries of the longest span that is cut into chunks.
pub const SPLIT_QUERIES: usize = 16;
/// Blocks of a chunk.
const CHUNK_BLOCKS: usize = 2;
/// Positions of a chunk.
pub const CHUNK: usize = CHUNK_BLOCKS * BLOCK;
/// Workgroup memory that every device has.
const SHARED_BYTES: usize = 32 << 10;

/// The tokens of one session in a step.
#[derive(Clone, Copy, Debug)]
pub struct SpanRows {
    /// Row of the first in the step's buffers.
    pub first_row: usize,
    /// How many.
    pub len: usize,
    /// Position of the first.
    pub start: usize,
}

/// Bytes of workgroup memory of a tile.
fn shared_bytes(shape: AttentionShape, kv: KvShape, rows: usize) -> usize {
    let sharers = sharers(rows);
    4 * rows * (kv.units() * kv.unit() + BLOCK + 2 * sharers + 3) + shape.heads.min(0)
}

fn sharers(rows: usize) -> usize {
    let most = (THREADS / rows).min(BLOCK);
    // The greatest power of two in it.
    1 << most.ilog2()
}

fn rows(shape: AttentionShape, kv: KvShape, queries: usize) -> usize {
    let mut rows = (queries * (shape.heads / shape.kv_heads)).min(16);
    while rows > 1 && shared_bytes(shape, kv, rows) > SHARED_BYTES {
        rows /= 2;
    }
    rows
}
