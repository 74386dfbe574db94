//! The K formats: 256 weights in groups of 16 or 32, whose scales and minimums are small integers under two f16.
//!
//! ```text
//!        bytes  fields in order                                group  weight
//! Q2_K   84     scales[16] codes[64] d dmin                    16     d*sc*q - dmin*m   sc, m 4 bits, q 2 bits
//! Q3_K   110    high[32] codes[64] scales[12] d                16     d*sc*q            sc 6 bits - 32, q 3 bits - 4
//! Q4_K   144    d dmin scales[12] codes[128]                   32     d*sc*q - dmin*m   sc, m 6 bits, q 4 bits
//! Q5_K   176    d dmin scales[12] high[32] codes[128]          32     d*sc*q - dmin*m   sc, m 6 bits, q 5 bits
//! Q6_K   210    codes[128] high[64] scales[16] d               16     d*sc*q            sc int8, q 6 bits - 32
//! ```
//!
//! `d`, `dmin` are f16. Where the bits of weight `e = 128h + 32j + l` (h < 2, j < 4, l < 32) are:
//!
//! ```text
//! Q2_K   codes[32h + l] >> 2j, 2 bits
//! Q3_K   codes[32h + l] >> 2j, 2 bits; bit 2 is bit 4h + j of high[l]
//! Q4_K   codes[64h + 32(j/2) + l], low nibble for even j, high for odd
//! Q5_K   as Q4_K; bit 4 is bit 4h + j of high[l]
//! Q6_K   codes[64h + 32(j%2) + l], low nibble for j < 2, high for the others; bits 4 and 5 are high[32h + l] >> 2j
//! ```
//!
//! and the scales:
//!
//! ```text
//! Q2_K   scales[g]: low nibble sc, high nibble m
//! Q3_K   16 scales: low 4 bits are nibbles, scales[g % 8] low for g < 8, high for the others; high 2 bits scales[8 + g % 4] >> 2(g / 4)
//! Q4_K   bytes  0..4   sc[0..4] in 6 bits, above them the high 2 bits of sc[4..8]
//! Q5_K          4..8   m[0..4]             the high 2 bits of m[4..8]
//!               8..12  low nibble: low 4 bits of sc[4..8], high nibble: of m[4..8]
//! ```

use super::{Block, f16_at, put_f16};

/// The eight runs of 32 weights from 128h + 32j: where each begins, h, and j.
const RUNS: [(usize, usize, usize); 8] =
    [(0, 0, 0), (32, 0, 1), (64, 0, 2), (96, 0, 3), (128, 1, 0), (160, 1, 1), (192, 1, 2), (224, 1, 3)];

/// Makes 32 codes of the 32 bytes that hold their low bits and the 32 that hold their high ones.
fn join(codes: &mut [i8], low: &[u8], high: &[u8], code: impl Fn(u8, u8) -> i8) {
    for ((q, low), high) in codes[..32].iter_mut().zip(&low[..32]).zip(&high[..32]) {
        *q = code(*low, *high);
    }
}

/// Sets bits of 32 bytes from 32 codes.
fn split(bytes: &mut [u8], codes: &[i8], bits: impl Fn(u8) -> u8) {
    for (byte, q) in bytes[..32].iter_mut().zip(&codes[..32]) {
        *byte |= bits(*q as u8);
    }
}

pub(super) fn unpack_q2(bytes: &[u8], block: &mut Block) {
    block.group = 16;
    (block.d, block.dmin) = (f16_at(bytes, 80), f16_at(bytes, 82));
    for (g, byte) in bytes[..16].iter().enumerate() {
        (block.scales[g], block.mins[g]) = ((byte & 15) as i8, byte >> 4);
    }
    for (e, h, j) in RUNS {
        let low = &bytes[16 + 32 * h..];
        join(&mut block.codes[e..], low, low, |low, _| (low >> (2 * j) & 3) as i8);
    }
}

pub(super) fn pack_q2(block: &Block, bytes: &mut [u8]) {
    put_f16(bytes, 80, block.d);
    put_f16(bytes, 82, block.dmin);
    for (g, byte) in bytes[..16].iter_mut().enumerate() {
        *byte = (block.scales[g] as u8 & 15) | (block.mins[g] << 4);
    }
    for (e, h, j) in RUNS {
        split(&mut bytes[16 + 32 * h..], &block.codes[e..], |q| (q & 3) << (2 * j));
    }
}

pub(super) fn unpack_q3(bytes: &[u8], block: &mut Block) {
    block.group = 16;
    (block.d, block.dmin) = (f16_at(bytes, 108), 0.0);
    let scales = &bytes[96..108];
    for g in 0..16 {
        let low = scales[g % 8] >> (4 * (g / 8)) & 15;
        let high = scales[8 + g % 4] >> (2 * (g / 4)) & 3;
        (block.scales[g], block.mins[g]) = ((low | high << 4) as i8 - 32, 0);
    }
    for (e, h, j) in RUNS {
        join(&mut block.codes[e..], &bytes[32 + 32 * h..], bytes, |low, high| {
            (low >> (2 * j) & 3 | (high >> (4 * h + j) & 1) << 2) as i8 - 4
        });
    }
}

pub(super) fn pack_q3(block: &Block, bytes: &mut [u8]) {
    put_f16(bytes, 108, block.d);
    for g in 0..16 {
        let scale = (block.scales[g] + 32) as u8;
        bytes[96 + g % 8] |= (scale & 15) << (4 * (g / 8));
        bytes[104 + g % 4] |= (scale >> 4) << (2 * (g / 4));
    }
    let codes = block.codes.map(|q| q + 4);
    for (e, h, j) in RUNS {
        split(&mut bytes[32 + 32 * h..], &codes[e..], |q| (q & 3) << (2 * j));
        split(bytes, &codes[e..], |q| (q >> 2) << (4 * h + j));
    }
}

pub(super) fn unpack_q4_q5(bytes: &[u8], high: Option<usize>, codes: usize, block: &mut Block) {
    block.group = 32;
    (block.d, block.dmin) = (f16_at(bytes, 0), f16_at(bytes, 2));
    let s = &bytes[4..16];
    for g in 0..4 {
        (block.scales[g], block.mins[g]) = ((s[g] & 63) as i8, s[4 + g] & 63);
        block.scales[4 + g] = ((s[8 + g] & 15) | (s[g] >> 6) << 4) as i8;
        block.mins[4 + g] = (s[8 + g] >> 4) | (s[4 + g] >> 6) << 4;
    }
    for (e, h, j) in RUNS {
        let (low, shift) = (&bytes[codes + 64 * h + 32 * (j / 2)..], 4 * (j % 2));
        match high {
            None => join(&mut block.codes[e..], low, low, |low, _| (low >> shift & 15) as i8),
            Some(at) => {
                join(&mut block.codes[e..], low, &bytes[at..], |low, high| (low >> shift & 15 | (high >> (4 * h + j) & 1) << 4) as i8)
            }
        }
    }
}

pub(super) fn pack_q4_q5(block: &Block, high: Option<usize>, codes: usize, bytes: &mut [u8]) {
    put_f16(bytes, 0, block.d);
    put_f16(bytes, 2, block.dmin);
    for g in 0..4 {
        let (scale, min) = (block.scales[4 + g] as u8, block.mins[4 + g]);
        bytes[4 + g] = block.scales[g] as u8 | (scale >> 4) << 6;
        bytes[8 + g] = block.mins[g] | (min >> 4) << 6;
        bytes[12 + g] = (scale & 15) | (min & 15) << 4;
    }
    for (e, h, j) in RUNS {
        split(&mut bytes[codes + 64 * h + 32 * (j / 2)..], &block.codes[e..], |q| (q & 15) << (4 * (j % 2)));
        if let Some(at) = high {
            split(&mut bytes[at..], &block.codes[e..], |q| (q >> 4) << (4 * h + j));
        }
    }
}

pub(super) fn unpack_q6(bytes: &[u8], block: &mut Block) {
    block.group = 16;
    (block.d, block.dmin) = (f16_at(bytes, 208), 0.0);
    for g in 0..16 {
        (block.scales[g], block.mins[g]) = (bytes[192 + g] as i8, 0);
    }
    for (e, h, j) in RUNS {
        join(&mut block.codes[e..], &bytes[64 * h + 32 * (j % 2)..], &bytes[128 + 32 * h..], |low, high| {
            (low >> (4 * (j / 2)) & 15 | (high >> (2 * j) & 3) << 4) as i8 - 32
        });
    }
}

pub(super) fn pack_q6(block: &Block, bytes: &mut [u8]) {
    put_f16(bytes, 208, block.d);
    for g in 0..16 {
        bytes[192 + g] = block.scales[g] as u8;
    }
    let codes = block.codes.map(|q| q + 32);
    for (e, h, j) in RUNS {
        split(&mut bytes[64 * h + 32 * (j % 2)..], &codes[e..], |q| (q & 15) << (4 * (j / 2)));
        split(&mut bytes[128 + 32 * h..], &codes[e..], |q| (q >> 4) << (2 * j));
    }
}
