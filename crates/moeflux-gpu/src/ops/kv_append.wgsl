// Appends keys and values of a span to a session's. A thread writes one 16-byte unit of each.
//
// Units are 8 binary16 or 4 f32; what a head does not fill is zeros. Keys lie in blocks of
// positions, `[blocks, KV_HEADS, UNITS, BLOCK]` units, so that neighbouring threads read
// neighbouring positions; values as `[positions, KV_HEADS, UNITS]`.

const THREADS: u32 = 64u;
const BLOCK: u32 = 64u;
const KV_HEADS: u32 = ${KV_HEADS}u;
const DIM: u32 = ${DIM}u;
//#if F16
const UNIT: u32 = 8u;
//#else
const UNIT: u32 = 4u;
//#endif
const UNITS: u32 = (DIM + UNIT - 1u) / UNIT;

struct Sizes {
    // Row of the first token in the step's buffers, number of tokens, position of the first.
    first_row: u32,
    tokens: u32,
    start: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> k: array<f32>;
@group(0) @binding(1) var<storage, read> v: array<f32>;
@group(0) @binding(2) var<storage, read_write> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> values: array<vec4<u32>>;

fn key_at(row: u32, d: u32) -> f32 {
    return select(0.0, k[row * DIM + min(d, DIM - 1u)], d < DIM);
}

fn value_at(row: u32, d: u32) -> f32 {
    return select(0.0, v[row * DIM + min(d, DIM - 1u)], d < DIM);
}

//#if F16
fn key_pair(row: u32, d: u32) -> u32 {
    return to_f16(key_at(row, d)) | (to_f16(key_at(row, d + 1u)) << 16u);
}

fn value_pair(row: u32, d: u32) -> u32 {
    return to_f16(value_at(row, d)) | (to_f16(value_at(row, d + 1u)) << 16u);
}
//#else
fn key_bits(row: u32, d: u32) -> u32 {
    return bitcast<u32>(key_at(row, d));
}

fn value_bits(row: u32, d: u32) -> u32 {
    return bitcast<u32>(value_at(row, d));
}
//#endif

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    if at >= sizes.tokens * KV_HEADS * UNITS {
        return;
    }
    let unit = at % UNITS;
    let head = (at / UNITS) % KV_HEADS;
    let token = at / UNITS / KV_HEADS;
    let position = sizes.start + token;
    let row = (sizes.first_row + token) * KV_HEADS + head;
    let d = unit * UNIT;
    let block = position / BLOCK * KV_HEADS + head;
    let key_place = (block * UNITS + unit) * BLOCK + position % BLOCK;
    let value_place = (position * KV_HEADS + head) * UNITS + unit;
//#if F16
    keys[key_place] = vec4(
        key_pair(row, d), key_pair(row, d + 2u), key_pair(row, d + 4u), key_pair(row, d + 6u));
    values[value_place] = vec4(value_pair(row, d), value_pair(row, d + 2u),
        value_pair(row, d + 4u), value_pair(row, d + 6u));
//#else
    keys[key_place] = vec4(
        key_bits(row, d), key_bits(row, d + 1u), key_bits(row, d + 2u), key_bits(row, d + 3u));
    values[value_place] = vec4(value_bits(row, d), value_bits(row, d + 1u),
        value_bits(row, d + 2u), value_bits(row, d + 3u));
//#endif
}
