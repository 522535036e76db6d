// Four elements of a row of a matrix of any form. A kernel that includes this has the matrix's
// `cols` and `place` in `im`.

fn four(row: u32, k4: u32) -> vec4<f32> {
//#if CODED
    let tile = row / 16u;
    let q = row % 16u / 4u;
    let unit = k4 / 8u;
    let block = block_of(im.place, im.cols, tile, unit);
    let maps = maps_of(im.place, im.cols, tile, q, block, unit);
    let scale = select(maps.low, maps.high, k4 % 8u >= 4u)[row % 4u];
    let quads = quad(words_of(block, unit), q, k4 % 8u)[row % 4u];
    var bias = maps.bias[row % 4u];
//#if SPLIT_BIAS
    if k4 % 8u >= 4u { bias = maps.high_bias[row % 4u]; }
//#endif
    return fma(integers_of(quads), vec4(scale), vec4(bias));
//#else
    let stride = (im.cols + ${SPAN}u - 1u) / ${SPAN}u;
    let words = m[im.place.weights + row * stride + k4 * 4u / ${SPAN}u];
//#if IS_F8
    return four_f8(words[k4 % 4u]) * f8_scale(im.place, im.cols, row, k4 / 4u);
//#else
//#if IS_F32
    return bitcast<vec4<f32>>(words);
//#else
    let two = select(words.xy, words.zw, k4 % 2u == 1u);
//#if IS_F16
    return vec4(f16_pair(two.x), f16_pair(two.y));
//#else
    return vec4(bf16_pair(two.x), bf16_pair(two.y));
//#endif
//#endif
//#endif
//#endif
}
