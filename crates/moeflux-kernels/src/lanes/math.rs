//! The functions of [`crate::math`], lane by lane, in the same sequence of operations.

use super::Lanes;
use crate::math::{EXP_MAX, EXP_MIN, EXP_TERMS, LN2_HIGH, LN2_LOW};

/// e^x.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(l: L, x: L::F) -> L::F {
    let (least, most) = (l.splat(EXP_MIN), l.splat(EXP_MAX));
    let x = l.if_greater(x, most, most, x);
    let x = l.if_greater(least, x, least, x);
    let n = l.round(l.mul(x, l.splat(std::f32::consts::LOG2_E)));
    let r = l.fma(n, l.splat(-LN2_HIGH), x);
    let r = l.fma(n, l.splat(-LN2_LOW), r);
    let mut p = l.splat(EXP_TERMS[0]);
    for term in &EXP_TERMS[1..] {
        p = l.fma(p, r, l.splat(*term));
    }
    let p = l.fma(p, r, l.splat(0.5));
    let p = l.fma(p, r, l.splat(1.0));
    let p = l.fma(p, r, l.splat(1.0));
    let half = l.round(l.mul(n, l.splat(0.5)));
    let p = l.mul(p, power_of_two(l, half));
    l.mul(p, power_of_two(l, l.sub(n, half)))
}

#[inline(always)]
fn power_of_two<L: Lanes>(l: L, n: L::F) -> L::F {
    l.bits_to_float(l.shift_left::<23>(l.add_i(l.to_int(n), l.splat_i(127))))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<L: Lanes>(l: L, x: L::F) -> L::F {
    let one = l.splat(1.0);
    l.div(one, l.add(one, exp(l, l.sub(l.zero(), x))))
}

/// x * sigmoid(x).
#[inline(always)]
pub(crate) fn silu<L: Lanes>(l: L, x: L::F) -> L::F {
    l.mul(x, sigmoid(l, x))
}
