// Rotary positions: a thread rotates one pair, or copies one of the elements that stay. With
// STEPPED rows have positions in equal steps, otherwise a list says them.

const THREADS: u32 = 64u;
const HEADS: u32 = ${HEADS}u;
const DIM: u32 = ${DIM}u;
const PAIRS: u32 = ${PAIRS}u;
// Pairs, then single elements, of a head.
const UNITS: u32 = DIM - PAIRS;

struct Sizes {
    tokens: u32,
    scale: f32,
//#if STEPPED
    // Position of the first row, and from one to the next.
    start: u32,
    step: u32,
//#endif
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> inv_freq: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#if STEPPED
//#else
@group(0) @binding(3) var<storage, read> positions: array<u32>;
//#endif

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
//#if TAIL
        let stays = first + unit - PAIRS;
//#else
        let stays = first + PAIRS + unit;
//#endif
        out[stays] = x[stays];
        return;
    }
//#if STEPPED
    let position = sizes.start + row / HEADS * sizes.step;
//#else
    let position = positions[row / HEADS];
//#endif
    let turned = sin_cos(f32(position) * inv_freq[unit]) * sizes.scale;
//#if INTERLEAVED
//#if TAIL
    let at_a = first + DIM - 2u * PAIRS + 2u * unit;
//#else
    let at_a = first + 2u * unit;
//#endif
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
