//! Quantized weights × int8 activations, lanes are rows of the weights.
//!
//! ```text
//! block b of LANES rows ──unpack──▶ panel: codes  [64]  (4 consecutive k) × row, a byte each
//!                                          scales [16]  of each sub-block × row
//!                                          pairs  [8]   mins, two sub-blocks a lane
//!                                          d, m   [8]   floats × row
//! panel × 4 broadcast activations ──dot──▶ sums × row ──▶ acc × row        no sum across lanes
//! ```
//! The panel lives in L1 and serves every token of the tile. A format supplies `unpack` (see [`super::formats`]); the
//! register tile (R vectors of rows × C tokens) is the instruction set's. Rows that do not fill a vector are computed in
//! one that overlaps its neighbour, and only the missing lanes are stored: a row's bits do not depend on its lane.
//!
//! What comes next is asked for between steps, a few lines at a time: the weights of the next strips.
//! Outputs are written step by step beside the last panel's products, so that none waits for the line it goes to; a strip by few tokens is
//! through too soon for that, and asks for those lines beforehand ([`SPARSE`]).
//!
//! Tried and dropped: codes of one token straight from the file to the products, without a panel (Q4_K, Q6_K, Q8_0: no
//! faster on AVX2, and three times the time to compile); other prefetch distances, 0 to 3 strips (no difference there); tiles of
//! 2 × 4 on AVX2 (Q4_K -4 %, Q5_0 -8 %), four tokens as two and two instead of three and one (K formats +1 %, others -5 %),
//! K formats in a loop that stays one (-6 %), and all sums of a panel before their floats in formats of 32 (-5 %: room to be cleared).

use super::panel::{Panel, Quant, Widened};
use super::{FEW, Work};
use crate::Level;
use crate::isa::{self, Following, Isa, Op, Outlined, Rows, Tile, Tiled};
use std::marker::PhantomData;
use std::ops::Range;

/// A work item of a quantized format.
pub(super) struct Run<'a, Q> {
    work: Work<'a>,
    format: PhantomData<Q>,
}

impl<'a, Q: Quant> Run<'a, Q> {
    pub(super) fn new(work: Work<'a>) -> Run<'a, Q> {
        Run { work, format: PhantomData }
    }
}

impl<Q: Quant> Op for Run<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        tile_for(isa, self.work.tokens.len(), self);
    }
}

/// Lifts the register tile that so many tokens get.
#[inline(always)]
fn tile_for<I: Isa>(isa: I, tokens: usize, tiled: impl Tiled) {
    if tokens <= FEW {
        isa.with_narrow_tile(tiled);
    } else {
        isa.with_tile(tiled);
    }
}

/// Rows of that tile. All of them are computed: a work item that has fewer, or some more, wastes the others.
pub(super) fn tile_rows(level: Level, tokens: usize) -> usize {
    struct Height<'a>(usize, &'a mut usize);
    impl Op for Height<'_> {
        type Output = ();
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) {
            tile_for(isa, self.0, self);
        }
    }
    impl Tiled for Height<'_> {
        #[inline(always)]
        fn run<I: Isa, const R: usize, const C: usize, const T: usize>(self, _isa: I) {
            *self.1 = R * I::LANES;
        }
    }
    let mut rows = 1;
    isa::vectorize(level, Height(tokens, &mut rows));
    rows
}

impl<Q: Quant> Tiled for Run<'_, Q> {
    #[inline(always)]
    fn run<I: Isa, const R: usize, const C: usize, const T: usize>(self, isa: I) {
        if T <= FEW {
            tiles::<I, Q, R, C, T>(isa, self.work);
        } else {
            isa.outline(Many::<Q, R, C, T> { work: self.work, format: PhantomData });
        }
    }
}

/// A work item of many tokens: apart, as its accumulators want a large frame.
struct Many<'a, Q, const R: usize, const C: usize, const T: usize> {
    work: Work<'a>,
    format: PhantomData<Q>,
}

impl<I: Isa, Q: Quant, const R: usize, const C: usize, const T: usize> Outlined<I> for Many<'_, Q, R, C, T> {
    #[inline(always)]
    fn run(self, isa: I) {
        tiles::<I, Q, R, C, T>(isa, self.work);
    }
}

/// Up to so many tokens the lines that outputs go to are waited for, unless they are asked for in time; by more, asking costs more than it
/// brings.
const SPARSE: usize = 32;

/// LANES rows of the weights, and which lanes are new.
#[derive(Clone, Copy)]
struct Strip<'a> {
    rows: Rows<'a>,
    /// Place of the first such row in the tile.
    column: usize,
    /// Lanes that are rows of the item not in an earlier strip: from, to.
    lanes: (usize, usize),
}

impl<'a> Strip<'a> {
    /// The strip whose first new row is `row`; rows `ahead` of it come next.
    #[inline(always)]
    fn at<I: Isa>(work: &Work<'a>, columns: &Range<usize>, row: usize, ahead: usize) -> Strip<'a> {
        let (bytes, row_bytes, total) = (work.weight.bytes, work.weight.row_bytes, work.weight.rows);
        if total < I::LANES {
            let row = row.min(columns.end - 1);
            let rows = Rows::same(bytes, row_bytes, row, I::LANES);
            return Strip { rows, column: row - columns.start, lanes: (0, 1) };
        }
        let first = row.min(total - I::LANES);
        let rows = Rows::each(bytes, row_bytes, first, I::LANES, ahead);
        // A strip may lie wholly beyond the item: then nothing of it is new.
        let lanes = ((row - first).min(I::LANES), columns.end.saturating_sub(first).min(I::LANES));
        Strip { rows, column: row - columns.start, lanes }
    }

    #[inline(always)]
    fn store<I: Isa>(&self, isa: I, v: I::F, out: &mut [f32]) {
        let (start, end) = self.lanes;
        if start == 0 && end == I::LANES {
            isa.store(v, &mut out[self.column..]);
        } else if start < end {
            let mut lanes = [0f32; 16];
            isa.store(v, &mut lanes);
            let new = &lanes[start..end];
            out[self.column..self.column + new.len()].copy_from_slice(new);
        }
    }
}

/// All rows and tokens of the item, R strips by T tokens at a time.
#[inline(always)]
fn tiles<I: Isa, Q: Quant, const R: usize, const C: usize, const T: usize>(isa: I, mut work: Work) {
    let columns = work.tile.columns();
    if columns.is_empty() {
        return;
    }
    let (cols, tokens) = (work.weight.cols, work.tokens.len());
    let width = if work.weight.rows < I::LANES { 1 } else { I::LANES };
    let mut panels = [Panel::new(isa); R];
    let mut widened = [Widened::NONE; C];
    // Cleared once an item: where it has few tokens, most of them are never used.
    let mut acc = [[isa.zero(); R]; T];
    let mut inputs = [0u32; T];
    let (tall, groups) = (R * I::LANES, cols.div_ceil(256).max(1));
    let sparse = tokens <= SPARSE;
    // The strips after these are asked for between steps; where there are few of them, as these are unpacked.
    let between = tokens > 2 * C;
    let ahead = if between { 0 } else { tall };
    let looks = if between { groups * tokens.div_ceil(C) } else { 0 };
    let mut row = columns.start;
    while row < columns.end {
        let mut strips = [Strip::at::<I>(&work, &columns, row, ahead); R];
        for (r, strip) in strips.iter_mut().enumerate() {
            *strip = Strip::at::<I>(&work, &columns, row + r * width, ahead);
        }
        let mut next = strips[0].rows.following(tall, looks);
        for first in (0..tokens).step_by(T) {
            let count = T.min(tokens - first);
            acc[..count].fill([isa.zero(); R]);
            if tokens > T || row == columns.start {
                for (i, input) in inputs[..count].iter_mut().enumerate() {
                    *input = work.tokens.input(first + i) as u32;
                }
            }
            for group in 0..cols.div_ceil(256) {
                let mut token = if sparse { group } else { count };
                while token < count {
                    let out = work.tile.row(first + token)[strips[0].column..].as_ptr();
                    for line in (0..tall - 1).step_by(16) {
                        isa.prefetch_to_write(out.wrapping_add(line).cast());
                    }
                    isa.prefetch_to_write(out.wrapping_add(tall - 1).cast());
                    token += groups;
                }
                for (strip, panel) in strips.iter().zip(&mut panels) {
                    Q::unpack(isa, work.weight.format, &strip.rows, group, cols - group * 256, panel);
                }
                let last = group + 1 == groups;
                isa.outline(Group::<I, Q::Like, R, C> {
                    out: last.then_some(Outputs { tile: &mut work.tile, strips: &strips, first }),
                    panels: &panels,
                    acts: Q::acts(work.inputs, group),
                    inputs: &inputs[..count],
                    cols: cols - group * 256,
                    widened: &mut widened,
                    acc: &mut acc[..count],
                    next: &mut next,
                });
            }
            if cols == 0 {
                for token in 0..count {
                    work.tile.row(first + token).fill(0.0);
                }
            }
        }
        row += R * width;
    }
}

/// Where the sums of a tile go once they are whole.
struct Outputs<'a, 't, const R: usize> {
    tile: &'a mut Tile<'t>,
    strips: &'a [Strip<'t>; R],
    /// Row of the tile's first token.
    first: usize,
}

/// One panel by all tokens of the tile.
struct Group<'a, 't, I: Isa, Q: Quant, const R: usize, const C: usize> {
    /// With the last panel.
    out: Option<Outputs<'a, 't, R>>,
    panels: &'a [Panel<I>; R],
    acts: &'a [Q::Act],
    inputs: &'a [u32],
    cols: usize,
    widened: &'a mut [Widened; C],
    acc: &'a mut [[I::F; R]],
    /// Some of it is asked for at each step.
    next: &'a mut Following,
}

impl<I: Isa, Q: Quant, const R: usize, const C: usize> Outlined<I> for Group<'_, '_, I, Q, R, C> {
    #[inline(always)]
    fn run(mut self, isa: I) {
        let mut at = 0;
        while at + C <= self.inputs.len() {
            at = self.step::<C>(isa, at);
        }
        match self.inputs.len() - at {
            // The guards keep what cannot happen from being compiled.
            3.. if C > 3 => _ = self.step::<3>(isa, at),
            2 if C > 2 => _ = self.step::<2>(isa, at),
            1 if C > 1 => _ = self.step::<1>(isa, at),
            _ => {}
        }
    }
}

impl<I: Isa, Q: Quant, const R: usize, const C: usize> Group<'_, '_, I, Q, R, C> {
    /// `N` tokens from `at` on; where the next ones begin.
    #[inline(always)]
    fn step<const N: usize>(&mut self, isa: I, at: usize) -> usize {
        self.next.ask(isa);
        let mut x = [&self.acts[0]; N];
        for (x, &input) in x.iter_mut().zip(&self.inputs[at..at + N]) {
            *x = &self.acts[input as usize];
        }
        if let (Some(acc), Some(widened)) = (self.acc[at..].first_chunk_mut(), self.widened.first_chunk_mut()) {
            Q::micro::<I, R, N>(isa, self.panels, x, self.cols, widened, acc);
            if let Some(out) = &mut self.out {
                for (token, acc) in acc.iter().enumerate() {
                    let row = out.tile.row(out.first + at + token);
                    for (strip, &v) in out.strips.iter().zip(acc) {
                        strip.store(isa, v, row);
                    }
                }
            }
        }
        at + N
    }
}
