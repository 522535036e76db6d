// What attention begins with: heads of queries and keys, with NORMED normed and then rotated, and
// heads of values; keys and values go where the session has them (kv_append.wgsl), a workgroup a head.

const THREADS = 64u;
const BLOCK = 64u;
const HEADS = ${HEADS}u;
const KV_HEADS = ${KV_HEADS}u;
const LEN = ${LEN}u;
const PAIRS = ${PAIRS}u;
//#if F16
const UNIT = 8u;
//#else
const UNIT = 4u;
//#endif
const UNITS = (LEN + UNIT - 1u) / UNIT;
const KEPT = (LEN + THREADS - 1u) / THREADS;

struct Immediates {
    first_row: u32,
    // Position of the first token.
    start: u32,
    eps: f32,
    // Factor on sine and cosine.
    scale: f32,
    // Where queries, keys and values begin, in elements.
    q: u32,
    k: u32,
    v: u32,
}
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> inv_freq: array<f32>;
@group(0) @binding(2) var<storage, read_write> rotated: array<f32>;
@group(0) @binding(3) var<storage, read_write> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> values: array<vec4<u32>>;
//#if NORMED
// Of queries, then of keys.
@group(0) @binding(5) var<storage, read> norms: array<f32>;
//#endif

// A head, filled up with zeros to whole units.
var<workgroup> head: array<f32, UNITS * UNIT>;
var<workgroup> turned: array<f32, UNITS * UNIT>;

// Elements of a unit as the session has them.
fn packed(unit: u32) -> vec4<u32> {
    let d = unit * UNIT;
//#if F16
    return vec4(
        to_f16(turned[d]) | (to_f16(turned[d + 1u]) << 16u),
        to_f16(turned[d + 2u]) | (to_f16(turned[d + 3u]) << 16u),
        to_f16(turned[d + 4u]) | (to_f16(turned[d + 5u]) << 16u),
        to_f16(turned[d + 6u]) | (to_f16(turned[d + 7u]) << 16u),
    );
//#else
    return bitcast<vec4<u32>>(vec4(turned[d], turned[d + 1u], turned[d + 2u], turned[d + 3u]));
//#endif
}

fn norm_and_turn(position: u32, norm: u32, thread: u32) {
//#if NORMED
    var squares = 0.0;
    for (var i = 0u; i < KEPT; i++) {
        let d = i * THREADS + thread;
        if d < LEN { squares = fma(head[d], head[d], squares); }
    }
    let inverse = 1.0 / sqrt(sum_of_group(squares, thread) / f32(LEN) + im.eps);
    for (var i = 0u; i < KEPT; i++) {
        let d = i * THREADS + thread;
        if d < LEN { head[d] = (head[d] * inverse) * norms[norm + d]; }
    }
    workgroupBarrier();
//#endif
    for (var unit = thread; unit < LEN - PAIRS; unit += THREADS) {
        if unit >= PAIRS {
            turned[PAIRS + unit] = head[PAIRS + unit];
            continue;
        }
        let angle = sin_cos(f32(position) * inv_freq[unit]) * im.scale;
//#if INTERLEAVED
        let at_a = 2u * unit;
        let at_b = at_a + 1u;
//#else
        let at_a = unit;
        let at_b = at_a + PAIRS;
//#endif
        let a = head[at_a];
        let b = head[at_b];
        turned[at_a] = fma(a, angle.y, -(b * angle.x));
        turned[at_b] = fma(b, angle.y, a * angle.x);
    }
}

// x: heads of queries, of keys, of values; y: tokens.
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = im.first_row + group.y;
    let position = im.start + group.y;
    let is_query = group.x < HEADS;
    let is_key = !is_query && group.x < HEADS + KV_HEADS;
    var number = group.x;
    var begin = im.q + (row * HEADS + number) * LEN;
//#if PAIRED
    begin = im.q + (row * HEADS + number) * 2u * LEN;
//#endif
    if is_key {
        number -= HEADS;
        begin = im.k + (row * KV_HEADS + number) * LEN;
    } else if !is_query {
        number -= HEADS + KV_HEADS;
        begin = im.v + (row * KV_HEADS + number) * LEN;
    }
    for (var d = thread; d < UNITS * UNIT; d += THREADS) {
        var value = 0.0;
        if d < LEN { value = x[begin + d]; }
        head[d] = value;
        turned[d] = value;
    }
    workgroupBarrier();
    if is_query || is_key {
        norm_and_turn(position, select(LEN, 0u, is_query), thread);
    }
    workgroupBarrier();
    if is_query {
        for (var d = thread; d < LEN; d += THREADS) {
            rotated[(row * HEADS + number) * LEN + d] = turned[d];
        }
        return;
    }
    for (var unit = thread; unit < UNITS; unit += THREADS) {
        if is_key {
            let block = position / BLOCK * KV_HEADS + number;
            keys[(block * UNITS + unit) * BLOCK + position % BLOCK] = packed(unit);
        } else {
            values[(position * KV_HEADS + number) * UNITS + unit] = packed(unit);
        }
    }
}
