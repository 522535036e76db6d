// The mixer of a recurrent layer for a few tokens: the convolution with its silu, then the gated delta
// rule. A workgroup has COLUMNS elements of the values of one head, as in gated_delta.wgsl, and
// convolves what it needs itself. All that a token needs is asked for at once; what is indexed in
// registers is written out.

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
var<workgroup> square_parts: array<vec2<f32>, 16>;
var<workgroup> sums: array<f32, THREADS>;
var<workgroup> results: array<f32, THREADS>;

// A channel's taps, and its inputs before the next token from the second oldest that counts on.
struct Channel { taps: array<f32, TAPS>, past: array<f32, TAPS> }

fn channel_of(channel: u32) -> Channel {
    var opened: Channel;
//#each I TAPS
    opened.taps[${I}] = taps[${I}u * WIDTH + channel];
//#end
//#each I HISTORY
    opened.past[${I}u + 1u] = history[${I}u * WIDTH + channel];
//#end
    return opened;
}

// The channel with one more input.
fn with_input(before: Channel, newest: f32) -> Channel {
    var after = before;
//#each I HISTORY
    after.past[${I}] = before.past[${I}u + 1u];
//#end
    after.past[HISTORY] = newest;
    return after;
}

fn convolved(c: Channel) -> f32 {
    var sum = 0.0;
//#each I TAPS
    sum = fma(c.taps[${I}], c.past[${I}], sum);
//#end
    return silu(sum);
}

fn keep_history(c: Channel, channel: u32) {
//#each I HISTORY
    next_history[${I}u * WIDTH + channel] = c.past[${I}u + 1u];
//#end
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
    let at_column = min(first + column, VALUE_DIM - 1u);
    let query_channel = key_head * KEY_DIM;
    let key_channel = (KEY_HEADS + key_head) * KEY_DIM;
    let value_channel = 2u * KEY_HEADS * KEY_DIM + head * VALUE_DIM + at_column;
    let place = head * KEY_DIM * VALUE_DIM + at_column;
//#each I PER
    let own${I} = min(thread + ${I}u * THREADS, KEY_DIM - 1u);
    var queries${I} = channel_of(query_channel + own${I});
    var keys${I} = channel_of(key_channel + own${I});
//#end
    var values = channel_of(value_channel);
    let decay_of = exp_of(decays[head]);
    let added = decays[VALUE_HEADS + head];
//#each I QUADS
    var kept${I}: vec4<f32>;
//#each J FOUR
    let d${I}${J} = part * PART + ${I}u * 4u + ${J}u;
    let from${I}${J} = state[place + min(d${I}${J}, KEY_DIM - 1u) * VALUE_DIM];
    kept${I}[${J}] = select(0.0, from${I}${J}, d${I}${J} < KEY_DIM);
//#end
//#end
    for (var t = 0u; t < im.tokens; t++) {
        let row = im.first_row + t;
        let gate = row * VALUE_HEADS + head;
        let inputs = im.qkv + row * WIDTH;
        let a = x[im.a + gate];
        let b = x[im.b + gate];
        values = with_input(values, x[inputs + value_channel]);
//#each I PER
        queries${I} = with_input(queries${I}, x[inputs + query_channel + own${I}]);
        keys${I} = with_input(keys${I}, x[inputs + key_channel + own${I}]);
//#end
        workgroupBarrier();
        var own = vec2(0.0);
//#each I PER
        if thread + ${I}u * THREADS < KEY_LEN {
            var pair = vec2(0.0);
            if thread + ${I}u * THREADS < KEY_DIM {
                pair = vec2(convolved(queries${I}), convolved(keys${I}));
            }
            query[thread + ${I}u * THREADS] = pair.x;
            key[thread + ${I}u * THREADS] = pair.y;
            own = fma(pair, pair, own);
        }
//#end
        squares[thread] = own;
        if thread < COLUMNS {
            value[thread] = convolved(values);
        }
        let decay = exp_of(-(decay_of * softplus(a + added)));
        let strength = sigmoid(b);
        workgroupBarrier();
        var sum = 0.0;
//#each I QUADS
//#each J FOUR
        sum = fma(kept${I}[${J}], key[part * PART + ${I}u * 4u + ${J}u], sum);
//#end
//#end
        sums[thread] = sum;
        if thread < 16u {
            var total = vec2(0.0);
            for (var i = 0u; i < THREADS / 16u; i++) {
                total += squares[thread * (THREADS / 16u) + i];
            }
            square_parts[thread] = total;
        }
        workgroupBarrier();
        var length = vec2(0.0);
        for (var i = 0u; i < 16u; i++) {
            length += square_parts[i];
        }
        let inverse = 1.0 / sqrt(length + vec2(L2_EPS));
        let held = sum_of_parts(column) * inverse.y;
        let delta = fma(held, -decay, value[column]) * strength * inverse.y;
        var result = 0.0;
//#each I QUADS
//#each J FOUR
        let d${I}${J} = part * PART + ${I}u * 4u + ${J}u;
        kept${I}[${J}] = fma(key[d${I}${J}], delta, kept${I}[${J}] * decay);
        result = fma(kept${I}[${J}], query[d${I}${J}], result);
//#end
//#end
        results[thread] = result;
        workgroupBarrier();
        if thread < COLUMNS && inside {
            let total = (results[column] + results[column + COLUMNS])
                + (results[column + 2u * COLUMNS] + results[column + 3u * COLUMNS]);
            out[gate * VALUE_DIM + at_column] = total * (inverse.x / sqrt(f32(KEY_DIM)));
        }
    }
//#each I QUADS
//#each J FOUR
    if inside && d${I}${J} < KEY_DIM {
        next_state[place + d${I}${J} * VALUE_DIM] = kept${I}[${J}];
    }
//#end
//#end
    // One workgroup keeps the history of a channel.
    if thread < COLUMNS && inside {
        keep_history(values, value_channel);
    }
    if is_first && group.x == 0u {
//#each I PER
        if thread + ${I}u * THREADS < KEY_DIM {
            keep_history(queries${I}, query_channel + own${I});
            keep_history(keys${I}, key_channel + own${I});
        }
//#end
    }
}
