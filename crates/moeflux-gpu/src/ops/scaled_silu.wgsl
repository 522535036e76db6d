// silu(x / divisor), element by element.

const THREADS: u32 = 256u;

struct Sizes {
    len: u32,
    divisor: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    if at < sizes.len {
        out[at] = silu(x[at] / sizes.divisor);
    }
}
