// Adds up what the threads of a workgroup have for the 16 rows of a tile, in a fixed order: thread
// 4p + q has rows 4q to 4q + 3. TILES_JOINED tiles are joined at once, and a number a thread besides.

const PARTS = 4u;
const PART_LANES = THREADS / 4u / PARTS;

var<workgroup> partial: array<vec4<f32>, TILES_JOINED * THREADS>;
var<workgroup> parts: array<f32, TILES_JOINED * 64u>;
//#if SQUARES
var<workgroup> squares_of: array<f32, THREADS>;
var<workgroup> square_parts: array<f32, 16>;
//#endif

// Every thread has written its sums to `partial` (and `squares_of`).
fn join(thread: u32) {
    workgroupBarrier();
    if thread < TILES_JOINED * 64u {
        let row = thread % 16u;
        let part = thread % 64u / 16u;
        let first = thread / 64u * THREADS + part * PART_LANES * 4u + row / 4u;
        var sum = partial[first][row % 4u];
        for (var i = 1u; i < PART_LANES; i++) {
            sum += partial[first + i * 4u][row % 4u];
        }
        parts[thread] = sum;
    }
//#if SQUARES
    if thread >= THREADS - 16u {
        let part = thread - (THREADS - 16u);
        var sum = 0.0;
        for (var i = 0u; i < THREADS / 16u; i++) {
            sum += squares_of[part * (THREADS / 16u) + i];
        }
        square_parts[part] = sum;
    }
//#endif
    workgroupBarrier();
}

// The sum for a row of a tile, after `join`.
fn joined(tile: u32, row: u32) -> f32 {
    let at = tile * 64u + row;
    return (parts[at] + parts[at + 16u]) + (parts[at + 32u] + parts[at + 48u]);
}

//#if SQUARES
// One over the root of the mean square of `len` elements, after `join`.
fn inverse_length(len: u32, eps: f32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < 16u; i++) {
        sum += square_parts[i];
    }
    return 1.0 / sqrt(sum / f32(len) + eps);
}
//#endif
