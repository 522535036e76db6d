// Sine and cosine of any angle.

// The high and the low word of a * b.
fn product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let cross = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (cross & 0xffffu);
    let high = (a >> 16u) * (b >> 16u) + (cross >> 16u) + (other >> 16u);
    return vec2(high, (other << 16u) | (low & 0xffffu));
}

// Quarter turns in an x of 0.5 to 2^32, whole and the signed rest in units of 2^-32: the product
// with 2/pi in integers, because a device's own sine is inexact for large angles.
fn quarters(x: f32) -> vec2<u32> {
    let bits = bitcast<u32>(x);
    let exponent = bits >> 23u;
    let mantissa = (bits & 0x7fffffu) | 0x800000u;
    // 2/pi is 0.a2f9836e4e441529... in hexadecimal digits.
    let upper = product(mantissa, 0xa2f9836eu);
    let lower = product(mantissa, 0x4e441529u);
    let middle = upper.y + lower.x;
    let top = upper.x + select(0u, 1u, middle < upper.y);
    var whole = top;
    var rest = middle;
    // A shift by a whole word is none, so there are three cases.
    if exponent < 150u {
        let shift = min(150u - exponent, 31u);
        whole = top >> shift;
        rest = (top << (32u - shift)) | (middle >> shift);
    } else if exponent > 150u {
        let shift = min(exponent - 150u, 31u);
        whole = (top << shift) | (middle >> (32u - shift));
        rest = (middle << shift) | (lower.y >> (32u - shift));
    }
    return vec2(whole + (rest >> 31u), rest);
}

// (sin x, cos x).
fn sin_cos(x: f32) -> vec2<f32> {
    var r = abs(x);
    var k = 0u;
    if r > 0.75 {
        let turns = quarters(r);
        k = turns.x;
        r = f32(bitcast<i32>(turns.y)) * 3.6572951982e-10;
    }
    let t = r * r;
    var sine = 2.7557319e-6;
    sine = fma(sine, t, -1.9841270e-4);
    sine = fma(sine, t, 8.3333333e-3);
    sine = fma(sine, t, -1.6666667e-1);
    sine = fma(r * t, sine, r);
    var cosine = -2.7557319e-7;
    cosine = fma(cosine, t, 2.4801587e-5);
    cosine = fma(cosine, t, -1.3888889e-3);
    cosine = fma(cosine, t, 4.1666667e-2);
    cosine = fma(cosine, t, -0.5);
    cosine = fma(cosine, t, 1.0);
    let odd = (k & 1u) == 1u;
    var result = select(vec2(sine, cosine), vec2(cosine, sine), odd);
    result.x = select(result.x, -result.x, (k & 2u) == 2u);
    result.y = select(result.y, -result.y, ((k + 1u) & 2u) == 2u);
    result.x = select(result.x, -result.x, x < 0.0);
    return result;
}
