//! The formats with one scale for 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! ```text
//!        d    m    fifth bits  codes                                            weight
//! Q4_0   f16  -    -           16 bytes: low nibbles are q[0..16], high q[16..]  d * (q - 8)
//! Q4_1   f16  f16  -           the same                                          d * q + m
//! Q5_0   f16  -    u32         the same; bit i of the u32 is bit 4 of q[i]       d * (q - 16)
//! Q5_1   f16  f16  u32         the same                                          d * q + m
//! Q8_0   f16  -    -           32 bytes: q[0..32], int8                          d * q
//! ```
//!
//! Fields lie in the order of the columns. Unpacked, the scale of the one group is 1, codes of the `_0` formats are signed (the 8 or 16
//! is taken off), and `dmin = -m` with a minimum of 1: `d*q - (-m)` has the bits of `d*q + m`.
//!
//! Making them: `_0` spends the code that has no positive counterpart on the weight of largest magnitude, whatever its sign; `_1` spans
//! from the smallest weight to the largest; Q8_0 is absmax / 127. With importances the scale is searched for instead (`fit.rs`).

use super::fit::{self, Floor, Line, Search};
use super::{Block, Format, f16_at, put_f16, to_f16};

/// Where the parts of a block begin, and how its codes are made.
struct Layout {
    m: Option<usize>,
    fifth: Option<usize>,
    codes: usize,
    /// What is taken off an unsigned code.
    bias: i8,
    /// The largest unsigned code.
    top: i8,
}

const fn layout(format: Format) -> Layout {
    match format {
        Format::Q4_0 => Layout { m: None, fifth: None, codes: 2, bias: 8, top: 15 },
        Format::Q4_1 => Layout { m: Some(2), fifth: None, codes: 4, bias: 0, top: 15 },
        Format::Q5_0 => Layout { m: None, fifth: Some(2), codes: 6, bias: 16, top: 31 },
        Format::Q5_1 => Layout { m: Some(2), fifth: Some(4), codes: 8, bias: 0, top: 31 },
        Format::Q8_0 | Format::F32 | Format::F16 | Format::BF16 => Layout { m: None, fifth: None, codes: 2, bias: 0, top: 127 },
        Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K => layout(Format::Q8_0),
        Format::IQ4_NL | Format::IQ4_XS | Format::MXFP4 | Format::TQ1_0 | Format::TQ2_0 => layout(Format::Q8_0),
        Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {
            layout(Format::Q8_0)
        }
    }
}

pub(super) fn unpack(format: Format, bytes: &[u8], block: &mut Block) {
    let parts = layout(format);
    block.group = 32;
    block.scales[0] = 1;
    block.d = f16_at(bytes, 0);
    (block.dmin, block.mins[0]) = match parts.m {
        Some(at) => (-f16_at(bytes, at), 1),
        None => (0.0, 0),
    };
    if format == Format::Q8_0 {
        for (q, b) in block.codes.iter_mut().zip(&bytes[2..34]) {
            *q = *b as i8;
        }
        return;
    }
    let fifth = parts.fifth.map_or(0, |at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    for (i, b) in bytes[parts.codes..parts.codes + 16].iter().enumerate() {
        block.codes[i] = ((b & 15) | ((fifth >> i & 1) << 4) as u8) as i8 - parts.bias;
        block.codes[16 + i] = ((b >> 4) | ((fifth >> (16 + i) & 1) << 4) as u8) as i8 - parts.bias;
    }
}

pub(super) fn pack(format: Format, block: &Block, bytes: &mut [u8]) {
    let parts = layout(format);
    put_f16(bytes, 0, block.d);
    if let Some(at) = parts.m {
        put_f16(bytes, at, -block.dmin);
    }
    if format == Format::Q8_0 {
        for (b, q) in bytes[2..34].iter_mut().zip(&block.codes) {
            *b = *q as u8;
        }
        return;
    }
    let unsigned = |i: usize| (block.codes[i] + parts.bias) as u8;
    if let Some(at) = parts.fifth {
        let bits = (0..32).fold(0, |bits, i| bits | u32::from(unsigned(i) >> 4) << i);
        bytes[at..at + 4].copy_from_slice(&bits.to_le_bytes());
    }
    for (i, b) in bytes[parts.codes..parts.codes + 16].iter_mut().enumerate() {
        *b = (unsigned(i) & 15) | (unsigned(16 + i) << 4);
    }
}

/// Fits a block to 32 weights.
pub(super) fn fit(format: Format, x: &[f32], importance: Option<&[f32]>, block: &mut Block) {
    let parts = layout(format);
    block.group = 32;
    block.scales[0] = 1;
    (block.dmin, block.mins[0]) = (0.0, 0);
    let (Some(x), codes) = (x.first_chunk::<32>(), &mut block.codes[..32]) else { return };
    let mean = fit::mean_square(x);
    match (parts.m, importance) {
        (None, _) if format == Format::Q8_0 => {
            let absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let d = absmax / 127.0;
            block.d = to_f16(d);
            let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
            for (q, x) in codes.iter_mut().zip(x) {
                *q = (x * inverse).round() as i8;
            }
        }
        (None, None) => {
            let largest = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
            let d = largest / -f32::from(parts.bias);
            block.d = to_f16(d);
            let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
            for (q, x) in codes.iter_mut().zip(x) {
                *q = ((x * inverse + (f32::from(parts.bias) + 0.5)) as i8).clamp(0, parts.top) - parts.bias;
            }
        }
        (None, Some(importance)) => {
            let (low, high) = (-parts.bias, parts.bias - 1);
            block.d = to_f16(fit::multiples(x, &fit::weigh(x, importance, mean), low, high, low, codes));
            fit::codes(x, Line { scale: block.d, min: 0.0 }, low, high, codes);
        }
        (Some(_), None) => {
            let (low, high) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
            let d = (high - low) / f32::from(parts.top);
            let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
            (block.d, block.dmin, block.mins[0]) = (to_f16(d), -to_f16(low), 1);
            for (q, x) in codes.iter_mut().zip(x) {
                *q = (((x - low) * inverse + 0.5) as i8).clamp(0, parts.top);
            }
        }
        (Some(_), Some(importance)) => {
            let line = fit::affine(x, &fit::weigh(x, importance, mean), parts.top, &Search::FINE, Floor::Free);
            let line = Line { scale: to_f16(line.scale), min: to_f16(line.min) };
            (block.d, block.dmin, block.mins[0]) = (line.scale, line.min, 1);
            fit::codes(x, line, 0, parts.top, codes);
        }
    }
}
