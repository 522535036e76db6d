// Runs that a thread asks for before the vector is there, AHEAD of those that it has of a part of a
// row, and what they and with MORE the others give. The part begins at run `first` and has `count`;
// its vector is staged (stage.wgsl).
//
// Loops are left as they are, so that kernels are short: those of a layer together should fit into the
// memory that a device keeps instructions in.

struct Ahead${F} { runs: array<Run${F}, ${AHEAD}u> }

fn fetch_ahead${F}(
    place: Place, cols: u32, rows: u32, tile: u32, thread: u32, first: u32, count: u32,
) -> Ahead${F} {
    var ahead: Ahead${F};
//#each I AHEAD
    let run${I} = min(thread / 4u + ${I}u * LANES, count - 1u);
    ahead.runs[${I}] = fetch_run${F}(place, cols, rows, tile, thread % 4u, first + run${I});
//#end
    return ahead;
}

// What is ahead after run `run` of a part.
fn next_ahead${F}(
    given: Ahead${F}, place: Place, cols: u32, rows: u32, tile: u32, thread: u32, first: u32,
    count: u32, run: u32,
) -> Ahead${F} {
    var ahead = given;
//#each I AHEAD
    if ${I}u + 1u < ${AHEAD}u { ahead.runs[${I}] = given.runs[min(${I}u + 1u, ${AHEAD}u - 1u)]; }
//#end
//#if MORE
    let farthest = min(run + ${AHEAD}u * LANES, count - 1u);
    ahead.runs[${AHEAD}u - 1u] =
        fetch_run${F}(place, cols, rows, tile, thread % 4u, first + farthest);
//#endif
    return ahead;
}

fn add_ahead${F}(
    given: Ahead${F}, place: Place, cols: u32, rows: u32, tile: u32, thread: u32, first: u32,
    count: u32, sum: vec4<f32>,
) -> vec4<f32> {
    var ahead = given;
    var result = sum;
    for (var run = thread / 4u; run < count; run += LANES) {
        result = add_fetched${F}(ahead.runs[0], place, cols, rows, tile, thread % 4u, first + run,
            staged_at(run * (${SPAN}u / 4u)), result);
        ahead = next_ahead${F}(ahead, place, cols, rows, tile, thread, first, count, run);
    }
    return result;
}
