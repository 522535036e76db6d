// The router's choice of a token as router.wgsl makes it: CHOOSERS neighbouring threads of a subgroup
// make it together, each with every CHOOSERSth expert, and no thread waits for others than these. A
// kernel that includes this declares `logits`, and `ids` and `weights` for the choices.

const CHOOSERS = ${CHOOSERS}u;
const EXPERTS = ${EXPERTS}u;
const TOP_K = ${TOP_K}u;

// Probabilities of the chosen ones, for the thread that writes them.
var<workgroup> chosen: array<f32, TOP_K>;

// 1 of a logit that can be chosen by, 2 of one that makes all others vanish or NaN; 0 of minus
// infinity.
fn kind_of(bits: u32) -> u32 {
    if bits == 0xff800000u { return 0u; }
    return select(1u, 2u, (bits & 0x7fffffffu) >= 0x7f800000u);
}

fn write_choice(token: u32, is_known: bool) {
    var total = 1.0;
//#if RENORMALIZE
    total = 0.0;
    for (var i = 0u; i < TOP_K; i++) {
        total += chosen[i];
    }
//#endif
    for (var i = 0u; i < TOP_K; i++) {
        let share = bitcast<u32>(chosen[i] / total);
        weights[token * TOP_K + i] = select(0x7fc00000u, share, is_known);
    }
}

// The expert of turn `wanted` of a token, counted from the most probable; if `writes`, thread 0
// writes them all.
fn choose(token: u32, wanted: u32, writes: bool, thread: u32) -> u32 {
    let lane = thread % CHOOSERS;
    var kind = 0u;
    var greatest = -3.4028234e38;
//#each I PER
    let id${I} = ${I}u * CHOOSERS + lane;
    let bits${I} = logits[token * EXPERTS + min(id${I}, EXPERTS - 1u)];
//#end
//#each I PER
    kind |= kind_of(bits${I});
    greatest = max(greatest, bitcast<f32>(bits${I}));
//#end
    for (var step = CHOOSERS / 2u; step > 0u; step /= 2u) {
        kind |= subgroupShuffleXor(kind, step);
        greatest = max(greatest, subgroupShuffleXor(greatest, step));
    }
    var sum = 0.0;
//#each I PER
    var value${I} = 0.0;
    if id${I} < EXPERTS { value${I} = exp_of(bitcast<f32>(bits${I}) - greatest); }
    sum += value${I};
//#end
    for (var step = CHOOSERS / 2u; step > 0u; step /= 2u) {
        sum += subgroupShuffleXor(sum, step);
    }
    // Bits of probabilities, which are not negative and so are ordered as these, and one more; those
    // that were chosen have 0.
//#each I PER
    var left${I} = bitcast<u32>(value${I} / sum) + 1u;
//#end
    // Softmax of others than these is NaN: the lowest ids are taken.
    let is_known = kind == 1u;
    let last = select(wanted, TOP_K - 1u, writes);
    var found = 0u;
    for (var turn = 0u; turn <= last; turn++) {
        var most = left0;
        var id = id0;
//#each I PER
        if left${I} > most {
            most = left${I};
            id = id${I};
        }
//#end
        for (var step = CHOOSERS / 2u; step > 0u; step /= 2u) {
            let other = subgroupShuffleXor(most, step);
            let other_id = subgroupShuffleXor(id, step);
            if other > most || (other == most && other_id < id) {
                most = other;
                id = other_id;
            }
        }
//#each I PER
        if id${I} == id { left${I} = 0u; }
//#end
        id = select(turn, id, is_known);
        if turn == wanted { found = id; }
        if writes && thread == 0u {
            ids[token * TOP_K + turn] = id;
            chosen[turn] = bitcast<f32>(most - 1u);
        }
    }
    if writes && thread == 0u { write_choice(token, is_known); }
    return found;
}
