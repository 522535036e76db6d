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

const RUNS = ${RUNS}u;
const TURNS = (TOP_K + GROUPS - 1u) / GROUPS;

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

fn shared_run(run: u32, tile: u32, q: u32) -> RunB {
    return fetch_runB(im.shared_place, im.shared_cols, im.rows, tile, q, run);
}

fn shared_activation(token: u32, k4: u32) -> vec4<f32> {
    let at = token * (im.shared_cols / 4u) + k4;
    let g = shared_in[im.gates + at];
    let s = vec4(sigmoid(g.x), sigmoid(g.y), sigmoid(g.z), sigmoid(g.w));
    return g * s * shared_in[im.ups + at];
}

fn stage_shared(token: u32, first: u32, thread: u32) {
    for (var i = thread; i < min(STAGED4, im.shared_cols / 4u - first); i += THREADS) {
        staged[i + i / 8u] = shared_activation(token, first + i);
    }
}
//#endif

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = group.x;
    let token = im.first + group.y;
    let q = thread % 4u;
    // All that does not depend on the choices is asked for first, then the choices.
    let row = tile * 16u + thread;
//#if ADDED
    let more = added[token * im.rows + min(row, im.rows - 1u)];
//#endif
//#each I TOP_K
    let id${I} = choices[token * TOP_K + ${I}u];
//#end
//#if SHARED
    let shared_runs = im.shared_cols / ${BSPAN}u;
    let shared_first = shared_run(min(thread / 4u, shared_runs - 1u), tile, q);
//#if SHARED_GATE
    let gate_at = im.scales + token;
    let shared_gate = shared_in[gate_at / 4u][gate_at % 4u];
//#endif
//#endif
    // Places of the choices in ascending expert id.
//#each I TOP_K
    var place${I} = 0u;
//#each J TOP_K
    place${I} += select(0u, 1u, id${J} < id${I} || (id${J} == id${I} && ${J}u < ${I}u));
//#end
//#end
    let lane = thread / 4u % LANES;
    let own = thread / 4u / LANES;
    let per_run = ${SPAN}u / 4u;
    var sum = vec4(0.0);
    for (var t = 0u; t < TURNS; t += ${AHEAD}u) {
//#each K AHEAD
        let turn${K} = (t + ${K}u) * GROUPS + own;
        var choice${K} = 0u;
        var id_of${K} = 0u;
//#each I TOP_K
        if place${I} == min(turn${K}, TOP_K - 1u) {
            choice${K} = token * TOP_K + ${I}u;
            id_of${K} = id${I};
        }
//#end
        let found${K} = table[id_of${K}];
        let share${K} = bitcast<f32>(choices[im.weights + choice${K}]);
        let is_there${K} = turn${K} < TOP_K && found${K} != 0xffffffffu;
        let start${K} = select(0u, found${K}, is_there${K}) * im.slot;
        let at${K} = Place(im.place.weights + start${K}, im.place.scales + start${K},
            im.place.biases + start${K});
        let run${K} =
            fetch_run(at${K}, im.cols, im.rows, tile, q, min(lane, RUNS - 1u));
//#end
//#if SHARED
        if t == 0u { stage_shared(token, 0u, thread); }
//#endif
        var run = run0;
        var slot = at0;
        var choice = choice0;
        var share = share0;
        var is_there = is_there0;
        // By turns, in one piece of code.
        for (var turn = 0u; turn < min(im.cols, ${AHEAD}u); turn++) {
            if is_there {
                let x = choice * (im.cols / 4u);
                var product = vec4(0.0);
                if lane < RUNS {
                    product = add_fetched(run, slot, im.cols, im.rows, tile, q, lane,
                        x + lane * per_run, product);
                }
//#if MORE
                for (var other = lane + LANES; other < RUNS; other += LANES) {
                    product = add_run(slot, im.cols, im.rows, tile, q, other,
                        x + other * per_run, product);
                }
//#endif
                sum = fma(vec4(share), product, sum);
            }
//#if TWO
            run = run1;
            slot = at1;
            choice = choice1;
            share = share1;
            is_there = is_there1;
//#endif
        }
    }
//#if SHARED
    workgroupBarrier();
    var product = vec4(0.0);
    if thread / 4u < min(shared_runs, STAGED4 / (${BSPAN}u / 4u)) {
        product = add_fetchedB(shared_first, im.shared_place, im.shared_cols, im.rows, tile, q,
            thread / 4u, thread / 4u * (${BSPAN}u / 4u), product);
    }
//#if SHARED_MORE
    for (var first = 0u; first < im.shared_cols / 4u; first += STAGED4) {
        if first > 0u {
            workgroupBarrier();
            stage_shared(token, first, thread);
            workgroupBarrier();
        }
        let per_run = ${BSPAN}u / 4u;
        let count = min(STAGED4, im.shared_cols / 4u - first);
        var run = thread / 4u;
        if first == 0u { run += THREADS / 4u; }
        for (; run * per_run < count; run += THREADS / 4u) {
            product = add_runB(im.shared_place, im.shared_cols, im.rows, tile, q,
                first / per_run + run, run * per_run, product);
        }
    }
//#endif
//#if SHARED_GATE
    sum = fma(vec4(sigmoid(shared_gate)), product, sum);
//#else
    sum += product;
//#endif
//#endif
    partial[thread] = sum;
    join(thread);
    if thread < 16u && row < im.rows {
        var result = joined(0u, thread);
//#if ADDED
        result = more + result;
//#endif
        out[token * im.rows + row] = result;
    }
}
