// Products of a matrix with few vectors in f32, 16 rows a workgroup. Thread (q, p) adds up rows 4q
// to 4q + 3 over every (THREADS/4)th run of SPAN elements from p on; a fixed tree joins the threads.
// An element's order of summation depends on the matrix alone, not on how many vectors there are.
//
// With EXPERTS the matrices lie in slots: vector a is expert ids[a]'s, whose slot table tells.
// With FUSED there are two matrices of one form, and the result is silu(first) * second.

struct Immediates {
    n: u32,
    cols: u32,
    rows: u32,
    out_stride: u32,
    first_row: u32,
    // Vectors that share a row of x.
    share: u32,
    slot: u32,
    table: u32,
    one: Place,
    two: Place,
}
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
//#if X_SCALAR
@group(0) @binding(1) var<storage, read> x: array<f32>;
//#else
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
//#endif
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#if EXPERTS
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<u32>;
//#endif

const THREADS = ${THREADS}u;
const LANES = ${THREADS}u / 4u;
const TOKENS = ${TOKENS}u;
const SPAN = ${SPAN}u;

var<workgroup> partial: array<vec4<f32>, ${THREADS}>;

fn x_at(row: u32, k4: u32) -> vec4<f32> {
//#if X_SCALAR
    let at = row * im.cols;
    var v = vec4(0.0);
    for (var i = 0u; i < 4u; i++) {
        let k = k4 * 4u + i;
        if k < im.cols { v[i] = x[at + k]; }
    }
    return v;
//#else
    return x[row * (im.cols / 4u) + k4];
//#endif
}

fn dot_onto(w: vec4<f32>, v: vec4<f32>, sum: f32) -> f32 {
    return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
}

//#if CODED
fn add_run(
    place: Place, tile: u32, q: u32, unit: u32, rows: array<u32, TOKENS>,
    sums: ptr<function, array<vec4<f32>, TOKENS>>,
) {
    let block = block_of(place, im.cols, tile, unit);
    let words = words_of(block, unit);
    let maps = maps_of(place, im.cols, tile, q, block, unit);
    var low: array<vec4<f32>, TOKENS>;
    var high: array<vec4<f32>, TOKENS>;
    var total: array<f32, TOKENS>;
//#if SPLIT_BIAS
    var high_total: array<f32, TOKENS>;
//#endif
    for (var t = 0u; t < TOKENS; t++) {
        low[t] = vec4(0.0);
        high[t] = vec4(0.0);
        total[t] = 0.0;
//#if SPLIT_BIAS
        high_total[t] = 0.0;
//#endif
    }
    for (var j = 0u; j < 8u; j++) {
        let quads = quad(words, q, j);
        let a = integers_of(quads.x);
        let b = integers_of(quads.y);
        let c = integers_of(quads.z);
        let d = integers_of(quads.w);
        for (var t = 0u; t < TOKENS; t++) {
            let v = x_at(rows[t], unit * 8u + j);
            var sum = low[t];
//#if SPLIT
            if j >= 4u { sum = high[t]; }
//#endif
            sum = vec4(
                dot_onto(a, v, sum.x), dot_onto(b, v, sum.y),
                dot_onto(c, v, sum.z), dot_onto(d, v, sum.w),
            );
//#if SPLIT
            if j >= 4u { high[t] = sum; } else { low[t] = sum; }
//#else
            low[t] = sum;
//#endif
//#if SPLIT_BIAS
            if j >= 4u { high_total[t] += (v.x + v.y) + (v.z + v.w); continue; }
//#endif
//#if BIASED
            total[t] += (v.x + v.y) + (v.z + v.w);
//#endif
        }
    }
    for (var t = 0u; t < TOKENS; t++) {
        (*sums)[t] = fma(maps.low, low[t], (*sums)[t]);
//#if SPLIT
        (*sums)[t] = fma(maps.high, high[t], (*sums)[t]);
//#endif
//#if BIASED
        (*sums)[t] = fma(maps.bias, vec4(total[t]), (*sums)[t]);
//#endif
//#if SPLIT_BIAS
        (*sums)[t] = fma(maps.high_bias, vec4(high_total[t]), (*sums)[t]);
//#endif
    }
}
//#else
const QUADS = SPAN / 4u;

// A run of elements of one row.
fn float_row(place: Place, row: u32, run: u32) -> array<vec4<f32>, QUADS> {
    let stride = (im.cols + SPAN - 1u) / SPAN;
    let own = min(row, im.rows - 1u);
    let words = m[place.weights + own * stride + run];
//#if IS_F8
    let scale = f8_scale(place, im.cols, own, run);
    return array(
        four_f8(words.x) * scale, four_f8(words.y) * scale,
        four_f8(words.z) * scale, four_f8(words.w) * scale,
    );
//#endif
//#if IS_F32
    return array<vec4<f32>, 1>(bitcast<vec4<f32>>(words));
//#endif
//#if IS_F16
    return array(
        vec4(f16_pair(words.x), f16_pair(words.y)), vec4(f16_pair(words.z), f16_pair(words.w)),
    );
//#endif
//#if IS_BF16
    return array(
        vec4(bf16_pair(words.x), bf16_pair(words.y)), vec4(bf16_pair(words.z), bf16_pair(words.w)),
    );
//#endif
}

fn add_run(
    place: Place, tile: u32, q: u32, run: u32, rows: array<u32, TOKENS>,
    sums: ptr<function, array<vec4<f32>, TOKENS>>,
) {
    for (var r = 0u; r < 4u; r++) {
        var w = float_row(place, tile * 16u + q * 4u + r, run);
        for (var t = 0u; t < TOKENS; t++) {
            var sum = (*sums)[t][r];
            for (var i = 0u; i < QUADS; i++) {
                sum = dot_onto(w[i], x_at(rows[t], run * QUADS + i), sum);
            }
            (*sums)[t][r] = sum;
        }
    }
}
//#endif

// Adds up what the threads of a quarter have; thread p = 0 gets the sum.
fn joined(thread: u32, sum: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    partial[thread] = sum;
    for (var half = THREADS / 2u; half >= 4u; half /= 2u) {
        workgroupBarrier();
        if thread < half { partial[thread] += partial[thread + half]; }
    }
    return partial[thread];
}

fn product(
    place: Place, tile: u32, thread: u32, rows: array<u32, TOKENS>,
) -> array<vec4<f32>, TOKENS> {
    var sums: array<vec4<f32>, TOKENS>;
    for (var t = 0u; t < TOKENS; t++) { sums[t] = vec4(0.0); }
    let runs = (im.cols + SPAN - 1u) / SPAN;
    for (var run = thread / 4u; run < runs; run += LANES) {
        add_run(place, tile, thread % 4u, run, rows, &sums);
    }
    for (var t = 0u; t < TOKENS; t++) { sums[t] = joined(thread, sums[t]); }
    return sums;
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = group.x;
    let first = group.y * TOKENS;
    var rows: array<u32, TOKENS>;
    for (var t = 0u; t < TOKENS; t++) { rows[t] = min(first + t, im.n - 1u) / im.share; }
    var one = im.one;
//#if EXPERTS
    let slot = table[im.table + ids[first]];
    if slot == 0xffffffffu { return; }
    one = Place(
        one.weights + slot * im.slot, one.scales + slot * im.slot, one.biases + slot * im.slot,
    );
//#endif
    var sums = product(one, tile, thread, rows);
//#if FUSED
    var two = im.two;
    two = Place(
        two.weights + slot * im.slot, two.scales + slot * im.slot, two.biases + slot * im.slot,
    );
    let ups = product(two, tile, thread, rows);
    for (var t = 0u; t < TOKENS; t++) {
        sums[t] = sums[t] / (1.0 + exp(-sums[t])) * ups[t];
    }
//#endif
    if thread >= 4u { return; }
    for (var t = 0u; t < TOKENS; t++) {
        for (var r = 0u; r < 4u; r++) {
            let row = tile * 16u + thread * 4u + r;
            if first + t < im.n && row < im.rows {
                out[(first + t) * im.out_stride + im.first_row + row] = sums[t][r];
            }
        }
    }
}
