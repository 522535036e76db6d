// The router's choice as router.wgsl makes it, for few tokens: what counts is how long one workgroup
// takes. Probabilities are compared as integers, four at a time.

const THREADS = 256u;
const EXPERTS = ${EXPERTS}u;
const FOURS = (EXPERTS + 3u) / 4u;
const KEPT = (EXPERTS + THREADS - 1u) / THREADS;
const TOP_K = ${TOP_K}u;

@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> weights: array<u32>;

// Bits of probabilities, which are not negative and so are ordered as these; filled up with the least.
var<workgroup> probabilities: array<vec4<u32>, FOURS>;
var<workgroup> most: array<f32, THREADS>;
var<workgroup> kinds: array<u32, THREADS>;
var<workgroup> chosen: array<f32, TOP_K>;

// 1 of a logit that can be chosen by, 2 of one that makes all others vanish or NaN; 0 of minus
// infinity.
fn kind_of(bits: u32) -> u32 {
    if bits == 0xff800000u { return 0u; }
    return select(1u, 2u, (bits & 0x7fffffffu) >= 0x7f800000u);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = group.x;
    let first = token * EXPERTS;
    var kept: array<f32, KEPT>;
    var kind = 0u;
    var greatest = -3.4028234e38;
    for (var i = 0u; i < KEPT; i++) {
        let id = i * THREADS + thread;
        if id < EXPERTS {
            let bits = logits[first + id];
            kind |= kind_of(bits);
            kept[i] = bitcast<f32>(bits);
            greatest = max(greatest, kept[i]);
        }
    }
    most[thread] = greatest;
    kinds[thread] = kind;
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step {
            most[thread] = max(most[thread], most[thread + step]);
            kinds[thread] |= kinds[thread + step];
        }
    }
    // Softmax of these is NaN: the lowest ids are taken.
    if workgroupUniformLoad(&kinds[0]) != 1u {
        for (var i = thread; i < TOP_K; i += THREADS) {
            ids[token * TOP_K + i] = i;
            weights[token * TOP_K + i] = 0x7fc00000u;
        }
        return;
    }
    greatest = most[0];
    var sum = 0.0;
    for (var i = 0u; i < KEPT; i++) {
        if i * THREADS + thread < EXPERTS {
            kept[i] = exp_of(kept[i] - greatest);
            sum += kept[i];
        }
    }
    sum = sum_of_group(sum, thread);
    for (var i = 0u; i < KEPT; i++) {
        let id = i * THREADS + thread;
        if id < EXPERTS {
            kept[i] = kept[i] / sum;
            probabilities[id / 4u][id % 4u] = bitcast<u32>(kept[i]);
        } else if id < FOURS * 4u {
            probabilities[id / 4u][id % 4u] = 0u;
        }
    }
    workgroupBarrier();
    for (var i = 0u; i < KEPT; i++) {
        let id = i * THREADS + thread;
        if id >= EXPERTS { continue; }
        let mine = bitcast<u32>(kept[i]);
        // An equal one before is counted as a larger one: its place is there before this one's.
        var places = vec4(0u);
        for (var other = 0u; other < FOURS; other++) {
            let theirs = probabilities[other];
            let is_before = vec4(other * 4u) + vec4(0u, 1u, 2u, 3u) < vec4(id);
            let least = vec4(mine) + select(vec4(1u), vec4(0u), is_before);
            places += select(vec4(0u), vec4(1u), theirs >= least);
        }
        let place = places.x + places.y + places.z + places.w;
        if place < TOP_K {
            ids[token * TOP_K + place] = id;
            chosen[place] = kept[i];
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
