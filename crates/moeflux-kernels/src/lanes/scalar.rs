//! Sixteen lanes in plain Rust.

use super::Lanes;

/// Token of the plain implementation, which is always available.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn map<A: Copy, B: Copy + Default>(a: [A; 16], f: impl Fn(A) -> B) -> [B; 16] {
    let mut out = [B::default(); 16];
    for lane in 0..16 {
        out[lane] = f(a[lane]);
    }
    out
}

#[inline(always)]
fn zip<A: Copy + Default>(a: [A; 16], b: [A; 16], f: impl Fn(A, A) -> A) -> [A; 16] {
    let mut out = [A::default(); 16];
    for lane in 0..16 {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

impl Lanes for Scalar {
    type F = [f32; 16];
    type I = [i32; 16];
    const ROOMY: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; 16]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        *x
    }

    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; 16]) {
        *out = x;
    }

    #[inline(never)]
    fn load_f16(self, x: &[u16; 16]) -> Self::F {
        map(*x, |x| half::f16::from_bits(x).to_f32_const())
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> Self::F {
        map(*x, |x| f32::from_bits(u32::from(x) << 16))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }

    #[inline]
    fn fma(self, a: Self::F, b: Self::F, mut c: Self::F) -> Self::F {
        for lane in 0..16 {
            c[lane] = a[lane].mul_add(b[lane], c[lane]);
        }
        c
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        map(a, f32::round_ties_even)
    }

    #[inline(always)]
    fn if_greater(self, a: Self::F, b: Self::F, yes: Self::F, mut no: Self::F) -> Self::F {
        for lane in 0..16 {
            no[lane] = if a[lane] > b[lane] {
                yes[lane]
            } else {
                no[lane]
            };
        }
        no
    }

    #[inline(always)]
    fn tree(self, mut x: Self::F) -> f32 {
        for step in [8, 4, 2, 1] {
            for lane in 0..step {
                x[lane] += x[lane + step];
            }
        }
        x[0]
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        [x; 16]
    }

    #[inline(always)]
    fn store_i(self, x: Self::I, out: &mut [i32; 16]) {
        *out = x;
    }

    #[inline(always)]
    fn store_i8(self, x: Self::I, out: &mut [i8; 16]) {
        *out = map(x, |x| x as i8);
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> Self::I {
        let mut out = [0; 16];
        for (out, bytes) in out.iter_mut().zip(x.as_chunks::<4>().0) {
            *out = i32::from_le_bytes(*bytes);
        }
        out
    }

    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> Self::I {
        x.map(i32::from)
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: Self::I) -> Self::I {
        let byte = |code: u8| table[usize::from(code & 15)];
        map(codes, |codes| {
            i32::from_le_bytes(codes.to_le_bytes().map(byte))
        })
    }

    #[inline(always)]
    fn store_bytes(self, x: Self::I, out: &mut [u8; 64]) {
        for (bytes, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            *bytes = x.to_le_bytes();
        }
    }

    #[inline(always)]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_sub)
    }

    #[inline(always)]
    fn xor_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn shift_right_by(self, a: Self::I, count: u32) -> Self::I {
        map(a, |a| (a as u32 >> count) as i32)
    }

    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }

    #[inline(always)]
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, a: Self::I) -> Self::I {
        map(a, |a| a << N)
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, a: Self::I) -> Self::I {
        map(a, |a| (a as u32 >> N) as i32)
    }

    #[inline(always)]
    fn to_int(self, x: Self::F) -> Self::I {
        map(x, |x| x as i32)
    }

    #[inline(always)]
    fn to_float(self, x: Self::I) -> Self::F {
        map(x, |x| x as f32)
    }

    #[inline(always)]
    fn bits_to_float(self, x: Self::I) -> Self::F {
        map(x, |x| f32::from_bits(x as u32))
    }

    #[inline(never)]
    fn dot<const WIDE: bool>(self, mut acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        for lane in 0..16 {
            let (w, x) = (w[lane].to_le_bytes(), x[lane].to_le_bytes());
            for byte in 0..4 {
                acc[lane] += i32::from(w[byte]) * i32::from(x[byte] as i8);
            }
        }
        acc
    }

    #[inline(never)]
    fn load_quads(self, rows: &[u8], stride: usize) -> [Self::I; 4] {
        let mut quads = [[0; 16]; 4];
        for lane in 0..16 {
            for (q, bytes) in rows[lane * stride..][..16].as_chunks().0.iter().enumerate() {
                quads[q][lane] = i32::from_le_bytes(*bytes);
            }
        }
        quads
    }

    #[inline(always)]
    fn store_f16(self, x: Self::F, out: &mut [u16; 16]) {
        *out = map(x, |x| half::f16::from_f32_const(x).to_bits());
    }
}
