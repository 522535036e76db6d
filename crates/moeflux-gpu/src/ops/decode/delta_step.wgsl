// The mixer of a recurrent layer for a few tokens: the convolution with its silu, then the gated delta
// rule. A workgroup has COLUMNS elements of the values of one head, as in gated_delta.wgsl, and
// convolves what it needs itself.

const THREADS: u32 = 128u;
const KEY_HEADS: u32 = ${KEY_HEADS}u;
const VALUE_HEADS: u32 = ${VALUE_HEADS}u;
const SHARERS: u32 = VALUE_HEADS / KEY_HEADS;
const KEY_DIM: u32 = ${KEY_DIM}u;
const VALUE_DIM: u32 = ${VALUE_DIM}u;
const COLUMNS: u32 = 32u;
const PARTS: u32 = 4u;
// Elements of a part of a key; all parts together are filled up with zeros.
const PART: u32 = (KEY_DIM + 15u) / 16u * 4u;
const KEY_LEN: u32 = PARTS * PART;
const WIDTH: u32 = 2u * KEY_HEADS * KEY_DIM + VALUE_HEADS * VALUE_DIM;
const TAPS: u32 = ${TAPS}u;
const HISTORY: u32 = TAPS - 1u;
const L2_EPS: f32 = 1e-6;

struct Immediates {
    first_row: u32,
    tokens: u32,
    // Where `[q | k | v]`, decay and write strength inputs begin, in elements.
    qkv: u32,
    a: u32,
    b: u32,
}
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> x: array<f32>;
// `[TAPS, WIDTH]`, oldest tap first.
@group(0) @binding(1) var<storage, read> taps: array<f32>;
@group(0) @binding(2) var<storage, read> history: array<f32>;
@group(0) @binding(3) var<storage, read_write> next_history: array<f32>;
// Logarithms of the decay, then what is added to its inputs.
@group(0) @binding(4) var<storage, read> decays: array<f32>;
@group(0) @binding(5) var<storage, read> state: array<f32>;
@group(0) @binding(6) var<storage, read_write> next_state: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

var<workgroup> query: array<f32, KEY_LEN>;
var<workgroup> key: array<f32, KEY_LEN>;
var<workgroup> value: array<f32, COLUMNS>;
var<workgroup> squares: array<vec2<f32>, THREADS>;
var<workgroup> sums: array<f32, THREADS>;
var<workgroup> results: array<f32, THREADS>;

// The input of a channel at time t, counted from the oldest one of the history.
fn input(t: u32, channel: u32) -> f32 {
    if t < HISTORY {
        return history[t * WIDTH + channel];
    }
    return x[im.qkv + (im.first_row + t - HISTORY) * WIDTH + channel];
}

fn convolved(t: u32, channel: u32) -> f32 {
    var sum = 0.0;
    for (var tap = 0u; tap < TAPS; tap++) {
        sum = fma(taps[tap * WIDTH + channel], input(t + tap, channel), sum);
    }
    return silu(sum);
}

fn keep_history(channel: u32) {
    for (var t = 0u; t < HISTORY; t++) {
        next_history[t * WIDTH + channel] = input(im.tokens + t, channel);
    }
}

fn sum_of_parts(at: u32) -> f32 {
    return (sums[at] + sums[at + COLUMNS]) + (sums[at + 2u * COLUMNS] + sums[at + 3u * COLUMNS]);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.y;
//#if TILED
    let key_head = head % KEY_HEADS;
    let is_first = head < KEY_HEADS;
//#else
    let key_head = head / SHARERS;
    let is_first = head % SHARERS == 0u;
//#endif
    let first = group.x * COLUMNS;
    let column = thread % COLUMNS;
    let part = thread / COLUMNS;
    let inside = first + column < VALUE_DIM;
    let place = head * KEY_DIM * VALUE_DIM + first + column;
    var kept: array<f32, PART>;
    for (var i = 0u; i < PART; i++) {
        let d = part * PART + i;
        kept[i] = 0.0;
        if inside && d < KEY_DIM {
            kept[i] = state[place + d * VALUE_DIM];
        }
    }
    let query_channel = key_head * KEY_DIM;
    let key_channel = (KEY_HEADS + key_head) * KEY_DIM;
    let value_channel = 2u * KEY_HEADS * KEY_DIM + head * VALUE_DIM + first;
    for (var t = 0u; t < im.tokens; t++) {
        workgroupBarrier();
        var own = vec2(0.0);
        for (var d = thread; d < KEY_LEN; d += THREADS) {
            var pair = vec2(0.0);
            if d < KEY_DIM {
                pair = vec2(convolved(t, query_channel + d), convolved(t, key_channel + d));
            }
            query[d] = pair.x;
            key[d] = pair.y;
            own = fma(pair, pair, own);
        }
        squares[thread] = own;
        if thread < COLUMNS && inside {
            value[thread] = convolved(t, value_channel + thread);
        }
        for (var step = THREADS / 2u; step > 0u; step /= 2u) {
            workgroupBarrier();
            if thread < step {
                squares[thread] += squares[thread + step];
            }
        }
        workgroupBarrier();
        let inverse = 1.0 / sqrt(squares[0] + vec2(L2_EPS));
        let gate = (im.first_row + t) * VALUE_HEADS + head;
        let rate = exp_of(decays[head]) * softplus(x[im.a + gate] + decays[VALUE_HEADS + head]);
        let decay = exp_of(-rate);
        let strength = sigmoid(x[im.b + gate]);
        var sum = 0.0;
        for (var i = 0u; i < PART; i++) {
            sum = fma(kept[i], key[part * PART + i], sum);
        }
        sums[thread] = sum;
        workgroupBarrier();
        let held = sum_of_parts(column) * inverse.y;
        let delta = fma(held, -decay, value[column]) * strength * inverse.y;
        var result = 0.0;
        for (var i = 0u; i < PART; i++) {
            kept[i] = fma(key[part * PART + i], delta, kept[i] * decay);
            result = fma(kept[i], query[part * PART + i], result);
        }
        results[thread] = result;
        workgroupBarrier();
        if thread < COLUMNS && inside {
            let total = (results[column] + results[column + COLUMNS])
                + (results[column + 2u * COLUMNS] + results[column + 3u * COLUMNS]);
            out[gate * VALUE_DIM + first + column] = total * (inverse.x / sqrt(f32(KEY_DIM)));
        }
    }
    for (var i = 0u; i < PART; i++) {
        let d = part * PART + i;
        if inside && d < KEY_DIM {
            next_state[place + d * VALUE_DIM] = kept[i];
        }
    }
    // One workgroup keeps the history of a channel.
    if thread < COLUMNS && inside {
        keep_history(value_channel + thread);
    }
    if is_first && group.x == 0u {
        for (var d = thread; d < KEY_DIM; d += THREADS) {
            keep_history(query_channel + d);
            keep_history(key_channel + d);
        }
    }
}
