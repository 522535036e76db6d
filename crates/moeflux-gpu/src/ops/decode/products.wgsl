// Products of a token's vector with several matrices at once, 16 rows of one of them a workgroup.
// The vector may be made from others on the way (stage.wgsl): with SQUARES it is normed, the factor
// that all its elements share being applied to the sums. With ADDED a buffer is added to the result.
//
// An element's order of summation depends on its matrix alone.

const THREADS = ${THREADS}u;
const LANES = THREADS / 4u;
const TILES_JOINED = 1u;
// Tiles that a workgroup takes one after another.
const TILES = ${TILES}u;

struct Segment {
    // The first tile behind this matrix.
    end: u32,
    rows: u32,
    // Elements of a token's results, and the place of the first token's.
    stride: u32,
    out: u32,
    place: Place,
}
struct Immediates { cols: u32, eps: f32, segments: array<Segment, ${SEGMENTS}> }
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#if HAS_NORM
@group(0) @binding(3) var<storage, read> norm: array<vec4<f32>>;
//#endif
//#if GATED_NORM
@group(0) @binding(4) var<storage, read> gate: array<vec4<f32>>;
//#endif
//#if GATE_ALONE
@group(0) @binding(3) var<storage, read> gate: array<vec4<f32>>;
//#endif
//#if ADDED
@group(0) @binding(${ADDED}) var<storage, read> added: array<f32>;
//#endif

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = group.y;
    let cols4 = im.cols / 4u;
    let q = thread % 4u;
    var squares = 0.0;
    for (var turn = 0u; turn < TILES; turn++) {
        var tile = group.x * TILES + turn;
        if tile >= im.segments[${SEGMENTS}u - 1u].end { break; }
        var s = 0u;
        var start = 0u;
        while tile >= im.segments[s].end {
            start = im.segments[s].end;
            s++;
        }
        tile -= start;
        let segment = im.segments[s];
        var sum = vec4(0.0);
        for (var first = 0u; first < cols4; first += STAGED4) {
            let count = min(STAGED4, cols4 - first);
            if turn == 0u || cols4 > STAGED4 {
                workgroupBarrier();
                squares += stage(token, cols4, first, count, im.eps, thread);
                workgroupBarrier();
            }
//#if SECOND
            if ((${SECOND}u >> s) & 1u) == 1u {
                let per_run = ${BSPAN}u / 4u;
                for (var run = thread / 4u; run * per_run < count; run += LANES) {
                    let place = staged_at(run * per_run);
                    sum = add_runB(segment.place, im.cols, segment.rows, tile, q,
                        first / per_run + run, place, sum);
                }
            } else {
//#else
            {
//#endif
                let per_run = ${SPAN}u / 4u;
                for (var run = thread / 4u; run * per_run < count; run += LANES) {
                    let place = staged_at(run * per_run);
                    sum = add_run(segment.place, im.cols, segment.rows, tile, q,
                        first / per_run + run, place, sum);
                }
            }
        }
        partial[thread] = sum;
//#if SQUARES
        squares_of[thread] = squares;
//#endif
        join(thread);
        let row = tile * 16u + thread;
        if thread < 16u && row < segment.rows {
            var result = joined(0u, thread);
//#if SQUARES
            result *= inverse_length(im.cols, im.eps);
//#endif
            let at = token * segment.stride + segment.out + row;
//#if ADDED
            result = added[at] + result;
//#endif
            out[at] = result;
        }
    }
}
