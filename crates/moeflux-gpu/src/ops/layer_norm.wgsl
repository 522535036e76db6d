// Pieces of LEN elements without their mean, in unit size, times a weight, plus a bias; a
// workgroup a piece.

const THREADS: u32 = ${THREADS}u;
const LEN: u32 = ${LEN}u;

struct Sizes {
    pieces: u32,
    eps: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let piece = flat(group, groups);
    if piece >= sizes.pieces {
        return;
    }
    let first = piece * LEN;
    var sum = 0.0;
    for (var at = thread; at < LEN; at += THREADS) {
        sum += x[first + at];
    }
    let mean = sum_of_group(sum, thread) / f32(LEN);
    var squares = 0.0;
    for (var at = thread; at < LEN; at += THREADS) {
        let value = x[first + at] - mean;
        squares = fma(value, value, squares);
    }
    let inverse = 1.0 / sqrt(sum_of_group(squares, thread) / f32(LEN) + sizes.eps);
    for (var at = thread; at < LEN; at += THREADS) {
        out[first + at] = fma((x[first + at] - mean) * inverse, weight[at], bias[at]);
    }
}
