//! Sixteen lanes in two AVX registers.

use std::arch::{is_x86_feature_detected, x86_64::*};

use super::{Backend, Kernel, Lanes};

/// Token of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// The backend, if the processor has all features that [`run`] enables.
pub(super) fn detect() -> Option<Backend> {
    let found = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    found.then_some(Backend::Avx2)
}

/// Runs a kernel.
///
/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Lanes 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct Pair<T>(T, T);

type F = Pair<__m256>;
type I = Pair<__m256i>;

/// Methods whose bodies are intrinsics.
macro_rules! methods {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $type),*) -> $result {
            // SAFETY: a token exists only inside of `run`, so the processor has the features;
            // pointers come from references to whole arrays.
            unsafe { $body }
        }
    )*};
}

impl Lanes for Avx2 {
    type F = F;
    type I = I;
    const ROOMY: bool = false;

    methods! {
        splat(x: f32) -> F = Pair(_mm256_set1_ps(x), _mm256_set1_ps(x));
        load(x: &[f32; 16]) -> F =
            Pair(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8)));
        store(x: F, out: &mut [f32; 16]) -> () = {
            _mm256_storeu_ps(out.as_mut_ptr(), x.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x.1);
        };
        load_f16(x: &[u16; 16]) -> F = Pair(
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
        );
        load_bf16(x: &[u16; 16]) -> F = {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
            Pair(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            )
        };
        add(a: F, b: F) -> F = Pair(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1));
        sub(a: F, b: F) -> F = Pair(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1));
        mul(a: F, b: F) -> F = Pair(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1));
        div(a: F, b: F) -> F = Pair(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1));
        fma(a: F, b: F, c: F) -> F =
            Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1));
        round(a: F) -> F = Pair(
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a.0),
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a.1),
        );
        if_greater(a: F, b: F, yes: F, no: F) -> F = Pair(
            _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0)),
            _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1)),
        );
        tree(x: F) -> f32 = {
            let x = _mm256_add_ps(x.0, x.1);
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        };
        splat_i(x: i32) -> I = Pair(_mm256_set1_epi32(x), _mm256_set1_epi32(x));
        store_i(x: I, out: &mut [i32; 16]) -> () = {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), x.0);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), x.1);
        };
        store_i8(x: I, out: &mut [i8; 16]) -> () = {
            // Packing works in halves: 0-3 8-11 4-7 12-15, then in order.
            let words = _mm256_packs_epi32(x.0, x.1);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packs_epi16(low, high));
        };
        load_bytes(x: &[u8; 64]) -> I = Pair(
            _mm256_loadu_si256(x.as_ptr().cast()),
            _mm256_loadu_si256(x.as_ptr().add(32).cast()),
        );
        load_u8(x: &[u8; 16]) -> I = {
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            Pair(
                _mm256_cvtepu8_epi32(bytes),
                _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes)),
            )
        };
        look_up(table: &[u8; 16], codes: I) -> I = {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            Pair(_mm256_shuffle_epi8(table, codes.0), _mm256_shuffle_epi8(table, codes.1))
        };
        store_bytes(x: I, out: &mut [u8; 64]) -> () = {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), x.0);
            _mm256_storeu_si256(out.as_mut_ptr().add(32).cast(), x.1);
        };
        sub_i(a: I, b: I) -> I = Pair(_mm256_sub_epi32(a.0, b.0), _mm256_sub_epi32(a.1, b.1));
        xor_i(a: I, b: I) -> I = Pair(_mm256_xor_si256(a.0, b.0), _mm256_xor_si256(a.1, b.1));
        shift_right_by(a: I, count: u32) -> I = {
            let count = _mm_cvtsi32_si128(count as i32);
            Pair(_mm256_srl_epi32(a.0, count), _mm256_srl_epi32(a.1, count))
        };
        add_i(a: I, b: I) -> I = Pair(_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1));
        and_i(a: I, b: I) -> I = Pair(_mm256_and_si256(a.0, b.0), _mm256_and_si256(a.1, b.1));
        to_int(x: F) -> I = Pair(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1));
        to_float(x: I) -> F = Pair(_mm256_cvtepi32_ps(x.0), _mm256_cvtepi32_ps(x.1));
        bits_to_float(x: I) -> F = Pair(_mm256_castsi256_ps(x.0), _mm256_castsi256_ps(x.1));
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, a: I) -> I {
        let count = N as i32;
        // SAFETY: see `methods`.
        unsafe {
            let count = _mm_cvtsi32_si128(count);
            Pair(_mm256_sll_epi32(a.0, count), _mm256_sll_epi32(a.1, count))
        }
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, a: I) -> I {
        let count = N as i32;
        // SAFETY: see `methods`.
        unsafe {
            let count = _mm_cvtsi32_si128(count);
            Pair(_mm256_srl_epi32(a.0, count), _mm256_srl_epi32(a.1, count))
        }
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: I, w: I, x: I) -> I {
        // SAFETY: see `methods`.
        unsafe { Pair(dot::<WIDE>(acc.0, w.0, x.0), dot::<WIDE>(acc.1, w.1, x.1)) }
    }

    #[inline(always)]
    fn load_quads(self, rows: &[u8], stride: usize) -> [I; 4] {
        assert!(stride.saturating_mul(15).saturating_add(16) <= rows.len());
        // SAFETY: see `methods`; the last row's 16 bytes lie within `rows` by the check above.
        unsafe {
            let low = load_quads_of_8(rows.as_ptr(), stride);
            let high = load_quads_of_8(rows.as_ptr().add(8 * stride), stride);
            [
                Pair(low[0], high[0]),
                Pair(low[1], high[1]),
                Pair(low[2], high[2]),
                Pair(low[3], high[3]),
            ]
        }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], index: usize) {
        // SAFETY: a prefetch reads nothing and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().wrapping_add(index).cast()) }
    }

    #[inline(always)]
    fn store_f16(self, x: F, out: &mut [u16; 16]) {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT;
        // SAFETY: see `methods`.
        unsafe {
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<MODE>(x.0));
            _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), _mm256_cvtps_ph::<MODE>(x.1));
        }
    }

    #[inline(always)]
    fn stream(self, x: F, out: &mut [f32; 16]) {
        if out.as_ptr().addr().is_multiple_of(32) {
            // SAFETY: see `methods`; aligned by the check above, fenced by the caller.
            unsafe {
                _mm256_stream_ps(out.as_mut_ptr(), x.0);
                _mm256_stream_ps(out.as_mut_ptr().add(8), x.1);
            }
        } else {
            self.store(x, out);
        }
    }

    #[inline(always)]
    fn fence(self) {
        // SAFETY: see `methods`.
        unsafe { _mm_sfence() }
    }
}

/// Byte dot products of 8 lanes.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn dot<const WIDE: bool>(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: AVX2 by the condition above.
    unsafe {
        let sums = if WIDE {
            // Pairs of 255 * 127 would saturate 16 bits: multiply even and odd bytes widened.
            let w_even = _mm256_and_si256(w, _mm256_set1_epi16(0x00ff));
            let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
            let even = _mm256_madd_epi16(w_even, x_even);
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(w), _mm256_srai_epi16::<8>(x));
            _mm256_add_epi32(even, odd)
        } else {
            _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1))
        };
        _mm256_add_epi32(acc, sums)
    }
}

/// `load_quads` of 8 rows.
///
/// # Safety
/// AVX2; 16 bytes are readable at `rows` + 0 ..= 7 strides.
#[inline(always)]
unsafe fn load_quads_of_8(rows: *const u8, stride: usize) -> [__m256i; 4] {
    // SAFETY: by the conditions above.
    unsafe {
        let row = |r: usize| _mm_loadu_si128(rows.add(r * stride).cast());
        // Part l of vector j is row 4l + j, so that the transposed parts follow row order.
        let two = |j: usize| _mm256_set_m128i(row(4 + j), row(j));
        let (a, b, c, d) = (two(0), two(1), two(2), two(3));
        let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab_low, cd_low),
            _mm256_unpackhi_epi64(ab_low, cd_low),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}
