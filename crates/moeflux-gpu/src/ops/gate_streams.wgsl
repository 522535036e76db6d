// One value for all streams, gated by how each stream's query meets its key; a workgroup a stream.

const THREADS: u32 = 64u;
const STREAMS: u32 = ${STREAMS}u;
const DIM: u32 = ${DIM}u;
// Square roots are taken of no less.
const LEAST_ROOT: f32 = 1e-6;

struct Sizes {
    tokens: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> keys: array<f32>;
@group(0) @binding(1) var<storage, read> queries: array<f32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = flat(group, groups);
    if row >= sizes.tokens * STREAMS {
        return;
    }
    var sum = 0.0;
    for (var d = thread; d < DIM; d += THREADS) {
        sum = fma(keys[row * DIM + d], queries[row * DIM + d], sum);
    }
    let dot = sum_of_group(sum, thread) / sqrt(f32(DIM));
    let root = sqrt(max(abs(dot), LEAST_ROOT));
    let gate = sigmoid(sign(dot) * root);
    for (var d = thread; d < DIM; d += THREADS) {
        out[row * DIM + d] = gate * values[row / STREAMS * DIM + d];
    }
}
