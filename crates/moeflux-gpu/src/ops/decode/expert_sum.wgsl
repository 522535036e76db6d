// What a layer's experts add to a token, 16 rows a workgroup: the weighted sum over the chosen ones in
// ascending expert id, with SHARED that of the shared expert (with SHARED_GATE times the sigmoid of its
// gate), with ADDED what the result is added to. An expert without a slot is left out.
//
// LANES times four threads share an expert; such groups take experts by turns.

const THREADS = ${THREADS}u;
const LANES = ${LANES}u;
const GROUPS = THREADS / 4u / LANES;
const TILES_JOINED = 1u;
const TOP_K = ${TOP_K}u;

struct Immediates {
    rows: u32,
    cols: u32,
    // The first token, and where the choices' weights begin.
    first: u32,
    weights: u32,
    // Elements of `m` of a slot.
    slot: u32,
    place: Place,
//#if SHARED
    shared_cols: u32,
    // Where its gate's and its up's results begin, in vec4s, and the gates for all, in elements.
    gates: u32,
    ups: u32,
    scales: u32,
    shared_place: Place,
//#endif
}
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> act: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
// The choices of all tokens, and their weights.
@group(0) @binding(3) var<storage, read> choices: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<u32>;
//#if SHARED
@group(0) @binding(5) var<storage, read> mB: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> shared_in: array<vec4<f32>>;
//#endif
//#if ADDED
@group(0) @binding(${ADDED}) var<storage, read> added: array<f32>;
//#endif

const TURNS = (TOP_K + GROUPS - 1u) / GROUPS;

// The token's choices in ascending expert id: which of them, its expert's slot, and its weight.
var<workgroup> order: array<u32, TOP_K>;
var<workgroup> slots: array<u32, TOP_K>;
var<workgroup> shares: array<f32, TOP_K>;
//#if SHARED
// The shared expert's activations, as stage.wgsl lays vectors out.
const STAGED4 = ${BSTAGED}u / 4u;
var<workgroup> staged: array<vec4<f32>, STAGED4 + STAGED4 / 8u>;
//#endif

fn x_at(place: u32) -> vec4<f32> {
    return act[place];
}

//#if SHARED
fn x_atB(place: u32) -> vec4<f32> {
    return staged[place + place / 8u];
}

fn stage_shared(token: u32, first: u32, thread: u32) {
    let start = token * (im.shared_cols / 4u) + first;
    for (var i = thread; i < min(STAGED4, im.shared_cols / 4u - first); i += THREADS) {
        let g = shared_in[im.gates + start + i];
        let u = shared_in[im.ups + start + i];
        let s = vec4(sigmoid(g.x), sigmoid(g.y), sigmoid(g.z), sigmoid(g.w));
        staged[i + i / 8u] = g * s * u;
    }
}
//#endif

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = group.x;
    let token = im.first + group.y;
    for (var i = thread; i < TOP_K; i += THREADS) {
        let mine = choices[token * TOP_K + i];
        var place = 0u;
        for (var other = 0u; other < TOP_K; other++) {
            let theirs = choices[token * TOP_K + other];
            place += select(0u, 1u, theirs < mine || (theirs == mine && other < i));
        }
        order[place] = token * TOP_K + i;
        slots[place] = table[mine];
        shares[place] = bitcast<f32>(choices[im.weights + token * TOP_K + i]);
    }
//#if SHARED
    stage_shared(token, 0u, thread);
//#endif
    workgroupBarrier();
    let q = thread % 4u;
    let lane = thread / 4u % LANES;
    let own = thread / 4u / LANES;
    let per_run = ${SPAN}u / 4u;
    const RUNS = ${RUNS}u;
    var sum = vec4(0.0);
    for (var t = 0u; t < TURNS; t++) {
        let turn = min(t * GROUPS + own, TOP_K - 1u);
        let choice = order[turn];
        let slot = slots[turn];
        if t * GROUPS + own >= TOP_K || slot == 0xffffffffu { continue; }
        let start = slot * im.slot;
        let place =
            Place(im.place.weights + start, im.place.scales + start, im.place.biases + start);
        var product = vec4(0.0);
        for (var run = lane; run < RUNS; run += LANES) {
            let x = choice * (im.cols / 4u) + run * per_run;
            product = add_run(place, im.cols, im.rows, tile, q, run, x, product);
        }
        sum = fma(vec4(shares[turn]), product, sum);
    }
//#if SHARED
    var product = vec4(0.0);
    for (var first = 0u; first < im.shared_cols / 4u; first += STAGED4) {
        if first > 0u {
            workgroupBarrier();
            stage_shared(token, first, thread);
            workgroupBarrier();
        }
        let per_run = ${BSPAN}u / 4u;
        let count = min(STAGED4, im.shared_cols / 4u - first);
        for (var run = thread / 4u; run * per_run < count; run += THREADS / 4u) {
            product = add_runB(im.shared_place, im.shared_cols, im.rows, tile, q,
                first / per_run + run, run * per_run, product);
        }
    }
//#if SHARED_GATE
    let at = im.scales + token;
    sum = fma(vec4(sigmoid(shared_in[at / 4u][at % 4u])), product, sum);
//#else
    sum += product;
//#endif
//#endif
    partial[thread] = sum;
    join(thread);
    let row = tile * 16u + thread;
    if thread < 16u && row < im.rows {
        var result = joined(0u, thread);
//#if ADDED
        result = added[token * im.rows + row] + result;
//#endif
        out[token * im.rows + row] = result;
    }
}
