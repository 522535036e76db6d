// What several kernels share: scalar functions as the processor's kernels have them (polynomials in
// fused multiply-adds; NaN gives NaN), binary16, and numbers of workgroups.

// A dimension of a dispatch is limited, so large ones have two.
fn flat(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn power_of_two(n: f32) -> f32 {
    return bitcast<f32>(u32(i32(n) + 127) << 23u);
}

// e^x. Comparisons rather than min and max, which may lose a NaN.
fn exp_of(given: f32) -> f32 {
    var x = select(given, 89.0, given > 89.0);
    x = select(x, -104.0, x < -104.0);
    let n = round(x * 1.4426950408889634);
    var r = fma(n, -0.693359375, x);
    r = fma(n, 2.12194440e-4, r);
    var p = 1.0 / 5040.0;
    p = fma(p, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    // 2^n in two factors: n reaches from -150 to 128.
    let half_n = round(n * 0.5);
    return p * power_of_two(half_n) * power_of_two(n - half_n);
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_of(-x));
}

fn silu(x: f32) -> f32 {
    return x * sigmoid(x);
}

// ln(1 + e^x) as max(x, 0) + log1p(e^-|x|), the latter as 2 artanh(y / (2 + y)).
fn softplus(x: f32) -> f32 {
    let y = exp_of(-abs(x));
    let s = y / (2.0 + y);
    let t = s * s;
    var p = 1.0 / 17.0;
    p = fma(p, t, 1.0 / 15.0);
    p = fma(p, t, 1.0 / 13.0);
    p = fma(p, t, 1.0 / 11.0);
    p = fma(p, t, 1.0 / 9.0);
    p = fma(p, t, 1.0 / 7.0);
    p = fma(p, t, 1.0 / 5.0);
    p = fma(p, t, 1.0 / 3.0);
    let twice = s + s;
    return select(x, 0.0, x < 0.0) + fma(twice * t, p, twice);
}

// The bits of the nearest binary16, halves to even; finite values beyond its range become its
// largest.
fn to_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let size = bits & 0x7fffffffu;
    if size > 0x7f800000u {
        return sign | 0x7e00u;
    }
    if size == 0x7f800000u {
        return sign | 0x7c00u;
    }
    if size >= 0x477fe000u {
        return sign | 0x7bffu;
    }
    if size < 0x38800000u {
        // Adding 0.5 rounds to a multiple of 2^-24, the step of the smallest numbers.
        return sign | (bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u);
    }
    return sign | ((size + 0xfffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u);
}
