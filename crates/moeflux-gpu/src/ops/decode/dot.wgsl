// What a run of SPAN elements gives to rows 4q to 4q + 3 of a tile. A kernel that includes this
// after form.wgsl declares `x_at${F}`, which gives four elements of the vector; `x` is the place of
// the run's first four. What is indexed in registers is written out: drivers do not unroll all loops.

//#if IS_FIRST
fn dot_onto(w: vec4<f32>, v: vec4<f32>, sum: f32) -> f32 {
    return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
}
//#endif

// What a run has in memory, which may be asked for long before it is used.
//#if CODED
struct Run${F} {
//#if BITS_IS_8
    // So many words would take the registers of other threads: they are read when they are used.
    words: u32,
//#else
    words: array<vec4<u32>, ${PLANES}u>,
//#endif
//#if IS_AFFINE
    scales: vec4<u32>,
    biases: vec4<u32>,
//#endif
}

fn fetch_run${F}(place: Place, cols: u32, rows: u32, tile: u32, q: u32, unit: u32) -> Run${F} {
    var run: Run${F};
    let at = words_of${F}(block_of${F}(place, cols, tile, unit), unit) + q;
//#if BITS_IS_8
    run.words = at;
//#else
//#each I PLANES
    run.words[${I}] = ${M}[at + ${I}u * 4u];
//#end
//#endif
//#if IS_AFFINE
    let group = (tile * (cols / ${GROUP}u) + unit * 32u / ${GROUP}u) * 2u + (q >> 1u);
    run.scales = ${M}[place.scales + group];
    run.biases = ${M}[place.biases + group];
//#endif
    return run;
}

fn run_maps${F}(
    run: Run${F}, place: Place, cols: u32, tile: u32, q: u32, unit: u32,
) -> Maps${F} {
//#if IS_AFFINE
    let is_odd = (q & 1u) == 1u;
    let scales = select(run.scales.xy, run.scales.zw, is_odd);
    let biases = select(run.biases.xy, run.biases.zw, is_odd);
    let low = vec4(bf16_pair(scales.x), bf16_pair(scales.y));
    return Maps${F}(low, low, vec4(bf16_pair(biases.x), bf16_pair(biases.y)));
//#else
    return maps_of${F}(place, cols, tile, q, block_of${F}(place, cols, tile, unit), unit);
//#endif
}

fn four_rows${F}(quads: vec4<u32>, v: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return vec4(
        dot_onto(integers_of${F}(quads.x), v, sum.x), dot_onto(integers_of${F}(quads.y), v, sum.y),
        dot_onto(integers_of${F}(quads.z), v, sum.z), dot_onto(integers_of${F}(quads.w), v, sum.w),
    );
}

//#if NIBBLES
// What takes four bits out of every byte: where they lie, and what they are among the last bits of
// 2^23 if they are to be 0; those of odd bytes become 256 times as large.
struct Sieve${F} { mask: vec4<u32>, zero: vec4<f32> }

fn nibbles${F}(word: u32, sieve: Sieve${F}) -> vec4<f32> {
    let words = vec4(word, word, word >> 16u, word >> 16u) & sieve.mask;
    return bitcast<vec4<f32>>(words | vec4(0x4b000000u)) - sieve.zero;
}

fn four_nibbles${F}(
    words: vec4<u32>, sieve: Sieve${F}, v: vec4<f32>, sum: vec4<f32>,
) -> vec4<f32> {
    return vec4(
        dot_onto(nibbles${F}(words.x, sieve), v, sum.x),
        dot_onto(nibbles${F}(words.y, sieve), v, sum.y),
        dot_onto(nibbles${F}(words.z, sieve), v, sum.z),
        dot_onto(nibbles${F}(words.w, sieve), v, sum.w),
    );
}
//#endif

fn add_fetched${F}(
    run: Run${F}, place: Place, cols: u32, rows: u32, tile: u32, q: u32, unit: u32, x: u32,
    sum: vec4<f32>,
) -> vec4<f32> {
    var low = vec4(0.0);
    var high = vec4(0.0);
    var total = 0.0;
//#if SPLIT_BIAS
    var low_total = 0.0;
//#endif
//#if NIBBLES
    // Not written out, so that it is short: nobody knows that there are two turns.
    for (var turn = 0u; turn < min(cols, 2u); turn++) {
        let size = select(1.0, 16.0, turn == 1u);
        let mask = vec4(0xfu, 0xf00u, 0xfu, 0xf00u) << vec4(turn * 4u);
        let zero = vec4(1.0, 256.0, 1.0, 256.0) * (${ZERO}.0 * size) + vec4(8388608.0);
        let sieve = Sieve${F}(mask, zero);
        let scale = vec4(1.0, 0.00390625, 1.0, 0.00390625) / size;
//#each J FOUR
        let v${J} = x_at${F}(x + turn * 4u + ${J}u);
        low = four_nibbles${F}(run.words[${J}], sieve, v${J} * scale, low);
        total += (v${J}.x + v${J}.y) + (v${J}.z + v${J}.w);
//#end
    }
//#else
//#each J EIGHT
    let v${J} = x_at${F}(x + ${J}u);
//#if BITS_IS_8
    let quads${J} = ${M}[run.words + ${J}u * 4u];
//#endif
//#if HAS_FOUR
    var quads${J} = (run.words[${J}u % 4u] >> vec4(${J}u / 4u * 4u)) & vec4(0x0f0f0f0fu);
//#endif
//#if HAS_TWO
    var quads${J} = (run.words[${J}u / 4u] >> vec4(${J}u % 4u * 2u)) & vec4(0x03030303u);
//#endif
//#if BITS_IS_3
    quads${J} |= ((run.words[2] >> vec4(${J}u)) & vec4(0x01010101u)) << vec4(2u);
//#endif
//#if BITS_IS_5
    quads${J} |= ((run.words[4] >> vec4(${J}u)) & vec4(0x01010101u)) << vec4(4u);
//#endif
//#if BITS_IS_6
    quads${J} |=
        ((run.words[4u + ${J}u / 4u] >> vec4(${J}u % 4u * 2u)) & vec4(0x03030303u)) << vec4(4u);
//#endif
//#if LEVELS
    quads${J} = levels_of${F}(quads${J});
//#endif
//#if SPLIT
    if ${J}u < 4u {
        low = four_rows${F}(quads${J}, v${J}, low);
    } else {
        high = four_rows${F}(quads${J}, v${J}, high);
    }
//#else
    low = four_rows${F}(quads${J}, v${J}, low);
//#endif
//#if SPLIT_BIAS
    if ${J}u == 4u {
        low_total = total;
        total = 0.0;
    }
//#endif
    total += (v${J}.x + v${J}.y) + (v${J}.z + v${J}.w);
//#end
//#endif
    let maps = run_maps${F}(run, place, cols, tile, q, unit);
//#if SPLIT
    var result = fma(maps.high, high, sum);
    result = fma(maps.low, low, result);
//#else
    var result = fma(maps.low, low, sum);
//#endif
//#if SPLIT_BIAS
    result = fma(maps.high_bias, vec4(total), result);
    total = low_total;
//#endif
//#if BIASED
    result = fma(maps.bias, vec4(total), result);
//#endif
    return result;
}
//#else
struct Run${F} { words: array<vec4<u32>, 4> }

fn fetch_run${F}(place: Place, cols: u32, rows: u32, tile: u32, q: u32, unit: u32) -> Run${F} {
    var run: Run${F};
    let stride = (cols + ${SPAN}u - 1u) / ${SPAN}u;
    let first = tile * 16u + q * 4u;
//#each I FOUR
    run.words[${I}] = ${M}[place.weights + min(first + ${I}u, rows - 1u) * stride + unit];
//#end
    return run;
}

fn add_fetched${F}(
    run: Run${F}, place: Place, cols: u32, rows: u32, tile: u32, q: u32, unit: u32, x: u32,
    sum: vec4<f32>,
) -> vec4<f32> {
    var result = sum;
    let v = x_at${F}(x);
//#if IS_F32
//#else
    let other = x_at${F}(x + 1u);
//#endif
//#each I FOUR
    let words${I} = run.words[${I}];
//#if IS_F32
    result[${I}] = dot_onto(bitcast<vec4<f32>>(words${I}), v, result[${I}]);
//#endif
//#if IS_F16
    let first${I} = vec4(f16_pair(words${I}.x), f16_pair(words${I}.y));
    let second${I} = vec4(f16_pair(words${I}.z), f16_pair(words${I}.w));
//#endif
//#if IS_BF16
    let first${I} = vec4(bf16_pair(words${I}.x), bf16_pair(words${I}.y));
    let second${I} = vec4(bf16_pair(words${I}.z), bf16_pair(words${I}.w));
//#endif
//#if IS_F32
//#else
    result[${I}] = dot_onto(first${I}, v, result[${I}]);
    result[${I}] = dot_onto(second${I}, other, result[${I}]);
//#endif
//#end
    return result;
}
//#endif

fn add_run${F}(
    place: Place, cols: u32, rows: u32, tile: u32, q: u32, unit: u32, x: u32, sum: vec4<f32>,
) -> vec4<f32> {
    let run = fetch_run${F}(place, cols, rows, tile, q, unit);
    return add_fetched${F}(run, place, cols, rows, tile, q, unit, x, sum);
}
