// silu(gate x) * (up x) of the experts that tokens chose, 16 rows of one choice a workgroup. The
// matrices lie in slots; a table tells which slot an expert has. A choice without one is left out,
// and noted with NOTED. With CHOOSES the choices are made here (choose.wgsl), by every workgroup for
// itself, and written by one.

const THREADS = ${THREADS}u;
const LANES = THREADS / 4u;
const TILES_JOINED = 2u;

struct Immediates {
    cols: u32,
    rows: u32,
    eps: f32,
    top_k: u32,
    // The first choice, of all tokens, and the place of this layer's note.
    first: u32,
    note: u32,
    // Elements of `m` of a slot.
    slot: u32,
    gate: Place,
    up: Place,
}
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#if CHOOSES
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;
//#else
@group(0) @binding(3) var<storage, read> ids: array<u32>;
//#endif
@group(0) @binding(4) var<storage, read> table: array<u32>;
//#if HAS_NORM
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;
//#endif
//#if NOTED
@group(0) @binding(${NOTED}) var<storage, read_write> notes: array<u32>;
//#endif
//#if CHOOSES
@group(0) @binding(${CHOOSES}) var<storage, read> logits: array<u32>;
@group(0) @binding(${CHOOSES}u + 1u) var<storage, read_write> weights: array<u32>;
//#endif

fn in_slot(place: Place, slot: u32) -> Place {
    let start = slot * im.slot;
    return Place(place.weights + start, place.scales + start, place.biases + start);
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = group.x;
    let choice = im.first + group.y;
    let token = choice / im.top_k;
    let cols4 = im.cols / 4u;
    let inputs = read_inputs(token, cols4, 0u, min(STAGED4, cols4), thread);
//#if CHOOSES
    let turn = choice % im.top_k;
    let expert = choose(token, turn, tile == 0u && turn == 0u, thread);
//#else
    let expert = ids[choice];
//#endif
    let found = table[expert];
    // What nobody has is computed with the first slot and left out.
    let is_there = found != 0xffffffffu;
    let slot = select(0u, found, is_there);
    let gate_place = in_slot(im.gate, slot);
    let up_place = in_slot(im.up, slot);
    var squares = 0.0;
    var gated = vec4(0.0);
    var upped = vec4(0.0);
    for (var first = 0u; first < cols4; first += STAGED4) {
        let count = min(STAGED4, cols4 - first);
        let part = first / (${SPAN}u / 4u);
        let runs = count / (${SPAN}u / 4u);
        var gates = fetch_ahead(gate_place, im.cols, im.rows, tile, thread, part, runs);
        var ups = fetch_ahead(up_place, im.cols, im.rows, tile, thread, part, runs);
        workgroupBarrier();
        if first == 0u {
            squares += stage(inputs, count, im.eps, thread);
        } else {
            let others = read_inputs(token, cols4, first, count, thread);
            squares += stage(others, count, im.eps, thread);
        }
        workgroupBarrier();
        for (var run = thread / 4u; run < runs; run += LANES) {
            // Gate and up by turns, in one piece of code.
            for (var turn = 0u; turn < min(im.cols, 2u); turn++) {
                var place = gate_place;
                if turn == 1u { place = up_place; }
                let ahead = gates;
                let sum = add_fetched(ahead.runs[0], place, im.cols, im.rows, tile, thread % 4u,
                    part + run, staged_at(run * (${SPAN}u / 4u)), gated);
                gated = upped;
                upped = sum;
                gates = ups;
                ups = next_ahead(ahead, place, im.cols, im.rows, tile, thread, part, runs, run);
            }
        }
    }
    partial[thread] = gated;
    partial[THREADS + thread] = upped;
//#if SQUARES
    squares_of[thread] = squares;
//#endif
    join(thread);
//#if NOTED
    if thread == 0u && tile == 0u && !is_there { notes[im.note] = 1u; }
//#endif
    let row = tile * 16u + thread;
    if thread < 16u && row < im.rows && is_there {
        var g = joined(0u, thread);
        var u = joined(1u, thread);
//#if SQUARES
        let inverse = inverse_length(im.cols, im.eps);
        g *= inverse;
        u *= inverse;
//#endif
        out[choice * im.rows + row] = g * sigmoid(g) * u;
    }
}
