// The tiles' products by each thread for itself: of 32 threads, 4 x 8 share the vectors and rows.

const EACH_M: u32 = WM / 4u;
const EACH_N: u32 = WN / 8u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
//#if EXPERTS
    let slot = tiles[group.y];
    if slot == NONE { return; }
//#else
    let slot = 0u;
//#endif
    find_rows(group.y, thread);
    let own = thread / 32u;
    let from_m = own / (TN / WN) * WM + thread % 32u / 8u;
    let from_n = own % (TN / WN) * WN + thread % 8u;
    var sums: array<array<f32, EACH_N>, EACH_M>;
    for (var k0 = 0u; k0 < im.cols; k0 += TK) {
        workgroupBarrier();
        stage_x(k0, thread);
        stage_weights(k0, group.x, slot, thread);
        workgroupBarrier();
        for (var k = 0u; k < TK / 4u; k++) {
            var w: array<vec4<f32>, EACH_N>;
            for (var j = 0u; j < EACH_N; j++) {
                w[j] = vec4<f32>(ws[(from_n + j * 8u) * (STRIDE / 4u) + k]);
            }
            for (var i = 0u; i < EACH_M; i++) {
                let v = vec4<f32>(xs[(from_m + i * 4u) * (STRIDE / 4u) + k]);
                for (var j = 0u; j < EACH_N; j++) {
                    var sum = fma(w[j].x, v.x, sums[i][j]);
                    sum = fma(w[j].y, v.y, sum);
                    sum = fma(w[j].z, v.z, sum);
                    sums[i][j] = fma(w[j].w, v.w, sum);
                }
            }
        }
    }
    let out_n = own % (TN / WN) * OUT_PART + thread % 8u;
    for (var i = 0u; i < EACH_M; i++) {
        let row = from_m + i * 4u;
        let scale = scale_of(row);
        for (var j = 0u; j < OUT_PART / 8u; j++) {
//#if FUSED
            let value = fused(sums[i][j] * scale, sums[i][j + EACH_N / 2u] * scale);
//#else
            let value = sums[i][j] * scale;
//#endif
            put_out(group.x, row, out_n + j * 8u, value);
        }
    }
}
