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
    var squares = 0.0;
    for (var turn = 0u; turn < TILES; turn++) {
        // From the last to the first: small matrices of floats, which take longest, tend to be behind.
        let all = im.segments[${SEGMENTS}u - 1u].end;
        if group.x * TILES + turn >= all { break; }
        var tile = all - 1u - (group.x * TILES + turn);
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
            let is_staged = turn == 0u || cols4 > STAGED4;
            var inputs: Inputs;
            if is_staged {
                inputs = read_inputs(token, cols4, first, count, thread);
            }
            let part = first / (${SPAN}u / 4u);
            let runs = count / (${SPAN}u / 4u);
//#if SECOND
            if ((${SECOND}u >> s) & 1u) == 1u {
                let partB = first / (${BSPAN}u / 4u);
                let runsB = count / (${BSPAN}u / 4u);
                let ahead = fetch_aheadB(
                    segment.place, im.cols, segment.rows, tile, thread, partB, runsB);
                if is_staged {
                    workgroupBarrier();
                    squares += stage(inputs, count, im.eps, thread);
                    workgroupBarrier();
                }
                sum = add_aheadB(ahead, segment.place, im.cols, segment.rows, tile, thread,
                    partB, runsB, sum);
                continue;
            }
//#endif
            let ahead =
                fetch_ahead(segment.place, im.cols, segment.rows, tile, thread, part, runs);
            if is_staged {
                workgroupBarrier();
                squares += stage(inputs, count, im.eps, thread);
                workgroupBarrier();
            }
            sum = add_ahead(ahead, segment.place, im.cols, segment.rows, tile, thread, part,
                runs, sum);
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
