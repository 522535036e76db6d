// A sum over a workgroup of THREADS (a power of two), in a fixed tree.

var<workgroup> reduced: array<f32, THREADS>;

fn sum_of_group(value: f32, thread: u32) -> f32 {
    reduced[thread] = value;
    for (var step = THREADS / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if thread < step {
            reduced[thread] += reduced[thread + step];
        }
    }
    workgroupBarrier();
    let total = reduced[0];
    // Nobody may write before all have read.
    workgroupBarrier();
    return total;
}
