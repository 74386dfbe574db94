//! How each block format is unpacked: blocks of LANES rows into a [`Panel`].
//!
//! The layouts are ggml's (block pictures: `crate::format`). `load_rows` brings 16 bytes of each row as four vectors of
//! 4 bytes × row, so all that is left is to cut bits: a column's place in the panel is k / 4, its byte k mod 4.

#![allow(non_camel_case_types)] // ggml's names

use super::panel::{Blocks32, Codes, FlatFormat, K, KCodes, KFormat, Panel, set_signed};
use crate::format::table::{E2M1, NONLINEAR};
use crate::isa::{Isa, Rows};

/// Scales 4·at … 4·at + 3, signed bytes.
#[inline(always)]
pub(super) fn set_scales<I: Isa>(isa: I, panel: &mut Panel<I>, at: usize, bytes: I::I) {
    panel.scales[4 * at..4 * at + 4].copy_from_slice(&isa.scales(bytes));
}

/// Pairs 2·at, 2·at + 1 from the bytes of sub-blocks 4·at ….
#[inline(always)]
pub(super) fn set_pairs<I: Isa>(isa: I, panel: &mut Panel<I>, at: usize, v: I::I) {
    panel.pairs[2 * at] = isa.even_bytes(v);
    panel.pairs[2 * at + 1] = isa.odd_bytes(v);
}

/// d and m from two halves a lane.
#[inline(always)]
fn set_d_m<I: Isa>(isa: I, panel: &mut Panel<I>, at: usize, v: I::I) {
    panel.d[at] = isa.low_f16(v);
    panel.m[at] = isa.low_f16(isa.shr::<16>(v));
}

/// The header that Q4_K and Q5_K share: d, dmin, and 8 scales and 8 mins of 6 bits in 12 bytes.
#[inline(always)]
fn header_q45<I: Isa>(isa: I, panel: &mut Panel<I>, [dm, a, b, c]: [I::I; 4]) {
    let six = isa.splat_i(0x3f3f_3f3f);
    let four = isa.splat_i(0x0f0f_0f0f);
    let two = isa.splat_i(0x3030_3030);
    set_d_m(isa, panel, 0, dm);
    let high_scales = isa.or(isa.and(c, four), isa.and(isa.shr::<2>(a), two));
    let high_mins = isa.or(isa.and(isa.shr::<4>(c), four), isa.and(isa.shr::<2>(b), two));
    set_scales(isa, panel, 0, isa.and(a, six));
    set_scales(isa, panel, 1, high_scales);
    set_pairs(isa, panel, 0, isa.and(b, six));
    set_pairs(isa, panel, 1, high_mins);
}

pub(super) struct Q4KBlock;
pub(super) type Q4_K = K<Q4KBlock>;

impl KFormat for Q4KBlock {
    type Like = Q4KBlock;
    const GROUP: usize = 32;
    const FLUSH: usize = 8; // 2 · 15 · 127 · 8 = 30480
    const CODES: KCodes = KCodes::Mins32 { most: 15 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, panel: &mut Panel<I>) {
        let block = rows.block::<144>(block);
        header_q45(isa, panel, isa.load_rows(block, 0));
        let low = isa.splat_i(0x0f0f_0f0f);
        for pair in 0..4 {
            for half in 0..2 {
                let v = isa.load_rows(block, 16 + 32 * pair + 16 * half);
                let k = 16 * pair + 4 * half;
                for g in 0..4 {
                    panel.codes[k + g] = isa.and(v[g], low);
                    panel.codes[k + 8 + g] = isa.and(isa.shr::<4>(v[g]), low);
                }
            }
        }
    }
}

pub(super) struct Q5KBlock;
pub(super) type Q5_K = K<Q5KBlock>;

impl KFormat for Q5KBlock {
    type Like = Q5KBlock;
    const GROUP: usize = 32;
    const FLUSH: usize = 4; // 2 · 31 · 127 · 4 = 31496
    const CODES: KCodes = KCodes::Mins32 { most: 31 };

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, panel: &mut Panel<I>) {
        let block = rows.block::<176>(block);
        header_q45(isa, panel, isa.load_rows(block, 0));
        let low = isa.splat_i(0x0f0f_0f0f);
        let bit = isa.splat_i(0x1010_1010);
        for half in 0..2 {
            // Bit 2j (low codes) and 2j + 1 (high codes) of a byte belong to 64 columns from 64j on: they are wanted as
            // bit 4, so the first two pairs are read from swapped nibbles.
            let whole = isa.load_rows(block, 16 + 16 * half);
            let mut high = whole;
            for v in &mut high {
                *v = isa.shl::<4>(isa.and(*v, low));
            }
            for j in 0..4 {
                let v = isa.load_rows(block, 48 + 32 * j + 16 * half);
                let k = 16 * j + 4 * half;
                for g in 0..4 {
                    panel.codes[k + g] = isa.or(isa.and(v[g], low), isa.and(high[g], bit));
                    panel.codes[k + 8 + g] = isa.or(isa.and(isa.shr::<4>(v[g]), low), isa.and(isa.shr::<1>(high[g]), bit));
                    high[g] = if j == 1 { whole[g] } else { isa.shr::<2>(high[g]) };
                }
            }
        }
    }
}

pub(super) struct Q6KBlock;
pub(super) type Q6_K = K<Q6KBlock>;

impl KFormat for Q6KBlock {
    type Like = Q6KBlock;
    const GROUP: usize = 16;
    const FLUSH: usize = 4; // 2 · 32 · 127 · 4 = 32512
    const CODES: KCodes = KCodes::Biased(32);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, panel: &mut Panel<I>) {
        let block = rows.block::<210>(block);
        let low = isa.splat_i(0x0f0f_0f0f);
        let two = isa.splat_i(0x3030_3030);
        for half in 0..2 {
            for part in 0..2 {
                let a = isa.load_rows(block, 64 * half + 16 * part);
                let b = isa.load_rows(block, 64 * half + 32 + 16 * part);
                let high = isa.load_rows(block, 128 + 32 * half + 16 * part);
                let k = 32 * half + 4 * part;
                for g in 0..4 {
                    let h = high[g];
                    panel.codes[k + g] = isa.or(isa.and(a[g], low), isa.and(isa.shl::<4>(h), two));
                    panel.codes[k + 8 + g] = isa.or(isa.and(b[g], low), isa.and(isa.shl::<2>(h), two));
                    panel.codes[k + 16 + g] = isa.or(isa.and(isa.shr::<4>(a[g]), low), isa.and(h, two));
                    panel.codes[k + 24 + g] = isa.or(isa.and(isa.shr::<4>(b[g]), low), isa.and(isa.shr::<2>(h), two));
                }
            }
        }
        let scales = isa.load_rows(block, 192);
        for g in 0..4 {
            set_scales(isa, panel, g, scales[g]);
        }
        panel.d[0] = isa.low_f16(isa.shr::<16>(isa.load_words(block, 206)));
    }
}

pub(super) struct Q2KBlock;
pub(super) type Q2_K = K<Q2KBlock>;

impl KFormat for Q2KBlock {
    type Like = Q2KBlock;
    const GROUP: usize = 16;
    const FLUSH: usize = 4; // 2 · 3 · 127 · 4 = 3048
    const CODES: KCodes = KCodes::Mins16;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, panel: &mut Panel<I>) {
        let block = rows.block::<84>(block);
        let low = isa.splat_i(0x0f0f_0f0f);
        let two = isa.splat_i(0x0303_0303);
        let header = isa.load_rows(block, 0);
        for g in 0..4 {
            set_scales(isa, panel, g, isa.and(header[g], low));
            set_pairs(isa, panel, g, isa.and(isa.shr::<4>(header[g]), low));
        }
        for part in 0..4 {
            let v = isa.load_rows(block, 16 + 16 * part);
            let k = part / 2 * 32 + part % 2 * 4;
            for g in 0..4 {
                panel.codes[k + g] = isa.and(v[g], two);
                panel.codes[k + 8 + g] = isa.and(isa.shr::<2>(v[g]), two);
                panel.codes[k + 16 + g] = isa.and(isa.shr::<4>(v[g]), two);
                panel.codes[k + 24 + g] = isa.and(isa.shr::<6>(v[g]), two);
            }
        }
        set_d_m(isa, panel, 0, isa.load_words(block, 80));
    }
}

pub(super) struct Q3KBlock;
pub(super) type Q3_K = K<Q3KBlock>;

/// 16 scales of 6 bits in three words, 32 too large: four words of signed bytes.
#[inline(always)]
fn scales_q3<I: Isa>(isa: I, a: I::I, b: I::I, c: I::I) -> [I::I; 4] {
    let four = isa.splat_i(0x0f0f_0f0f);
    let two = isa.splat_i(0x3030_3030);
    let raw = [
        isa.or(isa.and(a, four), isa.and(isa.shl::<4>(c), two)),
        isa.or(isa.and(b, four), isa.and(isa.shl::<2>(c), two)),
        isa.or(isa.and(isa.shr::<4>(a), four), isa.and(c, two)),
        isa.or(isa.and(isa.shr::<4>(b), four), isa.and(isa.shr::<2>(c), two)),
    ];
    let mut signed = raw;
    let top = isa.splat_i(0x2020_2020);
    for v in &mut signed {
        // x - 32 in 6 bits is x with bit 5 flipped, and bit 5 is its sign: copy it to bits 6 and 7.
        let six = isa.xor(*v, top);
        let sign = isa.and(six, top);
        *v = isa.or(six, isa.or(isa.shl::<1>(sign), isa.shl::<2>(sign)));
    }
    signed
}

impl KFormat for Q3KBlock {
    type Like = Q3KBlock;
    const GROUP: usize = 16;
    const FLUSH: usize = 4; // 2 · 4 · 127 · 4 = 4064
    const CODES: KCodes = KCodes::Biased(4);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, panel: &mut Panel<I>) {
        let block = rows.block::<110>(block);
        let two = isa.splat_i(0x0303_0303);
        let bit = isa.splat_i(0x0404_0404);
        for part in 0..2 {
            // Bit i of a high byte belongs to 32 columns from 32i on.
            let mut high = isa.load_rows(block, 16 * part);
            for v in &mut high {
                // Rotated left by 2 within the byte: bits 2, 3, … are those of i = 0, 1, …
                let up = isa.and(isa.shl::<2>(*v), isa.splat_i(0xfcfc_fcfcu32 as i32));
                *v = isa.or(up, isa.and(isa.shr::<6>(*v), two));
            }
            for half in 0..2 {
                let v = isa.load_rows(block, 32 + 32 * half + 16 * part);
                let k = 32 * half + 4 * part;
                for g in 0..4 {
                    let h = high[g];
                    panel.codes[k + g] = isa.or(isa.and(v[g], two), isa.and(h, bit));
                    panel.codes[k + 8 + g] = isa.or(isa.and(isa.shr::<2>(v[g]), two), isa.and(isa.shr::<1>(h), bit));
                    panel.codes[k + 16 + g] = isa.or(isa.and(isa.shr::<4>(v[g]), two), isa.and(isa.shr::<2>(h), bit));
                    panel.codes[k + 24 + g] = isa.or(isa.and(isa.shr::<6>(v[g]), two), isa.and(isa.shr::<3>(h), bit));
                    // The rest: bits 6, 7, 0, 1 to places 2 … 5.
                    let up = isa.and(isa.shl::<4>(h), isa.splat_i(0x3030_3030));
                    high[g] = isa.or(isa.and(isa.shr::<4>(h), isa.splat_i(0x0c0c_0c0c)), up);
                }
            }
        }
        // The 14 bytes of scales and d, two bytes late.
        let [p, q, r, s] = isa.load_rows(block, 94);
        let a = isa.or(isa.shr::<16>(p), isa.shl::<16>(q));
        let b = isa.or(isa.shr::<16>(q), isa.shl::<16>(r));
        let c = isa.or(isa.shr::<16>(r), isa.shl::<16>(s));
        let scales = scales_q3(isa, a, b, c);
        for g in 0..4 {
            set_scales(isa, panel, g, scales[g]);
        }
        panel.d[0] = isa.low_f16(isa.shr::<16>(s));
    }
}

/// 16 bytes of nibbles: columns 0 … 15 are the low ones, 16 … 31 the high ones.
#[inline(always)]
pub(super) fn set_nibbles<I: Isa>(isa: I, panel: &mut Panel<I>, at: usize, v: [I::I; 4]) {
    let low = isa.splat_i(0x0f0f_0f0f);
    for g in 0..4 {
        panel.codes[8 * at + g] = isa.and(v[g], low);
        panel.codes[8 * at + 4 + g] = isa.and(isa.shr::<4>(v[g]), low);
    }
}

/// The codes that `table` has for the nibbles, in the order of [`set_nibbles`].
#[inline(always)]
pub(super) fn look_up<I: Isa>(isa: I, v: [I::I; 4], table: &[i8; 16]) -> [I::I; 8] {
    let low = isa.splat_i(0x0f0f_0f0f);
    let mut codes = [low; 8];
    for g in 0..4 {
        codes[g] = isa.lookup(table, isa.and(v[g], low));
        codes[4 + g] = isa.lookup(table, isa.and(isa.shr::<4>(v[g]), low));
    }
    codes
}

/// Adds bit k of `bits` to column k as 16.
#[inline(always)]
fn set_fifth<I: Isa>(isa: I, panel: &mut Panel<I>, at: usize, mut bits: I::I) {
    let one = isa.splat_i(0x1010_1010);
    for g in 0..8 {
        // The low four bits, seven apart: bit i comes to lie at 8i + 4.
        let four = isa.and(bits, isa.splat_i(15));
        let pairs = isa.or(isa.shl::<4>(four), isa.shl::<11>(four));
        let spread = isa.and(isa.or(pairs, isa.shl::<14>(pairs)), one);
        panel.codes[8 * at + g] = isa.or(panel.codes[8 * at + g], spread);
        bits = isa.shr::<4>(bits);
    }
}

pub(super) struct Q40Block;
pub(super) type Q4_0 = Blocks32<Q40Block>;

impl FlatFormat for Q40Block {
    type Like = Q40Block;
    const FLUSH: usize = 8; // 2 · 8 · 127 · 8 = 16256
    const CODES: Codes = Codes::Biased(8);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, at: usize, panel: &mut Panel<I>) {
        let block = rows.block::<18>(block);
        panel.d[at] = isa.low_f16(isa.load_words(block, 0));
        set_nibbles(isa, panel, at, isa.load_rows(block, 2));
    }
}

pub(super) struct Q41Block;
pub(super) type Q4_1 = Blocks32<Q41Block>;

impl FlatFormat for Q41Block {
    type Like = Q41Block;
    const FLUSH: usize = 8;
    const CODES: Codes = Codes::Min;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, at: usize, panel: &mut Panel<I>) {
        let block = rows.block::<20>(block);
        set_d_m(isa, panel, at, isa.load_words(block, 0));
        set_nibbles(isa, panel, at, isa.load_rows(block, 4));
    }
}

pub(super) struct Q50Block;
pub(super) type Q5_0 = Blocks32<Q50Block>;

impl FlatFormat for Q50Block {
    type Like = Q50Block;
    const FLUSH: usize = 8; // 2 · 16 · 127 · 8 = 32512
    const CODES: Codes = Codes::Biased(16);

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, at: usize, panel: &mut Panel<I>) {
        let block = rows.block::<22>(block);
        panel.d[at] = isa.low_f16(isa.load_words(block, 0));
        set_nibbles(isa, panel, at, isa.load_rows(block, 6));
        set_fifth(isa, panel, at, isa.load_words(block, 2));
    }
}

pub(super) struct Q51Block;
pub(super) type Q5_1 = Blocks32<Q51Block>;

impl FlatFormat for Q51Block {
    type Like = Q51Block;
    const FLUSH: usize = 4;
    const CODES: Codes = Codes::Min;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, at: usize, panel: &mut Panel<I>) {
        let block = rows.block::<24>(block);
        set_d_m(isa, panel, at, isa.load_words(block, 0));
        set_nibbles(isa, panel, at, isa.load_rows(block, 8));
        set_fifth(isa, panel, at, isa.load_words(block, 4));
    }
}

pub(super) struct Q80Block;
pub(super) type Q8_0 = Blocks32<Q80Block>;

impl FlatFormat for Q80Block {
    type Like = Q80Block;
    const FLUSH: usize = 8; // not asked for: where NARROW, signed codes are widened
    const CODES: Codes = Codes::Signed;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, at: usize, panel: &mut Panel<I>) {
        let block = rows.block::<34>(block);
        panel.d[at] = isa.low_f16(isa.load_words(block, 0));
        for half in 0..2 {
            let v = isa.load_rows(block, 2 + 16 * half);
            for g in 0..4 {
                set_signed(isa, panel, 8 * at + 4 * half + g, v[g]);
            }
        }
    }
}

pub(super) struct IQ4NLBlock;
pub(super) type IQ4_NL = Blocks32<IQ4NLBlock>;

impl FlatFormat for IQ4NLBlock {
    type Like = Q80Block;
    const FLUSH: usize = Q80Block::FLUSH;
    const CODES: Codes = Q80Block::CODES;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, at: usize, panel: &mut Panel<I>) {
        let block = rows.block::<18>(block);
        panel.d[at] = isa.low_f16(isa.load_words(block, 0));
        for (g, codes) in look_up(isa, isa.load_rows(block, 2), &NONLINEAR).into_iter().enumerate() {
            set_signed(isa, panel, 8 * at + g, codes);
        }
    }
}

pub(super) struct MXFP4Block;
pub(super) type MXFP4 = Blocks32<MXFP4Block>;

/// As Q5_0 has them, 16 too large.
const E2M1_BIASED: [i8; 16] = {
    let (mut table, mut i) = (E2M1, 0);
    while i < 16 {
        table[i] += 16;
        i += 1;
    }
    table
};

/// 2^(e-128) of the low byte of each lane; the two smallest are subnormal.
#[inline(always)]
fn power<I: Isa>(isa: I, v: I::I) -> I::F {
    let e = isa.and(v, isa.splat_i(255));
    let subnormal = isa.lt_i(e, isa.splat_i(2));
    let least = isa.add_i(isa.shl::<21>(e), isa.splat_i(0x0020_0000));
    let normal = isa.shl::<23>(isa.sub_i(e, isa.splat_i(1)));
    isa.select(subnormal, isa.from_bits(least), isa.from_bits(normal))
}

impl FlatFormat for MXFP4Block {
    type Like = Q50Block;
    const FLUSH: usize = Q50Block::FLUSH;
    const CODES: Codes = Q50Block::CODES;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, at: usize, panel: &mut Panel<I>) {
        let block = rows.block::<17>(block);
        panel.d[at] = power(isa, isa.load_words(block, 0));
        panel.codes[8 * at..8 * at + 8].copy_from_slice(&look_up(isa, isa.load_rows(block, 1), &E2M1_BIASED));
    }
}
