// Root-mean-square norm of pieces of LEN elements, one workgroup a piece; with GATED, times
// silu(gate). PIECES pieces in turn have weights of their own; 0: none has any.

const THREADS: u32 = ${THREADS}u;
const LEN: u32 = ${LEN}u;
const PIECES: u32 = ${PIECES}u;

struct Sizes {
    pieces: u32,
    eps: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
//#if PIECES
@group(0) @binding(2) var<storage, read> weight: array<f32>;
//#endif
//#if GATED
@group(0) @binding(3) var<storage, read> gate: array<f32>;
//#endif

const KEPT: u32 = (LEN + THREADS - 1u) / THREADS;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let piece = flat(group, groups);
    if piece >= sizes.pieces {
        return;
    }
    let first = piece * LEN;
//#if IN_REGISTERS
    var kept: array<f32, KEPT>;
//#endif
    var squares = 0.0;
    for (var i = 0u; i < KEPT; i++) {
        let at = i * THREADS + thread;
        if at < LEN {
            let value = x[first + at];
//#if IN_REGISTERS
            kept[i] = value;
//#endif
            squares = fma(value, value, squares);
        }
    }
    let inverse = 1.0 / sqrt(sum_of_group(squares, thread) / f32(LEN) + sizes.eps);
    for (var i = 0u; i < KEPT; i++) {
        let at = i * THREADS + thread;
        if at < LEN {
//#if IN_REGISTERS
            let own = kept[i];
//#else
            let own = x[first + at];
//#endif
//#if PIECES
            let value = (own * inverse) * weight[piece % PIECES * LEN + at];
//#else
            let value = own * inverse;
//#endif
//#if GATED
            out[first + at] = value * silu(gate[first + at]);
//#else
            out[first + at] = value;
//#endif
        }
    }
}
