// The functions of `exact.wgsl`, element by element.

const THREADS: u32 = 64u;

struct Sizes { len: u32 }

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> c: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = (group.x + group.y * groups.x) * THREADS + thread;
    if at >= sizes.len { return; }
    out[at] = fused(a[at], b[at], c[at]);
    out[sizes.len + at] = divided(a[at], b[at]);
    out[2u * sizes.len + at] = exact_swiglu(a[at], b[at]);
}
