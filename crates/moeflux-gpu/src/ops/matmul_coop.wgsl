// The tiles' products by the device's matrix unit. What a subgroup's lanes hold of a result is the
// device's secret, so results go through the workgroup's memory, a fragment a subgroup at a time.

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
//#if EXPERTS
    let slot = tiles[group.y];
    if slot == NONE { return; }
//#else
    let slot = 0u;
//#endif
    find_rows(group.y, thread);
    let from_m = subgroup / (TN / WN) * WM;
    let from_n = subgroup % (TN / WN) * WN;
    let fragment = subgroup * FRAG * FRAG;
    for (var i = thread; i < THREADS / 32u * FRAG * FRAG; i += THREADS) {
        fragments[i] = 0.0;
    }
    workgroupBarrier();
//#each I FRAGS_M
//#each J FRAGS_N
    var sum${I}_${J} = coopLoadT<coop_mat${FRAG}x${FRAG}<f32, C>>(&fragments[fragment], FRAG);
//#if FUSED
    var up${I}_${J} = coopLoadT<coop_mat${FRAG}x${FRAG}<f32, C>>(&fragments[fragment], FRAG);
//#endif
//#end
//#end
    // What the next step through the inner dimension needs is on its way during this one.
//#each I X_EACH
    var x_next${I} = fetch_x(0u, thread + ${I}u * THREADS);
//#end
//#each I W_EACH
    var w_next${I} = fetch_w(0u, group.x, slot, thread + ${I}u * THREADS);
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
//#each K STEPS
        {
            const k = ${K}u * FRAG;
//#each I FRAGS_M
            let x${I} = coopLoadT<coop_mat${FRAG}x${FRAG}<f16, A>>(
                &xs[((from_m + ${I}u * FRAG) * STRIDE + k) / WIDE], STRIDE / WIDE,
            );
//#end
//#each J FRAGS_N
            let w${J} = coopLoad<coop_mat${FRAG}x${FRAG}<f16, B>>(
                &ws[((from_n + ${J}u * FRAG) * STRIDE + k) / WIDE], STRIDE / WIDE,
            );
//#each I FRAGS_M
            sum${I}_${J} = coopMultiplyAdd(x${I}, w${J}, sum${I}_${J});
//#end
//#if FUSED
            let u${J} = coopLoad<coop_mat${FRAG}x${FRAG}<f16, B>>(
                &ws[((from_n + OUT_PART + ${J}u * FRAG) * STRIDE + k) / WIDE], STRIDE / WIDE,
            );
//#each I FRAGS_M
            up${I}_${J} = coopMultiplyAdd(x${I}, u${J}, up${I}_${J});
//#end
//#endif
//#end
        }
//#end
    }
    let own = thread / 32u;
    let lane = thread % 32u;
    let out_m = own / (TN / WN) * WM;
    let out_n = own % (TN / WN) * OUT_PART;
//#each I FRAGS_M
//#each J FRAGS_N
    {
        workgroupBarrier();
        coopStoreT(sum${I}_${J}, &fragments[fragment], FRAG);
        workgroupBarrier();
//#if FUSED
//#each K LANE_ELEMENTS
        let gate${K} = fragments[own * FRAG * FRAG + ${K}u * 32u + lane];
//#end
        workgroupBarrier();
        coopStoreT(up${I}_${J}, &fragments[fragment], FRAG);
        workgroupBarrier();
//#endif
//#each K LANE_ELEMENTS
        {
            let at = ${K}u * 32u + lane;
            let row = out_m + ${I}u * FRAG + at / FRAG;
            let scale = scale_of(row);
            let value = fragments[own * FRAG * FRAG + at] * scale;
            let column = out_n + ${J}u * FRAG + at % FRAG;
//#if FUSED
            put_out(group.x, row, column, fused(gate${K} * scale, value));
//#else
            put_out(group.x, row, column, value);
//#endif
        }
//#end
    }
//#end
//#end
}
