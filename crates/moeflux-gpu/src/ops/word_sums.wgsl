// The sum of the words of each part of a buffer, a workgroup each: little more than reading them.

const THREADS: u32 = 256u;

struct Sizes {
    // vec4s of the buffer.
    count: u32,
    // Those that a thread adds up.
    each: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<workgroup> sums: array<u32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let part = group.x + group.y * groups.x;
    let first = part * THREADS * sizes.each;
    if first >= sizes.count {
        return;
    }
    var sum = vec4<u32>();
    let end = min(first + THREADS * sizes.each, sizes.count);
    for (var at = first + thread; at < end; at += THREADS) {
        sum += x[at];
    }
    sums[thread] = sum.x + sum.y + sum.z + sum.w;
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step {
            sums[thread] += sums[thread + step];
        }
    }
    if thread == 0u {
        out[part] = sums[0];
    }
}
