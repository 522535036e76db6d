// The weighted sum of a token's experts in ascending expert id. Row `place` of `rows` is what the
// expert of slot `place` gave, or, with PLACES, row `places[place]`.

const THREADS: u32 = 128u;
const WIDTH: u32 = ${WIDTH}u;
const TOP_K: u32 = ${TOP_K}u;

struct Sizes {
    tokens: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> rows: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
//#if PLACES
@group(0) @binding(4) var<storage, read> places: array<u32>;
//#endif

// Slots in ascending expert id.
var<workgroup> order: array<u32, TOP_K>;

// x: blocks of THREADS elements of a row; y and z: tokens.
@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = group.z * groups.y + group.y;
    if token >= sizes.tokens {
        return;
    }
    let first = token * TOP_K;
    for (var slot = thread; slot < TOP_K; slot += THREADS) {
        let mine = ids[first + slot];
        var place = 0u;
        for (var other = 0u; other < TOP_K; other++) {
            let theirs = ids[first + other];
            place += select(0u, 1u, theirs < mine || (theirs == mine && other < slot));
        }
        order[place] = slot;
    }
    workgroupBarrier();
    let at = group.x * THREADS + thread;
    if at >= WIDTH {
        return;
    }
    var sum = 0.0;
    for (var i = 0u; i < TOP_K; i++) {
        let slot = first + order[i];
//#if PLACES
        let row = places[slot];
//#else
        let row = slot;
//#endif
        sum = fma(weights[slot], rows[row * WIDTH + at], sum);
    }
    out[token * WIDTH + at] = sum;
}
