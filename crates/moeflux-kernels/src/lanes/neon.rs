//! Sixteen lanes in four NEON registers.

use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

use super::{Backend, Kernel, Lanes};

/// Token of NEON; with `DOT`, of the 8-bit dot product instructions too.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

/// The best backend that the processor has.
pub(super) fn detect() -> Option<Backend> {
    if !is_aarch64_feature_detected!("neon") {
        return None;
    }
    let dot = is_aarch64_feature_detected!("dotprod");
    Some(if dot { Backend::NeonDot } else { Backend::Neon })
}

/// Runs a kernel.
///
/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon::<false>(()))
}

/// Runs a kernel with dot product instructions.
///
/// # Safety
/// The processor has NEON and the dot product instructions.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run_dot<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon::<true>(()))
}

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];

/// Methods that apply an intrinsic to each of the four registers, or are given by a body.
macro_rules! methods {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $type),*) -> $result {
            // SAFETY: a token exists only inside of `run` or `run_dot`, so the processor has the
            // features; pointers come from references to whole arrays.
            unsafe { $body }
        }
    )*};
}

/// One expression for each of the four registers.
macro_rules! each {
    ($r:ident => $body:expr) => {
        [
            {
                const $r: usize = 0;
                $body
            },
            {
                const $r: usize = 1;
                $body
            },
            {
                const $r: usize = 2;
                $body
            },
            {
                const $r: usize = 3;
                $body
            },
        ]
    };
}

impl<const DOT: bool> Lanes for Neon<DOT> {
    type F = F;
    type I = I;
    const ROOMY: bool = false;

    methods! {
        splat(x: f32) -> F = [vdupq_n_f32(x); 4];
        load(x: &[f32; 16]) -> F = each!(R => vld1q_f32(x.as_ptr().add(4 * R)));
        store(x: F, out: &mut [f32; 16]) -> () = {
            each!(R => vst1q_f32(out.as_mut_ptr().add(4 * R), x[R]));
        };
        load_f16(x: &[u16; 16]) -> F = each!(R => f16_to_f32(vld1_u16(x.as_ptr().add(4 * R))));
        load_bf16(x: &[u16; 16]) -> F =
            each!(R => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(x.as_ptr().add(4 * R)))));
        add(a: F, b: F) -> F = each!(R => vaddq_f32(a[R], b[R]));
        sub(a: F, b: F) -> F = each!(R => vsubq_f32(a[R], b[R]));
        mul(a: F, b: F) -> F = each!(R => vmulq_f32(a[R], b[R]));
        div(a: F, b: F) -> F = each!(R => vdivq_f32(a[R], b[R]));
        fma(a: F, b: F, c: F) -> F = each!(R => vfmaq_f32(c[R], a[R], b[R]));
        round(a: F) -> F = each!(R => vrndnq_f32(a[R]));
        if_greater(a: F, b: F, yes: F, no: F) -> F =
            each!(R => vbslq_f32(vcgtq_f32(a[R], b[R]), yes[R], no[R]));
        tree(x: F) -> f32 = {
            let (a, b) = (vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let x = vaddq_f32(a, b);
            let x = vadd_f32(vget_low_f32(x), vget_high_f32(x));
            vget_lane_f32::<0>(x) + vget_lane_f32::<1>(x)
        };
        splat_i(x: i32) -> I = [vdupq_n_s32(x); 4];
        store_i(x: I, out: &mut [i32; 16]) -> () = {
            each!(R => vst1q_s32(out.as_mut_ptr().add(4 * R), x[R]));
        };
        store_i8(x: I, out: &mut [i8; 16]) -> () = {
            let low = vcombine_s16(vmovn_s32(x[0]), vmovn_s32(x[1]));
            let high = vcombine_s16(vmovn_s32(x[2]), vmovn_s32(x[3]));
            vst1q_s8(out.as_mut_ptr(), vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        };
        load_bytes(x: &[u8; 64]) -> I =
            each!(R => vreinterpretq_s32_u8(vld1q_u8(x.as_ptr().add(16 * R))));
        load_u8(x: &[u8; 16]) -> I = {
            let bytes = vld1q_u8(x.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            [
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
                vreinterpretq_s32_u32(vmovl_high_u16(low)),
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
                vreinterpretq_s32_u32(vmovl_high_u16(high)),
            ]
        };
        look_up(table: &[u8; 16], codes: I) -> I = {
            let table = vld1q_u8(table.as_ptr());
            each!(R => vreinterpretq_s32_u8(vqtbl1q_u8(table, vreinterpretq_u8_s32(codes[R]))))
        };
        store_bytes(x: I, out: &mut [u8; 64]) -> () = {
            each!(R => vst1q_u8(out.as_mut_ptr().add(16 * R), vreinterpretq_u8_s32(x[R])));
        };
        sub_i(a: I, b: I) -> I = each!(R => vsubq_s32(a[R], b[R]));
        xor_i(a: I, b: I) -> I = each!(R => veorq_s32(a[R], b[R]));
        shift_right_by(a: I, count: u32) -> I = {
            let count = vdupq_n_s32(-(count as i32));
            each!(R => vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a[R]), count)))
        };
        add_i(a: I, b: I) -> I = each!(R => vaddq_s32(a[R], b[R]));
        and_i(a: I, b: I) -> I = each!(R => vandq_s32(a[R], b[R]));
        to_int(x: F) -> I = each!(R => vcvtq_s32_f32(x[R]));
        to_float(x: I) -> F = each!(R => vcvtq_f32_s32(x[R]));
        bits_to_float(x: I) -> F = each!(R => vreinterpretq_f32_s32(x[R]));
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, a: I) -> I {
        let count = N as i32;
        // SAFETY: see `methods`.
        unsafe { each!(R => vshlq_s32(a[R], vdupq_n_s32(count))) }
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, a: I) -> I {
        let count = -(N as i32);
        // SAFETY: see `methods`.
        unsafe {
            let a = each!(R => vreinterpretq_u32_s32(a[R]));
            each!(R => vreinterpretq_s32_u32(vshlq_u32(a[R], vdupq_n_s32(count))))
        }
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: I, w: I, x: I) -> I {
        // SAFETY: see `methods`; with DOT the token comes from `run_dot`.
        unsafe {
            if DOT {
                each!(R => dot_instruction::<WIDE>(acc[R], w[R], x[R]))
            } else {
                each!(R => dot_products::<WIDE>(acc[R], w[R], x[R]))
            }
        }
    }

    #[inline(always)]
    fn load_quads(self, rows: &[u8], stride: usize) -> [I; 4] {
        assert!(stride.saturating_mul(15).saturating_add(16) <= rows.len());
        // SAFETY: see `methods`; the last row's 16 bytes lie within `rows` by the check above.
        unsafe {
            let parts = each!(R => {
                let row = |r: usize| {
                    vreinterpretq_s32_u8(vld1q_u8(rows.as_ptr().add((4 * R + r) * stride)))
                };
                transpose(row(0), row(1), row(2), row(3))
            });
            each!(R => [parts[0][R], parts[1][R], parts[2][R], parts[3][R]])
        }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], index: usize) {
        let address = bytes.as_ptr().wrapping_add(index);
        // SAFETY: a prefetch reads nothing and may name any address.
        unsafe {
            asm!("prfm pldl2keep, [{0}]", in(reg) address,
                options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn store_f16(self, x: F, out: &mut [u16; 16]) {
        // SAFETY: see `methods`.
        unsafe {
            each!(R => vst1_u16(out.as_mut_ptr().add(4 * R), f32_to_f16(x[R])));
        }
    }
}

/// Four binary16 values widened, exact.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn f16_to_f32(x: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: one instruction between registers, part of NEON.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Four values as binary16, rounded to nearest even.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn f32_to_f16(x: float32x4_t) -> uint16x4_t {
    let narrow: uint16x4_t;
    // SAFETY: one instruction between registers, part of NEON.
    unsafe {
        asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) narrow, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    narrow
}

/// A 4 x 4 transpose.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn transpose(a: int32x4_t, b: int32x4_t, c: int32x4_t, d: int32x4_t) -> [int32x4_t; 4] {
    // SAFETY: by the condition above.
    unsafe {
        let pair = |a, b| vreinterpretq_s64_s32(vtrn1q_s32(a, b));
        let odd_pair = |a, b| vreinterpretq_s64_s32(vtrn2q_s32(a, b));
        let (ab_even, cd_even) = (pair(a, b), pair(c, d));
        let (ab_odd, cd_odd) = (odd_pair(a, b), odd_pair(c, d));
        [
            vreinterpretq_s32_s64(vtrn1q_s64(ab_even, cd_even)),
            vreinterpretq_s32_s64(vtrn1q_s64(ab_odd, cd_odd)),
            vreinterpretq_s32_s64(vtrn2q_s64(ab_even, cd_even)),
            vreinterpretq_s32_s64(vtrn2q_s64(ab_odd, cd_odd)),
        ]
    }
}

/// acc + signed byte dot products, by the instruction.
///
/// # Safety
/// The processor has the dot product instructions.
#[inline(always)]
unsafe fn sdot(mut acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: one instruction between registers, available by the condition above.
    unsafe {
        asm!(".arch_extension dotprod", "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) acc, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Byte dot products of 4 lanes with dot product instructions.
///
/// # Safety
/// The processor has the dot product instructions.
#[inline(always)]
unsafe fn dot_instruction<const WIDE: bool>(
    acc: int32x4_t,
    w: int32x4_t,
    x: int32x4_t,
) -> int32x4_t {
    // SAFETY: by the condition above.
    unsafe {
        if !WIDE {
            return sdot(acc, w, x);
        }
        // w = (w - 128) + 128, both parts signed bytes (the second with its sign turned).
        let offset = vreinterpretq_s32_u8(vdupq_n_u8(0x80));
        let shifted = sdot(acc, veorq_s32(w, offset), x);
        vsubq_s32(shifted, sdot(vdupq_n_s32(0), offset, x))
    }
}

/// Byte dot products of 4 lanes by widening multiplications.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn dot_products<const WIDE: bool>(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
    // SAFETY: by the condition above.
    unsafe {
        let (w, x) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
        let (low, high) = if WIDE {
            let w = vreinterpretq_u8_s8(w);
            let w_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(w)));
            let w_high = vreinterpretq_s16_u16(vmovl_high_u8(w));
            let (x_low, x_high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            (
                vpaddq_s32(
                    vmull_s16(vget_low_s16(w_low), vget_low_s16(x_low)),
                    vmull_high_s16(w_low, x_low),
                ),
                vpaddq_s32(
                    vmull_s16(vget_low_s16(w_high), vget_low_s16(x_high)),
                    vmull_high_s16(w_high, x_high),
                ),
            )
        } else {
            (
                vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x))),
                vpaddlq_s16(vmull_high_s8(w, x)),
            )
        };
        vaddq_s32(acc, vpaddq_s32(low, high))
    }
}
