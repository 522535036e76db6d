// Rows of vectors as binary16, each divided by a power of two so that its largest element lies
// between 2^8 and 2^9, and that power; filled up with zeros. A workgroup a row.

const THREADS: u32 = 128u;

struct Sizes {
    // Rows, the first one's number in `x`, elements of a row, and vec4s of a row of the result.
    rows: u32,
    first_row: u32,
    cols: u32,
    stride: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;

var<workgroup> most: array<u32, THREADS>;

fn four(row: u32, at: u32) -> vec4<f32> {
    var value = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if at * 4u + i < sizes.cols {
            value[i] = x[(sizes.first_row + row) * sizes.cols + at * 4u + i];
        }
    }
    return value;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = flat(group, groups);
    if row >= sizes.rows {
        return;
    }
    // Sizes of floats are ordered as their bits are.
    var largest = 0u;
    for (var at = thread; at < sizes.stride; at += THREADS) {
        let bits = bitcast<vec4<u32>>(four(row, at)) & vec4(0x7fffffffu);
        largest = max(max(largest, max(bits.x, bits.y)), max(bits.z, bits.w));
    }
    most[thread] = largest;
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step {
            most[thread] = max(most[thread], most[thread + step]);
        }
    }
    workgroupBarrier();
    let exponent = clamp(most[0] >> 23u, 9u, 254u);
    let factor = bitcast<f32>((262u - exponent) << 23u);
    for (var at = thread; at < sizes.stride; at += THREADS) {
        out[row * sizes.stride + at] = vec4<f16>(four(row, at) * factor);
    }
    if thread == 0u {
        scales[row] = bitcast<f32>((exponent - 8u) << 23u);
    }
}
