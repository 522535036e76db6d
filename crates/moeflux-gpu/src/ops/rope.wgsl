// Rotary positions: a thread rotates one pair, or copies one of the elements that stay.

const THREADS: u32 = 64u;
const HEADS: u32 = ${HEADS}u;
const DIM: u32 = ${DIM}u;
const PAIRS: u32 = ${PAIRS}u;
// Pairs, then single elements, of a head.
const UNITS: u32 = DIM - PAIRS;

struct Sizes {
    tokens: u32,
    scale: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read> inv_freq: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    if at >= sizes.tokens * HEADS * UNITS {
        return;
    }
    let row = at / UNITS;
    let unit = at % UNITS;
    let first = row * DIM;
    if unit >= PAIRS {
        out[first + PAIRS + unit] = x[first + PAIRS + unit];
        return;
    }
    let turned = sin_cos(f32(positions[row / HEADS]) * inv_freq[unit]) * sizes.scale;
//#if INTERLEAVED
    let at_a = first + 2u * unit;
    let at_b = at_a + 1u;
//#else
    let at_a = first + unit;
    let at_b = at_a + PAIRS;
//#endif
    let a = x[at_a];
    let b = x[at_b];
    out[at_a] = fma(a, turned.y, -(b * turned.x));
    out[at_b] = fma(b, turned.y, a * turned.x);
}
