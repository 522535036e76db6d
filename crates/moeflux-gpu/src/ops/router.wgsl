// Softmax over all experts, then the TOP_K most probable, a workgroup a token. An expert's place
// is the number of those before it: the more probable ones, and the equal ones of lower id.

const THREADS: u32 = ${THREADS}u;
const EXPERTS: u32 = ${EXPERTS}u;
const TOP_K: u32 = ${TOP_K}u;

struct Sizes {
    tokens: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;

var<workgroup> probabilities: array<f32, EXPERTS>;
var<workgroup> most: array<f32, THREADS>;
var<workgroup> chosen: array<f32, TOP_K>;

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
    var greatest = logits[first];
    for (var id = thread; id < EXPERTS; id += THREADS) {
        greatest = max(greatest, logits[first + id]);
    }
    most[thread] = greatest;
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step {
            most[thread] = max(most[thread], most[thread + step]);
        }
    }
    workgroupBarrier();
    greatest = most[0];
    var sum = 0.0;
    for (var id = thread; id < EXPERTS; id += THREADS) {
        let e = exp_of(logits[first + id] - greatest);
        probabilities[id] = e;
        sum += e;
    }
    sum = sum_of_group(sum, thread);
    for (var id = thread; id < EXPERTS; id += THREADS) {
        probabilities[id] = probabilities[id] / sum;
    }
    workgroupBarrier();
    // One NaN makes all of them NaN: then the lowest ids are taken.
    let lost = is_nan(sum);
    for (var id = thread; id < EXPERTS; id += THREADS) {
        let mine = probabilities[id];
        var place = select(0u, id, lost);
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
        weights[token * TOP_K + i] = chosen[i] / total;
    }
}
