// Runs that a thread asks for before the vector is there, AHEAD of those that it has of a part of a
// row, and what they and the others give. The part begins at run `first` and has `count`; its vector
// is staged (stage.wgsl).

struct Ahead${F} {
//#each I AHEAD
    run${I}: Run${F},
//#end
}

fn fetch_ahead${F}(
    place: Place, cols: u32, rows: u32, tile: u32, thread: u32, first: u32, count: u32,
) -> Ahead${F} {
    var ahead: Ahead${F};
//#each I AHEAD
    let run${I} = min(thread / 4u + ${I}u * LANES, count - 1u);
    ahead.run${I} = fetch_run${F}(place, cols, rows, tile, thread % 4u, first + run${I});
//#end
    return ahead;
}

fn add_ahead${F}(
    ahead: Ahead${F}, place: Place, cols: u32, rows: u32, tile: u32, thread: u32, first: u32,
    count: u32, sum: vec4<f32>,
) -> vec4<f32> {
    const PER_RUN = ${SPAN}u / 4u;
    let q = thread % 4u;
    var result = sum;
//#each I AHEAD
    let run${I} = thread / 4u + ${I}u * LANES;
    if run${I} < count {
        result = add_fetched${F}(ahead.run${I}, place, cols, rows, tile, q, first + run${I},
            staged_at(run${I} * PER_RUN), result);
    }
//#end
    for (var run = thread / 4u + ${AHEAD}u * LANES; run < count; run += LANES) {
        result = add_run${F}(place, cols, rows, tile, q, first + run, staged_at(run * PER_RUN),
            result);
    }
    return result;
}
