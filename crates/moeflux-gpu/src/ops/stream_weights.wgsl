// Weights that collapse, spread and mix the streams of a residual, from their projections; a
// workgroup a token. Mixing weights are a softmax of each row, then columns and rows normed in
// turn, each line by one thread and in order.

const THREADS: u32 = 64u;
const STREAMS: u32 = ${STREAMS}u;
// Times that lines are normed; 0: there are no mixing weights.
const ROUNDS: u32 = ${ROUNDS}u;

struct Sizes {
    tokens: u32,
    eps: f32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> projected: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> base: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

//#if ROUNDS
const WIDTH: u32 = STREAMS * (STREAMS + 2u);

var<workgroup> mixing: array<f32, STREAMS * STREAMS>;

fn soften(row: u32) {
    var most = mixing[row * STREAMS];
    for (var i = 1u; i < STREAMS; i++) {
        most = max(most, mixing[row * STREAMS + i]);
    }
    var sum = 0.0;
    for (var i = 0u; i < STREAMS; i++) {
        let power = exp_of(mixing[row * STREAMS + i] - most);
        mixing[row * STREAMS + i] = power;
        sum += power;
    }
    for (var i = 0u; i < STREAMS; i++) {
        mixing[row * STREAMS + i] = mixing[row * STREAMS + i] / sum + sizes.eps;
    }
}

// Divides a line by its sum: its elements begin at `first` and lie `step` apart.
fn even_out(first: u32, step: u32) {
    var sum = 0.0;
    for (var i = 0u; i < STREAMS; i++) {
        sum += mixing[first + i * step];
    }
    sum += sizes.eps;
    for (var i = 0u; i < STREAMS; i++) {
        mixing[first + i * step] = mixing[first + i * step] / sum;
    }
}
//#else
const WIDTH: u32 = STREAMS;
//#endif

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = flat(group, groups);
    if token >= sizes.tokens {
        return;
    }
    for (var i = thread; i < WIDTH; i += THREADS) {
        let shifted = fma(projected[token * WIDTH + i], scale[min(i / STREAMS, 2u)], base[i]);
        if i < STREAMS {
            out[token * WIDTH + i] = sigmoid(shifted) + sizes.eps;
        }
//#if ROUNDS
        if i >= STREAMS && i < 2u * STREAMS {
            out[token * WIDTH + i] = 2.0 * sigmoid(shifted);
        }
        if i >= 2u * STREAMS {
            mixing[i - 2u * STREAMS] = shifted;
        }
//#endif
    }
//#if ROUNDS
    workgroupBarrier();
    if thread < STREAMS {
        soften(thread);
    }
    for (var round = 0u; round < ROUNDS; round++) {
        workgroupBarrier();
        // Columns first, and last.
        if thread < STREAMS {
            if round % 2u == 0u {
                even_out(thread, STREAMS);
            } else {
                even_out(thread * STREAMS, 1u);
            }
        }
    }
    workgroupBarrier();
    for (var i = thread; i < STREAMS * STREAMS; i += THREADS) {
        out[token * WIDTH + 2u * STREAMS + i] = mixing[i];
    }
//#endif
}
