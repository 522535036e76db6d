// A vector of a token in workgroup memory, up to STAGED elements at a time, made from its inputs on
// the way: normed, times a gate, or both. Every ninth vec4 is left out, so that threads that read a
// unit each do not meet in a bank.

const STAGED4 = ${STAGED}u / 4u;

var<workgroup> staged: array<vec4<f32>, STAGED4 + STAGED4 / 8u>;
//#if GATED_NORM
const HEAD4 = ${HEAD}u / 4u;
// Sums of squares of a head are made in parts.
const HEAD_PARTS = ${HEAD_PARTS}u;
const HEAD_PART = HEAD4 / HEAD_PARTS;
var<workgroup> head_squares: array<f32, STAGED4>;
var<workgroup> head_parts: array<f32, STAGED4 / HEAD_PART>;
//#endif

// What a thread has of the inputs.
struct Inputs {
//#each I KEPT
    x${I}: vec4<f32>,
//#if HAS_NORM
    norm${I}: vec4<f32>,
//#endif
//#if HAS_GATE
    gate${I}: vec4<f32>,
//#endif
//#end
}

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

//#if HAS_GATE
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

// Asks for the inputs of `count` vec4s from `first` on.
fn read_inputs(token: u32, cols4: u32, first: u32, count: u32, thread: u32) -> Inputs {
    var inputs: Inputs;
//#each I KEPT
    let i${I} = first + min(thread + ${I}u * THREADS, count - 1u);
    inputs.x${I} = x[token * cols4 + i${I}];
//#if SQUARES
    inputs.norm${I} = norm[i${I}];
//#endif
//#if GATED_NORM
    inputs.norm${I} = norm[i${I} % HEAD4];
//#endif
//#if HAS_GATE
    inputs.gate${I} = gate[gate_place(token, cols4, i${I})];
//#endif
//#end
    return inputs;
}

//#if GATED_NORM
fn inverse_of_head(head: u32, eps: f32) -> f32 {
    var sum = 0.0;
    for (var part = 0u; part < HEAD_PARTS; part++) {
        sum += head_parts[head * HEAD_PARTS + part];
    }
    return 1.0 / sqrt(sum / f32(${HEAD}u) + eps);
}

fn stage(inputs: Inputs, count: u32, eps: f32, thread: u32) -> f32 {
//#each I KEPT
    if thread + ${I}u * THREADS < count {
        head_squares[thread + ${I}u * THREADS] = dot(inputs.x${I}, inputs.x${I});
    }
//#end
    workgroupBarrier();
    for (var part = thread; part < count / HEAD_PART; part += THREADS) {
        var sum = 0.0;
        for (var i = 0u; i < HEAD_PART; i++) {
            sum += head_squares[part * HEAD_PART + i];
        }
        head_parts[part] = sum;
    }
    workgroupBarrier();
//#each I KEPT
    let i${I} = thread + ${I}u * THREADS;
    if i${I} < count {
        let g${I} = inputs.gate${I};
        let normed${I} = inputs.x${I} * inverse_of_head(i${I} / HEAD4, eps) * inputs.norm${I};
        staged[staged_at(i${I})] = normed${I} * (g${I} * sigmoid4(g${I}));
    }
//#end
    return 0.0;
}
//#else
fn stage(inputs: Inputs, count: u32, eps: f32, thread: u32) -> f32 {
    var squares = 0.0;
//#each I KEPT
    if thread + ${I}u * THREADS < count {
        var v = inputs.x${I};
//#if SQUARES
        squares += dot(v, v);
        v *= inputs.norm${I};
//#endif
//#if SIGMOID
        v *= sigmoid4(inputs.gate${I});
//#endif
//#if SWIGLU
        v = v * sigmoid4(v) * inputs.gate${I};
//#endif
        staged[staged_at(thread + ${I}u * THREADS)] = v;
    }
//#end
    return squares;
}
//#endif
