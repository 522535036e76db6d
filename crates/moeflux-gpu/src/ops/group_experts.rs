//! Pairs of a token and one of its experts, in tiles of one expert each.

use std::sync::Arc;

use super::check;
use crate::{DeviceBuffer, Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "group_experts";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("group_experts.wgsl")],
};
/// The most experts that a workgroup's memory takes.
const MAX_EXPERTS: usize = 4096;

/// Which pair lies in which row of which tile.
pub struct Groups {
    /// Pair of each row of the tiles; all ones: none.
    pub(super) order: Arc<DeviceBuffer>,
    /// Slot of each tile's expert; all ones: the tile is empty.
    pub(super) tiles: Arc<DeviceBuffer>,
    /// Tiles that there is room for.
    pub(super) count: usize,
    /// Rows of a tile.
    pub(super) tile: usize,
    /// The pair behind the last.
    pub(super) end: usize,
}

fn params(experts: usize, tile: usize) -> [Param; 2] {
    [("EXPERTS", experts as u32), ("TILE", tile as u32)]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let shapes = [(256, 64), (512, 32), (5, 64), (MAX_EXPERTS, 128)];
    let all = shapes.map(|(experts, tile)| params(experts, tile).to_vec());
    (&SHADER, all.to_vec())
}

/// Puts the pairs `first..first + pairs` of `ids` in tiles of `tile` rows; those whose expert has
/// no slot in `table` (u32, all ones) are left out.
///
/// # Errors
/// A buffer too small, more experts than the kernel takes, and what [`Recorder::dispatch`] says.
pub fn group_experts(
    r: &mut Recorder,
    (ids, table): (View<'_>, View<'_>),
    (first, pairs): (usize, usize),
    experts: usize,
    tile: usize,
) -> Result<Groups, GpuError> {
    if experts > MAX_EXPERTS || tile == 0 {
        let problem = format!("{experts} experts (at most {MAX_EXPERTS}), tiles of {tile} rows");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    check::holds(OP, "ids", &ids, first + pairs)?;
    check::holds(OP, "the table", &table, experts)?;
    let count = pairs / tile + experts.min(pairs);
    let rows = u64::from(check::product(OP, &[count, tile])?);
    let groups = Groups {
        order: r.scratch("pairs by expert", rows * 4)?,
        tiles: r.scratch("tiles of experts", (count * 4) as u64)?,
        count,
        tile,
        end: first + pairs,
    };
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(experts, tile),
        views: &[ids, table, (&*groups.order).into(), (&*groups.tiles).into()],
        immediates: &[first, pairs, count].map(|n| n as u32),
        groups: [1, 1, 1],
    })?;
    Ok(groups)
}
