//! The ternary formats: 256 weights of -1, 0 or 1 under one scale.
//!
//! ```text
//!        bytes  fields in order          weight
//! TQ1_0  54     fives[48] fours[4] d     d * (q - 1)
//! TQ2_0  66     codes[64] d              d * (q - 1)
//! ```
//!
//! `d` is an f16. TQ2_0 has two bits a code: that of weight `128h + 32j + l` is `codes[32h + l] >> 2j`.
//! TQ1_0 has five codes a byte, base 3, as the fraction `byte / 256` whose n-th digit after the point is `q`: the digit is what
//! `3^n * byte` (modulo 256) times 3 carries over 256. Bytes 0..32 are weights `32n + i`, bytes 32..48 weights `160 + 16n + i`, the four
//! bytes after that, of four codes each, weights `240 + 4n + i`.
//!
//! Source: ggml's block structs (ggml-common.h); the trick of the fraction: compilade, llama.cpp pull request 8151.

use super::fit;
use super::{Block, f16_at, put_f16, to_f16};

/// Runs of bytes of TQ1_0: the first byte, how many, the first weight, and digits in each.
const RUNS: [(usize, usize, usize, usize); 3] = [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)];

/// One scale, which counts once in each group.
fn one_scale(block: &mut Block, d: f32) {
    *block = Block { d, scales: [1; 16], codes: block.codes, ..Block::new() };
}

pub(super) fn unpack_tq1_0(bytes: &[u8], block: &mut Block) {
    one_scale(block, f16_at(bytes, 52));
    for (from, count, weight, digits) in RUNS {
        let mut power = 1u8;
        for n in 0..digits {
            let codes = &mut block.codes[weight + n * count..];
            for (code, byte) in codes.iter_mut().zip(&bytes[from..from + count]) {
                *code = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
            }
            power = power.wrapping_mul(3);
        }
    }
}

pub(super) fn pack_tq1_0(block: &Block, bytes: &mut [u8]) {
    put_f16(bytes, 52, block.d);
    for (from, count, weight, digits) in RUNS {
        for (i, byte) in bytes[from..from + count].iter_mut().enumerate() {
            // Five digits always: where there are four, the last is 0.
            let digit = |n: usize| if n < digits { (block.codes[weight + n * count + i] + 1) as u16 } else { 0 };
            let number = (0..5).fold(0, |number, n| 3 * number + digit(n));
            *byte = (number * 256).div_ceil(243) as u8;
        }
    }
}

pub(super) fn unpack_tq2_0(bytes: &[u8], block: &mut Block) {
    one_scale(block, f16_at(bytes, 64));
    for (run, codes) in block.codes.chunks_exact_mut(32).enumerate() {
        for (code, byte) in codes.iter_mut().zip(&bytes[run / 4 * 32..]) {
            *code = (byte >> (2 * (run % 4)) & 3) as i8 - 1;
        }
    }
}

pub(super) fn pack_tq2_0(block: &Block, bytes: &mut [u8]) {
    put_f16(bytes, 64, block.d);
    for (run, codes) in block.codes.chunks_exact(32).enumerate() {
        for (byte, code) in bytes[run / 4 * 32..].iter_mut().zip(codes) {
            *byte |= ((code + 1) as u8) << (2 * (run % 4));
        }
    }
}

/// Fits a block to 256 weights. These formats are for models that were trained ternary: the scale is the largest weight, under which such
/// weights lose nothing. With importances the scale is searched for instead.
pub(super) fn fit(x: &[f32], importance: Option<&[f32]>, block: &mut Block) {
    let Some(x) = x.first_chunk::<256>() else { return };
    let d = match importance {
        None => x.iter().fold(0.0f32, |m, v| m.max(v.abs())),
        Some(importance) => {
            let weights = fit::weigh(x, importance, fit::mean_square(x));
            fit::multiples(x, &weights, -1, 1, 1, &mut block.codes).abs()
        }
    };
    one_scale(block, to_f16(d));
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    for (code, x) in block.codes.iter_mut().zip(x) {
        *code = (x * inverse).round().clamp(-1.0, 1.0) as i8;
    }
}
