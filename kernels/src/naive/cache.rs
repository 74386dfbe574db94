//! What a cache keeps of a head's keys or values, and how it comes back.
//!
//! ```text
//! f32           as it is               f16, bf16     rounded to nearest even
//! q8_0, q4_0    channels are turned, n at a time, then kept by groups of 32, the last filled up with zeros:
//!   turn        for h = 1, 2, 4 … n/2: a, b = x[i], x[i + h], i without bit h; x[i], x[i + h] = a + b, a - b
//!               then x · (1/√n)                                            n is a power of two that divides the head
//!   q8_0        d = f16(max |x| / 127)           code = rne(x · (1/d)), within ±127             comes back as code · d
//!   q4_0        d = f16(m / -8), m the x with the greatest |x|, the negative one of two        fma(code, d, -8·d)
//!               code = rne(x · (1/d)) within -8 … 7, and 8 more
//!   d = 0       codes of 0 (q4_0: 8)             d not finite: it is NaN, and so is the group
//! ```
//! Attention takes queries that are turned like the keys: no product of two turned heads differs from that of the heads, but by
//! rounding. What it gives, in turned values, is turned once more, which turns it back.
//!
//! The matrix is Hadamard's in Sylvester's order. That it makes few bits enough: S. Ashkboos et al., QuaRot, 2024; in llama.cpp since
//! its pull request 21038. The groups are ggml's `block_q8_0` and `block_q4_0`.

use crate::attention::{GROUP, KvType};
use half::{bf16, f16};

/// Turns every `n` channels of x by the Hadamard matrix, n a power of two that divides their number. Twice is not at all, but for
/// rounding.
pub fn turn(x: &mut [f32], n: usize) {
    for x in x.chunks_exact_mut(n) {
        let mut h = 1;
        while h < n {
            for i in (0..n).filter(|i| i & h == 0) {
                (x[i], x[i + h]) = (x[i] + x[i + h], x[i] - x[i + h]);
            }
            h *= 2;
        }
        let factor = 1.0 / (n as f32).sqrt();
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

/// A head's key or value as it comes back from a cache, turned as it is kept: `n` channels at a time ([`KvType::turned`]).
pub fn keep(kind: KvType, n: usize, x: &mut [f32]) {
    match kind {
        KvType::F32 => {}
        KvType::F16 => x.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        KvType::Bf16 => x.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        KvType::Q8_0 | KvType::Q4_0 => {
            turn(x, n);
            x.chunks_mut(GROUP).for_each(|group| if kind == KvType::Q8_0 { q8_0(group) } else { q4_0(group) });
        }
    }
}

/// d as it is kept, where it can be.
fn factor(d: f32) -> Option<f32> {
    Some(f16::from_f32(d).to_f32()).filter(|d| d.is_finite())
}

/// `rne(x · (1/d))` within bounds.
fn code(x: f32, d: f32, least: f32, most: f32) -> i8 {
    if d == 0.0 { 0 } else { (x * (1.0 / d)).round_ties_even().clamp(least, most) as i8 }
}

fn q8_0(group: &mut [f32]) {
    let most = group.iter().fold(0f32, |most, x| if x.is_nan() { f32::NAN } else { most.max(x.abs()) });
    match factor(most / 127.0).filter(|_| group.iter().all(|x| x.is_finite())) {
        None => group.fill(f32::NAN),
        Some(d) => group.iter_mut().for_each(|x| *x = f32::from(code(*x, d, -127.0, 127.0)) * d),
    }
}

fn q4_0(group: &mut [f32]) {
    let (least, most) = group.iter().fold((0f32, 0f32), |(least, most), x| (least.min(*x), most.max(*x)));
    let m = if most > -least { most } else { least };
    match factor(m / -8.0).filter(|_| group.iter().all(|x| x.is_finite())) {
        None => group.fill(f32::NAN),
        Some(d) => group.iter_mut().for_each(|x| *x = f32::from(code(*x, d, -8.0, 7.0) + 8).mul_add(d, -8.0 * d)),
    }
}
