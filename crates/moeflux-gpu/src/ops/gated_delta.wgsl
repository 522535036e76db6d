// Gated delta rule: a workgroup has COLUMNS elements of the values of one head and takes the tokens
// of a span in order. PARTS threads share a column of the state and keep it in registers.

const THREADS: u32 = 128u;
const KEY_HEADS: u32 = ${KEY_HEADS}u;
const VALUE_HEADS: u32 = ${VALUE_HEADS}u;
const KEY_DIM: u32 = ${KEY_DIM}u;
const VALUE_DIM: u32 = ${VALUE_DIM}u;
const COLUMNS: u32 = 32u;
const PARTS: u32 = 4u;
// vec4s of a part of a key, and of a whole one, filled up with zeros.
const QUADS: u32 = (KEY_DIM + 15u) / 16u;
const KEY_QUADS: u32 = PARTS * QUADS;
// Tokens that are loaded together.
const BLOCK: u32 = 8u;
const WIDTH: u32 = 2u * KEY_HEADS * KEY_DIM + VALUE_HEADS * VALUE_DIM;
const L2_EPS: f32 = 1e-6;

struct Sizes {
    first_row: u32,
    tokens: u32,
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

// Queries, then keys, of a block of tokens, as they came, and what makes their length 1.
var<workgroup> vectors: array<vec4<f32>, 2u * BLOCK * KEY_QUADS>;
var<workgroup> lengths: array<f32, THREADS>;
var<workgroup> inverse: array<f32, 2u * BLOCK>;
var<workgroup> values: array<f32, BLOCK * COLUMNS>;
// Decay and write strength.
var<workgroup> gates: array<vec2<f32>, BLOCK>;
// Parts of sums: of two tokens by turns, and of a block.
var<workgroup> memory: array<f32, 2u * THREADS>;
var<workgroup> results: array<f32, BLOCK * THREADS>;

fn load_block(token: u32, count: u32, key_head: u32, head: u32, first: u32, thread: u32) {
    for (var i = thread; i < 2u * count * KEY_QUADS; i += THREADS) {
        let vector = i / KEY_QUADS;
        let d = i % KEY_QUADS * 4u;
        let row = (sizes.first_row + token + vector % count) * WIDTH;
        let place = row + (vector / count * KEY_HEADS + key_head) * KEY_DIM;
        var quad = vec4<f32>();
        for (var j = 0u; j < 4u; j++) {
            if d + j < KEY_DIM {
                quad[j] = qkv[place + d + j];
            }
        }
        vectors[i] = quad;
    }
    for (var i = thread; i < count * COLUMNS; i += THREADS) {
        let column = first + i % COLUMNS;
        if column < VALUE_DIM {
            let row = (sizes.first_row + token + i / COLUMNS) * WIDTH;
            values[i] = qkv[row + 2u * KEY_HEADS * KEY_DIM + head * VALUE_DIM + column];
        }
    }
    if thread < count {
        let at = (sizes.first_row + token + thread) * VALUE_HEADS + head;
        let rate = exp_of(a_log[head]) * softplus(a[at] + dt_bias[head]);
        gates[thread] = vec2(exp_of(-rate), sigmoid(b[at]));
    }
    workgroupBarrier();
    // Eight threads a vector.
    var squares = 0.0;
    if thread / 8u < 2u * count {
        for (var i = thread % 8u; i < KEY_QUADS; i += 8u) {
            let quad = vectors[thread / 8u * KEY_QUADS + i];
            squares += dot(quad, quad);
        }
    }
    lengths[thread] = squares;
    workgroupBarrier();
    if thread < 2u * count {
        var sum = L2_EPS;
        for (var i = 0u; i < 8u; i++) {
            sum += lengths[thread * 8u + i];
        }
        inverse[thread] = 1.0 / sqrt(sum);
    }
    workgroupBarrier();
}

fn sum_of_parts(at: u32) -> f32 {
    return (memory[at] + memory[at + COLUMNS])
        + (memory[at + 2u * COLUMNS] + memory[at + 3u * COLUMNS]);
}

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
    let column = thread % COLUMNS;
    let part = thread / COLUMNS;
    let inside = first + column < VALUE_DIM;
    let place = head * KEY_DIM * VALUE_DIM + first + column;
    var kept: array<vec4<f32>, QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        for (var j = 0u; j < 4u; j++) {
            let d = (part * QUADS + i) * 4u + j;
            if inside && d < KEY_DIM {
                kept[i][j] = state[place + d * VALUE_DIM];
            }
        }
    }
    for (var token = 0u; token < sizes.tokens; token += BLOCK) {
        let count = min(BLOCK, sizes.tokens - token);
        workgroupBarrier();
        load_block(token, count, key_head, head, first, thread);
        for (var t = 0u; t < count; t++) {
            let query = t * KEY_QUADS + part * QUADS;
            let key = (count + t) * KEY_QUADS + part * QUADS;
            var sum = 0.0;
            for (var i = 0u; i < QUADS; i++) {
                sum += dot(kept[i], vectors[key + i]);
            }
            // By turns, so that one barrier a token is enough.
            let turn = t % 2u * THREADS;
            memory[turn + thread] = sum;
            workgroupBarrier();
            let length = inverse[count + t];
            let decay = gates[t].x;
            let held = sum_of_parts(turn + column) * length;
            let delta = fma(held, -decay, values[t * COLUMNS + column]) * gates[t].y * length;
            var result = 0.0;
            for (var i = 0u; i < QUADS; i++) {
                let quad = fma(vectors[key + i], vec4(delta), kept[i] * decay);
                kept[i] = quad;
                result += dot(quad, vectors[query + i]);
            }
            results[t * THREADS + thread] = result;
        }
        workgroupBarrier();
        for (var i = thread; i < count * COLUMNS; i += THREADS) {
            let t = i / COLUMNS;
            let at = t * THREADS + i % COLUMNS;
            let sum = (results[at] + results[at + COLUMNS])
                + (results[at + 2u * COLUMNS] + results[at + 3u * COLUMNS]);
            if first + i % COLUMNS < VALUE_DIM {
                let row = (sizes.first_row + token + t) * VALUE_HEADS + head;
                out[row * VALUE_DIM + first + i % COLUMNS] =
                    sum * (inverse[t] / sqrt(f32(KEY_DIM)));
            }
        }
    }
    for (var i = 0u; i < QUADS; i++) {
        for (var j = 0u; j < 4u; j++) {
            let d = (part * QUADS + i) * 4u + j;
            if inside && d < KEY_DIM {
                next_state[place + d * VALUE_DIM] = kept[i][j];
            }
        }
    }
}
