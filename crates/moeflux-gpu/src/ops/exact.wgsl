// Arithmetic that gives the processor's bits: multiply-adds rounded once, divisions rounded right,
// and the scalar functions made of them. Devices round a product and a sum right; what they do not
// promise is computed in integers. With HAS_FMA the device's own multiply-add is rounded once.

// The magnitude as an integer below 2^24 times 2^(exponent - 150).
struct Parts { integer: u32, exponent: i32 }

fn parts_of(magnitude: u32) -> Parts {
    let exponent = magnitude >> 23u;
    if exponent == 0u {
        return Parts(magnitude, 1);
    }
    return Parts((magnitude & 0x7fffffu) | 0x800000u, i32(exponent));
}

// Numbers of 64 bits: x above y.
fn zeros_before(v: vec2<u32>) -> u32 {
    return select(32u + countLeadingZeros(v.y), countLeadingZeros(v.x), v.x != 0u);
}

fn shifted_left(v: vec2<u32>, n: u32) -> vec2<u32> {
    if n == 0u { return v; }
    if n >= 32u { return vec2(v.y << (n - 32u), 0u); }
    return vec2((v.x << n) | (v.y >> (32u - n)), v.y << n);
}

// The last bit stands for all that are lost.
fn shifted_right(v: vec2<u32>, n: u32) -> vec2<u32> {
    if n == 0u { return v; }
    if n >= 64u { return vec2(0u, select(0u, 1u, (v.x | v.y) != 0u)); }
    if n >= 32u {
        let rest = shifted_left(v, 64u - n);
        return vec2(0u, (v.x >> (n - 32u)) | select(0u, 1u, (rest.x | rest.y) != 0u));
    }
    let lost = v.y << (32u - n);
    let low = (v.y >> n) | (v.x << (32u - n));
    return vec2(v.x >> n, low | select(0u, 1u, lost != 0u));
}

// v * 2^exponent, halves to even.
fn rounded(sign: u32, v: vec2<u32>, exponent: i32) -> f32 {
    if (v.x | v.y) == 0u { return bitcast<f32>(sign); }
    let top = 63 - i32(zeros_before(v));
    let biased = top + exponent + 127;
    if biased >= 255 { return bitcast<f32>(sign | 0x7f800000u); }
    // Two bits below the last one that is kept.
    let shift = top - 25 + max(0, 1 - biased);
    var kept = 0u;
    if shift >= 0 {
        kept = shifted_right(v, u32(shift)).y;
    } else {
        kept = shifted_left(v, u32(-shift)).y;
    }
    let below = kept & 3u;
    kept = kept >> 2u;
    kept += select(0u, 1u, below == 3u || (below == 2u && (kept & 1u) == 1u));
    if biased > 0 { kept += (u32(biased) << 23u) - 0x800000u; }
    return bitcast<f32>(sign | kept);
}

fn product_of(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let cross = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (cross & 0xffffu);
    return vec2(
        (a >> 16u) * (b >> 16u) + (cross >> 16u) + (other >> 16u),
        (other << 16u) | (low & 0xffffu),
    );
}

fn is_special(magnitude: u32) -> bool {
    return magnitude >= 0x7f800000u;
}

//#if HAS_FMA
fn fused(a: f32, b: f32, c: f32) -> f32 {
    return fma(a, b, c);
}
//#else
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let bits = vec3(bitcast<u32>(a), bitcast<u32>(b), bitcast<u32>(c));
    let sizes = bits & vec3(0x7fffffffu);
    if is_special(sizes.x) || is_special(sizes.y) || is_special(sizes.z) { return a * b + c; }
    if sizes.x == 0u || sizes.y == 0u { return a * b + c; }
    let sign = (bits.x ^ bits.y) & 0x80000000u;
    let other_sign = bits.z & 0x80000000u;
    let first = parts_of(sizes.x);
    let second = parts_of(sizes.y);
    let third = parts_of(sizes.z);
    // Both with their first one in bit 62.
    var one = product_of(first.integer, second.integer);
    let one_shift = zeros_before(one) - 1u;
    one = shifted_left(one, one_shift);
    var exponent = first.exponent + second.exponent - 300 - i32(one_shift);
    var two = vec2(0u, third.integer);
    if third.integer == 0u { return rounded(sign, one, exponent); }
    let two_shift = zeros_before(two) - 1u;
    two = shifted_left(two, two_shift);
    let two_exponent = third.exponent - 150 - i32(two_shift);
    if exponent >= two_exponent {
        two = shifted_right(two, u32(exponent - two_exponent));
    } else {
        one = shifted_right(one, u32(two_exponent - exponent));
        exponent = two_exponent;
    }
    if sign == other_sign {
        let low = one.y + two.y;
        let carry = select(0u, 1u, low < one.y);
        return rounded(sign, vec2(one.x + two.x + carry, low), exponent);
    }
    var result_sign = sign;
    if one.x < two.x || (one.x == two.x && one.y < two.y) {
        let larger = two;
        two = one;
        one = larger;
        result_sign = other_sign;
    }
    let rest = vec2(one.x - two.x - select(0u, 1u, one.y < two.y), one.y - two.y);
    if (rest.x | rest.y) == 0u { return 0.0; }
    return rounded(result_sign, rest, exponent);
}
//#endif

fn divided(a: f32, b: f32) -> f32 {
    let bits = vec2(bitcast<u32>(a), bitcast<u32>(b));
    let sizes = bits & vec2(0x7fffffffu);
    let sign = (bits.x ^ bits.y) & 0x80000000u;
    if sizes.x > 0x7f800000u || sizes.y > 0x7f800000u { return a / b; }
    if sizes.x == 0x7f800000u || sizes.y == 0u { return a / b; }
    if sizes.x == 0u || sizes.y == 0x7f800000u { return bitcast<f32>(sign); }
    let above = parts_of(sizes.x);
    let below = parts_of(sizes.y);
    let above_shift = countLeadingZeros(above.integer) - 8u;
    let below_shift = countLeadingZeros(below.integer) - 8u;
    var rest = above.integer << above_shift;
    let divisor = below.integer << below_shift;
    var quotient = 0u;
    for (var i = 0u; i < 27u; i++) {
        let fits = rest >= divisor;
        quotient = (quotient << 1u) | select(0u, 1u, fits);
        rest = (rest - select(0u, divisor, fits)) << 1u;
    }
    quotient = (quotient << 1u) | select(0u, 1u, rest != 0u);
    let exponent = above.exponent - i32(above_shift) - below.exponent + i32(below_shift);
    return rounded(sign, vec2(0u, quotient), exponent - 27);
}

fn exact_power_of_two(n: f32) -> f32 {
    return bitcast<f32>(u32(i32(n) + 127) << 23u);
}

// e^x by the processor's sequence of operations.
fn exact_exp(given: f32) -> f32 {
    var x = select(given, 89.0, given > 89.0);
    x = select(x, -104.0, x < -104.0);
    let n = round(x * 1.4426950408889634);
    // Loops, so that a driver need not have `fused` in ten places.
    var parts = array(-0.693359375, 2.12194440e-4);
    var r = x;
    for (var i = 0u; i < 2u; i++) { r = fused(n, parts[i], r); }
    // 1 / k! for k from 7 to 0.
    var terms = array(
        0x39500d01u, 0x3ab60b61u, 0x3c088889u, 0x3d2aaaabu, 0x3e2aaaabu, 0x3f000000u, 0x3f800000u,
        0x3f800000u,
    );
    var p = bitcast<f32>(terms[0]);
    for (var i = 1u; i < 8u; i++) { p = fused(p, r, bitcast<f32>(terms[i])); }
    let half_n = round(n * 0.5);
    return p * exact_power_of_two(half_n) * exact_power_of_two(n - half_n);
}

// a * b. Devices may take the smallest numbers for zeros: products with such, and such products,
// are made in integers.
fn multiplied(a: f32, b: f32) -> f32 {
    let bits = vec2(bitcast<u32>(a), bitcast<u32>(b));
    let sizes = bits & vec2(0x7fffffffu);
    let near = a * b;
    let least = min(min(sizes.x, sizes.y), bitcast<u32>(near) & 0x7fffffffu);
    if least >= 0x800000u || is_special(max(sizes.x, sizes.y)) { return near; }
    let one = parts_of(sizes.x);
    let two = parts_of(sizes.y);
    let exponent = one.exponent + two.exponent - 300;
    let sign = (bits.x ^ bits.y) & 0x80000000u;
    return rounded(sign, product_of(one.integer, two.integer), exponent);
}

// silu(gate) * up.
fn exact_swiglu(gate: f32, up: f32) -> f32 {
    let sigmoid = divided(1.0, 1.0 + exact_exp(0.0 - gate));
    let factors = array(sigmoid, up);
    var product = gate;
    for (var i = 0u; i < 2u; i++) { product = multiplied(product, factors[i]); }
    return product;
}
