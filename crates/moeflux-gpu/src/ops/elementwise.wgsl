// Operations element by element; one of SWIGLU, SIGMOID_MUL, SCALE and ADD says which.

const THREADS: u32 = 128u;

struct Sizes {
    len: u32,
    // With SCALE: elements that share a gate.
    width: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> first: array<f32>;
@group(0) @binding(1) var<storage, read> second: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

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
//#if SWIGLU
    out[at] = silu(first[at]) * second[at];
//#endif
//#if SIGMOID_MUL
    out[at] = first[at] * sigmoid(second[at]);
//#endif
//#if SCALE
    out[at] = first[at] * sigmoid(second[at / sizes.width]);
//#endif
//#if ADD
    out[at] = first[at] + second[at];
//#endif
}
