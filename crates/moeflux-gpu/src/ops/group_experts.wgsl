// Puts pairs of a token and an expert in tiles of TILE rows of one expert each: a histogram, the
// first tile of each expert, then each pair's row. One workgroup. Which row of its expert a pair
// gets is left to chance; what is computed in a row does not depend on it.

const THREADS: u32 = 256u;
const EXPERTS: u32 = ${EXPERTS}u;
const TILE: u32 = ${TILE}u;
const NONE: u32 = 0xffffffffu;
// Experts of a thread.
const SHARE: u32 = (EXPERTS + THREADS - 1u) / THREADS;

struct Sizes {
    // The first pair, their number, and the tiles that there is room for.
    first: u32,
    pairs: u32,
    tiles: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> ids: array<u32>;
// Slot of each expert; pairs of those without one are left out.
@group(0) @binding(1) var<storage, read> table: array<u32>;
// Pair of each row of the tiles, and slot of each tile.
@group(0) @binding(2) var<storage, read_write> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> tiles: array<u32>;

var<workgroup> counts: array<atomic<u32>, EXPERTS>;
var<workgroup> ends: array<u32, THREADS>;

fn tiles_of(count: u32) -> u32 {
    return (count + TILE - 1u) / TILE;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    for (var id = thread; id < EXPERTS; id += THREADS) {
        atomicStore(&counts[id], 0u);
    }
    workgroupBarrier();
    for (var i = thread; i < sizes.pairs; i += THREADS) {
        let id = ids[sizes.first + i];
        if table[id] != NONE {
            atomicAdd(&counts[id], 1u);
        }
    }
    workgroupBarrier();
    let first = thread * SHARE;
    let end = min(first + SHARE, EXPERTS);
    var own = 0u;
    for (var id = first; id < end; id++) {
        own += tiles_of(atomicLoad(&counts[id]));
    }
    ends[thread] = own;
    for (var step = 1u; step < THREADS; step *= 2u) {
        workgroupBarrier();
        var before = 0u;
        if thread >= step {
            before = ends[thread - step];
        }
        workgroupBarrier();
        ends[thread] += before;
    }
    workgroupBarrier();
    var tile = ends[thread] - own;
    for (var id = first; id < end; id++) {
        let count = atomicLoad(&counts[id]);
        let until = tile + tiles_of(count);
        // From now on the row of the expert's next pair.
        atomicStore(&counts[id], tile * TILE);
        for (var row = tile * TILE + count; row < until * TILE; row++) {
            order[row] = NONE;
        }
        for (; tile < until; tile++) {
            tiles[tile] = table[id];
        }
    }
    for (var i = ends[THREADS - 1u] + thread; i < sizes.tiles; i += THREADS) {
        tiles[i] = NONE;
    }
    workgroupBarrier();
    for (var i = thread; i < sizes.pairs; i += THREADS) {
        let id = ids[sizes.first + i];
        if table[id] != NONE {
            order[atomicAdd(&counts[id], 1u)] = sizes.first + i;
        }
    }
}
