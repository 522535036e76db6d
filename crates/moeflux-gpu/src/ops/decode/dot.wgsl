// What a run of SPAN elements gives to rows 4q to 4q + 3 of a tile. A kernel that includes this
// after form.wgsl declares `x_at${F}`, which gives four elements of the vector; `x` is the place of
// the run's first four.

//#if IS_FIRST
fn dot_onto(w: vec4<f32>, v: vec4<f32>, sum: f32) -> f32 {
    return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
}
//#endif

//#if CODED
fn four_rows${F}(quads: vec4<u32>, v: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return vec4(
        dot_onto(integers_of${F}(quads.x), v, sum.x), dot_onto(integers_of${F}(quads.y), v, sum.y),
        dot_onto(integers_of${F}(quads.z), v, sum.z), dot_onto(integers_of${F}(quads.w), v, sum.w),
    );
}

fn add_run${F}(
    place: Place, cols: u32, rows: u32, tile: u32, q: u32, unit: u32, x: u32, sum: vec4<f32>,
) -> vec4<f32> {
    let block = block_of${F}(place, cols, tile, unit);
    let words = words_of${F}(block, unit);
    let maps = maps_of${F}(place, cols, tile, q, block, unit);
    var low = vec4(0.0);
    var total = 0.0;
    for (var j = 0u; j < 4u; j++) {
        let v = x_at${F}(x + j);
        low = four_rows${F}(quad${F}(words, q, j), v, low);
        total += (v.x + v.y) + (v.z + v.w);
    }
//#if SPLIT_BIAS
    let low_total = total;
    total = 0.0;
//#endif
//#if SPLIT
    var high = vec4(0.0);
//#else
    var high = low;
//#endif
    for (var j = 4u; j < 8u; j++) {
        let v = x_at${F}(x + j);
        high = four_rows${F}(quad${F}(words, q, j), v, high);
        total += (v.x + v.y) + (v.z + v.w);
    }
    var result = fma(maps.high, high, sum);
//#if SPLIT
    result = fma(maps.low, low, result);
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
fn add_run${F}(
    place: Place, cols: u32, rows: u32, tile: u32, q: u32, run: u32, x: u32, sum: vec4<f32>,
) -> vec4<f32> {
    var result = sum;
    let stride = (cols + ${SPAN}u - 1u) / ${SPAN}u;
    for (var r = 0u; r < 4u; r++) {
        let row = min(tile * 16u + q * 4u + r, rows - 1u);
        let words = ${M}[place.weights + row * stride + run];
//#if IS_F32
        result[r] = dot_onto(bitcast<vec4<f32>>(words), x_at${F}(x), result[r]);
//#endif
//#if IS_F16
        let first = vec4(f16_pair(words.x), f16_pair(words.y));
        let second = vec4(f16_pair(words.z), f16_pair(words.w));
//#endif
//#if IS_BF16
        let first = vec4(bf16_pair(words.x), bf16_pair(words.y));
        let second = vec4(bf16_pair(words.z), bf16_pair(words.w));
//#endif
//#if IS_F32
//#else
        result[r] = dot_onto(first, x_at${F}(x), result[r]);
        result[r] = dot_onto(second, x_at${F}(x + 1u), result[r]);
//#endif
    }
    return result;
}
//#endif
