// The activation between experts' products, element by element: with BIASED each expert's bias is
// added first; with CLAMPED it is (up + offset) * gate * sigmoid(alpha * gate) of values within a
// limit, else silu(gate) * up.

const THREADS: u32 = 256u;

struct Sizes {
    first: u32,
    pairs: u32,
    width: u32,
    limit: f32,
    alpha: f32,
    offset: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> gates: array<f32>;
@group(0) @binding(1) var<storage, read> ups: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#if BIASED
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> gate_bias: array<f32>;
@group(0) @binding(5) var<storage, read> up_bias: array<f32>;
//#endif

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = flat(group, groups) * THREADS + thread;
    if i >= sizes.pairs * sizes.width {
        return;
    }
    let at = sizes.first * sizes.width + i;
    var gate = gates[at];
    var up = ups[at];
//#if BIASED
    let bias = ids[sizes.first + i / sizes.width] * sizes.width + i % sizes.width;
    gate += gate_bias[bias];
    up += up_bias[bias];
//#endif
//#if CLAMPED
    gate = select(gate, sizes.limit, gate > sizes.limit);
    up = select(up, sizes.limit, up > sizes.limit);
    up = select(up, -sizes.limit, -sizes.limit > up);
    out[at] = (up + sizes.offset) * (gate * sigmoid(sizes.alpha * gate));
//#else
    out[at] = silu(gate) * up;
//#endif
}
