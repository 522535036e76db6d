// The index of the largest value of a row, the lowest one among equals: first of PARTS parts of the
// row, a workgroup each; then, with LAST, among those. A row with a value that is not finite has none.

const THREADS: u32 = 256u;

struct Sizes {
    width: u32,
    // Elements of a part; with LAST, parts.
    part: u32,
}

// Keys are ordered as the values are; the largest is that of whatever is not finite. Integers, because
// drivers may take it that no float is NaN.
struct Best {
    key: u32,
    id: u32,
}

var<immediate> sizes: Sizes;
//#if LAST
@group(0) @binding(0) var<storage, read> parts: array<Best>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
//#else
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> parts: array<Best>;
//#endif

var<workgroup> candidates: array<Best, THREADS>;

fn better(a: Best, b: Best) -> bool {
    return a.key > b.key || (a.key == b.key && a.id < b.id);
}

//#if LAST
//#else
fn key_of(bits: u32) -> u32 {
    let size = bits & 0x7fffffffu;
    if size >= 0x7f800000u {
        return 0xffffffffu;
    }
    // Both zeros are equal.
    return select(0x80000000u + size, 0x80000000u - size, (bits >> 31u) == 1u);
}
//#endif

// x: parts, y: rows.
@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // What everything is better than.
    var best = Best(0u, 0xffffffffu);
//#if LAST
    for (var i = thread; i < sizes.part; i += THREADS) {
        let candidate = parts[group.y * sizes.part + i];
        if better(candidate, best) {
            best = candidate;
        }
    }
//#else
    let first = group.x * sizes.part;
    for (var i = first + thread; i < min(first + sizes.part, sizes.width); i += THREADS) {
        let candidate = Best(key_of(x[group.y * sizes.width + i]), i);
        if better(candidate, best) {
            best = candidate;
        }
    }
//#endif
    candidates[thread] = best;
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step && better(candidates[thread + step], candidates[thread]) {
            candidates[thread] = candidates[thread + step];
        }
    }
    workgroupBarrier();
    if thread == 0u {
//#if LAST
        out[group.y] = select(candidates[0].id, 0xffffffffu, candidates[0].key == 0xffffffffu);
//#else
        parts[group.y * groups.x + group.x] = candidates[0];
//#endif
    }
}
