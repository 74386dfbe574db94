//! The two inner products of attention, and the softmax between them, for one block of 64 positions.
//!
//! ```text
//! scores   R query rows × C vectors of positions in registers      s[r][p] = Σ_d q[d][r] · k[d][p]
//! weights  one row at a time                                       s → e;  m, l, and o·c
//! values   R query rows × C vectors of channels in registers       o[r][d] += Σ_p e[r][p] · v[p][d]
//! ```
//! R is up to [`ROWS`]; C is what the registers have room for. Lanes are outputs in both products, so every output is one
//! chain of fma in the order of [`crate::naive::attention`], and nothing is ever summed across lanes.

use super::shape::BLOCK;
use super::stored::{Keys, Rows, Stored};
use super::turn::turn;
use crate::isa::{Isa, Op, Outlined};
use crate::ops::{Softcap, math};
use std::ops::Range;

/// Query rows that go through a block of keys together.
pub(super) const ROWS: usize = 6;

/// The kernel for so many rows, with as many vectors beside them as are told for one row, for two, and for more. (Lanes are matched
/// before: what is for others is not compiled then.)
macro_rules! by_rows {
    ($isa:ident, $of:ident($it:expr), $rows:expr, $one:literal $two:literal $more:literal) => {
        match $rows {
            1 => $isa.outline($of::<S, 1, $one>($it)),
            2 => $isa.outline($of::<S, 2, $two>($it)),
            3 => $isa.outline($of::<S, 3, $more>($it)),
            4 => $isa.outline($of::<S, 4, $more>($it)),
            5 => $isa.outline($of::<S, 5, $more>($it)),
            6 => $isa.outline($of::<S, 6, $more>($it)),
            rows => unreachable!("{rows} rows at once"),
        }
    };
}

/// Scores of `rows` query rows with all 64 positions of a block.
pub(super) struct Scores<'a, S: Stored> {
    /// `[key_dim][rows]`
    pub(super) q: &'a [f32],
    /// A block that lies across.
    pub(super) k: &'a [S::Unit],
    /// What is read next from memory, to be fetched meanwhile; may be empty.
    pub(super) ahead: &'a [S::Unit],
    /// `[rows][64]`
    pub(super) s: &'a mut [[f32; BLOCK]],
}

impl<S: Stored> Op for Scores<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match I::LANES {
            16 => by_rows!(isa, ScoresOf(self), self.s.len(), 4 4 4),
            8 => by_rows!(isa, ScoresOf(self), self.s.len(), 8 4 2),
            _ => by_rows!(isa, ScoresOf(self), self.s.len(), 8 4 4),
        }
    }
}

struct ScoresOf<'a, S: Stored, const R: usize, const C: usize>(Scores<'a, S>);

impl<I: Isa, S: Stored, const R: usize, const C: usize> Outlined<I> for ScoresOf<'_, S, R, C> {
    #[inline(always)]
    fn run(self, isa: I) {
        let mut it = self.0;
        let vectors = BLOCK / I::LANES;
        let mut at = 0;
        while at < vectors {
            match step::<C>(vectors - at) {
                1 => positions::<I, S, R, 1>(isa, &mut it, at * I::LANES),
                2 => positions::<I, S, R, 2>(isa, &mut it, at * I::LANES),
                _ => positions::<I, S, R, C>(isa, &mut it, at * I::LANES),
            }
            at += step::<C>(vectors - at);
        }
    }
}

/// How many vectors to take at once where `left` are left: C, or fewer at the end, but a single one only where it must be.
#[inline(always)]
fn step<const C: usize>(left: usize) -> usize {
    if left >= C + 2 || left == C { C } else { left.min(2) }
}

/// Positions `at .. at + C·LANES` for R rows.
#[inline(always)]
fn positions<I: Isa, S: Stored, const R: usize, const C: usize>(isa: I, it: &mut Scores<'_, S>, at: usize) {
    let Some(s) = it.s.first_chunk_mut::<R>() else { return };
    let mut acc = [[isa.zero(); C]; R];
    S::score(isa, Keys { q: it.q.as_chunks::<R>().0, k: it.k, ahead: it.ahead, at }, &mut acc);
    for r in 0..R {
        for c in 0..C {
            isa.store(acc[r][c], &mut s[r][at + c * I::LANES..]);
        }
    }
}

/// Weighted sums of `rows` query rows over the values of some positions of a block.
pub(super) struct Values<'a, S: Stored> {
    /// `[rows][64]`
    pub(super) e: &'a [[f32; BLOCK]],
    /// The positions of the block that count.
    pub(super) seen: Range<usize>,
    /// A block that lies along, and whatever follows.
    pub(super) v: &'a [S::Unit],
    /// Numbers from one value to the next, where they are not coded.
    pub(super) pitch: usize,
    /// What is read next from memory, to be fetched meanwhile; may be empty.
    pub(super) ahead: &'a [S::Unit],
    /// Channels of a value.
    pub(super) value_dim: usize,
    /// `[rows][stride]`
    pub(super) o: &'a mut [f32],
    /// `value_dim`, rounded up to a multiple of 32.
    pub(super) stride: usize,
}

impl<S: Stored> Op for Values<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match I::LANES {
            16 => by_rows!(isa, ValuesOf(self), self.e.len(), 4 4 4),
            8 => by_rows!(isa, ValuesOf(self), self.e.len(), 8 4 2),
            _ => by_rows!(isa, ValuesOf(self), self.e.len(), 8 4 4),
        }
    }
}

struct ValuesOf<'a, S: Stored, const R: usize, const C: usize>(Values<'a, S>);

impl<I: Isa, S: Stored, const R: usize, const C: usize> Outlined<I> for ValuesOf<'_, S, R, C> {
    #[inline(always)]
    fn run(self, isa: I) {
        let mut it = self.0;
        let vectors = it.value_dim.div_ceil(I::LANES);
        let mut at = 0;
        while at < vectors {
            match step::<C>(vectors - at) {
                1 => channels::<I, S, R, 1>(isa, &mut it, at * I::LANES),
                2 => channels::<I, S, R, 2>(isa, &mut it, at * I::LANES),
                _ => channels::<I, S, R, C>(isa, &mut it, at * I::LANES),
            }
            at += step::<C>(vectors - at);
        }
    }
}

/// Channels `at .. at + C·LANES` of R rows. Lanes beyond `value_dim` hold what lies behind a value; nobody reads them.
#[inline(always)]
fn channels<I: Isa, S: Stored, const R: usize, const C: usize>(isa: I, it: &mut Values<'_, S>, at: usize) {
    let Some(e) = it.e.first_chunk::<R>() else { return };
    let mut acc = [[isa.zero(); C]; R];
    for r in 0..R {
        let o = &it.o[r * it.stride + at..][..C * I::LANES];
        for c in 0..C {
            acc[r][c] = isa.load(&o[c * I::LANES..]);
        }
    }
    S::mix(isa, Rows { e, seen: it.seen.clone(), v: it.v, pitch: it.pitch, ahead: it.ahead, at }, &mut acc);
    for r in 0..R {
        let o = &mut it.o[r * it.stride + at..][..C * I::LANES];
        for c in 0..C {
            isa.store(acc[r][c], &mut o[c * I::LANES..]);
        }
    }
}

/// The running softmax of a row, all but its weighted sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    /// The greatest score.
    pub(super) m: f32,
    /// Partial sums of weights.
    pub(super) l: [f32; 16],
}

impl Running {
    pub(super) const START: Running = Running { m: f32::NEG_INFINITY, l: [0.0; 16] };
}

/// Scores of a block to weights, and the states of the rows with them.
pub(super) struct Weights<'a, S> {
    /// `[rows][64]`
    pub(super) s: &'a mut [[f32; BLOCK]],
    /// The positions of the block that count for a row.
    pub(super) seen: S,
    pub(super) softcap: Option<f32>,
    /// `[rows]`
    pub(super) running: &'a mut [Running],
    /// `[rows][stride]`
    pub(super) o: &'a mut [f32],
    pub(super) stride: usize,
}

impl<S: Fn(usize) -> Range<usize>> Op for Weights<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = self.s.iter_mut().zip(self.running).zip(self.o.chunks_exact_mut(self.stride));
        for (row, ((s, running), o)) in rows.enumerate() {
            let seen = (self.seen)(row);
            if seen.is_empty() {
                continue;
            }
            if let Some(cap) = self.softcap {
                for s in s.chunks_exact_mut(I::LANES) {
                    isa.store(Softcap(cap).cap(isa, isa.load(s)), s);
                }
            }
            if seen.len() < BLOCK {
                s[..seen.start].fill(f32::NEG_INFINITY);
                s[seen.end..].fill(f32::NEG_INFINITY);
            }
            weights(isa, s, running, o);
        }
    }
}

/// One row.
#[inline(always)]
fn weights<I: Isa>(isa: I, s: &mut [f32; BLOCK], running: &mut Running, o: &mut [f32]) {
    let mut most = [isa.splat(running.m); 2];
    for s in s.as_chunks::<32>().0 {
        for i in 0..16 / I::LANES {
            most[0] = isa.max(isa.load(&s[i * I::LANES..]), most[0]);
            most[1] = isa.max(isa.load(&s[16 + i * I::LANES..]), most[1]);
        }
    }
    let most = isa.reduce_max(isa.max(most[0], most[1]));
    let m = isa.splat(most);
    let mut c = isa.splat(1.0); // exp(0)
    if most != running.m {
        c = math::exp(isa, isa.sub(isa.splat(running.m), m));
        running.m = most;
        for o in o.chunks_exact_mut(I::LANES) {
            isa.store(isa.mul(isa.load(o), c), o);
        }
    }
    for part in 0..16 / I::LANES {
        let mut e = [isa.zero(); 4];
        for (s, e) in s.as_chunks_mut::<16>().0.iter_mut().zip(&mut e) {
            let s = &mut s[part * I::LANES..];
            *e = math::exp(isa, isa.sub(isa.load(s), m));
            isa.store(*e, s);
        }
        let sum = isa.add(isa.add(e[0], e[1]), isa.add(e[2], e[3]));
        let l = &mut running.l[part * I::LANES..];
        isa.store(isa.fma(isa.load(l), c, sum), l);
    }
}

/// Adds the state of a later chunk to that of the chunks before it.
pub(super) struct Merge<'a> {
    pub(super) whole: (&'a mut Running, &'a mut [f32]),
    pub(super) part: (&'a Running, &'a [f32]),
}

impl Op for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let ((whole, o), (part, o_part)) = (self.whole, self.part);
        let most = crate::naive::max(whole.m, part.m);
        let a = math::exp(isa, isa.sub(isa.splat(whole.m), isa.splat(most)));
        let b = math::exp(isa, isa.sub(isa.splat(part.m), isa.splat(most)));
        whole.m = most;
        let pairs = whole.l.chunks_exact_mut(I::LANES).zip(part.l.chunks_exact(I::LANES));
        for (x, y) in pairs.chain(o.chunks_exact_mut(I::LANES).zip(o_part.chunks_exact(I::LANES))) {
            isa.store(isa.fma(isa.load(x), a, isa.mul(isa.load(y), b)), x);
        }
    }
}

/// `out = o · (1 / tree(l))`, or with the sink among the weights; turned back where values are turned.
pub(super) struct Finish<'a> {
    pub(super) running: &'a Running,
    pub(super) sink: Option<f32>,
    pub(super) o: &'a [f32],
    pub(super) out: &'a mut [f32],
    /// Channels that are turned together.
    pub(super) turned: usize,
}

impl Op for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let sum = isa.splat(crate::naive::tree16(self.running.l));
        let factor = match self.sink {
            None => isa.div(isa.splat(1.0), sum),
            Some(sink) => {
                let most = isa.splat(crate::naive::max(self.running.m, sink));
                let a = math::exp(isa, isa.sub(isa.splat(self.running.m), most));
                let b = math::exp(isa, isa.sub(isa.splat(sink), most));
                isa.div(a, isa.fma(sum, a, b))
            }
        };
        for (o, out) in self.o.chunks(I::LANES).zip(self.out.chunks_mut(I::LANES)) {
            isa.store_some(isa.mul(isa.load(o), factor), out);
        }
        turn(self.out, self.turned);
    }
}
