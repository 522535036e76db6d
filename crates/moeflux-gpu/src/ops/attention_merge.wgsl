// Joins what the chunks of attention.wgsl left: a workgroup a query and head, chunks in order.

const THREADS: u32 = 128u;
const HEADS: u32 = ${HEADS}u;
const DIM: u32 = ${DIM}u;
const CHUNK_TOKENS: u32 = ${CHUNK_BLOCKS}u * 64u;

struct Sizes {
    first_row: u32,
    queries: u32,
    start: u32,
    chunks: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

const KEPT: u32 = (DIM + THREADS - 1u) / THREADS;

var<workgroup> most: array<f32, THREADS>;
var<workgroup> factors: array<f32, THREADS>;

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
    let chunks = (sizes.start + row / HEADS) / CHUNK_TOKENS + 1u;
    var greatest = partial[place + DIM];
    for (var chunk = thread; chunk < chunks; chunk += THREADS) {
        greatest = max(greatest, partial[place + chunk * (DIM + 2u) + DIM]);
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
    var sums: array<f32, KEPT>;
    for (var first = 0u; first < chunks; first += THREADS) {
        workgroupBarrier();
        if first + thread < chunks {
            let at = place + (first + thread) * (DIM + 2u) + DIM;
            factors[thread] = exp_of(partial[at] - greatest);
            most[thread] = partial[at + 1u];
        }
        workgroupBarrier();
        for (var i = 0u; i < min(THREADS, chunks - first); i++) {
            let factor = factors[i];
            total = fma(most[i], factor, total);
            let at = place + (first + i) * (DIM + 2u);
            for (var k = 0u; k < KEPT; k++) {
                let d = min(k * THREADS + thread, DIM - 1u);
                sums[k] = fma(partial[at + d], factor, sums[k]);
            }
        }
    }
    for (var k = 0u; k < KEPT; k++) {
        let d = k * THREADS + thread;
        if d < DIM {
            out[(sizes.first_row * HEADS + row) * DIM + d] = sums[k] / total;
        }
    }
}
