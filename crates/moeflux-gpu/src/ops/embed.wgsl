// Rows of a matrix of any form as f32, a workgroup each; a thread decodes four elements at a time.

struct Immediates { n: u32, cols: u32, rows: u32, first_row: u32, place: Place }
var<immediate> im: Immediates;
@group(0) @binding(0) var<storage, read> m: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

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
