// Products of experts' integer-coded matrices with vectors that are rounded to 8 bits here: the
// processor's bits, because integer dot products are exact in any order and the sums of floats have
// the processor's order: groups in order within a segment of 512 elements, then segments in order.
//
// A workgroup has the 16 rows of a tile and one vector, which it goes through in chunks of four
// segments. With FUSED there are two matrices of one form, and the result is silu(first) * second.

struct Immediates {
    n: u32,
    cols: u32,
    rows: u32,
    // Vectors that share a row of x.
    share: u32,
    slot: u32,
    one: Place,
    two: Place,
}
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<u32>;

const THREADS = ${THREADS}u;
const MATRICES = ${MATRICES}u;
const GROUP = ${GROUP}u;
const SEGMENT = 512u;
// Columns of a chunk: whole segments.
const CHUNK = ${CHUNK}u;
const SEGMENTS = CHUNK / SEGMENT;
// Elements that a thread rounds at once; a group has some of these runs.
const RUN = 8u;
const RUNS = CHUNK / RUN;
const GROUPS = CHUNK / GROUP;
// Sums of products of a unit: two where groups are half units.
//#if SPLIT
const PARTS = 2u;
//#else
const PARTS = 1u;
//#endif
const DOTS = CHUNK / 32u * PARTS * 16u;
// What the integers as they are multiplied lie below those of the coding, less its zero.
//#if WIDE
const SHIFTED = 128 - ${ZERO};
//#else
const SHIFTED = -${ZERO};
//#endif

var<workgroup> run_most: array<u32, RUNS>;
var<workgroup> run_sums: array<i32, RUNS>;
// Rounded elements, four in a word.
var<workgroup> rounded_x: array<u32, CHUNK / 4u>;
var<workgroup> scales_x: array<f32, GROUPS>;
var<workgroup> sums_x: array<f32, GROUPS>;
var<workgroup> integers_x: array<i32, GROUPS>;
var<workgroup> dots: array<i32, MATRICES * DOTS>;
var<workgroup> segment_sums: array<f32, MATRICES * SEGMENTS * 16u>;
var<workgroup> totals: array<f32, MATRICES * 16u>;

// The magnitudes' bits, of which the greatest is the greatest magnitude's or not a number's.
fn most_of(v: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(v) & vec4(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// Integers nearest to v / scale.
fn integers_near(v: vec4<f32>, scale: f32, inverse: f32) -> vec4<i32> {
    let near = v * inverse;
    var whole = round(near);
    // Near a half, or where the inverse is inexact, the quotient itself decides.
    let from_half = abs(abs(near - whole) - vec4(0.5));
    if scale < 1e-30 || any(from_half < vec4(1e-3)) {
        for (var i = 0u; i < 4u; i++) { whole[i] = round(divided(v[i], scale)); }
    }
    return vec4<i32>(clamp(whole, vec4(-127.0), vec4(127.0)));
}

fn packed(v: vec4<i32>) -> u32 {
    let bytes = bitcast<vec4<u32>>(v) & vec4(0xffu);
    return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

fn scale_of_group(group: u32) -> f32 {
    var most = 0u;
    for (var i = 0u; i < GROUP / RUN; i++) { most = max(most, run_most[group * (GROUP / RUN) + i]); }
    if is_special(most) { return bitcast<f32>(0x7fc00000u); }
    return divided(bitcast<f32>(most), 127.0);
}

// Rounds `cols` elements from word `first` of x on.
fn round_chunk(first: u32, cols: u32, thread: u32) {
    for (var run = thread; run < cols / RUN; run += THREADS) {
        let at = first + run * 2u;
        run_most[run] = max(most_of(x[at]), most_of(x[at + 1u]));
    }
    workgroupBarrier();
    for (var group = thread; group < cols / GROUP; group += THREADS) {
        scales_x[group] = scale_of_group(group);
    }
    workgroupBarrier();
    for (var run = thread; run < cols / RUN; run += THREADS) {
        let scale = scales_x[run * RUN / GROUP];
        let bits = bitcast<u32>(scale);
        let inverse = 1.0 / scale;
        var both = vec4(0);
        for (var half = 0u; half < 2u; half++) {
            var four = vec4(0);
            if bits != 0u && !is_special(bits) {
                four = integers_near(x[first + run * 2u + half], scale, inverse);
            }
            rounded_x[run * 2u + half] = packed(four);
            both += four;
        }
        run_sums[run] = (both.x + both.y) + (both.z + both.w);
    }
    workgroupBarrier();
    for (var group = thread; group < cols / GROUP; group += THREADS) {
        var sum = 0;
        for (var i = 0u; i < GROUP / RUN; i++) { sum += run_sums[group * (GROUP / RUN) + i]; }
        integers_x[group] = sum * SHIFTED;
        sums_x[group] = scales_x[group] * f32(sum);
    }
}

fn dot_of(quads: vec4<u32>, rounded: u32) -> vec4<i32> {
//#if WIDE
    let w = quads ^ vec4(0x80808080u);
//#else
    let w = quads;
//#endif
    return vec4(
        dot4I8Packed(w.x, rounded), dot4I8Packed(w.y, rounded),
        dot4I8Packed(w.z, rounded), dot4I8Packed(w.w, rounded),
    );
}

// Integer dot products of the units of a chunk that begins with unit `first`.
fn dot_chunk(place: Place, matrix: u32, tile: u32, first: u32, cols: u32, thread: u32) {
    for (var item = thread; item < cols / 8u; item += THREADS) {
        let unit = item / 4u;
        let q = item % 4u;
        let words = words_of(block_of(place, im.cols, tile, first + unit), first + unit);
        var low = vec4(0);
        var high = vec4(0);
        for (var j = 0u; j < 4u; j++) {
            low += dot_of(quad(words, q, j), rounded_x[unit * 8u + j]);
            high += dot_of(quad(words, q, j + 4u), rounded_x[unit * 8u + j + 4u]);
        }
//#if SPLIT
        let at = matrix * DOTS + unit * 32u + q * 4u;
        for (var r = 0u; r < 4u; r++) {
            dots[at + r] = low[r];
            dots[at + 16u + r] = high[r];
        }
//#else
        let at = matrix * DOTS + unit * 16u + q * 4u;
        let both = low + high;
        for (var r = 0u; r < 4u; r++) { dots[at + r] = both[r]; }
//#endif
    }
}

// A segment's sum of a row, group by group.
fn segment_sum(
    place: Place, matrix: u32, tile: u32, row: u32, first: u32, segment: u32, cols: u32,
) -> f32 {
    let end = min((segment + 1u) * (SEGMENT / GROUP), cols / GROUP);
    var sum = 0.0;
    for (var group = segment * (SEGMENT / GROUP); group < end; group++) {
        let unit = first + group * GROUP / 32u;
        let block = block_of(place, im.cols, tile, unit);
        let maps = maps_of(place, im.cols, tile, row / 4u, block, unit);
//#if SPLIT
        let scale = select(maps.low, maps.high, group % 2u == 1u)[row % 4u];
        var dot = dots[matrix * DOTS + group * 16u + row];
//#else
        let scale = maps.low[row % 4u];
        var dot = 0;
        for (var i = 0u; i < GROUP / 32u; i++) {
            dot += dots[matrix * DOTS + (group * (GROUP / 32u) + i) * 16u + row];
        }
//#endif
        dot += integers_x[group];
        sum = fused(scale * scales_x[group], f32(dot), sum);
//#if BIASED
        var bias = maps.bias;
//#if SPLIT_BIAS
        if group % 2u == 1u { bias = maps.high_bias; }
//#endif
        sum = fused(bias[row % 4u], sums_x[group], sum);
//#endif
    }
    return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = group.x;
    let vector = group.y;
    let slot = table[ids[vector]];
    if slot == 0xffffffffu { return; }
    var places = array(im.one, im.two);
    for (var i = 0u; i < 2u; i++) {
        places[i].weights += slot * im.slot;
        places[i].scales += slot * im.slot;
        places[i].biases += slot * im.slot;
    }
    let row_start = vector / im.share * (im.cols / 4u);
    for (var first = 0u; first < im.cols; first += CHUNK) {
        let cols = min(im.cols - first, CHUNK);
        round_chunk(row_start + first / 4u, cols, thread);
        for (var matrix = 0u; matrix < MATRICES; matrix++) {
            dot_chunk(places[matrix], matrix, tile, first / 32u, cols, thread);
        }
        workgroupBarrier();
        let segments = (cols + SEGMENT - 1u) / SEGMENT;
        for (var item = thread; item < MATRICES * segments * 16u; item += THREADS) {
            let row = item % 16u;
            let segment = item / 16u % segments;
            let matrix = item / 16u / segments;
            segment_sums[(matrix * SEGMENTS + segment) * 16u + row] =
                segment_sum(places[matrix], matrix, tile, row, first / 32u, segment, cols);
        }
        workgroupBarrier();
        if thread < MATRICES * 16u {
            let at = thread / 16u * SEGMENTS * 16u + thread % 16u;
            var total = segment_sums[at];
            if first > 0u { total = totals[thread] + total; }
            for (var i = 1u; i < segments; i++) { total += segment_sums[at + i * 16u]; }
            totals[thread] = total;
        }
        // Before the next chunk takes the place of this one.
        workgroupBarrier();
    }
    let row = tile * 16u + thread;
    if thread >= 16u || row >= im.rows { return; }
//#if FUSED
    out[vector * im.rows + row] = exact_swiglu(totals[thread], totals[16u + thread]);
//#else
    out[vector * im.rows + row] = totals[thread];
//#endif
}
