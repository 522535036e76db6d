//! Sixteen lanes in one AVX-512 register.

use std::arch::{is_x86_feature_detected, x86_64::*};

use super::{Backend, Kernel, Lanes};

/// Token of AVX-512 F, BW, VL, DQ and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// The backend, if the processor has all features that [`run`] enables.
pub(super) fn detect() -> Option<Backend> {
    let found = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma");
    found.then_some(Backend::Avx512)
}

/// Runs a kernel.
///
/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

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

impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    const ROOMY: bool = true;

    methods! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        load(x: &[f32; 16]) -> __m512 = _mm512_loadu_ps(x.as_ptr());
        store(x: __m512, out: &mut [f32; 16]) -> () = _mm512_storeu_ps(out.as_mut_ptr(), x);
        load_f16(x: &[u16; 16]) -> __m512 =
            _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()));
        load_bf16(x: &[u16; 16]) -> __m512 = {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        };
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        round(a: __m512) -> __m512 =
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        if_greater(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 =
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes);
        tree(x: __m512) -> f32 = {
            let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        };
        splat_i(x: i32) -> __m512i = _mm512_set1_epi32(x);
        store_i(x: __m512i, out: &mut [i32; 16]) -> () =
            _mm512_storeu_si512(out.as_mut_ptr().cast(), x);
        store_i8(x: __m512i, out: &mut [i8; 16]) -> () =
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x));
        load_bytes(x: &[u8; 64]) -> __m512i = _mm512_loadu_si512(x.as_ptr().cast());
        load_u8(x: &[u8; 16]) -> __m512i =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
        look_up(table: &[u8; 16], codes: __m512i) -> __m512i = {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, codes)
        };
        store_bytes(x: __m512i, out: &mut [u8; 64]) -> () =
            _mm512_storeu_si512(out.as_mut_ptr().cast(), x);
        add_i(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        sub_i(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        xor_i(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        shift_right_by(a: __m512i, count: u32) -> __m512i =
            _mm512_srl_epi32(a, _mm_cvtsi32_si128(count as i32));
        and_i(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        to_int(x: __m512) -> __m512i = _mm512_cvtps_epi32(x);
        to_float(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
        bits_to_float(x: __m512i) -> __m512 = _mm512_castsi512_ps(x);
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: see `methods`.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: see `methods`.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see `methods`.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }

    #[inline(always)]
    fn load_quads(self, rows: &[u8], stride: usize) -> [__m512i; 4] {
        assert!(stride.saturating_mul(15).saturating_add(16) <= rows.len());
        // SAFETY: see `methods`; the last row's 16 bytes lie within `rows` by the check above.
        unsafe {
            let row = |r: usize| _mm_loadu_si128(rows.as_ptr().add(r * stride).cast());
            // Part l of vector j is row 4l + j, so that the transposed parts follow row order.
            let four = |j: usize| {
                let v = _mm512_castsi128_si512(row(j));
                let v = _mm512_inserti32x4::<1>(v, row(4 + j));
                let v = _mm512_inserti32x4::<2>(v, row(8 + j));
                _mm512_inserti32x4::<3>(v, row(12 + j))
            };
            let (a, b, c, d) = (four(0), four(1), four(2), four(3));
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], index: usize) {
        // SAFETY: a prefetch reads nothing and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().wrapping_add(index).cast()) }
    }

    #[inline(always)]
    fn store_f16(self, x: __m512, out: &mut [u16; 16]) {
        // SAFETY: see `methods`.
        unsafe {
            let narrow = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), narrow);
        }
    }

    #[inline(always)]
    fn stream(self, x: __m512, out: &mut [f32; 16]) {
        if out.as_ptr().addr().is_multiple_of(64) {
            // SAFETY: see `methods`; aligned by the check above, fenced by the caller.
            unsafe { _mm512_stream_ps(out.as_mut_ptr(), x) }
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
