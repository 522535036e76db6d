// The TOP_K entries of the highest keys, in ascending order, of equals the first; a workgroup a
// query. The least key that is taken is found byte by byte, by counting.

const THREADS: u32 = 256u;
const RATE: u32 = ${RATE}u;
const TOP_K: u32 = ${TOP_K}u;

struct Sizes {
    // Row of the first query in the step's buffers, position of the first, keys of a query.
    first_row: u32,
    start: u32,
    stride: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> keys: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<workgroup> counts: array<atomic<u32>, THREADS>;
// The bytes of the least key that are known, and how many equals of it are taken.
var<workgroup> least: vec2<u32>;
// Entries above the least key and, from bit 16 on, of the least key.
var<workgroup> sums: array<u32, THREADS>;

fn find_byte(first: u32, complete: u32, shift: u32, known: vec2<u32>, thread: u32) {
    atomicStore(&counts[thread], 0u);
    workgroupBarrier();
    for (var i = thread; i < complete; i += THREADS) {
        let key = keys[first + i];
        // A shift by a whole word is none.
        if shift == 24u || (key ^ known.x) >> (min(shift, 16u) + 8u) == 0u {
            atomicAdd(&counts[(key >> shift) & 0xffu], 1u);
        }
    }
    workgroupBarrier();
    if thread == 0u {
        var rest = known.y;
        var byte = 255u;
        while byte > 0u && atomicLoad(&counts[byte]) < rest {
            rest -= atomicLoad(&counts[byte]);
            byte -= 1u;
        }
        least = vec2(known.x | (byte << shift), rest);
    }
}

// Of the entries of a round up to a thread's.
fn sum_up(value: u32, thread: u32) -> u32 {
    var sum = value;
    sums[thread] = sum;
    for (var step = 1u; step < THREADS; step *= 2u) {
        workgroupBarrier();
        let before = select(0u, sums[max(thread, step) - step], thread >= step);
        workgroupBarrier();
        sum += before;
        sums[thread] = sum;
    }
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let query = group.x;
    let complete = (sizes.start + query + 1u) / RATE;
    let to = (sizes.first_row + query) * TOP_K;
    if complete <= TOP_K {
        for (var i = thread; i < TOP_K; i += THREADS) {
            out[to + i] = select(0u, i, i < complete);
        }
        return;
    }
    let first = query * sizes.stride;
    var known = vec2(0u, TOP_K);
    for (var shift = 24i; shift >= 0i; shift -= 8i) {
        find_byte(first, complete, u32(shift), known, thread);
        known = workgroupUniformLoad(&least);
    }
    var above = 0u;
    var equal = 0u;
    for (var begin = 0u; begin < complete; begin += THREADS) {
        let entry = begin + thread;
        let key = keys[first + min(entry, complete - 1u)];
        let is_there = entry < complete;
        let is_above = is_there && key > known.x;
        let is_equal = is_there && key == known.x;
        let own = select(0u, 1u, is_above) + select(0u, 0x10000u, is_equal);
        let until = sum_up(own, thread);
        let before = until - own;
        let equals_before = equal + (before >> 16u);
        if is_above || (is_equal && equals_before < known.y) {
            let place = above + (before & 0xffffu) + min(equals_before, known.y);
            out[to + place] = entry;
        }
        let all = sums[THREADS - 1u];
        above += all & 0xffffu;
        equal += all >> 16u;
        // The sums have been read.
        workgroupBarrier();
    }
}
