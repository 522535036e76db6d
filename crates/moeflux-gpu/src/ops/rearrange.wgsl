// Copies elements of the rows of one input to places of the result's rows.

const THREADS: u32 = 128u;

struct Sizes {
    rows: u32,
    // Elements that a row of the result takes from this input.
    moved: u32,
    // Elements of a row of the input and of the result.
    from_width: u32,
    to_width: u32,
}

var<immediate> sizes: Sizes;
@group(0) @binding(0) var<storage, read> x: array<u32>;
// Element of the input's row and of the result's row.
@group(0) @binding(1) var<storage, read> moves: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * THREADS + thread;
    if at >= sizes.rows * sizes.moved {
        return;
    }
    let row = at / sizes.moved;
    let move_of = moves[at % sizes.moved];
    out[row * sizes.to_width + move_of.y] = x[row * sizes.from_width + move_of.x];
}
