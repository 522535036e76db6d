//! Rows put together from pieces of other rows: a dispatch for each input, whose elements' places
//! are in a list on the device.

use moeflux_kernels::Piece;

use super::{check, grid};
use crate::{DeviceBuffer, Dispatch, Gpu, GpuError, Param, Recorder, Shader, View};

const OP: &str = "rearrange";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("common.wgsl"), include_str!("rearrange.wgsl")],
};
/// Threads of a workgroup.
const THREADS: u32 = 128;

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    (&SHADER, vec![vec![]])
}

/// Pieces of a result's row on the device.
#[derive(Debug)]
pub struct DevicePieces {
    /// Elements of the result's row.
    width: usize,
    inputs: Vec<Moves>,
}

/// What one input gives.
#[derive(Debug)]
struct Moves {
    /// Pairs of places: in the input's row, in the result's.
    list: DeviceBuffer,
    count: usize,
    /// Elements that the input's row has at least.
    least_width: usize,
}

impl DevicePieces {
    /// Uploads the places of `pieces` of this many inputs.
    ///
    /// # Errors
    /// A piece of another input, sizes that a kernel cannot count, no device memory.
    pub fn upload(gpu: &Gpu, pieces: &[Piece], inputs: usize) -> Result<DevicePieces, GpuError> {
        let lengths = pieces.iter().map(|p| p.len);
        let width = lengths.fold(0, usize::saturating_add);
        check::product(OP, &[width])?;
        let mut lists: Vec<Vec<[u32; 2]>> = vec![Vec::new(); inputs];
        let mut at = 0;
        for piece in pieces {
            check::product(OP, &[piece.start.saturating_add(piece.len)])?;
            let Some(list) = lists.get_mut(piece.input) else {
                let problem = format!("a piece of input {} of {inputs}", piece.input);
                return Err(GpuError::Unsupported { op: OP, problem });
            };
            list.extend((0..piece.len).map(|i| [(piece.start + i) as u32, (at + i) as u32]));
            at += piece.len;
        }
        let moves = |list: Vec<[u32; 2]>| {
            Ok(Moves {
                count: list.len(),
                least_width: list.iter().map(|m| m[0] as usize + 1).max().unwrap_or(0),
                list: gpu.buffer_with("places of pieces", bytemuck::cast_slice(&list))?,
            })
        };
        Ok(DevicePieces {
            width,
            inputs: lists
                .into_iter()
                .map(moves)
                .collect::<Result<_, GpuError>>()?,
        })
    }
}

/// Row t of `out` `[n, width of all pieces]` is the pieces of rows t of `inputs`, each with the
/// width of its rows.
///
/// # Errors
/// Another number of inputs, rows too short, and what [`Recorder::dispatch`] says.
pub fn rearrange(
    r: &mut Recorder,
    inputs: &[(View<'_>, usize)],
    pieces: &DevicePieces,
    n: usize,
    out: View<'_>,
) -> Result<(), GpuError> {
    if inputs.len() != pieces.inputs.len() {
        let problem = format!("{} inputs of {}", inputs.len(), pieces.inputs.len());
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    let len = check::product(OP, &[n, pieces.width])?;
    check::holds(OP, "out", &out, len as usize)?;
    for ((x, width), moves) in inputs.iter().zip(&pieces.inputs) {
        if *width < moves.least_width {
            let problem = format!("rows of {width} of {} elements", moves.least_width);
            return Err(GpuError::Unsupported { op: OP, problem });
        }
        check::holds(
            OP,
            "an input",
            x,
            check::product(OP, &[n, *width])? as usize,
        )?;
        let moved = check::product(OP, &[n, moves.count])?;
        r.dispatch(&Dispatch {
            shader: &SHADER,
            params: &[],
            views: &[*x, (&moves.list).into(), out],
            immediates: &[
                n as u32,
                moves.count as u32,
                *width as u32,
                pieces.width as u32,
            ],
            groups: grid(moved.div_ceil(THREADS)),
        })?;
    }
    Ok(())
}
