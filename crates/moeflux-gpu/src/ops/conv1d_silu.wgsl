// Causal depthwise convolution, then silu; and the state after the span. A thread has one channel
// of one token, or of one row of the state.

const THREADS: u32 = 64u;
const CHANNELS: u32 = ${CHANNELS}u;
const TAPS: u32 = ${TAPS}u;
const HISTORY: u32 = TAPS - 1u;

struct Sizes {
    first_row: u32,
    tokens: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<f32>;
// `[TAPS, CHANNELS]`, oldest tap first.
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#if HISTORY
@group(0) @binding(3) var<storage, read> state: array<f32>;
@group(0) @binding(4) var<storage, read_write> next_state: array<f32>;
//#endif

// The input at time t, counted from the oldest one of the state.
fn input(t: u32, channel: u32) -> f32 {
//#if HISTORY
    if t < HISTORY {
        return state[t * CHANNELS + channel];
    }
//#endif
    return x[(sizes.first_row + t - HISTORY) * CHANNELS + channel];
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    let t = at / CHANNELS;
    let channel = at % CHANNELS;
    if t >= sizes.tokens + HISTORY {
        return;
    }
    if t < sizes.tokens {
        var sum = 0.0;
//#each I TAPS
        sum = fma(weight[${I}u * CHANNELS + channel], input(t + ${I}u, channel), sum);
//#end
        out[(sizes.first_row + t) * CHANNELS + channel] = silu(sum);
        return;
    }
//#if HISTORY
    next_state[at - sizes.tokens * CHANNELS] = input(t, channel);
//#endif
}
