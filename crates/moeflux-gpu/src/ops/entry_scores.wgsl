// Scores of entries by an index, as keys that are ordered as the scores are; a workgroup has a
// query and 64 entries, a thread one entry. How keys lie: kv_append.wgsl.

const BLOCK: u32 = 64u;
const HEADS: u32 = ${HEADS}u;
const DIM: u32 = ${DIM}u;
const RATE: u32 = ${RATE}u;
//#if F16
const UNIT: u32 = 8u;
//#else
const UNIT: u32 = 4u;
//#endif
const UNITS: u32 = (DIM + UNIT - 1u) / UNIT;

struct Sizes {
    // Row of the first query in the step's buffers, position of the first, scores of a query.
    first_row: u32,
    start: u32,
    stride: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> scores: array<u32>;
//#if WEIGHTED
@group(0) @binding(3) var<storage, read> weights: array<f32>;
//#endif

// With the elements in order; those that fill up the last unit are left out.
fn with_unit(given: f32, place: u32, d: u32, unit: vec4<u32>) -> f32 {
    var sum = given;
    for (var i = 0u; i < UNIT; i++) {
//#if F16
        let two = unpack2x16float(unit[i / 2u]);
        let key = select(two.x, two.y, i % 2u == 1u);
//#else
        let key = bitcast<f32>(unit[i]);
//#endif
        if d + i < DIM {
            sum = fma(q[place + d + i], key, sum);
        }
    }
    return sum;
}

@compute @workgroup_size(BLOCK)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let query = group.x;
    let entry = group.y * BLOCK + thread;
    let complete = (sizes.start + query + 1u) / RATE;
    if entry >= complete {
        return;
    }
    let row = sizes.first_row + query;
    let first = group.y * UNITS * BLOCK + thread;
    var score = 0.0;
    for (var head = 0u; head < HEADS; head++) {
        let place = (row * HEADS + head) * DIM;
        var dot = 0.0;
        for (var unit = 0u; unit < UNITS; unit++) {
            dot = with_unit(dot, place, unit * UNIT, keys[first + unit * BLOCK]);
        }
        let positive = select(0.0, dot, dot > 0.0);
//#if WEIGHTED
        score = fma(positive, weights[row * HEADS + head], score);
//#else
        score += positive;
//#endif
    }
    // What is no number is the lowest; zeros of both signs are equal.
    var bits = bitcast<u32>(score);
    bits = select(bits, 0xff800000u, (bits & 0x7fffffffu) > 0x7f800000u);
    bits = select(bits, 0u, bits == 0x80000000u);
    let key = select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
    scores[query * sizes.stride + entry] = key;
}
