// Causal attention of a prompt by the device's matrix unit: a workgroup has ROWS rows (pairs of a
// query and one of the GROUP heads that share a head of keys and values). It goes through the keys
// twice: for each row's greatest score and sum of weights, then, with the weights final, for the
// weighted values. So sums need no factors on the way, and blocks of keys that a row does not see
// add nothing to it: its bits do not depend on the tile it lies in.
//
// How keys and values lie: kv_append.wgsl. Subgroups are of 32 threads.

const THREADS: u32 = 256u;
const SUBGROUPS: u32 = 8u;
const FRAG: u32 = ${FRAG}u;
const BLOCK: u32 = 64u;
const ROWS: u32 = 64u;
const HEADS: u32 = ${HEADS}u;
const KV_HEADS: u32 = ${KV_HEADS}u;
const DIM: u32 = ${DIM}u;
const GROUP: u32 = HEADS / KV_HEADS;
// Units (of 8 elements) of a head, and elements of keys that are in memory at a time.
const UNITS: u32 = DIM / 8u;
const PART: u32 = 128u;
// Strides of rows in memory, so that they begin in other banks.
const KEY_STRIDE: u32 = PART + 8u;
const SCORE_STRIDE: u32 = BLOCK + 4u;
const WEIGHT_STRIDE: u32 = BLOCK + 8u;
const SHARERS: u32 = THREADS / ROWS;
const SHARE: u32 = BLOCK / SHARERS;
// Less than every score.
const LEAST: f32 = -3.4028234e38;

struct Sizes {
    first_row: u32,
    queries: u32,
    start: u32,
    // Rows of a head in `q`.
    rows: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> q: array<vec4<f16>>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> values: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> key_part: array<vec4<f16>, BLOCK * KEY_STRIDE / 4u>;
var<workgroup> scores: array<f32, ROWS * SCORE_STRIDE>;
var<workgroup> weights: array<vec4<f16>, ROWS * WEIGHT_STRIDE / 4u>;
var<workgroup> parts: array<f32, THREADS>;
var<workgroup> row_sums: array<f32, ROWS>;

// A part of the keys of a block: neighbouring threads have neighbouring positions.
fn load_keys(block: u32, kv_head: u32, part: u32, thread: u32) {
    for (var i = thread; i < BLOCK * PART / 8u; i += THREADS) {
        let key = i % BLOCK;
        let unit = i / BLOCK;
        let source = ((block * KV_HEADS + kv_head) * UNITS + part * (PART / 8u) + unit) * BLOCK + key;
        let to = (key * KEY_STRIDE + unit * 8u) / 4u;
        key_part[to] = keys[2u * source];
        key_part[to + 1u] = keys[2u * source + 1u];
    }
}

// Greatest score and sum of weights of a row, as far as the keys have been seen; each of the
// threads that share the row has them.
struct Softmax { most: f32, sum: f32 }

// Score `i` of a thread's share of its row, LEAST where the row does not see the key.
fn score(block: u32, first: u32, thread: u32, i: u32) -> f32 {
    let row = thread / SHARERS;
    let key = thread % SHARERS * SHARE + i;
    let seen = block * BLOCK + key <= sizes.start + (first + row) / GROUP;
    return select(LEAST, scores[row * SCORE_STRIDE + key], seen);
}

fn follow(before: Softmax, block: u32, first: u32, thread: u32) -> Softmax {
    let own = thread / SHARERS * SHARERS;
    var now: Softmax;
    var most = LEAST;
    for (var i = 0u; i < SHARE; i++) {
        most = max(most, score(block, first, thread, i));
    }
    parts[thread] = most;
    workgroupBarrier();
    now.most = before.most;
    for (var i = 0u; i < SHARERS; i++) {
        now.most = max(now.most, parts[own + i]);
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < SHARE; i++) {
        let value = score(block, first, thread, i);
        sum += select(0.0, exp(value - now.most), value > LEAST);
    }
    parts[thread] = sum;
    workgroupBarrier();
    now.sum = before.sum * exp(before.most - now.most);
    for (var i = 0u; i < SHARERS; i++) {
        now.sum += parts[own + i];
    }
    return now;
}

fn weigh(most: f32, block: u32, first: u32, thread: u32) {
    let at = (thread / SHARERS * WEIGHT_STRIDE + thread % SHARERS * SHARE) / 4u;
    for (var i = 0u; i < SHARE / 4u; i++) {
        var four: vec4<f32>;
        for (var j = 0u; j < 4u; j++) {
            let value = score(block, first, thread, i * 4u + j);
            four[j] = select(0.0, exp(value - most), value > LEAST);
        }
        weights[at + i] = vec4<f16>(four);
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    // The longest tiles first.
    let first = (groups.x - 1u - group.x) * ROWS;
    let kv_head = group.y;
    let last = min(first + ROWS, sizes.queries * GROUP) - 1u;
    let blocks = (sizes.start + last / GROUP) / BLOCK + 1u;
    // A subgroup has FRAG rows of the scores and some of their keys, and of the sums all rows and
    // some elements of the heads.
    let score_row = subgroup * ${FRAGS_S}u / (BLOCK / FRAG) * FRAG;
    let score_key = subgroup * ${FRAGS_S}u % (BLOCK / FRAG) * FRAG;
    let q_at = ((kv_head * sizes.rows + first + score_row) * DIM) / 4u;
    let dim = subgroup * (DIM / SUBGROUPS);
    let zero = subgroup * FRAG * FRAG;
    for (var i = thread; i < SUBGROUPS * FRAG * FRAG; i += THREADS) {
        scores[i] = 0.0;
    }
    workgroupBarrier();
    let nothing = coopLoadT<coop_mat${FRAG}x${FRAG}<f32, C>>(&scores[zero], FRAG);
//#each I FRAGS_R
//#each J FRAGS_D
    var sum${I}_${J} = nothing;
//#end
//#end
    var softmax = Softmax(LEAST, 0.0);
//#each K PASSES
    for (var block = 0u; block < blocks; block++) {
//#each J FRAGS_S
        var score${J} = nothing;
//#end
        for (var part = 0u; part < DIM / PART; part++) {
            workgroupBarrier();
            load_keys(block, kv_head, part, thread);
            workgroupBarrier();
            for (var k = 0u; k < PART; k += FRAG) {
                let query = coopLoadT<coop_mat${FRAG}x${FRAG}<f16, A>>(
                    &q[q_at + (part * PART + k) / 4u], DIM / 4u,
                );
//#each J FRAGS_S
                let key${J} = coopLoad<coop_mat${FRAG}x${FRAG}<f16, B>>(
                    &key_part[((score_key + ${J}u * FRAG) * KEY_STRIDE + k) / 4u], KEY_STRIDE / 4u,
                );
                score${J} = coopMultiplyAdd(query, key${J}, score${J});
//#end
            }
        }
//#each J FRAGS_S
        coopStoreT(
            score${J}, &scores[score_row * SCORE_STRIDE + score_key + ${J}u * FRAG], SCORE_STRIDE,
        );
//#end
        workgroupBarrier();
//#if K
        weigh(softmax.most, block, first, thread);
        workgroupBarrier();
        for (var k = 0u; k < BLOCK; k += FRAG) {
            let source = ((block * BLOCK + k) * KV_HEADS + kv_head) * DIM + dim;
//#each J FRAGS_D
            let value${J} = coopLoadT<coop_mat${FRAG}x${FRAG}<f16, B>>(
                &values[(source + ${J}u * FRAG) / 4u], KV_HEADS * DIM / 4u,
            );
//#end
//#each I FRAGS_R
            let weight${I} = coopLoadT<coop_mat${FRAG}x${FRAG}<f16, A>>(
                &weights[(${I}u * FRAG * WEIGHT_STRIDE + k) / 4u], WEIGHT_STRIDE / 4u,
            );
//#each J FRAGS_D
            sum${I}_${J} = coopMultiplyAdd(weight${I}, value${J}, sum${I}_${J});
//#end
//#end
        }
//#else
        softmax = follow(softmax, block, first, thread);
//#endif
    }
//#end
    if thread % SHARERS == 0u {
        row_sums[thread / SHARERS] = softmax.sum;
    }
    let own = thread / 32u;
//#each I FRAGS_R
//#each J FRAGS_D
    workgroupBarrier();
    coopStoreT(sum${I}_${J}, &scores[zero], FRAG);
    workgroupBarrier();
    for (var at = thread % 32u; at < FRAG * FRAG; at += 32u) {
        let row = ${I}u * FRAG + at / FRAG;
        if first + row <= last {
            let head = kv_head * GROUP + (first + row) % GROUP;
            let place = ((sizes.first_row + (first + row) / GROUP) * HEADS + head) * DIM;
            let d = own * (DIM / SUBGROUPS) + ${J}u * FRAG + at % FRAG;
            out[place + d] = scores[own * FRAG * FRAG + at] / row_sums[row];
        }
    }
//#end
//#end
}
