// Pools windows of RATE positions into entries: a thread has one element of one entry, or of the
// state after the span. Each pool takes its positions in order, those before the span from the
// state: so a window's bits do not depend on where the session was cut.

const THREADS: u32 = 64u;
const RATE: u32 = ${RATE}u;
const DIM: u32 = ${DIM}u;
// With OVERLAPS entries are made of the window before as well: positions give values for the next
// entry, then for their own.
//#if OVERLAPS
const SERIES: u32 = 2u;
//#else
const SERIES: u32 = 1u;
//#endif
const WIDTH: u32 = SERIES * DIM;

struct Sizes {
    // Row of the first token in the step's buffers, number of tokens, position of the first.
    first_row: u32,
    tokens: u32,
    start: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> values: array<f32>;
// Of the entry under way and, with OVERLAPS, of the next one: greatest gates, sums, weighted
// values.
@group(0) @binding(1) var<storage, read> state: array<f32>;
@group(0) @binding(2) var<storage, read_write> next_state: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
//#if GATED
@group(0) @binding(4) var<storage, read> gates: array<f32>;
//#endif
//#if BIASED
@group(0) @binding(${BIAS_AT}) var<storage, read> bias: array<f32>;
//#endif

// Greatest gate, sum of weights, weighted values.
fn with_position(pool: vec3<f32>, gate: f32, value: f32) -> vec3<f32> {
    let before = select(gate, pool.x, pool.y > 0.0);
    let most = select(before, gate, gate > before);
    let older = exp_of(before - most);
    let newer = exp_of(gate - most);
    return vec3(most, fma(pool.y, older, newer), fma(pool.z, older, newer * value));
}

// The pool with the positions of a window that lie in the span; `at`: element of their rows.
fn with_window(given: vec3<f32>, window: u32, at: u32) -> vec3<f32> {
    var pool = given;
    let begin = max(window * RATE, sizes.start);
    let end = min((window + 1u) * RATE, sizes.start + sizes.tokens);
    for (var position = begin; position < end; position++) {
        let place = (sizes.first_row + position - sizes.start) * WIDTH + at;
        var gate = 0.0;
//#if GATED
        gate = gates[place];
//#endif
//#if BIASED
        gate += bias[position % RATE * WIDTH + at];
//#endif
        pool = with_position(pool, gate, values[place]);
    }
    return pool;
}

fn kept(series: u32, d: u32) -> vec3<f32> {
    let first = 3u * series * DIM + d;
    return vec3(state[first], state[first + DIM], state[first + 2u * DIM]);
}

fn keep(series: u32, d: u32, pool: vec3<f32>) {
    let first = 3u * series * DIM + d;
    next_state[first] = pool.x;
    next_state[first + DIM] = pool.y;
    next_state[first + 2u * DIM] = pool.z;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    let first = sizes.start / RATE;
    let end = sizes.start + sizes.tokens;
    let last = (end - 1u) / RATE;
    let d = at % DIM;
    let entry = first + at / DIM;
    // With OVERLAPS the entry after the last window is under way too.
    if entry >= last + SERIES {
        return;
    }
    // Which series of the state has the entry's pool, if any.
    let fresh = select(0u, 1u, sizes.start % RATE == 0u);
    let series = entry - first + fresh;
    var pool = vec3<f32>();
    if series < SERIES {
        pool = kept(series, d);
    }
//#if OVERLAPS
    if entry > 0u {
        pool = with_window(pool, entry - 1u, d);
    }
//#endif
    pool = with_window(pool, entry, WIDTH - DIM + d);
    if (entry + 1u) * RATE <= end {
        out[(entry - first) * DIM + d] = pool.z / pool.y;
    }
    if entry >= last {
        keep(entry - last, d, pool);
    }
}
