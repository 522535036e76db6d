// The tiles' products by each thread for itself: of 32 threads, 4 x 8 share the vectors and rows.

fn onto(sum: f32, w: vec4<f32>, v: vec4<f32>) -> f32 {
    return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
}

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
    workgroupBarrier();
//#each I X_EACH
    var x_next${I} = fetch_x(0u, thread + ${I}u * THREADS);
//#end
//#each I W_EACH
    var w_next${I} = fetch_w(0u, group.x, slot, thread + ${I}u * THREADS);
//#end
//#each I EACH_M
//#each J EACH_N
    var sum${I}_${J} = 0.0;
//#if FUSED
    var up${I}_${J} = 0.0;
//#endif
//#end
//#end
    for (var k0 = 0u; k0 < im.cols; k0 += TK) {
        workgroupBarrier();
//#each I X_EACH
        put_x_item(thread + ${I}u * THREADS, x_next${I});
//#end
//#each I W_EACH
        put_w_item(thread + ${I}u * THREADS, w_next${I});
//#end
        workgroupBarrier();
        let next = min(k0 + TK, (im.cols - 1u) / TK * TK);
//#each I X_EACH
        x_next${I} = fetch_x(next, thread + ${I}u * THREADS);
//#end
//#each I W_EACH
        w_next${I} = fetch_w(next, group.x, slot, thread + ${I}u * THREADS);
//#end
        for (var k = 0u; k < TK / 4u; k++) {
//#each J EACH_N
            let w${J} = vec4<f32>(ws[(from_n + ${J}u * 8u) * (STRIDE / 4u) + k]);
//#if FUSED
            let u${J} = vec4<f32>(ws[(from_n + OUT_PART + ${J}u * 8u) * (STRIDE / 4u) + k]);
//#endif
//#end
//#each I EACH_M
            {
                let v = vec4<f32>(xs[(from_m + ${I}u * 4u) * (STRIDE / 4u) + k]);
//#each J EACH_N
                sum${I}_${J} = onto(sum${I}_${J}, w${J}, v);
//#if FUSED
                up${I}_${J} = onto(up${I}_${J}, u${J}, v);
//#endif
//#end
            }
//#end
        }
    }
    let out_n = own % (TN / WN) * OUT_PART + thread % 8u;
//#each I EACH_M
    {
        let row = from_m + ${I}u * 4u;
        let scale = scale_of(row);
//#each J EACH_N
//#if FUSED
        let value${J} = fused(sum${I}_${J} * scale, up${I}_${J} * scale);
//#else
        let value${J} = sum${I}_${J} * scale;
//#endif
        put_out(group.x, row, out_n + ${J}u * 8u, value${J});
//#end
    }
//#end
}
