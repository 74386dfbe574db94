//! How numbers lie in a block of 64 positions, and how the kernels read them: numbers as they are here, codes in `coded.rs`.
//!
//! ```text
//! across   [dim][64]     keys: lanes are positions
//! along    [64][dim]     values, and keys that hold values: lanes are channels
//! ```

use super::shape::BLOCK;
use crate::isa::{Isa, Op};
use half::bf16;
use std::marker::PhantomData;
use std::ops::Range;
use zerocopy::IntoBytes;

/// How the positions of a block lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[dim][64]`
    Across,
    /// `[64][dim]`
    Along,
}

/// A block of keys, across, and the queries of R rows for it.
pub(super) struct Keys<'a, U, const R: usize> {
    /// `[key_dim]`
    pub(super) q: &'a [[f32; R]],
    pub(super) k: &'a [U],
    /// What is read next from memory, to be fetched meanwhile; may be empty.
    pub(super) ahead: &'a [U],
    /// The first of the positions in question.
    pub(super) at: usize,
}

/// A block of values, along, and the weights of R rows for it.
pub(super) struct Rows<'a, U, const R: usize> {
    pub(super) e: &'a [[f32; BLOCK]; R],
    /// The positions that count.
    pub(super) seen: Range<usize>,
    pub(super) v: &'a [U],
    /// Numbers from one position to the next, where they are not coded.
    pub(super) pitch: usize,
    /// What is read next from memory, to be fetched meanwhile; may be empty.
    pub(super) ahead: &'a [U],
    /// The first of the channels in question.
    pub(super) at: usize,
}

/// A way to keep numbers.
pub(super) trait Stored: 'static {
    /// What memory is made of.
    type Unit: Copy + Send + Sync + 'static;

    /// Whether a block that several groups of rows look at is worth widening once for all of them.
    const WIDEN: bool;

    /// Units of a position.
    fn units(dim: usize) -> usize;

    /// Numbers from one position to the next in what [`Widen`] makes of a block that lies along.
    fn pitch(dim: usize) -> usize;

    /// `acc[r][c] = fma(q[d][r], k[d][at + c], acc[r][c])`, d ascending.
    fn score<I: Isa, const R: usize, const C: usize>(isa: I, keys: Keys<'_, Self::Unit, R>, acc: &mut [[I::F; C]; R]);

    /// `acc[r][c] = fma(e[r][p], v[p][at + c], acc[r][c])`, p ascending.
    fn mix<I: Isa, const R: usize, const C: usize>(isa: I, rows: Rows<'_, Self::Unit, R>, acc: &mut [[I::F; C]; R]);

    /// Position p of a block, `turned` channels of it together.
    fn put<I: Isa>(isa: I, row: &[f32], turned: usize, block: &mut [Self::Unit], layout: Layout, p: usize);

    /// Some positions of a block as f32: `[dim][64]`, or `[64][pitch]`.
    fn widen<I: Isa>(isa: I, block: &[Self::Unit], dim: usize, layout: Layout, positions: Range<usize>, to: &mut [f32]);
}

/// Some positions of a block as f32.
pub(super) struct Widen<'a, S: Stored> {
    pub(super) block: &'a [S::Unit],
    pub(super) dim: usize,
    pub(super) layout: Layout,
    pub(super) positions: Range<usize>,
    /// `[dim][64]` or `[64][pitch]`, and at least 16 more.
    pub(super) to: &'a mut [f32],
}

impl<S: Stored> Op for Widen<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        S::widen(isa, self.block, self.dim, self.layout, self.positions, self.to);
    }
}

/// One position of one head, into its block.
pub(super) struct Put<'a, S: Stored> {
    pub(super) row: &'a [f32],
    /// Channels that are turned together.
    pub(super) turned: usize,
    pub(super) block: &'a mut [S::Unit],
    pub(super) layout: Layout,
    pub(super) p: usize,
}

impl<S: Stored> Op for Put<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        S::put(isa, self.row, self.turned, self.block, self.layout, self.p);
    }
}

/// Numbers that lie as they are.
pub(super) struct Plain<N>(PhantomData<N>);

/// A stored number.
pub(super) trait Number: Copy + Default + Send + Sync + 'static {
    /// [`Stored::WIDEN`].
    const WIDEN: bool;
    /// `LANES` of them, widened.
    fn load<I: Isa>(isa: I, x: &[Self]) -> I::F;
    /// `LANES` of them, rounded to nearest even.
    fn store<I: Isa>(isa: I, v: I::F, out: &mut [Self]);
}

/// The bits of a half.
impl Number for u16 {
    const WIDEN: bool = true;
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[u16]) -> I::F {
        isa.load_f16(x)
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F, out: &mut [u16]) {
        isa.store_f16(v, out);
    }
}

impl Number for bf16 {
    const WIDEN: bool = true;
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[bf16]) -> I::F {
        isa.load_bf16_bytes(x.as_bytes())
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F, out: &mut [bf16]) {
        let mut lanes = [0f32; 16];
        isa.store(v, &mut lanes);
        for (out, x) in out[..I::LANES].iter_mut().zip(lanes) {
            let bits = x.to_bits();
            // Ties go to the even one; what lies above infinity is no number, and stays none.
            let rounded = if x.is_nan() { 0x7fc0 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 };
            *out = bf16::from_bits(rounded as u16);
        }
    }
}

impl Number for f32 {
    const WIDEN: bool = false;
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[f32]) -> I::F {
        isa.load(x)
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F, out: &mut [f32]) {
        isa.store(v, out);
    }
}

impl<N: Number> Stored for Plain<N> {
    type Unit = N;

    const WIDEN: bool = N::WIDEN;

    #[inline(always)]
    fn units(dim: usize) -> usize {
        dim
    }

    #[inline(always)]
    fn pitch(dim: usize) -> usize {
        dim
    }

    #[inline(always)]
    fn score<I: Isa, const R: usize, const C: usize>(isa: I, keys: Keys<'_, N, R>, acc: &mut [[I::F; C]; R]) {
        let Keys { q, k, ahead, at } = keys;
        let k = k.as_chunks::<BLOCK>().0;
        for (d, (q, row)) in q.iter().zip(k).enumerate() {
            fetch(isa, ahead, at * k.len() + d * C * I::LANES, C * I::LANES);
            let row = &row[at..][..C * I::LANES];
            let mut keys = [isa.zero(); C];
            for c in 0..C {
                keys[c] = N::load(isa, &row[c * I::LANES..]);
            }
            for r in 0..R {
                let q = isa.splat(q[r]);
                for c in 0..C {
                    acc[r][c] = isa.fma(q, keys[c], acc[r][c]);
                }
            }
        }
    }

    #[inline(always)]
    fn mix<I: Isa, const R: usize, const C: usize>(isa: I, rows: Rows<'_, N, R>, acc: &mut [[I::F; C]; R]) {
        let Rows { e, seen, v, pitch, ahead, at } = rows;
        for p in seen {
            fetch(isa, ahead, at * BLOCK + p * C * I::LANES, C * I::LANES);
            let v = &v[p * pitch + at..][..C * I::LANES];
            let mut values = [isa.zero(); C];
            for c in 0..C {
                values[c] = N::load(isa, &v[c * I::LANES..]);
            }
            for r in 0..R {
                let e = isa.splat(e[r][p % BLOCK]);
                for c in 0..C {
                    acc[r][c] = isa.fma(e, values[c], acc[r][c]);
                }
            }
        }
    }

    #[inline(always)]
    fn put<I: Isa>(isa: I, row: &[f32], _turned: usize, block: &mut [N], layout: Layout, p: usize) {
        for (i, x) in row.chunks(I::LANES).enumerate() {
            let mut narrow = [N::default(); 16];
            N::store(isa, isa.load_some(x), &mut narrow);
            let d = i * I::LANES;
            match layout {
                Layout::Across => {
                    let (columns, _) = block[d * BLOCK..].as_chunks_mut::<BLOCK>();
                    for (column, x) in columns.iter_mut().zip(&narrow[..x.len()]) {
                        column[p % BLOCK] = *x;
                    }
                }
                Layout::Along => block[p * row.len() + d..][..x.len()].copy_from_slice(&narrow[..x.len()]),
            }
        }
    }

    /// The whole block where it lies across.
    #[inline(always)]
    fn widen<I: Isa>(isa: I, block: &[N], dim: usize, layout: Layout, positions: Range<usize>, to: &mut [f32]) {
        let numbers = match layout {
            Layout::Across => 0..dim * BLOCK,
            Layout::Along => positions.start * dim..positions.end * dim,
        };
        let (from, to) = (&block[numbers.clone()], &mut to[numbers]);
        for (to, from) in to.chunks_exact_mut(I::LANES).zip(from.chunks_exact(I::LANES)) {
            isa.store(N::load(isa, from), to);
        }
        let rest = from.len() - from.len() % I::LANES;
        let mut last = [N::default(); 16];
        last[..from.len() - rest].copy_from_slice(&from[rest..]);
        isa.store_some(N::load(isa, &last), &mut to[rest..]);
    }
}

/// Asks for the cache lines of `len` numbers from `at` on, where there are that many. Each step of a product asks for as
/// much as it works on, in the order of addresses: requests in bursts, in the order of use, once a line only, or two blocks ahead
/// cost more than they bring.
#[inline(always)]
pub(super) fn fetch<I: Isa, U>(isa: I, ahead: &[U], at: usize, len: usize) {
    let line = 64 / size_of::<U>();
    let mut i = 0;
    while i < len {
        if let Some(x) = ahead.get(at + i) {
            isa.prefetch(std::ptr::from_ref(x).cast());
        }
        i += line;
    }
}
