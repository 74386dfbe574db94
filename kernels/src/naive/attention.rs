//! Attention with a running softmax, over blocks and chunks of fixed positions.
//!
//! For one query row (a head at a position `at`), the query times `scale`, and the positions `first..=at` that it sees:
//!
//! ```text
//! block of 64 positions, ascending; one that is masked as a whole is left out
//!   s[p]  = 0, then fma(q[d], k[p][d], s), d ascending          cap · tanh(s · (1/cap)) where softcapped; masked: -inf
//!   m'    = max(m, max s)      c = exp(m - m')      e[p] = exp(s[p] - m'), 0 where masked
//!   l[i]  = fma(l[i], c, (e[i] + e[16+i]) + (e[32+i] + e[48+i]))                            i < 16
//!   o[d]  = o[d]·c, then fma(e[p], v[p][d], o), p ascending, masked ones left out
//! chunk of 1024 positions: m = -inf, l = 0, o = 0 at its start; chunks that were seen merge in ascending order
//!   m'    = max(M, m)     a = exp(M - m')     b = exp(m - m')    L = fma(L, a, l·b)   O = fma(O, a, o·b)
//! out[d]  = O[d] · (1 / tree(L))                                                        without a sink
//! out[d]  = O[d] · (a / fma(tree(L), a, b))    m' = max(M, sink)   a = exp(M - m')   b = exp(sink - m')
//! ```
//! Where the cache keeps keys turned ([`super::cache`]), so is the scaled query; where it keeps values turned, `out` is turned back.
//!
//! A sink is a score without a value: it meets the others at the very end, so it does not depend on where a chunk ends.
//!
//! A block that is masked as a whole would leave `m' = m`, `c = 1`, `e = 0`: it changes nothing, so leaving it out is not
//! a difference. Positions, not the order in which tokens came, decide everything; so do not the threads.
//!
//! The running softmax: M. Milakov and N. Gimelshein, Online normalizer calculation for softmax, 2018; in blocks: T. Dao et
//! al., FlashAttention, 2022.

use super::cache::turn;
use super::{exp, max, tanh, tree16};
use crate::attention::{Attend, BLOCK, CHUNK};

/// Keys and values of one sequence, `[positions, kv_heads, key_dim]` and `[positions, kv_heads, value_dim]`, as they come back from
/// the cache ([`super::cache::keep`]).
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Heads of both.
    pub kv_heads: usize,
    /// Channels of a key.
    pub key_dim: usize,
    /// Channels of a value.
    pub value_dim: usize,
    /// Channels of a key and of a value that the cache has turned together; 1 where it has turned none.
    pub turned: (usize, usize),
}

/// A running softmax: the greatest score, 16 partial sums of weights, the weighted sum of values.
#[derive(Clone, Debug)]
struct State {
    m: f32,
    l: [f32; 16],
    o: Vec<f32>,
}

/// Queries q `[tokens, heads, key_dim]` at positions `position..` of a context, to out `[tokens, heads, value_dim]`.
pub fn attend(attend: &Attend<'_>, context: Context<'_>, q: &[f32], position: usize, out: &mut [f32]) {
    let Context { kv_heads, key_dim, value_dim, .. } = context;
    let group = attend.heads / kv_heads;
    for (row, out) in out.chunks_exact_mut(value_dim).enumerate() {
        let (at, head) = (position + row / attend.heads, row % attend.heads);
        let q = query(attend, context, &q[row * key_dim..][..key_dim]);
        let whole = all_chunks(attend, context, head / group, &q, attend.window.first(at)..at + 1, None);
        finish(attend, head, whole, out);
        turn(out, context.turned.1);
    }
}

/// A query's head, scaled and turned as keys are.
fn query(attend: &Attend<'_>, context: Context<'_>, q: &[f32]) -> Vec<f32> {
    let mut q: Vec<f32> = q.iter().map(|q| q * attend.scale).collect();
    turn(&mut q, context.turned.0);
    q
}

/// The same over a window of positions and then over `chosen[token]` of some entries (both of one head), which count as positions
/// 0, 1, 2, … of a context of their own; their chunks merge after those of the positions.
pub fn attend_joined(
    attend: &Attend<'_>,
    context: Context<'_>,
    entries: Context<'_>,
    chosen: &[Vec<u32>],
    q: &[f32],
    position: usize,
    out: &mut [f32],
) {
    let Context { key_dim, value_dim, .. } = context;
    for (row, out) in out.chunks_exact_mut(value_dim).enumerate() {
        let (token, head) = (row / attend.heads, row % attend.heads);
        let at = position + token;
        let q = query(attend, context, &q[row * key_dim..][..key_dim]);
        let whole = all_chunks(attend, context, 0, &q, attend.window.first(at)..at + 1, None);
        let pick = |from: &[f32], dim: usize| chosen[token].iter().flat_map(|e| &from[*e as usize * dim..][..dim]).copied().collect();
        let (k, v): (Vec<f32>, Vec<f32>) = (pick(entries.k, key_dim), pick(entries.v, value_dim));
        let picked = Context { k: &k, v: &v, ..context };
        let whole = all_chunks(attend, picked, 0, &q, 0..chosen[token].len(), whole);
        finish(attend, head, whole, out);
        turn(out, context.turned.1);
    }
}

/// The state after the chunks of `seen`, merged into what is there.
fn all_chunks(
    attend: &Attend<'_>,
    context: Context<'_>,
    kv_head: usize,
    q: &[f32],
    seen: std::ops::Range<usize>,
    mut whole: Option<State>,
) -> Option<State> {
    for chunk in seen.start / CHUNK..seen.end.div_ceil(CHUNK) {
        let part = one_chunk(attend, context, kv_head, q, seen.start.max(chunk * CHUNK)..seen.end.min((chunk + 1) * CHUNK));
        whole = Some(match whole {
            None => part,
            Some(whole) => merge(whole, &part),
        });
    }
    whole
}

fn finish(attend: &Attend<'_>, head: usize, whole: Option<State>, out: &mut [f32]) {
    let Some(State { m, l, o }) = whole else { return };
    let factor = match attend.sinks {
        None => 1.0 / tree16(l),
        Some(sinks) => {
            let most = max(m, sinks[head]);
            let (a, b) = (exp(m - most), exp(sinks[head] - most));
            a / tree16(l).mul_add(a, b)
        }
    };
    out.iter_mut().zip(o).for_each(|(out, o)| *out = o * factor);
}

/// The state after the blocks of a chunk, of which `seen` positions are not masked.
fn one_chunk(attend: &Attend<'_>, context: Context<'_>, kv_head: usize, q: &[f32], seen: std::ops::Range<usize>) -> State {
    let Context { k, v, kv_heads, key_dim, value_dim, .. } = context;
    let mut state = State { m: f32::NEG_INFINITY, l: [0.0; 16], o: vec![0.0; value_dim] };
    for block in seen.start / BLOCK..seen.end.div_ceil(BLOCK) {
        let mut s = [f32::NEG_INFINITY; BLOCK];
        for (p, s) in s.iter_mut().enumerate().filter(|(p, _)| seen.contains(&(block * BLOCK + p))) {
            let k = &k[((block * BLOCK + p) * kv_heads + kv_head) * key_dim..][..key_dim];
            *s = q.iter().zip(k).fold(0.0, |s, (q, k)| q.mul_add(*k, s));
            if let Some(cap) = attend.softcap {
                *s = cap * tanh(*s * (1.0 / cap));
            }
        }
        let m = s.iter().fold(state.m, |m, s| max(*s, m));
        let c = exp(state.m - m);
        let e = s.map(|s| exp(s - m));
        state.m = m;
        for (i, l) in state.l.iter_mut().enumerate() {
            *l = l.mul_add(c, (e[i] + e[16 + i]) + (e[32 + i] + e[48 + i]));
        }
        for (d, o) in state.o.iter_mut().enumerate() {
            *o *= c;
            for (p, e) in e.iter().enumerate().filter(|(p, _)| seen.contains(&(block * BLOCK + p))) {
                *o = e.mul_add(v[((block * BLOCK + p) * kv_heads + kv_head) * value_dim + d], *o);
            }
        }
    }
    state
}

fn merge(mut whole: State, part: &State) -> State {
    let m = max(whole.m, part.m);
    let (a, b) = (exp(whole.m - m), exp(part.m - m));
    whole.m = m;
    for (whole, part) in whole.l.iter_mut().chain(&mut whole.o).zip(part.l.iter().chain(&part.o)) {
        *whole = whole.mul_add(a, part * b);
    }
    whole
}
