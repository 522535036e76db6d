// Products of each head with rows of its own, of one matrix. A workgroup has one result of a head
// and a token: a dot product, four partial sums a thread and a fixed tree; or, with TRANSPOSED, 256
// columns, a thread four of them, over the rows in order.

const THREADS: u32 = 64u;

struct Immediates {
    cols: u32,
    heads: u32,
    stride: u32,
    first: u32,
    rows: u32,
    pairs: u32,
    place: Place,
}
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

//#if TRANSPOSED
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let pair = group.y + group.z * 32768u;
    let k4 = group.x * THREADS + thread;
    if pair >= im.pairs || k4 * 4u >= im.cols { return; }
    let row = (pair % im.heads) * im.stride + im.first;
    var sums = vec4(0.0);
    for (var i = 0u; i < im.rows; i++) {
        sums = fma(vec4(x[pair * im.rows + i]), four(row + i, k4), sums);
    }
    for (var i = 0u; i < 4u; i++) {
        if k4 * 4u + i < im.cols { out[pair * im.cols + k4 * 4u + i] = sums[i]; }
    }
}
//#else
var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let pair = group.y + group.z * 32768u;
    if pair >= im.pairs { return; }
    let row = (pair % im.heads) * im.stride + im.first + group.x;
    var sums = vec4(0.0);
    for (var k4 = thread; k4 * 4u < im.cols; k4 += THREADS) {
        var v = vec4(0.0);
        for (var i = 0u; i < 4u; i++) {
            if k4 * 4u + i < im.cols { v[i] = x[pair * im.cols + k4 * 4u + i]; }
        }
        sums = fma(v, four(row, k4), sums);
    }
    partial[thread] = (sums.x + sums.z) + (sums.y + sums.w);
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step { partial[thread] += partial[thread + step]; }
    }
    if thread == 0u { out[pair * im.rows + group.x] = partial[0]; }
}
//#endif
