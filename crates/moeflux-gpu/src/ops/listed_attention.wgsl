// Attention of each query to a list of keys of its own: with ENTRIES the positions of its window,
// then entries that stand for windows of positions, all that are complete or those that were
// chosen; without, blocks of positions that were chosen, and the positions behind the last whole
// one. A workgroup has one query and ROWS of the GROUP heads that share a head of keys and
// values, and goes through the list in blocks of 64 with an online softmax, so nothing depends on
// other queries. What is indexed in registers is written out: drivers do not unroll all loops.
//
// How keys and values lie: kv_append.wgsl. Where keys are the values too, those are read for both:
// keys of a list are not neighbours.

const THREADS: u32 = 128u;
const BLOCK: u32 = 64u;
const HEADS: u32 = ${HEADS}u;
const KV_HEADS: u32 = ${KV_HEADS}u;
const DIM: u32 = ${DIM}u;
const ROWS: u32 = ${ROWS}u;
const GROUP: u32 = HEADS / KV_HEADS;
const TILES: u32 = (GROUP + ROWS - 1u) / ROWS;
const UNIT: u32 = ${UNIT}u;
const UNITS: u32 = (DIM + UNIT - 1u) / UNIT;
// vec4s of a unit, and of a padded head.
const QUADS: u32 = ${HALVES}u;
const WIDTH: u32 = UNITS * QUADS;
// Scores: a thread has one key and SCORE_ROWS rows.
const SCORE_ROWS: u32 = ${SCORE_ROWS}u;
// Softmax: SHARERS threads have a row, PART keys each.
const SHARERS: u32 = 8u;
const PART: u32 = BLOCK / SHARERS;
// Sums: VALUE_GROUPS groups of threads have VALUE_ROWS rows each, a thread one unit.
const VALUE_GROUPS: u32 = min(THREADS / UNITS, ROWS);
const VALUE_ROWS: u32 = ${VALUE_ROWS}u;
const SUMS: u32 = VALUE_ROWS * QUADS;
// Less than every score.
const LEAST: f32 = -3.4028234e38;
// Says that a place is an entry's.
const ENTRY: u32 = 0x80000000u;

struct Sizes {
    // Row of the first query in the step's buffers, position of the first.
    first_row: u32,
    start: u32,
    scale: f32,
    // Positions that a query sees, its own included.
    window: u32,
    // Positions of an entry or block, and how many of them a query has at most.
    rate: u32,
    top_k: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#if ENTRIES
@group(0) @binding(3) var<storage, read> entries: array<vec4<u32>>;
//#endif
//#if APART
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
//#endif
//#if CHOSEN
@group(0) @binding(${CHOSEN_AT}) var<storage, read> chosen: array<u32>;
//#endif
//#if SINKS
@group(0) @binding(${SINKS_AT}) var<storage, read> sinks: array<f32>;
//#endif

var<workgroup> query: array<vec4<f32>, ROWS * WIDTH>;
var<workgroup> places: array<u32, BLOCK>;
var<workgroup> weights: array<f32, ROWS * BLOCK>;
var<workgroup> parts: array<f32, ROWS * SHARERS>;
var<workgroup> part_sums: array<f32, ROWS * SHARERS>;
var<workgroup> row_max: array<f32, ROWS>;
var<workgroup> row_sum: array<f32, ROWS>;
var<workgroup> row_factor: array<f32, ROWS>;

//#if F16
fn quad(unit: vec4<u32>, index: u32) -> vec4<f32> {
    return vec4(unpack2x16float(unit[2u * index]), unpack2x16float(unit[2u * index + 1u]));
}
//#else
fn quad(unit: vec4<u32>, index: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(unit);
}
//#endif

// Keys of a query's list.
fn count_of(position: u32) -> u32 {
//#if ENTRIES
    let complete = (position + 1u) / sizes.rate;
//#if CHOSEN
    return min(position + 1u, sizes.window) + min(complete, sizes.top_k);
//#else
    return min(position + 1u, sizes.window) + complete;
//#endif
//#else
    let end = position + 1u;
    if end / sizes.rate <= sizes.top_k {
        return end;
    }
    return sizes.top_k * sizes.rate + end % sizes.rate;
//#endif
}

// Position or entry of place `i` of the list.
fn place_of(i: u32, token: u32, position: u32) -> u32 {
    let end = position + 1u;
//#if ENTRIES
    let seen = min(end, sizes.window);
    if i < seen {
        return end - seen + i;
    }
//#if CHOSEN
    return chosen[(sizes.first_row + token) * sizes.top_k + i - seen] | ENTRY;
//#else
    return (i - seen) | ENTRY;
//#endif
//#else
    if end / sizes.rate <= sizes.top_k {
        return i;
    }
    let block = i / sizes.rate;
    if block >= sizes.top_k {
        return end - end % sizes.rate + i - sizes.top_k * sizes.rate;
    }
    return chosen[(sizes.first_row + token) * sizes.top_k + block] * sizes.rate + i % sizes.rate;
//#endif
}

fn value_at(place: u32, kv_head: u32, unit: u32) -> vec4<u32> {
//#if ENTRIES
    if place >= ENTRY {
        return entries[((place ^ ENTRY) * KV_HEADS + kv_head) * UNITS + unit];
    }
//#endif
    return values[(place * KV_HEADS + kv_head) * UNITS + unit];
}

fn key_at(place: u32, kv_head: u32, unit: u32) -> vec4<u32> {
//#if APART
    return keys[((place / BLOCK * KV_HEADS + kv_head) * UNITS + unit) * BLOCK + place % BLOCK];
//#else
    return value_at(place, kv_head, unit);
//#endif
}

// Queries of the tile's heads; those past the group are zeros.
fn load_queries(token: u32, kv_head: u32, first: u32, thread: u32) {
    for (var i = thread; i < ROWS * WIDTH; i += THREADS) {
        let row = first + i / WIDTH;
        let d = i % WIDTH * 4u;
        var value = vec4<f32>();
        if row < GROUP {
            let head = (sizes.first_row + token) * HEADS + kv_head * GROUP + row;
            for (var j = 0u; j < 4u; j++) {
                if d + j < DIM {
                    value[j] = q[head * DIM + d + j];
                }
            }
        }
        query[i] = value;
    }
}

// What a unit adds to the scores of a thread's rows.
fn add_scores(
    key: vec4<u32>,
    place: u32,
    first_row: u32,
    sums: ptr<function, array<f32, SCORE_ROWS>>,
) {
//#each J HALVES
    let part${J} = quad(key, ${J}u);
//#each K SCORE_ROWS
    // A row past the last is computed for nothing.
    let other${J}_${K} = query[min(first_row + ${K}u, ROWS - 1u) * WIDTH + place + ${J}u];
    var sum${J}_${K} = fma(part${J}.x, other${J}_${K}.x, (*sums)[${K}]);
    sum${J}_${K} = fma(part${J}.y, other${J}_${K}.y, sum${J}_${K});
    sum${J}_${K} = fma(part${J}.z, other${J}_${K}.z, sum${J}_${K});
    (*sums)[${K}] = fma(part${J}.w, other${J}_${K}.w, sum${J}_${K});
//#end
//#end
}

// Scores of a block of keys; those behind the list's end become LEAST.
fn score(kv_head: u32, count: u32, thread: u32) {
    let in_block = thread % BLOCK;
    let first_row = thread / BLOCK * SCORE_ROWS;
    let place = places[in_block];
    var sums: array<f32, SCORE_ROWS>;
    for (var unit = 0u; unit < UNITS; unit++) {
        add_scores(key_at(place, kv_head, unit), unit * QUADS, first_row, &sums);
    }
//#each K SCORE_ROWS
    if first_row + ${K}u < ROWS {
        let value${K} = select(LEAST, sums[${K}] * sizes.scale, in_block < count);
        weights[(first_row + ${K}u) * BLOCK + in_block] = value${K};
    }
//#end
}

// Turns the scores of a block into weights, and says what the sums so far are to be multiplied by.
fn soften(count: u32, thread: u32) {
    let row = thread / SHARERS;
    let sharer = thread % SHARERS;
    let place = row * BLOCK + sharer * PART;
    let at = row * SHARERS + sharer;
    if row < ROWS {
        var most = LEAST;
        for (var i = 0u; i < PART; i++) {
            most = max(most, weights[place + i]);
        }
        parts[at] = most;
    }
    workgroupBarrier();
    var most = LEAST;
    if row < ROWS {
        most = row_max[row];
        for (var i = 0u; i < SHARERS; i++) {
            most = max(most, parts[row * SHARERS + i]);
        }
        var sum = 0.0;
        for (var i = 0u; i < PART; i++) {
            let is_there = sharer * PART + i < count;
            let weight = select(0.0, exp_of(weights[place + i] - most), is_there);
            weights[place + i] = weight;
            sum += weight;
        }
        part_sums[at] = sum;
    }
    workgroupBarrier();
    if row < ROWS && sharer == 0u {
        let factor = exp_of(row_max[row] - most);
        var sum = fma(row_sum[row], factor, part_sums[at]);
        for (var i = 1u; i < SHARERS; i++) {
            sum += part_sums[at + i];
        }
        row_sum[row] = sum;
        row_max[row] = most;
        row_factor[row] = factor;
    }
}

// Adds the weighted values of a block to a thread's sums.
fn add_values(
    kv_head: u32,
    count: u32,
    thread: u32,
    sums: ptr<function, array<vec4<f32>, SUMS>>,
) {
    let first_row = thread / UNITS * VALUE_ROWS;
//#each K VALUE_ROWS
    let factor${K} = row_factor[min(first_row + ${K}u, ROWS - 1u)];
//#each J HALVES
    (*sums)[${K}u * QUADS + ${J}u] *= factor${K};
//#end
//#end
    for (var i = 0u; i < count; i++) {
        let value = value_at(places[i], kv_head, thread % UNITS);
//#each K VALUE_ROWS
        let weight${K} = vec4(weights[min(first_row + ${K}u, ROWS - 1u) * BLOCK + i]);
//#end
//#each J HALVES
        let part${J} = quad(value, ${J}u);
//#each K VALUE_ROWS
        (*sums)[${K}u * QUADS + ${J}u] = fma(weight${K}, part${J}, (*sums)[${K}u * QUADS + ${J}u]);
//#end
//#end
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = group.x;
    let kv_head = group.y / TILES;
    let first = group.y % TILES * ROWS;
    let position = sizes.start + token;
    let all = count_of(position);
    load_queries(token, kv_head, first, thread);
    if thread < ROWS {
        row_max[thread] = LEAST;
        row_sum[thread] = 0.0;
    }
    let unit = thread % UNITS;
    let value_row = thread / UNITS * VALUE_ROWS;
    let has_values = thread / UNITS < VALUE_GROUPS;
    var sums: array<vec4<f32>, SUMS>;
    for (var begin = 0u; begin < all; begin += BLOCK) {
        let count = min(BLOCK, all - begin);
        // The places and weights of the block before have been used.
        workgroupBarrier();
        if thread < BLOCK {
            places[thread] = place_of(min(begin + thread, all - 1u), token, position);
        }
        workgroupBarrier();
        score(kv_head, count, thread);
        workgroupBarrier();
        soften(count, thread);
        workgroupBarrier();
        if has_values {
            add_values(kv_head, count, thread, &sums);
        }
    }
    if !has_values {
        return;
    }
//#each K VALUE_ROWS
    if value_row + ${K}u < ROWS && first + value_row + ${K}u < GROUP {
        let head = kv_head * GROUP + first + value_row + ${K}u;
        let place = ((sizes.first_row + token) * HEADS + head) * DIM;
        var sum = row_sum[value_row + ${K}u];
//#if SINKS
        let own = row_max[value_row + ${K}u];
        let most = max(own, sinks[head]);
        let factor = exp_of(own - most);
        sum = fma(sum, factor, exp_of(sinks[head] - most));
//#else
        let factor = 1.0;
//#endif
//#each J UNIT
        if unit * UNIT + ${J}u < DIM {
            let total = sums[${K}u * QUADS + ${J}u / 4u][${J}u % 4u];
            out[place + unit * UNIT + ${J}u] = total * factor / sum;
        }
//#end
    }
//#end
}
