// The router's choice for few tokens, a workgroup each (choose.wgsl).

@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> weights: array<u32>;

@compute @workgroup_size(CHOOSERS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    choose(group.x, 0u, true, thread);
}
