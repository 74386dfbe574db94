//! f32, f16 and bf16 weights × f32 activations: lanes along k, 16 partial sums an output.
//!
//! A tile of R rows by C tokens is R·C sums in registers; a tile of tokens passes over all rows of the item (which stay in
//! L2) before the next one comes.

use super::Work;
use crate::isa::{Isa, Op, Sum16};
use std::marker::PhantomData;

/// How plain weights are read.
pub(super) trait Plain {
    /// Bytes of a weight.
    const BYTES: usize;
    /// LANES weights.
    fn load<I: Isa>(isa: I, bytes: &[u8]) -> I::F;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl Plain for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load<I: Isa>(isa: I, bytes: &[u8]) -> I::F {
        isa.load_f32_bytes(bytes)
    }
}

impl Plain for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<I: Isa>(isa: I, bytes: &[u8]) -> I::F {
        isa.load_f16_bytes(bytes)
    }
}

impl Plain for BF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<I: Isa>(isa: I, bytes: &[u8]) -> I::F {
        isa.load_bf16_bytes(bytes)
    }
}

/// A work item of plain weights.
pub(super) struct Run<'a, W> {
    work: Work<'a>,
    format: PhantomData<W>,
}

impl<'a, W: Plain> Run<'a, W> {
    pub(super) fn new(work: Work<'a>) -> Run<'a, W> {
        Run { work, format: PhantomData }
    }
}

impl<W: Plain> Op for Run<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let tokens = self.work.tokens.len();
        let mut token = 0;
        while token + 3 <= tokens {
            self.rows::<I, 2, 3>(isa, token);
            token += 3;
        }
        match tokens - token {
            2.. => self.rows::<I, 3, 2>(isa, token),
            1 => self.rows::<I, 4, 1>(isa, token),
            0 => {}
        }
    }
}

impl<W: Plain> Run<'_, W> {
    /// All rows of the item by `C` tokens from `token` on.
    #[inline(always)]
    fn rows<I: Isa, const R: usize, const C: usize>(&mut self, isa: I, token: usize) {
        let columns = self.work.tile.columns();
        let mut x = [&[] as &[f32]; C];
        for (c, x) in x.iter_mut().enumerate() {
            *x = self.work.inputs.float(self.work.tokens.input(token + c));
        }
        let mut row = columns.start;
        while row + R <= columns.end {
            self.dots::<I, R, C>(isa, row, x, token);
            row += R;
        }
        while row < columns.end {
            self.dots::<I, 1, C>(isa, row, x, token);
            row += 1;
        }
    }

    #[inline(always)]
    fn dots<I: Isa, const R: usize, const C: usize>(&mut self, isa: I, row: usize, x: [&[f32]; C], token: usize) {
        let cols = self.work.weight.cols;
        let mut rows = [&[] as &[u8]; R];
        for (r, bytes) in rows.iter_mut().enumerate() {
            *bytes = self.work.weight.row(row + r);
        }
        let mut sums = [[Sum16::new(isa); C]; R];
        for k in (0..cols - cols % 16).step_by(16) {
            step::<I, W, R, C>(isa, &mut sums, rows, k * W::BYTES, x, k);
        }
        if !cols.is_multiple_of(16) {
            let k = cols - cols % 16;
            let mut padded = [[0u8; 64]; R];
            let mut tails = [&[] as &[u8]; R];
            for ((padded, tail), bytes) in padded.iter_mut().zip(&mut tails).zip(rows) {
                let rest = &bytes[k * W::BYTES..];
                padded[..rest.len()].copy_from_slice(rest);
                *tail = padded;
            }
            let before = sums;
            step::<I, W, R, C>(isa, &mut sums, tails, 0, x, k);
            for r in 0..R {
                for c in 0..C {
                    sums[r][c].keep(isa, &before[r][c], cols % 16);
                }
            }
        }
        let start = row - self.work.tile.columns().start;
        for c in 0..C {
            let out = &mut self.work.tile.row(token + c)[start..start + R];
            for r in 0..R {
                out[r] = sums[r][c].total(isa);
            }
        }
    }
}

/// 16 columns: bytes from `at` on, activations from `k` on.
#[inline(always)]
fn step<I: Isa, W: Plain, const R: usize, const C: usize>(
    isa: I,
    sums: &mut [[Sum16<I>; C]; R],
    rows: [&[u8]; R],
    at: usize,
    x: [&[f32]; C],
    k: usize,
) {
    for part in 0..Sum16::<I>::PARTS {
        let offset = part * I::LANES;
        let mut w = [isa.zero(); R];
        for r in 0..R {
            w[r] = W::load(isa, &rows[r][at + offset * W::BYTES..]);
        }
        for c in 0..C {
            let v = isa.load(&x[c][k + offset..]);
            for r in 0..R {
                sums[r][c].fma(isa, part, w[r], v);
            }
        }
    }
}
