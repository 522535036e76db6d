//! Appending keys and values to those of a session.

use moeflux::KvType;

use crate::kv_layout::KvShape;
use crate::state::DeviceKv;
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{SpanRows, check, grid};

const OP: &str = "kv_append";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("common.wgsl"), include_str!("kv_append.wgsl")],
};
/// Threads of a workgroup.
const THREADS: u32 = 64;

fn params(kv: KvShape) -> [Param; 3] {
    [
        ("KV_HEADS", kv.kv_heads as u32),
        ("DIM", kv.head_dim as u32),
        ("F16", u32::from(kv.kv_type == KvType::F16)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for kv_type in [KvType::F16, KvType::F32] {
        for (kv_heads, head_dim) in [(2, 256), (4, 128), (3, 10)] {
            all.push(
                params(KvShape {
                    kv_type,
                    kv_heads,
                    head_dim,
                })
                .to_vec(),
            );
        }
    }
    (&SHADER, all)
}

/// Writes a span's keys and values, `k` and `v` `[rows of the step, kv_heads, head_dim]`, at its
/// positions, for which there is room.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn kv_append(
    r: &mut Recorder,
    k: View<'_>,
    v: View<'_>,
    kv: &DeviceKv,
    span: SpanRows,
) -> Result<(), GpuError> {
    let shape = kv.shape();
    if span.len == 0 {
        return Ok(());
    }
    let rows = span.first_row + span.len;
    let len = check::product(OP, &[rows, shape.kv_heads, shape.head_dim])? as usize;
    check::holds(OP, "k", &k, len)?;
    check::holds(OP, "v", &v, len)?;
    let (keys, values) = kv.views(OP, span.start + span.len)?;
    let threads = check::product(OP, &[span.len, shape.kv_heads, shape.units()])?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(shape),
        views: &[k, v, keys, values],
        immediates: &[span.first_row, span.len, span.start].map(|n| n as u32),
        groups: grid(threads.div_ceil(THREADS)),
    })
}
