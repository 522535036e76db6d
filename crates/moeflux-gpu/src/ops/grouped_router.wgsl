// A choice by scores with a correction, among the experts of the best groups; a workgroup a token.
// A place is the number of those before it: the higher ranks, and the equal ones of lower number.
// As in `router.wgsl`, what cannot be ranked is seen by its bits.

const THREADS: u32 = ${THREADS}u;
const EXPERTS: u32 = ${EXPERTS}u;
const GROUPS: u32 = ${GROUPS}u;
const KEPT: u32 = ${KEPT}u;
const TOP_K: u32 = ${TOP_K}u;
const SIZE: u32 = EXPERTS / GROUPS;
const LOWEST: f32 = -3.4028234e38;

struct Sizes {
    tokens: u32,
    scale: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> weights: array<u32>;
//#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<u32>;
//#endif

var<workgroup> found: array<u32, THREADS>;
var<workgroup> most: array<f32, THREADS>;
var<workgroup> scores: array<f32, EXPERTS>;
var<workgroup> ranks: array<f32, EXPERTS>;
var<workgroup> group_ranks: array<f32, GROUPS>;
var<workgroup> is_kept: array<u32, GROUPS>;
var<workgroup> chosen: array<f32, TOP_K>;

// 1 of a number, 2 of what cannot be ranked, 0 of what vanishes beside a number.
fn kind_of(bits: u32) -> u32 {
//#if SOFTPLUS
    return select(1u, 2u, bits == 0x7f800000u || (bits & 0x7fffffffu) > 0x7f800000u);
//#else
//#if SIGMOID
    return select(1u, 2u, (bits & 0x7fffffffu) > 0x7f800000u);
//#else
    if bits == 0xff800000u {
        return 0u;
    }
    return select(1u, 2u, (bits & 0x7fffffffu) >= 0x7f800000u);
//#endif
//#endif
}

// Puts what the logits are, and the greatest, into the first elements of `found` and `most`.
fn survey(first: u32, thread: u32) {
    var kinds = 0u;
    var greatest = LOWEST;
    for (var id = thread; id < EXPERTS; id += THREADS) {
        let bits = logits[first + id];
        kinds |= kind_of(bits);
//#if BIAS
        kinds |= select(0u, 2u, (bias[id] & 0x7fffffffu) >= 0x7f800000u);
//#endif
        greatest = max(greatest, bitcast<f32>(bits));
    }
    found[thread] = kinds;
    most[thread] = greatest;
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step {
            found[thread] |= found[thread + step];
            most[thread] = max(most[thread], most[thread + step]);
        }
    }
}

fn score_all(first: u32, thread: u32) {
//#if SIGMOID
    for (var id = thread; id < EXPERTS; id += THREADS) {
        // Beyond these it is 0 or 1; an infinity would be lost on its way.
//#if SOFTPLUS
        let x = max(bitcast<f32>(logits[first + id]), -120.0);
        scores[id] = sqrt(softplus(x));
//#else
        let x = clamp(bitcast<f32>(logits[first + id]), -120.0, 120.0);
        scores[id] = sigmoid(x);
//#endif
    }
//#else
    let greatest = most[0];
    var sum = 0.0;
    for (var id = thread; id < EXPERTS; id += THREADS) {
        let e = exp_of(bitcast<f32>(logits[first + id]) - greatest);
        scores[id] = e;
        sum += e;
    }
    sum = sum_of_group(sum, thread);
    for (var id = thread; id < EXPERTS; id += THREADS) {
        scores[id] = scores[id] / sum;
    }
//#endif
    for (var id = thread; id < EXPERTS; id += THREADS) {
//#if BIAS
        ranks[id] = scores[id] + bitcast<f32>(bias[id]);
//#else
        ranks[id] = scores[id];
//#endif
    }
}

fn rank_of_group(group: u32) -> f32 {
    var best = LOWEST;
    var second = LOWEST;
    for (var i = 0u; i < SIZE; i++) {
        let rank = ranks[group * SIZE + i];
        second = max(second, min(best, rank));
        best = max(best, rank);
    }
//#if SUM_OF_TWO
    return best + second;
//#else
    return best;
//#endif
}

fn keep_groups(thread: u32) {
    for (var group = thread; group < GROUPS; group += THREADS) {
        group_ranks[group] = rank_of_group(group);
    }
    workgroupBarrier();
    for (var group = thread; group < GROUPS; group += THREADS) {
        let mine = group_ranks[group];
        var place = 0u;
        for (var other = 0u; other < GROUPS; other++) {
            let theirs = group_ranks[other];
            place += select(0u, 1u, theirs > mine || (theirs == mine && other < group));
        }
        is_kept[group] = select(0u, 1u, place < KEPT);
    }
}

fn choose(token: u32, thread: u32) {
    for (var id = thread; id < EXPERTS; id += THREADS) {
        if is_kept[id / SIZE] == 0u { continue; }
        let mine = ranks[id];
        var place = 0u;
        for (var other = 0u; other < EXPERTS; other++) {
            let theirs = ranks[other];
            let is_before = theirs > mine || (theirs == mine && other < id);
            place += select(0u, is_kept[other / SIZE], is_before);
        }
        if place < TOP_K {
            ids[token * TOP_K + place] = id;
            chosen[place] = scores[id];
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = flat(group, groups);
    if token >= sizes.tokens {
        return;
    }
    survey(token * EXPERTS, thread);
    if workgroupUniformLoad(&found[0]) != 1u {
        for (var i = thread; i < TOP_K; i += THREADS) {
            ids[token * TOP_K + i] = i;
            weights[token * TOP_K + i] = 0x7fc00000u;
        }
        return;
    }
    score_all(token * EXPERTS, thread);
    workgroupBarrier();
    keep_groups(thread);
    workgroupBarrier();
    choose(token, thread);
    workgroupBarrier();
    var divisor = 1.0;
//#if RENORMALIZE
    divisor = 0.0;
    for (var i = 0u; i < TOP_K; i++) {
        divisor += chosen[i];
    }
    divisor += 1e-20;
//#endif
    for (var i = thread; i < TOP_K; i += THREADS) {
        weights[token * TOP_K + i] = bitcast<u32>(chosen[i] / divisor * sizes.scale);
    }
}
