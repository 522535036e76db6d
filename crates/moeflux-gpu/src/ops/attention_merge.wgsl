// Joins what the chunks of attention.wgsl left, in order: a workgroup has a query and head.

const THREADS: u32 = 128u;
const HEADS: u32 = ${HEADS}u;
const DIM: u32 = ${DIM}u;
const CHUNK_TOKENS: u32 = ${CHUNK_BLOCKS}u * 64u;

struct Sizes {
    first_row: u32,
    queries: u32,
    start: u32,
    chunks: u32,
    window: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
//#if SINKS
@group(0) @binding(2) var<storage, read> sinks: array<f32>;
//#endif

const KEPT: u32 = (DIM + THREADS - 1u) / THREADS;

// Of a round of chunks: greatest scores, and the factors by which the chunks before, and this one,
// are joined.
var<workgroup> most: array<f32, THREADS>;
var<workgroup> sum: array<f32, THREADS>;
var<workgroup> join: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = flat(group, groups);
    if row >= sizes.queries * HEADS {
        return;
    }
    let place = row * sizes.chunks * (DIM + 2u);
    let reach = sizes.start + row / HEADS + 1u;
    let begin = (reach - min(reach, sizes.window)) / CHUNK_TOKENS;
    let chunks = (reach - 1u) / CHUNK_TOKENS + 1u;
    // Less than every score.
    var before = -3.4028234e38;
    var total = 0.0;
    var sums: array<f32, KEPT>;
    for (var first = begin; first < chunks; first += THREADS) {
        let count = min(THREADS, chunks - first);
        workgroupBarrier();
        if thread < count {
            let at = place + (first + thread) * (DIM + 2u) + DIM;
            most[thread] = partial[at];
            sum[thread] = partial[at + 1u];
        }
        workgroupBarrier();
        var until = before;
        for (var i = 0u; i < min(thread, count); i++) {
            until = max(until, most[i]);
        }
        if thread < count {
            let now = max(until, most[thread]);
            join[thread] = vec2(exp_of(until - now), exp_of(most[thread] - now));
        }
        workgroupBarrier();
        for (var i = 0u; i < count; i++) {
            let factors = join[i];
            total = fma(total, factors.x, sum[i] * factors.y);
            let at = place + (first + i) * (DIM + 2u);
            for (var k = 0u; k < KEPT; k++) {
                let d = min(k * THREADS + thread, DIM - 1u);
                sums[k] = fma(sums[k], factors.x, partial[at + d] * factors.y);
            }
            before = max(before, most[i]);
        }
    }
//#if SINKS
    let sink = sinks[row % HEADS];
    let greatest = max(before, sink);
    let factor = exp_of(before - greatest);
    total = fma(total, factor, exp_of(sink - greatest));
//#else
    let factor = 1.0;
//#endif
    for (var k = 0u; k < KEPT; k++) {
        let d = k * THREADS + thread;
        if d < DIM {
            out[(sizes.first_row * HEADS + row) * DIM + d] = sums[k] * factor / total;
        }
    }
}
