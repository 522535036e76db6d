struct Immediates { len: u32, width: u32 }
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

const KIND = ${KIND}u;

// exp overflows to infinity for large negative x, which gives the right 0.
fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-x)); }

@compute @workgroup_size(${THREADS})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = (group.x + group.y * groups.x) * ${THREADS}u + thread;
    if i >= im.len { return; }
    if KIND == 0u {
        out[i] = a[i] + b[i];
    } else if KIND == 1u {
        out[i] = a[i] * sigmoid(a[i]) * b[i];
    } else if KIND == 2u {
        out[i] = a[i] * sigmoid(b[i]);
    } else {
        out[i] = a[i] * sigmoid(b[i / im.width]);
    }
}
