// Products of a matrix with many vectors, by tiles: a workgroup has TM vectors and TN rows of the
// matrix and goes through the inner dimension TK elements at a time, decoded into its memory. Each
// 32 threads (a subgroup) have WM vectors and WN rows of the tile. Elements are rounded to binary16
// with HALF, and multiplied by the device's matrix unit, FRAG x FRAG at a time, with COOP; sums are
// in f32, each in ascending order of the inner dimension, whatever else is in the tile.
// What is indexed in registers is written out: drivers do not unroll all loops.
//
// With EXPERTS a tile of vectors is one expert's, whose matrix lies in slot tiles[..], and its rows
// are pairs order[..]. With FUSED there are two matrices of one form, their rows side by side in
// the halves of WN, and the result is silu(first) * second.

struct Immediates {
    n: u32,
    cols: u32,
    rows: u32,
    out_stride: u32,
    first_row: u32,
    // Vectors that share a row of x.
    share: u32,
    slot: u32,
    // vec4s of a row of x, the first one's row, and the first row of the result.
    x_stride: u32,
    x_first: u32,
    out_first: u32,
    one: Place,
    two: Place,
}

var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f${BITS}>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#if HALF
// What the rows of x are to be multiplied with.
@group(0) @binding(3) var<storage, read> scales: array<f32>;
//#endif
//#if EXPERTS
@group(0) @binding(${ORDER_AT}) var<storage, read> order: array<u32>;
@group(0) @binding(${TILES_AT}) var<storage, read> tiles: array<u32>;
//#endif

const TM: u32 = ${TM}u;
const TN: u32 = ${TN}u;
const TK: u32 = ${TK}u;
const WM: u32 = ${WM}u;
const WN: u32 = ${WN}u;
const THREADS: u32 = TM / WM * (TN / WN) * 32u;
const SPAN: u32 = ${SPAN}u;
// Elements of a row in the workgroup's memory: eight more, so that rows begin in other banks.
const STRIDE: u32 = TK + 8u;
const NONE: u32 = 0xffffffffu;

//#if SCALARS
// The device's matrix unit loads from arrays of scalars only.
const WIDE: u32 = 1u;
var<workgroup> xs: array<f${BITS}, TM * STRIDE>;
var<workgroup> ws: array<f${BITS}, TN * STRIDE>;

fn put_x(at: u32, value: vec4<f${BITS}>) {
    for (var i = 0u; i < 4u; i++) { xs[at * 4u + i] = value[i]; }
}

fn put_w(at: u32, value: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) { ws[at * 4u + i] = f${BITS}(value[i]); }
}
//#else
const WIDE: u32 = 4u;
var<workgroup> xs: array<vec4<f${BITS}>, TM * STRIDE / 4u>;
var<workgroup> ws: array<vec4<f${BITS}>, TN * STRIDE / 4u>;

fn put_x(at: u32, value: vec4<f${BITS}>) {
    xs[at] = value;
}

fn put_w(at: u32, value: vec4<f32>) {
    ws[at] = vec4<f${BITS}>(value);
}
//#endif
//#if HALF
// What the sums of each vector of the tile are to be multiplied with.
var<workgroup> factors: array<f32, TM>;
//#endif
// Row of x and of the result of each vector of the tile; NONE: there is none.
var<workgroup> sources: array<u32, TM>;
var<workgroup> targets: array<u32, TM>;
//#if COOP
const FRAG: u32 = ${FRAG}u;
var<workgroup> fragments: array<f32, TM / WM * (TN / WN) * FRAG * FRAG>;
//#endif

fn find_rows(tile: u32, thread: u32) {
    for (var i = thread; i < TM; i += THREADS) {
        let at = tile * TM + i;
//#if EXPERTS
        let pair = order[at];
        let there = pair != NONE;
//#else
        let pair = at;
        let there = pair < im.n;
//#endif
        // Rows that are not there are computed for nothing, from the first.
        let row = im.x_first + select(0u, pair / im.share, there);
        sources[i] = row;
//#if HALF
        factors[i] = scales[row];
//#endif
        targets[i] = select(NONE, im.out_first + pair, there);
    }
}

// An item of vectors is four elements of one.
const X_ITEMS: u32 = TM * TK / 4u;

fn fetch_x(k0: u32, item: u32) -> vec4<f${BITS}> {
    let row = sources[item / (TK / 4u)] * im.x_stride;
    let k = k0 / 4u + item % (TK / 4u);
//#if HALF
    return x[row + k];
//#else
    let value = x[row + min(k, im.x_stride - 1u)];
    return select(vec4(0.0), value, k < im.x_stride);
//#endif
}

fn put_x_item(item: u32, value: vec4<f${BITS}>) {
    put_x(item / (TK / 4u) * (STRIDE / 4u) + item % (TK / 4u), value);
}

//#if FUSED
// Tiles of one of two matrices in WN rows.
const PART: u32 = WN / 32u;
//#endif

// Tile of 16 rows of a matrix that is number t of this workgroup's, and the matrix.
struct Source { tile: u32, place: Place }

fn source_of(column: u32, t: u32, slot: u32) -> Source {
    var source = Source(0u, im.one);
//#if FUSED
    let within = t % (2u * PART);
    source.tile = column * (TN / 32u) + t / (2u * PART) * PART + within % PART;
    if within >= PART { source.place = im.two; }
//#else
    source.tile = column * (TN / 16u) + t;
//#endif
    source.tile = min(source.tile, (im.rows + 15u) / 16u - 1u);
//#if EXPERTS
    source.place.weights += slot * im.slot;
    source.place.scales += slot * im.slot;
    source.place.biases += slot * im.slot;
//#endif
    return source;
}

// What lies beyond the inner dimension is read from inside it: there the vectors are zeros.
//#if CODED
// An item of weights is QUADS times four elements of each of four rows: quad j of a unit, and j + 4.
const QUADS: u32 = ${QUADS}u;
const W_ITEMS: u32 = TN * TK / 16u / QUADS;
// Items of a row of units.
const UNIT_ITEMS: u32 = 32u / QUADS;

struct Weights { one: vec4<u32>, two: vec4<u32>, maps: Maps }

fn fetch_w(k0: u32, column: u32, slot: u32, item: u32) -> Weights {
    let q = item % 4u;
    let j = item / 4u % (8u / QUADS);
    let unit = min(k0 / 32u + item / UNIT_ITEMS % (TK / 32u), im.cols / 32u - 1u);
    let source = source_of(column, item / (UNIT_ITEMS * (TK / 32u)), slot);
    let block = block_of(source.place, im.cols, source.tile, unit);
    let words = words_of(block, unit);
    var weights: Weights;
    weights.maps = maps_of(source.place, im.cols, source.tile, q, block, unit);
    weights.one = quad(words, q, j);
//#if TWO_QUADS
    weights.two = quad(words, q, j + 4u);
//#endif
    return weights;
}

fn put_w_item(item: u32, weights: Weights) {
    let q = item % 4u;
    let j = item / 4u % (8u / QUADS);
    let unit_in = item / UNIT_ITEMS % (TK / 32u);
    let t = item / (UNIT_ITEMS * (TK / 32u));
    let at = (t * 16u + q * 4u) * (STRIDE / 4u) + unit_in * 8u + j;
//#each I FOUR
    {
        let place = at + ${I}u * (STRIDE / 4u);
        var bias = vec4(weights.maps.bias[${I}]);
//#if SPLIT_BIAS
        let high_bias = vec4(weights.maps.high_bias[${I}]);
//#else
        let high_bias = bias;
//#endif
//#if TWO_QUADS
        let factor = weights.maps.low[${I}];
        let high = weights.maps.high[${I}];
        put_w(place + 4u, fma(integers_of(weights.two[${I}]), vec4(high), high_bias));
//#else
        bias = select(bias, high_bias, j >= 4u);
        let factor = select(weights.maps.low[${I}], weights.maps.high[${I}], j >= 4u);
//#endif
        put_w(place, fma(integers_of(weights.one[${I}]), vec4(factor), bias));
    }
//#end
}
//#else
// An item of weights is SPAN elements of a row.
const W_ITEMS: u32 = TN * TK / SPAN;
//#if IS_F8
struct Weights { words: vec4<u32>, scale: f32 }
//#else
alias Weights = vec4<u32>;
//#endif

fn fetch_w(k0: u32, column: u32, slot: u32, item: u32) -> Weights {
    let stride = (im.cols + SPAN - 1u) / SPAN;
    let row = item / (TK / SPAN);
    let run = min(k0 / SPAN + item % (TK / SPAN), stride - 1u);
    let source = source_of(column, row / 16u, slot);
    let place = min(source.tile * 16u + row % 16u, im.rows - 1u);
    let words = m[source.place.weights + place * stride + run];
//#if IS_F8
    return Weights(words, f8_scale(source.place, im.cols, place, run));
//#else
    return words;
//#endif
}

fn put_w_item(item: u32, words: Weights) {
    let at = item / (TK / SPAN) * (STRIDE / 4u) + item % (TK / SPAN) * (SPAN / 4u);
//#if IS_F8
//#each I FOUR
    put_w(at + ${I}u, four_f8(words.words[${I}]) * words.scale);
//#end
//#endif
//#if IS_F32
    put_w(at, bitcast<vec4<f32>>(words));
//#endif
//#if IS_F16
    put_w(at, vec4(f16_pair(words.x), f16_pair(words.y)));
    put_w(at + 1u, vec4(f16_pair(words.z), f16_pair(words.w)));
//#endif
//#if IS_BF16
    put_w(at, vec4(bf16_pair(words.x), bf16_pair(words.y)));
    put_w(at + 1u, vec4(bf16_pair(words.z), bf16_pair(words.w)));
//#endif
}
//#endif

//#if FUSED
const OUT_COLUMNS: u32 = TN / 2u;
const OUT_PART: u32 = WN / 2u;
//#else
const OUT_COLUMNS: u32 = TN;
const OUT_PART: u32 = WN;
//#endif

// Vector `row` and column `at` of the tile of results.
fn put_out(column: u32, row: u32, at: u32, value: f32) {
    let target_row = targets[row];
    let r = column * OUT_COLUMNS + at;
    if target_row != NONE && r < im.rows {
        out[target_row * im.out_stride + im.first_row + r] = value;
    }
}

fn scale_of(row: u32) -> f32 {
//#if HALF
    return factors[row];
//#else
    return 1.0;
//#endif
}

fn fused(gate: f32, up: f32) -> f32 {
    return gate / (1.0 + exp(-gate)) * up;
}
