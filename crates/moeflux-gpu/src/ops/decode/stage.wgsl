// A vector of a token in workgroup memory, up to STAGED elements at a time, made from its inputs on
// the way: normed, times a gate, or both. Every ninth vec4 is left out, so that threads that read a
// unit each do not meet in a bank.

const STAGED4 = ${STAGED}u / 4u;

var<workgroup> staged: array<vec4<f32>, STAGED4 + STAGED4 / 8u>;
//#if GATED_NORM
const HEAD4 = ${HEAD}u / 4u;
const KEPT = (STAGED4 + THREADS - 1u) / THREADS;
var<workgroup> head_squares: array<f32, STAGED4>;
var<workgroup> head_inverse: array<f32, STAGED4 / HEAD4>;
//#endif

fn x_at(place: u32) -> vec4<f32> {
    return staged[place];
}

fn x_atB(place: u32) -> vec4<f32> {
    return staged[place];
}

// Where the vec4 of this number lies.
fn staged_at(k4: u32) -> u32 {
    return k4 + k4 / 8u;
}

fn sigmoid4(v: vec4<f32>) -> vec4<f32> {
    return vec4(sigmoid(v.x), sigmoid(v.y), sigmoid(v.z), sigmoid(v.w));
}

//#if SIGMOID
// Place of the gate of an element: with PAIRS the second half of each pair of heads of that length.
fn gate_place(token: u32, cols4: u32, k4: u32) -> u32 {
//#if PAIRS
    const LEN4 = ${PAIRS}u / 4u;
    return token * cols4 * 2u + k4 + (k4 / LEN4 + 1u) * LEN4;
//#else
    return token * cols4 + k4;
//#endif
}
//#endif

//#if GATED_NORM
fn stage(token: u32, cols4: u32, first: u32, count: u32, eps: f32, thread: u32) -> f32 {
    let base = token * cols4 + first;
    var kept: array<vec4<f32>, KEPT>;
    for (var k = 0u; k < KEPT; k++) {
        let i = k * THREADS + thread;
        if i < count {
            kept[k] = x[base + i];
            head_squares[i] = dot(kept[k], kept[k]);
        }
    }
    workgroupBarrier();
    for (var head = thread; head < count / HEAD4; head += THREADS) {
        var sum = 0.0;
        for (var i = 0u; i < HEAD4; i++) {
            sum += head_squares[head * HEAD4 + i];
        }
        head_inverse[head] = 1.0 / sqrt(sum / f32(${HEAD}u) + eps);
    }
    workgroupBarrier();
    for (var k = 0u; k < KEPT; k++) {
        let i = k * THREADS + thread;
        if i < count {
            let g = gate[base + i];
            let normed = kept[k] * head_inverse[i / HEAD4] * norm[i % HEAD4];
            staged[staged_at(i)] = normed * (g * sigmoid4(g));
        }
    }
    return 0.0;
}
//#else
fn stage(token: u32, cols4: u32, first: u32, count: u32, eps: f32, thread: u32) -> f32 {
    var squares = 0.0;
    for (var i = thread; i < count; i += THREADS) {
        let k4 = first + i;
        var v = x[token * cols4 + k4];
//#if SQUARES
        squares += dot(v, v);
        v *= norm[k4];
//#endif
//#if SIGMOID
        v *= sigmoid4(gate[gate_place(token, cols4, k4)]);
//#endif
//#if SWIGLU
        v = v * sigmoid4(v) * gate[token * cols4 + k4];
//#endif
        staged[staged_at(i)] = v;
    }
    return squares;
}
//#endif
