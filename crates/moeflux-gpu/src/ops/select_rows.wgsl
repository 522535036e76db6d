// Copies the rows that a list names.

const THREADS: u32 = 128u;

struct Sizes {
    rows: u32,
    width: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> list: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    if at >= sizes.rows * sizes.width {
        return;
    }
    out[at] = x[list[at / sizes.width] * sizes.width + at % sizes.width];
}
