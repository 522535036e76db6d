// Streams of a residual, a thread an element of the result: with COLLAPSE their weighted sum,
// with MEAN their mean, with MIX the mean of gated ones; with SPREAD streams that are mixed and
// get a block's result, with INJECT streams that get it alone.

const THREADS: u32 = 256u;
const STREAMS: u32 = ${STREAMS}u;

struct Sizes {
    // Elements of the result and of a stream, and weights of a token.
    len: u32,
    dim: u32,
    width: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
//#if MEAN
//#else
// Of the streams, or gates of their elements.
@group(0) @binding(2) var<storage, read> weights: array<f32>;
//#endif
//#if BLOCK
@group(0) @binding(3) var<storage, read> block: array<f32>;
//#endif

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
    let row = at / sizes.dim;
    let d = at % sizes.dim;
//#if BLOCK
    let token = row / STREAMS;
    let stream = row % STREAMS;
//#else
    let token = row;
//#endif
    let first = token * STREAMS * sizes.dim + d;
//#if COLLAPSE
    var sum = 0.0;
    for (var j = 0u; j < STREAMS; j++) {
        sum = fma(weights[token * sizes.width + j], x[first + j * sizes.dim], sum);
    }
    out[at] = sum;
//#endif
//#if MEAN
    var sum = 0.0;
    for (var j = 0u; j < STREAMS; j++) {
        sum += x[first + j * sizes.dim];
    }
    out[at] = sum / f32(STREAMS);
//#endif
//#if MIX
    var sum = 0.0;
    for (var j = 0u; j < STREAMS; j++) {
        let place = first + j * sizes.dim;
        sum = fma(sigmoid(weights[place]), x[place], sum);
    }
    out[at] = sum / f32(STREAMS);
//#endif
//#if SPREAD
    let own = token * sizes.width + STREAMS;
    var sum = weights[own + stream] * block[token * sizes.dim + d];
    for (var j = 0u; j < STREAMS; j++) {
        let weight = weights[own + (j + 1u) * STREAMS + stream];
        sum = fma(weight, x[first + j * sizes.dim], sum);
    }
    out[at] = sum;
//#endif
//#if INJECT
    let weight = 2.0 * sigmoid(weights[token * sizes.width + stream] / f32(STREAMS));
    out[at] = fma(weight, block[token * sizes.dim + d], x[at]);
//#endif
}
