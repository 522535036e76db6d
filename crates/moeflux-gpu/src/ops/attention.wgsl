// Causal attention by tiles: a workgroup takes ROWS rows (pairs of a query and one of the GROUP
// heads that share a head of keys and values) over chunks of CHUNK_BLOCKS blocks of keys. Within a
// chunk the softmax goes on from block to block, then the chunk joins those before it. With SPLIT a
// workgroup has one chunk, and attention_merge.wgsl joins them in the same way, to the same bits. A
// row's arithmetic does not depend on the tile it lies in. What is indexed in registers is written
// out: drivers do not unroll all loops.
//
// How keys and values lie: kv_append.wgsl.

const THREADS: u32 = 128u;
const BLOCK: u32 = 64u;
const CHUNK_BLOCKS: u32 = ${CHUNK_BLOCKS}u;
const HEADS: u32 = ${HEADS}u;
const KV_HEADS: u32 = ${KV_HEADS}u;
const DIM: u32 = ${DIM}u;
const ROWS: u32 = ${ROWS}u;
const GROUP: u32 = HEADS / KV_HEADS;
const UNIT: u32 = ${UNIT}u;
const UNITS: u32 = (DIM + UNIT - 1u) / UNIT;
// vec4s of a unit, and of a padded head.
const QUADS: u32 = ${HALVES}u;
const WIDTH: u32 = UNITS * QUADS;
// Scores: a thread has one position and SCORE_ROWS rows.
const SCORE_ROWS: u32 = ${SCORE_ROWS}u;
// Softmax: SHARERS threads have a row, PART positions each.
const SHARERS: u32 = 8u;
const PART: u32 = BLOCK / SHARERS;
// Sums: VALUE_GROUPS groups of threads have VALUE_ROWS rows each, a thread one unit.
const VALUE_GROUPS: u32 = min(THREADS / UNITS, ROWS);
const VALUE_ROWS: u32 = ${VALUE_ROWS}u;
const SUMS: u32 = VALUE_ROWS * QUADS;
// Units that a thread has on their way at once.
const BATCH: u32 = ${BATCH}u;
// Least finite number: what is less than every score that counts.
const LEAST: f32 = -3.4028234e38;

struct Sizes {
    // Row of the first query in the step's buffers, number of queries, position of the first.
    first_row: u32,
    queries: u32,
    start: u32,
    scale: f32,
    // With SPLIT: chunks of the last query.
    chunks: u32,
    // Positions that a query sees, its own included.
    window: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> values: array<vec4<u32>>;
//#if SPLIT
// `[queries, HEADS, chunks, DIM + 2]`: weighted values, greatest score, sum of weights.
//#endif
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
//#if SINKS
// A score of each head that takes part without a value.
@group(0) @binding(4) var<storage, read> sinks: array<f32>;
//#endif

var<workgroup> query: array<vec4<f32>, ROWS * WIDTH>;
var<workgroup> weights: array<f32, ROWS * BLOCK>;
var<workgroup> parts: array<f32, ROWS * SHARERS>;
var<workgroup> part_sums: array<f32, ROWS * SHARERS>;
var<workgroup> row_max: array<f32, ROWS>;
var<workgroup> row_sum: array<f32, ROWS>;
var<workgroup> row_factor: array<f32, ROWS>;
//#if SPLIT
//#else
// Of all chunks so far, and the factors by which these and a new chunk are joined.
var<workgroup> total_max: array<f32, ROWS>;
var<workgroup> total_sum: array<f32, ROWS>;
var<workgroup> join: array<vec2<f32>, ROWS>;
//#endif

// A row of the whole span: query, then head within the group.
fn load_queries(first: u32, kv_head: u32, thread: u32) {
    for (var i = thread; i < ROWS * WIDTH; i += THREADS) {
        let row = first + i / WIDTH;
        let d = i % WIDTH * 4u;
        var value = vec4<f32>();
        if row < sizes.queries * GROUP {
            let head = (sizes.first_row + row / GROUP) * HEADS + kv_head * GROUP + row % GROUP;
            for (var j = 0u; j < 4u; j++) {
                if d + j < DIM {
                    value[j] = q[head * DIM + d + j];
                }
            }
        }
        query[i] = value;
    }
}

//#if F16
fn quad(unit: vec4<u32>, index: u32) -> vec4<f32> {
    return vec4(unpack2x16float(unit[2u * index]), unpack2x16float(unit[2u * index + 1u]));
}
//#else
fn quad(unit: vec4<u32>, index: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(unit);
}
//#endif

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

// Whether a row of the span sees a position. One behind it is farther than any window.
fn sees(row: u32, position: u32) -> bool {
    return sizes.start + row / GROUP - position < sizes.window;
}

// Scores of one block; those a row does not see become LEAST.
fn score(kv_head: u32, first: u32, position: u32, thread: u32) {
    let in_block = thread % BLOCK;
    let first_row = thread / BLOCK * SCORE_ROWS;
    var sums: array<f32, SCORE_ROWS>;
    let place = (position / BLOCK * KV_HEADS + kv_head) * UNITS * BLOCK + in_block;
    for (var begin = 0u; begin < UNITS; begin += BATCH) {
//#each I BATCH
        let loaded${I} = keys[place + min(begin + ${I}u, UNITS - 1u) * BLOCK];
//#end
//#each I BATCH
        if begin + ${I}u < UNITS {
            add_scores(loaded${I}, (begin + ${I}u) * QUADS, first_row, &sums);
        }
//#end
    }
//#each K SCORE_ROWS
    if first_row + ${K}u < ROWS {
        let row = first_row + ${K}u;
        let seen = sees(first + row, position + in_block);
        weights[row * BLOCK + in_block] = select(LEAST, sums[${K}] * sizes.scale, seen);
    }
//#end
}

// Turns the scores of a block into weights, and says what the sums so far are to be multiplied by.
fn soften(first: u32, position: u32, thread: u32) {
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
            let seen = sees(first + row, position + sharer * PART + i);
            let weight = select(0.0, exp_of(weights[place + i] - most), seen);
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

// Adds a unit, weighted for each of a thread's rows, the first of which has its weight at `place`.
fn add_value(
    value: vec4<u32>,
    place: u32,
    sums: ptr<function, array<vec4<f32>, SUMS>>,
) {
//#each K VALUE_ROWS
    let weight${K} = vec4(weights[min(place + ${K}u * BLOCK, ROWS * BLOCK - 1u)]);
//#end
//#each J HALVES
    let part${J} = quad(value, ${J}u);
//#each K VALUE_ROWS
    (*sums)[${K}u * QUADS + ${J}u] = fma(weight${K}, part${J}, (*sums)[${K}u * QUADS + ${J}u]);
//#end
//#end
}

// Adds the weighted values of a block to a thread's sums.
fn add_values(
    kv_head: u32,
    position: u32,
    seen: u32,
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
    let place = (position * KV_HEADS + kv_head) * UNITS + thread % UNITS;
    let count = min(BLOCK, seen - position);
    for (var begin = 0u; begin < count; begin += BATCH) {
//#each I BATCH
        let loaded${I} = values[place + min(begin + ${I}u, count - 1u) * KV_HEADS * UNITS];
//#end
//#each I BATCH
        if begin + ${I}u < count {
            add_value(loaded${I}, first_row * BLOCK + begin + ${I}u, sums);
        }
//#end
    }
}

//#if SPLIT
//#else
// Joins the sums of a chunk to those before it, and makes ready for the next.
fn join_chunk(row: u32) {
    let most = max(total_max[row], row_max[row]);
    let factors = vec2(exp_of(total_max[row] - most), exp_of(row_max[row] - most));
    total_sum[row] = fma(total_sum[row], factors.x, row_sum[row] * factors.y);
    total_max[row] = most;
    join[row] = factors;
    row_max[row] = LEAST;
    row_sum[row] = 0.0;
}
//#endif

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // Later tiles see more and take longer, so they come first.
    let tiles = (sizes.queries * GROUP + ROWS - 1u) / ROWS;
    let first = (tiles - 1u - group.x % tiles) * ROWS;
    let kv_head = group.y;
    let last_query = min(first + ROWS - 1u, sizes.queries * GROUP - 1u) / GROUP;
    let seen = sizes.start + last_query + 1u;
    let end = (seen + BLOCK - 1u) / BLOCK;
    // The first chunk that the first row sees.
    let reach = sizes.start + first / GROUP + 1u;
    let begin = (reach - min(reach, sizes.window)) / (CHUNK_BLOCKS * BLOCK);
    // With SPLIT z counts chunks, otherwise all come in turn.
//#if SPLIT
    var chunk = group.z;
    if chunk < begin || chunk * CHUNK_BLOCKS >= end {
        return;
    }
//#else
    var chunk = begin;
//#endif
    load_queries(first, kv_head, thread);
    if thread < ROWS {
        row_max[thread] = LEAST;
        row_sum[thread] = 0.0;
//#if SPLIT
//#else
        total_max[thread] = LEAST;
        total_sum[thread] = 0.0;
//#endif
    }
    let unit = thread % UNITS;
    let value_row = thread / UNITS * VALUE_ROWS;
    let has_values = thread / UNITS < VALUE_GROUPS;
    var sums: array<vec4<f32>, SUMS>;
//#if SPLIT
    let chunk_end = chunk + 1u;
//#else
    let chunk_end = (end + CHUNK_BLOCKS - 1u) / CHUNK_BLOCKS;
    var totals: array<vec4<f32>, SUMS>;
//#endif
    for (; chunk < chunk_end; chunk++) {
        let last = min(end, (chunk + 1u) * CHUNK_BLOCKS);
        for (var block = chunk * CHUNK_BLOCKS; block < last; block++) {
            let position = block * BLOCK;
            // The weights of the block before have been used, the queries are there.
            workgroupBarrier();
            score(kv_head, first, position, thread);
            workgroupBarrier();
            soften(first, position, thread);
            workgroupBarrier();
            if has_values {
                add_values(kv_head, position, seen, thread, &sums);
            }
        }
//#if SPLIT
//#else
        if thread < ROWS {
            join_chunk(thread);
        }
        workgroupBarrier();
//#each K VALUE_ROWS
        let factors${K} = join[min(value_row + ${K}u, ROWS - 1u)];
//#each J HALVES
        totals[${K}u * QUADS + ${J}u] = fma(totals[${K}u * QUADS + ${J}u], vec4(factors${K}.x),
            sums[${K}u * QUADS + ${J}u] * factors${K}.y);
        sums[${K}u * QUADS + ${J}u] = vec4<f32>();
//#end
//#end
//#endif
    }
    if !has_values {
        return;
    }
//#each K VALUE_ROWS
    if value_row + ${K}u < ROWS && first + value_row + ${K}u < sizes.queries * GROUP {
        let row = first + value_row + ${K}u;
        let head = kv_head * GROUP + row % GROUP;
//#if SPLIT
        let place = ((row / GROUP * HEADS + head) * sizes.chunks + group.z) * (DIM + 2u);
        if unit == 0u {
            out[place + DIM] = row_max[value_row + ${K}u];
            out[place + DIM + 1u] = row_sum[value_row + ${K}u];
        }
//#else
        let place = ((sizes.first_row + row / GROUP) * HEADS + head) * DIM;
        var sum = total_sum[value_row + ${K}u];
//#if SINKS
        let own = total_max[value_row + ${K}u];
        let most = max(own, sinks[head]);
        let factor = exp_of(own - most);
        sum = fma(sum, factor, exp_of(sinks[head] - most));
//#else
        let factor = 1.0;
//#endif
//#endif
//#each J UNIT
        if unit * UNIT + ${J}u < DIM {
//#if SPLIT
            out[place + unit * UNIT + ${J}u] = sums[${K}u * QUADS + ${J}u / 4u][${J}u % 4u];
//#else
            let total = totals[${K}u * QUADS + ${J}u / 4u][${J}u % 4u];
            out[place + unit * UNIT + ${J}u] = total * factor / sum;
//#endif
        }
//#end
    }
//#end
}
