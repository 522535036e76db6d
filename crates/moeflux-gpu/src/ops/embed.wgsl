// Rows of a matrix of any form as f32, a workgroup each; a thread decodes four elements at a time.

struct Immediates { n: u32, cols: u32, rows: u32, first_row: u32, place: Place }
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

fn four(row: u32, k4: u32) -> vec4<f32> {
//#if CODED
    let tile = row / 16u;
    let q = row % 16u / 4u;
    let unit = k4 / 8u;
    let block = block_of(im.place, im.cols, tile, unit);
    let maps = maps_of(im.place, im.cols, tile, q, block, unit);
    let scale = select(maps.low, maps.high, k4 % 8u >= 4u)[row % 4u];
    let quads = quad(words_of(block, unit), q, k4 % 8u)[row % 4u];
    return fma(integers_of(quads), vec4(scale), vec4(maps.bias[row % 4u]));
//#else
    let stride = (im.cols + ${SPAN}u - 1u) / ${SPAN}u;
    let words = m[im.place.weights + row * stride + k4 * 4u / ${SPAN}u];
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
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = tokens[group.x];
    if at < im.first_row || at >= im.first_row + im.rows { return; }
    for (var k4 = thread; k4 * 4u < im.cols; k4 += 64u) {
        let values = four(at - im.first_row, k4);
        for (var i = 0u; i < 4u; i++) {
            if k4 * 4u + i < im.cols { out[group.x * im.cols + k4 * 4u + i] = values[i]; }
        }
    }
}
