//! Formats whose codes are signed bytes under scales for 16: IQ4_XS, the codebooks, the ternary ones. One panel, one stamp of product loops.
//!
//! ```text
//! block of each of LANES rows ──Block::unpack──▶ codes [256] scales [16] d, row by row ──load_rows──▶ panel
//! ```
//! IQ4_XS is taken apart in registers; looking up points of a codebook cannot be, so these blocks are taken apart as `naive` does it, a
//! row at a time, and transposed from there. Where many tokens share a panel that costs little.

#![allow(non_camel_case_types)] // ggml's names

use super::Inputs;
use super::formats::{look_up, set_scales};
use super::panel::{K, KCodes, KFormat, Panel, Quant, Widened, set_scaled};
use crate::Format;
use crate::activations::Wide;
use crate::format::Block;
use crate::format::table::NONLINEAR;
use crate::isa::{Isa, Rows};

pub(super) struct IQ4XSBlock;
pub(super) type IQ4_XS = K<IQ4XSBlock>;

impl KFormat for IQ4XSBlock {
    type Like = IQ4XSBlock;
    const GROUP: usize = 16;
    const FLUSH: usize = 4; // not asked for: where NARROW, signed codes are widened
    const CODES: KCodes = KCodes::Signed;

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, panel: &mut Panel<I>) {
        let block = rows.block::<136>(block);
        let header = isa.load_words(block, 0);
        panel.d[0] = isa.low_f16(header);
        let (mut low, mut high) = (isa.load_words(block, 4), isa.shr::<12>(header));
        for g in 0..8 {
            let six = isa.or(isa.and(low, isa.splat_i(15)), isa.and(high, isa.splat_i(0x30)));
            let [scale, ..] = isa.scales(isa.sub_i(six, isa.splat_i(32)));
            (low, high) = (isa.shr::<4>(low), isa.shr::<2>(high));
            (panel.scales[2 * g], panel.scales[2 * g + 1]) = (scale, scale);
            for (k, codes) in look_up(isa, isa.load_rows(block, 8 + 16 * g), &NONLINEAR).into_iter().enumerate() {
                set_scaled(isa, panel, 8 * g + k, codes);
            }
        }
    }
}

/// An unpacked block in bytes: 256 codes, 16 scales, and d.
const UNPACKED: usize = 256 + 16 + 4;

/// Every format in blocks of 256 whose codes are signed, one stamp for all.
pub(super) struct RowByRow;

impl Quant for RowByRow {
    type Act = Wide;
    type Like = IQ4_XS;

    #[inline(always)]
    fn acts(inputs: &Inputs, group: usize) -> &[Wide] {
        inputs.wide(group)
    }

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, format: Format, rows: &Rows, group: usize, _cols: usize, panel: &mut Panel<I>) {
        let bytes = format.block_bytes();
        let mut unpacked = [[0; UNPACKED]; 16];
        for lane in 0..I::LANES {
            unpack_row(format, rows.lane(lane, group * bytes, bytes), &mut unpacked[lane]);
        }
        let block = Rows::each(unpacked.as_flattened(), UNPACKED, 0, I::LANES, 0).block::<UNPACKED>(0);
        let scales = isa.load_rows(block, 256);
        for g in 0..4 {
            set_scales(isa, panel, g, scales[g]);
        }
        for part in 0..16 {
            let v = isa.load_rows(block, 16 * part);
            for g in 0..4 {
                set_scaled(isa, panel, 4 * part + g, v[g]);
            }
        }
        panel.d[0] = isa.from_bits(isa.load_words(block, 272));
    }

    #[inline(always)]
    fn micro<I: Isa, const R: usize, const C: usize>(
        isa: I,
        panels: &[Panel<I>; R],
        x: [&Wide; C],
        cols: usize,
        widened: &mut [Widened; C],
        acc: &mut [[I::F; R]; C],
    ) {
        IQ4_XS::micro(isa, panels, x, cols, widened, acc);
    }
}

#[inline(never)]
fn unpack_row(format: Format, bytes: &[u8], out: &mut [u8; UNPACKED]) {
    let mut block = Block::new();
    block.unpack(format, bytes);
    for (out, code) in out[..256].iter_mut().zip(block.codes) {
        *out = code as u8;
    }
    for (i, out) in out[256..272].iter_mut().enumerate() {
        *out = block.scales[16 * i / block.group] as u8;
    }
    out[272..].copy_from_slice(&block.d.to_le_bytes());
}
