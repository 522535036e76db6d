// Causal attention by tiles: a workgroup takes ROWS rows (pairs of a query and one of the GROUP
// heads that share a head of keys and values) over chunks of CHUNK_BLOCKS blocks of keys. Within a
// chunk the softmax goes on from block to block, then the chunk joins those before it. With SPLIT a
// workgroup has one chunk, and attention_merge.wgsl joins them in the same way, to the same bits. A
// row's arithmetic does not depend on the tile it lies in.
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
//#if F16
const UNIT: u32 = 8u;
//#else
const UNIT: u32 = 4u;
//#endif
const UNITS: u32 = (DIM + UNIT - 1u) / UNIT;
// vec4s of a unit, and of a padded head.
const QUADS: u32 = UNIT / 4u;
const WIDTH: u32 = UNITS * QUADS;
// Scores: a thread has one position and SCORE_ROWS rows.
const SCORE_ROWS: u32 = (ROWS + 1u) / 2u;
// Softmax: SHARERS threads have a row, PART positions each.
const SHARERS: u32 = 8u;
const PART: u32 = BLOCK / SHARERS;
// Sums: VALUE_GROUPS groups of threads have VALUE_ROWS rows each, a thread one unit.
const VALUE_GROUPS: u32 = min(THREADS / UNITS, ROWS);
const VALUE_ROWS: u32 = (ROWS + VALUE_GROUPS - 1u) / VALUE_GROUPS;
const SUMS: u32 = VALUE_ROWS * QUADS;
// Units that a thread has on their way at once.
const BATCH: u32 = 8u;
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
    for (var half = 0u; half < QUADS; half++) {
        let part = quad(key, half);
        for (var r = 0u; r < SCORE_ROWS; r++) {
            // A row past the last is computed for nothing.
            let row = min(first_row + r, ROWS - 1u);
            let other = query[row * WIDTH + place + half];
            var sum = fma(part.x, other.x, (*sums)[r]);
            sum = fma(part.y, other.y, sum);
            sum = fma(part.z, other.z, sum);
            (*sums)[r] = fma(part.w, other.w, sum);
        }
    }
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
        var loaded: array<vec4<u32>, BATCH>;
        for (var i = 0u; i < BATCH; i++) {
            loaded[i] = keys[place + min(begin + i, UNITS - 1u) * BLOCK];
        }
        for (var i = 0u; i < BATCH; i++) {
            if begin + i < UNITS {
                add_scores(loaded[i], (begin + i) * QUADS, first_row, &sums);
            }
        }
    }
    for (var r = 0u; r < SCORE_ROWS; r++) {
        let row = first_row + r;
        if row < ROWS {
            let seen = sees(first + row, position + in_block);
            weights[row * BLOCK + in_block] = select(LEAST, sums[r] * sizes.scale, seen);
        }
    }
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

// Adds the weighted values of a block to a thread's sums.
fn add_values(
    kv_head: u32,
    position: u32,
    seen: u32,
    thread: u32,
    sums: ptr<function, array<vec4<f32>, SUMS>>,
) {
    let first_row = thread / UNITS * VALUE_ROWS;
    for (var r = 0u; r < VALUE_ROWS; r++) {
        let factor = row_factor[min(first_row + r, ROWS - 1u)];
        for (var half = 0u; half < QUADS; half++) {
            (*sums)[r * QUADS + half] *= factor;
        }
    }
    let place = (position * KV_HEADS + kv_head) * UNITS + thread % UNITS;
    let count = min(BLOCK, seen - position);
    for (var begin = 0u; begin < count; begin += BATCH) {
        var loaded: array<vec4<u32>, BATCH>;
        for (var i = 0u; i < BATCH; i++) {
            loaded[i] = values[place + min(begin + i, count - 1u) * KV_HEADS * UNITS];
        }
        for (var i = 0u; i < BATCH; i++) {
            if begin + i >= count { continue; }
            for (var half = 0u; half < QUADS; half++) {
                let part = quad(loaded[i], half);
                for (var r = 0u; r < VALUE_ROWS; r++) {
                    let row = min(first_row + r, ROWS - 1u);
                    let at = r * QUADS + half;
                    (*sums)[at] = fma(vec4(weights[row * BLOCK + begin + i]), part, (*sums)[at]);
                }
            }
        }
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
        for (var r = 0u; r < VALUE_ROWS; r++) {
            let factors = join[min(value_row + r, ROWS - 1u)];
            for (var half = 0u; half < QUADS; half++) {
                let at = r * QUADS + half;
                totals[at] = fma(totals[at], vec4(factors.x), sums[at] * factors.y);
                sums[at] = vec4<f32>();
            }
        }
//#endif
    }
    if !has_values {
        return;
    }
    for (var r = 0u; r < VALUE_ROWS; r++) {
        let row = first + value_row + r;
        if value_row + r >= ROWS || row >= sizes.queries * GROUP {
            continue;
        }
        let head = kv_head * GROUP + row % GROUP;
//#if SPLIT
        let place = ((row / GROUP * HEADS + head) * sizes.chunks + group.z) * (DIM + 2u);
        if unit == 0u {
            out[place + DIM] = row_max[value_row + r];
            out[place + DIM + 1u] = row_sum[value_row + r];
        }
//#else
        let place = ((sizes.first_row + row / GROUP) * HEADS + head) * DIM;
        var sum = total_sum[value_row + r];
//#if SINKS
        let own = total_max[value_row + r];
        let most = max(own, sinks[head]);
        let factor = exp_of(own - most);
        sum = fma(sum, factor, exp_of(sinks[head] - most));
//#else
        let factor = 1.0;
//#endif
//#endif
        for (var j = 0u; j < UNIT; j++) {
            if unit * UNIT + j < DIM {
//#if SPLIT
                out[place + unit * UNIT + j] = sums[r * QUADS + j / 4u][j % 4u];
//#else
                let total = totals[r * QUADS + j / 4u][j % 4u];
                out[place + unit * UNIT + j] = total * factor / sum;
//#endif
            }
        }
    }
}
