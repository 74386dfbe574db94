//! The formats whose 4-bit codes choose one of 16 values: MXFP4, IQ4_NL, IQ4_XS.
//!
//! ```text
//!         bytes  fields in order                                   weight
//! MXFP4   17     e codes[16]                                       2^(e-128) * E2M1[q]
//! IQ4_NL  18     d codes[16]                                       d * NONLINEAR[q]
//! IQ4_XS  136    d high[u16] low[4] codes[8 x 16]                  d * s * NONLINEAR[q]     256 weights, s for 32
//! ```
//!
//! `d` is an f16, `e` the exponent of a power of two (E8M0). 32 codes lie in 16 bytes: low nibbles are `q[0..16]`, high `q[16..]`.
//! The `s` of group `g` is 6 bits less 32: below nibble `g` of `low`, above bits `2g` and `2g + 1` of `high`. Unpacked, a code is the value
//! it stands for.
//!
//! Sources: the OCP Microscaling specification (v1.0: E2M1, E8M0), whose values are doubled here so that they are integers; for the
//! tables of IQ4 ggml's `kvalues_iq4nl` (ggml-common.h): normal weights fall into 16 parts of about equal error.

use super::fit::{self, multiples_of};
use super::{Block, f16_at, put_f16, to_f16};

/// Twice the values of E2M1: a sign, two bits of exponent, one of fraction. Code 8 is a second zero.
pub const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The values of IQ4.
pub const NONLINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The values of E2M1 in ascending order.
const E2M1_ASCENDING: [i8; 16] = [-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12];

/// 2^(e-128); the two smallest are subnormal.
fn power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// The reverse of [`power`].
fn exponent(power: f32) -> u8 {
    let bits = power.to_bits();
    if bits >= 0x0080_0000 { (bits >> 23) as u8 + 1 } else { (bits >> 22) as u8 }
}

/// Values of 32 codes in 16 bytes.
fn unpack_nibbles(bytes: &[u8], table: &[i8; 16], values: &mut [i8]) {
    let (low, high) = values[..32].split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&bytes[..16]) {
        (*low, *high) = (table[usize::from(byte & 15)], table[usize::from(byte >> 4)]);
    }
}

fn pack_nibbles(values: &[i8], table: &[i8; 16], bytes: &mut [u8]) {
    let code = |value: i8| table.iter().position(|&v| v == value).unwrap_or(0) as u8;
    for (i, byte) in bytes[..16].iter_mut().enumerate() {
        *byte = code(values[i]) | code(values[16 + i]) << 4;
    }
}

pub(super) fn unpack_mxfp4(bytes: &[u8], block: &mut Block) {
    block.one_group(power(bytes[0]));
    unpack_nibbles(&bytes[1..], &E2M1, &mut block.codes);
}

pub(super) fn pack_mxfp4(block: &Block, bytes: &mut [u8]) {
    bytes[0] = exponent(block.d);
    pack_nibbles(&block.codes, &E2M1, &mut bytes[1..]);
}

pub(super) fn unpack_iq4_nl(bytes: &[u8], block: &mut Block) {
    block.one_group(f16_at(bytes, 0));
    unpack_nibbles(&bytes[2..], &NONLINEAR, &mut block.codes);
}

pub(super) fn pack_iq4_nl(block: &Block, bytes: &mut [u8]) {
    put_f16(bytes, 0, block.d);
    pack_nibbles(&block.codes, &NONLINEAR, &mut bytes[2..]);
}

pub(super) fn unpack_iq4_xs(bytes: &[u8], block: &mut Block) {
    (block.d, block.dmin, block.group) = (f16_at(bytes, 0), 0.0, 32);
    let high = u16::from_le_bytes([bytes[2], bytes[3]]);
    for g in 0..8 {
        let scale = bytes[4 + g / 2] >> (4 * (g % 2)) & 15 | ((high >> (2 * g) & 3) as u8) << 4;
        (block.scales[g], block.mins[g]) = (scale as i8 - 32, 0);
        unpack_nibbles(&bytes[8 + 16 * g..], &NONLINEAR, &mut block.codes[32 * g..]);
    }
}

pub(super) fn pack_iq4_xs(block: &Block, bytes: &mut [u8]) {
    put_f16(bytes, 0, block.d);
    for g in 0..8 {
        let scale = (block.scales[g] + 32) as u8;
        bytes[2 + g / 4] |= (scale >> 4) << (2 * (g % 4));
        bytes[4 + g / 2] |= (scale & 15) << (4 * (g % 2));
        pack_nibbles(&block.codes[32 * g..], &NONLINEAR, &mut bytes[8 + 16 * g..]);
    }
}

/// Fits a block of IQ4_XS to 256 weights: the best scale of each group, then these as small integers, each the best of three neighbours.
pub(super) fn fit_iq4_xs(x: &[f32], importance: Option<&[f32]>, block: &mut Block) {
    let (groups, _) = x.as_chunks::<32>();
    let mean = 2.0 * fit::mean_square(x);
    let weigh = |g: usize| weigh(&groups[g], importance.map(|w| &w[32 * g..]), mean);
    let mut scales = [0.0f32; 8];
    for (g, x) in groups.iter().enumerate() {
        scales[g] = multiples_of(&NONLINEAR, x, &weigh(g));
    }
    let largest = scales.iter().fold(0.0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
    *block = Block { d: to_f16(largest / -32.0), ..Block::new() };
    let mut near = [0; 8];
    fit::codes(&scales, fit::Line { scale: block.d, min: 0.0 }, -32, 31, &mut near);
    for (g, x) in groups.iter().enumerate() {
        let (weights, mut least) = (weigh(g), f32::INFINITY);
        for step in [0, -1, 1] {
            let (scale, mut values) = ((near[g] + step).clamp(-32, 31), [0i8; 32]);
            let d = block.d * f32::from(scale);
            nearest(&NONLINEAR, x, d, &mut values);
            let mut missed = 0.0;
            for ((x, value), weight) in x.iter().zip(values).zip(weights) {
                missed += weight * (d * f32::from(value) - x).powi(2);
            }
            if missed < least || step == 0 {
                (least, block.scales[g]) = (missed, scale);
                block.codes[32 * g..32 * g + 32].copy_from_slice(&values);
            }
        }
    }
}

/// Fits a block of IQ4_NL to 32 weights.
pub(super) fn fit_iq4_nl(x: &[f32], importance: Option<&[f32]>, block: &mut Block) {
    let Some(x) = x.first_chunk::<32>() else { return };
    let weights = weigh(x, importance, 2.0 * fit::mean_square(x));
    block.one_group(to_f16(multiples_of(&NONLINEAR, x, &weights)));
    nearest(&NONLINEAR, x, block.d, &mut block.codes);
}

/// Where nothing says how much a weight counts, its square does.
fn weigh(x: &[f32; 32], importance: Option<&[f32]>, mean: f32) -> [f32; 32] {
    match importance {
        Some(importance) => fit::weigh(x, importance, mean),
        None => x.map(|x| x * x),
    }
}

/// Fits a block of MXFP4 to 32 weights. The specification's exponent puts the largest weight into the table's last binade (where 1.75 and more are cut to 1.5); one up cuts
/// nothing, one down cuts more and is finer. The one with the least error is taken.
pub(super) fn fit_mxfp4(x: &[f32], importance: Option<&[f32]>, block: &mut Block) {
    let Some(x) = x.first_chunk::<32>() else { return };
    let absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    block.one_group(0.0);
    let middle = ((absmax.to_bits() >> 23) as u8).saturating_sub(2);
    let mut least = f64::INFINITY;
    for e in [middle, middle.saturating_sub(1), middle.saturating_add(1).min(254)] {
        let (d, mut values) = (power(e), [0i8; 32]);
        nearest(&E2M1_ASCENDING, x, d, &mut values);
        let mut missed = 0.0;
        for (i, (x, value)) in x.iter().zip(values).enumerate() {
            let weight = importance.map_or(1.0, |w| w[i]);
            missed += f64::from(weight) * f64::from(d * f32::from(value) - x).powi(2);
        }
        if missed < least || e == middle {
            (least, block.d) = (missed, d);
            block.codes[..32].copy_from_slice(&values);
        }
    }
}

/// The values nearest to `x / d`; zero's neighbour where `d` is nothing.
fn nearest(ascending: &[i8; 16], x: &[f32], d: f32, values: &mut [i8]) {
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    // The reciprocal of the least powers of two is none.
    let scaled = |x: f32| if inverse.is_finite() { x * inverse } else { x / d };
    for (value, x) in values.iter_mut().zip(x) {
        *value = fit::nearest_of(ascending, scaled(*x)) as i8;
    }
}
