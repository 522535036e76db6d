// Softmax over all experts, then the TOP_K most probable, a workgroup a token. An expert's place
// is the number of those before it: the more probable ones, and the equal ones of lower id.
//
// Drivers may take it that no float is NaN. Whether a token's logits allow a choice is therefore
// seen by their bits, and a weight of NaN is written as bits.

const THREADS: u32 = ${THREADS}u;
const EXPERTS: u32 = ${EXPERTS}u;
const TOP_K: u32 = ${TOP_K}u;

struct Sizes {
    tokens: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> weights: array<u32>;

var<workgroup> comparable: array<u32, THREADS>;
var<workgroup> probabilities: array<f32, EXPERTS>;
var<workgroup> most: array<f32, THREADS>;
var<workgroup> chosen: array<f32, TOP_K>;

// 1 of a logit that can be chosen by, 2 of one that makes all others vanish or NaN; 0 of minus
// infinity.
fn kind_of(bits: u32) -> u32 {
    if bits == 0xff800000u {
        return 0u;
    }
    return select(1u, 2u, (bits & 0x7fffffffu) >= 0x7f800000u);
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
    let first = token * EXPERTS;
    var found = 0u;
    var greatest = -3.4028234e38;
    for (var id = thread; id < EXPERTS; id += THREADS) {
        let bits = logits[first + id];
        found |= kind_of(bits);
        greatest = max(greatest, bitcast<f32>(bits));
    }
    most[thread] = greatest;
    comparable[thread] = found;
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step {
            most[thread] = max(most[thread], most[thread + step]);
            comparable[thread] |= comparable[thread + step];
        }
    }
    // Softmax of these is NaN: the lowest ids are taken.
    if workgroupUniformLoad(&comparable[0]) != 1u {
        for (var i = thread; i < TOP_K; i += THREADS) {
            ids[token * TOP_K + i] = i;
            weights[token * TOP_K + i] = 0x7fc00000u;
        }
        return;
    }
    greatest = most[0];
    var sum = 0.0;
    for (var id = thread; id < EXPERTS; id += THREADS) {
        let e = exp_of(bitcast<f32>(logits[first + id]) - greatest);
        probabilities[id] = e;
        sum += e;
    }
    sum = sum_of_group(sum, thread);
    for (var id = thread; id < EXPERTS; id += THREADS) {
        probabilities[id] = probabilities[id] / sum;
    }
    workgroupBarrier();
    for (var id = thread; id < EXPERTS; id += THREADS) {
        let mine = probabilities[id];
        var place = 0u;
        for (var other = 0u; other < EXPERTS; other++) {
            let theirs = probabilities[other];
            place += select(0u, 1u, theirs > mine || (theirs == mine && other < id));
        }
        if place < TOP_K {
            ids[token * TOP_K + place] = id;
            chosen[place] = mine;
        }
    }
    workgroupBarrier();
    var total = 1.0;
//#if RENORMALIZE
    total = 0.0;
    for (var i = 0u; i < TOP_K; i++) {
        total += chosen[i];
    }
//#endif
    for (var i = thread; i < TOP_K; i += THREADS) {
        weights[token * TOP_K + i] = bitcast<u32>(chosen[i] / total);
    }
}
