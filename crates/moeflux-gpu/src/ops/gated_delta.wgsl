// Gated delta rule: a workgroup has COLUMNS elements of the values of one head and takes the tokens
// of a span in order. PARTS neighbouring threads share a column of the state and keep it in
// registers: thread `part` has every PARTSth vec4 of a key. What is indexed in registers is written
// out: drivers do not unroll all loops.

const THREADS: u32 = 128u;
const KEY_HEADS: u32 = ${KEY_HEADS}u;
const VALUE_HEADS: u32 = ${VALUE_HEADS}u;
const KEY_DIM: u32 = ${KEY_DIM}u;
const VALUE_DIM: u32 = ${VALUE_DIM}u;
const PARTS: u32 = 8u;
const COLUMNS: u32 = THREADS / PARTS;
// vec4s of a thread's part of a key, and of a whole one, filled up with zeros.
const QUADS: u32 = ${QUADS}u;
const KEY_QUADS: u32 = PARTS * QUADS;
// Tokens that are loaded together.
const BLOCK: u32 = ${BLOCK}u;
const WIDTH: u32 = 2u * KEY_HEADS * KEY_DIM + VALUE_HEADS * VALUE_DIM;
const L2_EPS: f32 = 1e-6;

struct Sizes {
    first_row: u32,
    tokens: u32,
//#if BOUNDED
    bound: f32,
//#endif
}

var<immediate> sizes: Sizes;
// `[q | k | v]`.
@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> a_log: array<f32>;
@group(0) @binding(4) var<storage, read> dt_bias: array<f32>;
@group(0) @binding(5) var<storage, read> state: array<f32>;
@group(0) @binding(6) var<storage, read_write> next_state: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

// Of each token of a block the query, then the key, as they came, and what makes their length 1.
var<workgroup> vectors: array<vec4<f32>, 2u * BLOCK * KEY_QUADS>;
var<workgroup> lengths: array<f32, THREADS>;
var<workgroup> inverse: array<f32, 2u * BLOCK>;
var<workgroup> values: array<f32, BLOCK * COLUMNS>;
//#if KEYED
// Decays of key elements of each token of a block.
var<workgroup> decays: array<vec4<f32>, BLOCK * KEY_QUADS>;
//#endif
// Decay (without KEYED) and write strength.
var<workgroup> gates: array<vec2<f32>, BLOCK>;
// Parts of the sums of a block's results.
var<workgroup> results: array<f32, BLOCK * THREADS>;
//#if LANES
//#else
// Parts of sums of two tokens by turns, so that one barrier a token is enough.
var<workgroup> memory: array<f32, 2u * THREADS>;
//#endif

// What a thread brings of a block.
struct Loaded {
//#each I LOADS
    quad${I}: vec4<f32>,
//#end
//#each I VALUES
    value${I}: f32,
//#end
    gates: vec2<f32>,
}

fn load_quad(token: u32, key_head: u32, at: u32) -> vec4<f32> {
    let vector = at / KEY_QUADS;
    let d = at % KEY_QUADS * 4u;
    let row = (sizes.first_row + min(token + vector / 2u, sizes.tokens - 1u)) * WIDTH;
    let place = row + (vector % 2u * KEY_HEADS + key_head) * KEY_DIM + d;
//#if WHOLE
    return vec4(qkv[place], qkv[place + 1u], qkv[place + 2u], qkv[place + 3u]);
//#else
    var quad = vec4<f32>();
    for (var j = 0u; j < 4u; j++) {
        if d + j < KEY_DIM { quad[j] = qkv[place + j]; }
    }
    return quad;
//#endif
}

fn load_value(token: u32, head: u32, first: u32, at: u32) -> f32 {
    let column = min(first + at % COLUMNS, VALUE_DIM - 1u);
    let row = (sizes.first_row + min(token + at / COLUMNS, sizes.tokens - 1u)) * WIDTH;
    return qkv[row + 2u * KEY_HEADS * KEY_DIM + head * VALUE_DIM + column];
}

// Tokens past the last are read from it, for nothing.
fn load_block(token: u32, key_head: u32, head: u32, first: u32, thread: u32) -> Loaded {
    var loaded: Loaded;
//#each I LOADS
    loaded.quad${I} = load_quad(token, key_head, ${I}u * THREADS + thread);
//#end
//#each I VALUES
    loaded.value${I} = load_value(token, head, first, ${I}u * THREADS + thread);
//#end
    if thread < BLOCK {
        let at = (sizes.first_row + min(token + thread, sizes.tokens - 1u)) * VALUE_HEADS + head;
//#if KEYED
        loaded.gates = vec2(0.0, b[at]);
//#else
        loaded.gates = vec2(a[at], b[at]);
//#endif
    }
    return loaded;
}

fn put_block(loaded: Loaded, head: u32, thread: u32) {
//#each I LOADS
    vectors[${I}u * THREADS + thread] = loaded.quad${I};
//#end
//#each I VALUES
    values[${I}u * THREADS + thread] = loaded.value${I};
//#end
    if thread < BLOCK {
//#if KEYED
        gates[thread] = vec2(0.0, sigmoid(loaded.gates.y));
//#else
        let rate = exp_of(a_log[head]) * softplus(loaded.gates.x + dt_bias[head]);
        gates[thread] = vec2(exp_of(-rate), sigmoid(loaded.gates.y));
//#endif
    }
}

//#if KEYED
fn decay_of(rate: f32, x: f32) -> f32 {
//#if BOUNDED
    return exp_of(sizes.bound * sigmoid(rate * x));
//#else
    return exp_of(-(rate * softplus(x)));
//#endif
}

// Decays of the tokens of a block; tokens past the last have its.
fn put_decays(token: u32, head: u32, thread: u32) {
    let rate = exp_of(a_log[head]);
    for (var i = thread; i < BLOCK * KEY_QUADS; i += THREADS) {
        let row = sizes.first_row + min(token + i / KEY_QUADS, sizes.tokens - 1u);
        let place = (row * VALUE_HEADS + head) * KEY_DIM;
        var quad = vec4<f32>();
        for (var j = 0u; j < 4u; j++) {
            let d = i % KEY_QUADS * 4u + j;
            if d < KEY_DIM { quad[j] = decay_of(rate, a[place + d] + dt_bias[head * KEY_DIM + d]); }
        }
        decays[i] = quad;
    }
}
//#endif

// SHARERS threads a vector.
const SHARERS: u32 = THREADS / (2u * BLOCK);

fn measure(thread: u32) {
    var squares = 0.0;
    for (var i = thread % SHARERS; i < KEY_QUADS; i += SHARERS) {
        let quad = vectors[thread / SHARERS * KEY_QUADS + i];
        squares += dot(quad, quad);
    }
    lengths[thread] = squares;
    workgroupBarrier();
    if thread < 2u * BLOCK {
        var sum = L2_EPS;
        for (var i = 0u; i < SHARERS; i++) {
            sum += lengths[thread * SHARERS + i];
        }
        inverse[thread] = 1.0 / sqrt(sum);
    }
}

fn sum_of_four(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// The sum of the parts of a column, the same tree either way.
//#if LANES
fn sum_of_parts(part: f32, turn: u32, thread: u32) -> f32 {
    var sum = part;
    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    return sum + subgroupShuffleXor(sum, 4u);
}
//#else
fn sum_of_parts(part: f32, turn: u32, thread: u32) -> f32 {
    let at = turn * THREADS + thread / PARTS * PARTS;
    memory[turn * THREADS + thread] = part;
    workgroupBarrier();
    return ((memory[at] + memory[at + 1u]) + (memory[at + 2u] + memory[at + 3u]))
        + ((memory[at + 4u] + memory[at + 5u]) + (memory[at + 6u] + memory[at + 7u]));
}
//#endif

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let head = group.y;
//#if TILED
    let key_head = head % KEY_HEADS;
//#else
    let key_head = head / (VALUE_HEADS / KEY_HEADS);
//#endif
    let first = group.x * COLUMNS;
    let column = thread / PARTS;
    let part = thread % PARTS;
    let inside = first + column < VALUE_DIM;
    let place = head * KEY_DIM * VALUE_DIM + first + column;
//#each I QUADS
    var kept${I} = vec4<f32>();
//#each J FOUR
    {
        let d = (${I}u * PARTS + part) * 4u + ${J}u;
        if inside && d < KEY_DIM { kept${I}[${J}] = state[place + d * VALUE_DIM]; }
    }
//#end
//#end
    var next = load_block(0u, key_head, head, first, thread);
    for (var token = 0u; token < sizes.tokens; token += BLOCK) {
        workgroupBarrier();
        put_block(next, head, thread);
//#if KEYED
        put_decays(token, head, thread);
//#endif
        next = load_block(token + BLOCK, key_head, head, first, thread);
        workgroupBarrier();
        measure(thread);
        workgroupBarrier();
        let count = min(BLOCK, sizes.tokens - token);
        for (var t = 0u; t < count; t++) {
            let query = 2u * t * KEY_QUADS + part;
            let key = query + KEY_QUADS;
            var sums = vec4<f32>();
//#each I QUADS
            let key${I} = vectors[key + ${I}u * PARTS];
//#if KEYED
            let decay${I} = decays[t * KEY_QUADS + part + ${I}u * PARTS];
            sums = fma(kept${I}, key${I} * decay${I}, sums);
//#else
            sums = fma(kept${I}, key${I}, sums);
//#endif
//#end
            let length = inverse[2u * t + 1u];
            let held = sum_of_parts(sum_of_four(sums), t % 2u, thread) * length;
//#if KEYED
            let delta = (values[t * COLUMNS + column] - held) * gates[t].y * length;
//#else
            let decay = gates[t].x;
            let delta = fma(held, -decay, values[t * COLUMNS + column]) * gates[t].y * length;
//#endif
            var result = vec4<f32>();
//#each I QUADS
//#if KEYED
            kept${I} = fma(key${I}, vec4(delta), kept${I} * decay${I});
//#else
            kept${I} = fma(key${I}, vec4(delta), kept${I} * decay);
//#endif
            result = fma(kept${I}, vectors[query + ${I}u * PARTS], result);
//#end
            results[t * THREADS + thread] = sum_of_four(result);
        }
        workgroupBarrier();
        for (var i = thread; i < count * COLUMNS; i += THREADS) {
            let at = i * PARTS;
            let sum = ((results[at] + results[at + 1u]) + (results[at + 2u] + results[at + 3u]))
                + ((results[at + 4u] + results[at + 5u]) + (results[at + 6u] + results[at + 7u]));
            if first + i % COLUMNS < VALUE_DIM {
                let t = i / COLUMNS;
                let row = (sizes.first_row + token + t) * VALUE_HEADS + head;
                out[row * VALUE_DIM + first + i % COLUMNS] =
                    sum * (inverse[2u * t] / sqrt(f32(KEY_DIM)));
            }
        }
    }
//#each I QUADS
//#each J FOUR
    {
        let d = (${I}u * PARTS + part) * 4u + ${J}u;
        if inside && d < KEY_DIM { next_state[place + d * VALUE_DIM] = kept${I}[${J}]; }
    }
//#end
//#end
}
