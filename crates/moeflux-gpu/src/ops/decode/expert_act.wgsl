// silu(gate x) * (up x) of the experts that tokens chose, 16 rows of one choice a workgroup. The
// matrices lie in slots; a table tells which slot an expert has. A choice without one is left out,
// and noted with NOTED.

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
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<u32>;
//#if HAS_NORM
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;
//#endif
//#if NOTED
@group(0) @binding(${NOTED}) var<storage, read_write> notes: array<u32>;
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
    let slot = table[ids[choice]];
    if slot == 0xffffffffu {
//#if NOTED
        if thread == 0u && tile == 0u { notes[im.note] = 1u; }
//#endif
        return;
    }
    let gate_place = in_slot(im.gate, slot);
    let up_place = in_slot(im.up, slot);
    let q = thread % 4u;
    let per_run = ${SPAN}u / 4u;
    var squares = 0.0;
    var gated = vec4(0.0);
    var upped = vec4(0.0);
    for (var first = 0u; first < cols4; first += STAGED4) {
        let count = min(STAGED4, cols4 - first);
        workgroupBarrier();
        squares += stage(token, cols4, first, count, im.eps, thread);
        workgroupBarrier();
        for (var run = thread / 4u; run * per_run < count; run += LANES) {
            let place = staged_at(run * per_run);
            let at = first / per_run + run;
            gated = add_run(gate_place, im.cols, im.rows, tile, q, at, place, gated);
            upped = add_run(up_place, im.cols, im.rows, tile, q, at, place, upped);
        }
    }
    partial[thread] = gated;
    partial[THREADS + thread] = upped;
//#if SQUARES
    squares_of[thread] = squares;
//#endif
    join(thread);
    let row = tile * 16u + thread;
    if thread < 16u && row < im.rows {
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
