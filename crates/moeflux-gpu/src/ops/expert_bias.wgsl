// Adds each pair's expert's bias to its row.

const THREADS: u32 = 256u;

struct Sizes {
    first: u32,
    pairs: u32,
    width: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read_write> rows: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> biases: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = flat(group, groups) * THREADS + thread;
    if i < sizes.pairs * sizes.width {
        let expert = ids[sizes.first + i / sizes.width];
        rows[sizes.first * sizes.width + i] += biases[expert * sizes.width + i % sizes.width];
    }
}
