// Queries of a span as attention_prompt.wgsl takes them: binary16, times the scale,
// `[kv_heads, rows, dim]`, where the rows of a head of keys are (query, head of its group), filled
// up with zeros to whole tiles.

const THREADS: u32 = 128u;
const HEADS: u32 = ${HEADS}u;
const KV_HEADS: u32 = ${KV_HEADS}u;
const DIM: u32 = ${DIM}u;
const GROUP: u32 = HEADS / KV_HEADS;
const QUADS: u32 = DIM / 4u;

struct Sizes {
    first_row: u32,
    queries: u32,
    // Rows of a head, with those that fill up.
    rows: u32,
    scale: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f16>>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    let row = at / QUADS;
    if row >= KV_HEADS * sizes.rows {
        return;
    }
    let kv_head = row / sizes.rows;
    let query = row % sizes.rows / GROUP;
    var value = vec4<f32>();
    if query < sizes.queries {
        let head = kv_head * GROUP + row % sizes.rows % GROUP;
        value = q[((sizes.first_row + query) * HEADS + head) * QUADS + at % QUADS];
    }
    out[at] = vec4<f16>(value * sizes.scale);
}
