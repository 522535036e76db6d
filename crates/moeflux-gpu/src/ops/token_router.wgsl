// Weights of the experts that a table has for each token; a workgroup a token.

const THREADS: u32 = 64u;
const EXPERTS: u32 = ${EXPERTS}u;
const TOP_K: u32 = ${TOP_K}u;

struct Sizes {
    tokens: u32,
    scale: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
// Whole numbers, `[vocab, TOP_K]`.
@group(0) @binding(2) var<storage, read> table: array<f32>;
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> weights: array<u32>;

var<workgroup> chosen: array<f32, TOP_K>;
//#if SOFTMAX
var<workgroup> most: array<f32, THREADS>;
//#endif

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
//#if SOFTMAX
    var greatest = -3.4028234e38;
    for (var id = thread; id < EXPERTS; id += THREADS) {
        greatest = max(greatest, bitcast<f32>(logits[first + id]));
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
    var total = 0.0;
    for (var id = thread; id < EXPERTS; id += THREADS) {
        total += exp_of(bitcast<f32>(logits[first + id]) - greatest);
    }
    total = sum_of_group(total, thread);
//#endif
    for (var i = thread; i < TOP_K; i += THREADS) {
        let id = min(u32(table[tokens[token] * TOP_K + i]), EXPERTS - 1u);
        let x = bitcast<f32>(logits[first + id]);
        ids[token * TOP_K + i] = id;
//#if SOFTMAX
        chosen[i] = exp_of(x - greatest) / total;
//#else
//#if SOFTPLUS
        chosen[i] = sqrt(softplus(max(x, -120.0)));
//#else
        chosen[i] = sigmoid(clamp(x, -120.0, 120.0));
//#endif
//#endif
    }
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
        let bits = logits[first + ids[token * TOP_K + i]];
        let weight = bitcast<u32>(chosen[i] / divisor * sizes.scale);
        let is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        weights[token * TOP_K + i] = select(weight, 0x7fc00000u, is_nan);
    }
}
