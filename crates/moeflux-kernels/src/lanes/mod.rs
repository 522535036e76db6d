//! Sixteen lanes of f32 or i32, one implementation an instruction set, and the choice of one.
//!
//! A kernel is written once, generic over [`Lanes`], as a [`Kernel`]; [`Backend::run`] compiles it
//! for each instruction set. Everything on that path is `#[inline(always)]`, so that it is
//! compiled with the features of the wrapper it ends up in. Closures are avoided in hot loops for
//! the same reason.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use crate::{Isa, kv::KvElement};

/// Operations on 16 lanes. A value of an implementing type is a token: it exists only where the
/// processor has the instructions. Every operation gives the same bits in all implementations
/// (NaN payloads aside).
pub(crate) trait Lanes: Copy {
    /// 16 lanes of f32.
    type F: Copy;
    /// 16 lanes of i32.
    type I: Copy;
    /// Registers that hold the 16 lanes of at least 16 accumulators and 8 operands.
    const ROOMY: bool;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; 16]) -> Self::F;
    fn store(self, x: Self::F, out: &mut [f32; 16]);
    /// From binary16 bits, exact.
    fn load_f16(self, x: &[u16; 16]) -> Self::F;
    /// From bfloat16 bits, exact.
    fn load_bf16(self, x: &[u16; 16]) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// To the nearest integer, halves to even.
    fn round(self, a: Self::F) -> Self::F;
    /// Where a > b: yes; elsewhere, also where they cannot be compared: no.
    fn if_greater(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// The canonical tree: lanes l + 8, then l + 4, l + 2, l + 1.
    fn tree(self, x: Self::F) -> f32;

    fn splat_i(self, x: i32) -> Self::I;
    fn store_i(self, x: Self::I, out: &mut [i32; 16]);
    /// Stores values of -128 to 127.
    fn store_i8(self, x: Self::I, out: &mut [i8; 16]);
    /// From little-endian bytes.
    fn load_bytes(self, x: &[u8; 64]) -> Self::I;
    /// A byte a lane.
    fn load_u8(self, x: &[u8; 16]) -> Self::I;
    /// For each byte of `codes`, which are below 16, what stands in `table` at that place.
    fn look_up(self, table: &[u8; 16], codes: Self::I) -> Self::I;
    /// To little-endian bytes.
    fn store_bytes(self, x: Self::I, out: &mut [u8; 64]);
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn shift_left<const N: u32>(self, a: Self::I) -> Self::I;
    /// Logical.
    fn shift_right<const N: u32>(self, a: Self::I) -> Self::I;
    /// Logical, by a count below 32.
    fn shift_right_by(self, a: Self::I, count: u32) -> Self::I;
    /// Of integral values in range; anything for others.
    fn to_int(self, x: Self::F) -> Self::I;
    fn to_float(self, x: Self::I) -> Self::F;
    /// The same bits as f32.
    fn bits_to_float(self, x: Self::I) -> Self::F;
    /// acc + the dot product of four unsigned bytes of `w` and four signed bytes of `x`, lane by
    /// lane, exact. Without `WIDE` the bytes of `w` must be below 128.
    fn dot<const WIDE: bool>(self, acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// The first 16 bytes of each of 16 rows, `stride` bytes apart: lane r of vector q holds bytes
    /// 4q .. 4q + 4 of row r. Panics if they do not lie within `rows`.
    fn load_quads(self, rows: &[u8], stride: usize) -> [Self::I; 4];
    /// Hints that the line of the byte at `index` will be wanted in the second-level cache (the
    /// first level keeps too few requests in flight to reach memory bandwidth).
    #[inline(always)]
    fn prefetch(self, _bytes: &[u8], _index: usize) {}

    /// [`prefetch`](Lanes::prefetch) for the element at `index`.
    #[inline(always)]
    fn prefetch_element<T: KvElement>(self, elements: &[T], index: usize) {
        let (start, len) = (elements.as_ptr().cast(), size_of_val(elements));
        // SAFETY: the same memory; elements are plain numbers without padding.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
        self.prefetch(bytes, index * size_of::<T>());
    }

    /// To binary16 bits, rounded to nearest even; of values in its range, infinities and NaN.
    fn store_f16(self, x: Self::F, out: &mut [u16; 16]);

    /// `store` around the caches, where the instruction set can and the address is aligned; needs
    /// a [`fence`](Lanes::fence) before another thread may look.
    #[inline(always)]
    fn stream(self, x: Self::F, out: &mut [f32; 16]) {
        self.store(x, out);
    }

    /// Orders [`stream`](Lanes::stream)ed stores before what follows.
    #[inline(always)]
    fn fence(self) {}

    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }

    /// Elements i .. i + 16 of `x`, those past its end as zeros.
    #[inline(always)]
    fn load_at(self, x: &[f32], i: usize) -> Self::F {
        let x = &x[i..];
        if let Some(x) = x.first_chunk() {
            return self.load(x);
        }
        let mut padded = [0.0; 16];
        padded[..x.len()].copy_from_slice(x);
        self.load(&padded)
    }

    /// Stores to elements i .. i + 16 of `out`, leaving off those past its end.
    #[inline(always)]
    fn store_at(self, v: Self::F, out: &mut [f32], i: usize) {
        let out = &mut out[i..];
        if let Some(out) = out.first_chunk_mut() {
            return self.store(v, out);
        }
        let mut padded = [0.0; 16];
        self.store(v, &mut padded);
        let len = out.len();
        out.copy_from_slice(&padded[..len]);
    }

    /// The dot product of two slices of one length.
    #[inline(always)]
    fn dot16(self, a: &[f32], b: &[f32]) -> f32 {
        let (a, a_tail) = a.as_chunks();
        let (b, b_tail) = b.as_chunks();
        let mut acc = self.zero();
        for (a, b) in a.iter().zip(b) {
            acc = self.fma(self.load(a), self.load(b), acc);
        }
        if !a_tail.is_empty() {
            acc = self.fma(self.load_at(a_tail, 0), self.load_at(b_tail, 0), acc);
        }
        self.tree(acc)
    }

    /// The sum of a slice.
    #[inline(always)]
    fn sum16(self, x: &[f32]) -> f32 {
        let mut acc = self.zero();
        let mut i = 0;
        while i < x.len() {
            acc = self.add(acc, self.load_at(x, i));
            i += 16;
        }
        self.tree(acc)
    }

    /// The greatest element, passing over NaN; negative infinity if there is none.
    #[inline(always)]
    fn max(self, x: &[f32]) -> f32 {
        let (chunks, tail) = x.as_chunks();
        let mut greatest = self.splat(f32::NEG_INFINITY);
        for chunk in chunks {
            let x = self.load(chunk);
            greatest = self.if_greater(x, greatest, x, greatest);
        }
        let mut lanes = [0.0; 16];
        self.store(greatest, &mut lanes);
        let mut m = f32::NEG_INFINITY;
        for &x in lanes.iter().chain(tail) {
            m = if x > m { x } else { m };
        }
        m
    }
}

/// A computation to be compiled for every instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<L: Lanes>(self, l: L) -> Self::Output;
}

/// An implementation that this processor can run: values other than `Scalar` come from
/// [`Backend::detect`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Scalar,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Backend {
    /// The implementation of an instruction set, if this processor has it.
    pub(crate) fn detect(isa: Isa) -> Option<Backend> {
        match isa {
            Isa::Scalar => Some(Backend::Scalar),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::detect(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::detect(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::detect(),
            #[allow(unreachable_patterns)] // instruction sets of other architectures
            _ => None,
        }
    }

    /// Runs a kernel.
    #[inline(always)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Backend::Scalar => kernel.run(scalar::Scalar),
            // SAFETY: a value of the variant says that the features were detected.
            #[cfg(target_arch = "aarch64")]
            Backend::Neon => unsafe { neon::run(kernel) },
            // SAFETY: a value of the variant says that the features were detected.
            #[cfg(target_arch = "aarch64")]
            Backend::NeonDot => unsafe { neon::run_dot(kernel) },
            // SAFETY: a value of the variant says that the features were detected.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: a value of the variant says that the features were detected.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => unsafe { avx512::run(kernel) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte dots and row quads of random bytes.
    struct Integers<'a> {
        w: &'a [u8; 64],
        x: &'a [i8; 4],
        rows: &'a [u8],
        stride: usize,
    }

    impl Kernel for Integers<'_> {
        type Output = Vec<[i32; 16]>;

        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> Vec<[i32; 16]> {
            let (w, acc) = (l.load_bytes(self.w), l.splat_i(-7));
            let x = l.splat_i(i32::from_le_bytes(self.x.map(|x| x as u8)));
            let low = l.and_i(w, l.splat_i(0x7f7f_7f7f));
            let quads = l.load_quads(self.rows, self.stride);
            let mut results = vec![];
            let [first, second, ..] = self.w.as_chunks().0 else {
                return results;
            };
            let codes = l.and_i(w, l.splat_i(0x0f0f_0f0f));
            let bytes = [l.load_u8(first), l.look_up(second, codes)];
            for v in [l.dot::<true>(acc, w, x), l.dot::<false>(acc, low, x)]
                .iter()
                .chain(&quads)
                .chain(&bytes)
            {
                let mut out = [0; 16];
                l.store_i(*v, &mut out);
                results.push(out);
            }
            results
        }
    }

    /// All implementations that run here, those that detection passes over included.
    fn backends() -> Vec<Backend> {
        let isas = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];
        #[allow(unused_mut)] // one architecture adds
        let mut backends: Vec<Backend> = isas.into_iter().filter_map(Backend::detect).collect();
        #[cfg(target_arch = "aarch64")]
        backends.push(Backend::Neon);
        backends
    }

    #[test]
    fn integer_operations_are_exact() {
        let mut seed = 1u64;
        let mut byte = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        for round in 0..200 {
            let (mut w, mut x) = ([0xff; 64], [127; 4]);
            if round > 1 {
                w.fill_with(&mut byte);
                x.fill_with(|| (byte() as i8).max(-127));
            } else if round == 1 {
                x = [-127; 4];
            }
            let stride = 16 + round % 9;
            let rows: Vec<u8> = (0..15 * stride + 16).map(|_| byte()).collect();
            let mut expected = vec![[0i32; 16]; 8];
            for lane in 0..16 {
                expected[6][lane] = i32::from(w[lane]);
                let code = |i: usize| w[16 + usize::from(w[lane * 4 + i] & 15)];
                expected[7][lane] = i32::from_le_bytes([0, 1, 2, 3].map(code));
                for (result, mask) in [(0, 0xff), (1, 0x7f)] {
                    expected[result][lane] = -7;
                    for i in 0..4 {
                        let w = i32::from(w[lane * 4 + i] & mask);
                        expected[result][lane] += w * i32::from(x[i]);
                    }
                }
                for q in 0..4 {
                    let mut quad = [0; 4];
                    quad.copy_from_slice(&rows[lane * stride + q * 4..][..4]);
                    expected[2 + q][lane] = i32::from_le_bytes(quad);
                }
            }
            for backend in backends() {
                let got = backend.run(Integers {
                    w: &w,
                    x: &x,
                    rows: &rows,
                    stride,
                });
                assert_eq!(got, expected, "{backend:?}");
            }
        }
    }
}
