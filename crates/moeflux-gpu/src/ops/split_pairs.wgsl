// Splits `[heads, 2, dim]` into two of `[heads, dim]`.

const THREADS: u32 = 128u;

struct Sizes {
    // Elements of a half, of all rows.
    len: u32,
    dim: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> first: array<f32>;
@group(0) @binding(2) var<storage, read_write> second: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    if at >= sizes.len {
        return;
    }
    let source = at + at / sizes.dim * sizes.dim;
    first[at] = x[source];
    second[at] = x[source + sizes.dim];
}
