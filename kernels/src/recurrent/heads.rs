//! Heads that write to and read from a matrix: a state space model's scan, and the delta rule.

use super::{FEW, Inputs, Lane, PANEL, Shape, starts};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::pool::{Disjoint, Tile};
use smallvec::SmallVec;
use std::ops::Range;

/// Mamba-2's scan of the lanes' tokens, one lane after the other: `S = decay·S + k ⊗ (dt·v)`, `out = qᵀS + skip·v`; dt and
/// decay `[tokens, heads]`, skip `[heads]`, out `[tokens, heads, values]`.
///
/// # Panics
/// If shapes do not fit together.
#[allow(clippy::too_many_arguments)]
pub fn scan(
    cpu: Cpu<'_>,
    shape: &Shape,
    inputs: Inputs<'_>,
    dt: &[f32],
    decay: &[f32],
    skip: &[f32],
    lanes: &mut [Lane<'_>],
    out: &mut [f32],
) {
    assert!(skip.len() == shape.heads && dt.len() == decay.len(), "{} factors of {} heads", skip.len(), shape.heads);
    run(cpu, shape, inputs, decay, Rule::Scan { dt, skip }, lanes, out);
}

/// The gated delta rule over the lanes' tokens, one lane after the other: `S = decay·S`, `S += k ⊗ beta·(v - kᵀS)`,
/// `out = qᵀS`; decay `[tokens, heads]` or `[tokens, heads, keys]`, beta `[tokens, heads]`, out `[tokens, heads, values]`.
///
/// # Panics
/// If shapes do not fit together.
pub fn delta(cpu: Cpu<'_>, shape: &Shape, inputs: Inputs<'_>, decay: &[f32], beta: &[f32], lanes: &mut [Lane<'_>], out: &mut [f32]) {
    run(cpu, shape, inputs, decay, Rule::Delta { beta }, lanes, out);
}

/// What is written to the state.
#[derive(Clone, Copy)]
enum Rule<'a> {
    /// The value, for as long as the step is.
    Scan { dt: &'a [f32], skip: &'a [f32] },
    /// What it lacks to the value.
    Delta { beta: &'a [f32] },
}

fn run(cpu: Cpu<'_>, shape: &Shape, inputs: Inputs<'_>, decay: &[f32], rule: Rule<'_>, lanes: &mut [Lane<'_>], out: &mut [f32]) {
    let Shape { key_heads, heads, keys, values, .. } = *shape;
    let (starts, tokens) = starts(lanes);
    if tokens == 0 {
        return;
    }
    assert!(key_heads > 0 && heads > 0 && heads.is_multiple_of(key_heads) && keys > 0 && values > 0, "{shape:?}");
    let key_width = key_heads * keys;
    assert!(inputs.q.len() == tokens * key_width && inputs.k.len() == tokens * key_width, "{tokens} tokens, {} queries", inputs.q.len());
    assert!(inputs.v.len() == tokens * heads * values && out.len() == inputs.v.len(), "{tokens} tokens, {} values", inputs.v.len());
    let (Rule::Scan { dt: factors, .. } | Rule::Delta { beta: factors }) = rule;
    let fading = decay.len() / factors.len().max(1);
    assert!(factors.len() == tokens * heads && decay.len() == factors.len() * fading, "{} factors", factors.len());
    assert!(fading == 1 || fading == keys, "{fading} decays of {keys} keys");
    let matrix = values.next_multiple_of(PANEL) * keys;
    let outs = Disjoint::new(out, heads * values, values);
    let lanes: SmallVec<[_; FEW]> = lanes
        .iter_mut()
        .zip(starts)
        .map(|(lane, start)| {
            let size = lane.state.size;
            assert!((size.heads, size.keys, size.values) == (heads, keys, values), "{size:?} for {shape:?}");
            let marks = lane.marks.iter_mut().map(|(after, kept)| {
                assert!(kept.size == size, "{:?} for a mark of {size:?}", kept.size);
                (start + *after, Disjoint::new(&mut kept.memory, matrix, matrix))
            });
            let marks: Vec<_> = marks.collect();
            (start..start + lane.tokens, Disjoint::new(&mut lane.state.memory, matrix, matrix), marks)
        })
        .collect();
    cpu.parallel(lanes.len() * heads, &|i| {
        let (head, (tokens, memory, marks)) = (i % heads, &lanes[i / heads]);
        let mut memory = memory.take(head..head + 1, 0);
        let memory = memory.row(0);
        let walk = |tokens: Range<usize>, memory: &mut [f32]| {
            let (start, out) = (tokens.start, outs.take(tokens, head));
            match fading {
                1 => vectorize(cpu.level, Head { shape, inputs, fades: ByHead(decay), rule, head, start, memory, out }),
                _ => vectorize(cpu.level, Head { shape, inputs, fades: ByKey(decay), rule, head, start, memory, out }),
            }
        };
        let mut from = tokens.start;
        for (mark, kept) in marks {
            walk(from..*mark, memory);
            kept.take(head..head + 1, 0).row(0).copy_from_slice(memory);
            from = *mark;
        }
        walk(from..tokens.end, memory);
    });
}

/// One head of one lane.
struct Head<'a, F> {
    shape: &'a Shape,
    inputs: Inputs<'a>,
    fades: F,
    rule: Rule<'a>,
    head: usize,
    start: usize,
    memory: &'a mut [f32],
    out: Tile<'a, f32>,
}

/// What is left of S after a token.
trait Fade: Copy {
    /// Of some columns of a row.
    fn apply<I: Isa>(self, isa: I, row: usize, s: I::F) -> I::F;
}

/// The decays of one head, to be had token by token. (Closures would not inherit the instruction set's features.)
trait Fades: Copy {
    type Fade: Fade;
    fn at(self, shape: &Shape, head: usize, t: usize) -> Self::Fade;
}

/// One decay a head, `[tokens, heads]`.
#[derive(Clone, Copy)]
struct ByHead<'a>(&'a [f32]);

#[derive(Clone, Copy)]
struct Uniform(f32);

impl Fades for ByHead<'_> {
    type Fade = Uniform;

    #[inline(always)]
    fn at(self, shape: &Shape, head: usize, t: usize) -> Uniform {
        Uniform(self.0[t * shape.heads + head])
    }
}

impl Fade for Uniform {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, _: usize, s: I::F) -> I::F {
        isa.mul(isa.splat(self.0), s)
    }
}

/// One decay a key, `[tokens, heads, keys]`.
#[derive(Clone, Copy)]
struct ByKey<'a>(&'a [f32]);

#[derive(Clone, Copy)]
struct Each<'a>(&'a [f32]);

impl<'a> Fades for ByKey<'a> {
    type Fade = Each<'a>;

    #[inline(always)]
    fn at(self, shape: &Shape, head: usize, t: usize) -> Each<'a> {
        Each(&self.0[(t * shape.heads + head) * shape.keys..][..shape.keys])
    }
}

impl Fade for Each<'_> {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, row: usize, s: I::F) -> I::F {
        isa.mul(isa.splat(self.0[row]), s)
    }
}

/// All of it.
#[derive(Clone, Copy)]
struct Whole;

impl Fade for Whole {
    #[inline(always)]
    fn apply<I: Isa>(self, _: I, _: usize, s: I::F) -> I::F {
        s
    }
}

/// What one token brings.
#[derive(Clone, Copy)]
struct Token<'a, F> {
    q: &'a [f32],
    k: &'a [f32],
    fade: F,
}

impl<F: Fades> Op for Head<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        // Vectors of a panel's row, as a constant.
        match PANEL / I::LANES {
            2 => self.walk::<I, 2>(isa),
            4 => self.walk::<I, 4>(isa),
            _ => self.walk::<I, 8>(isa),
        }
    }
}

impl<'a, F: Fades> Head<'a, F> {
    /// Panel by panel down the tokens.
    #[inline(always)]
    fn walk<I: Isa, const C: usize>(mut self, isa: I) {
        let Shape { keys, values, .. } = *self.shape;
        if self.out.rows() == 0 {
            return;
        }
        let memory = std::mem::take(&mut self.memory);
        for (i, panel) in memory.chunks_exact_mut(keys * PANEL).enumerate() {
            let rows = &mut panel.as_chunks_mut::<PANEL>().0[..keys];
            let columns = i * PANEL..values.min((i + 1) * PANEL);
            match self.rule {
                Rule::Scan { dt, skip } => self.scan::<I, C>(isa, rows, &columns, dt, skip),
                Rule::Delta { beta } => self.delta::<I, C>(isa, rows, &columns, beta),
            }
        }
    }

    #[inline(always)]
    fn scan<I: Isa, const C: usize>(&mut self, isa: I, rows: &mut [[f32; PANEL]], columns: &Range<usize>, dt: &[f32], skip: &[f32]) {
        let skip = isa.splat(skip[self.head]);
        for t in 0..self.out.rows() {
            let (v, dt) = (self.value::<I, C>(isa, t, columns), isa.splat(self.factor(t, dt)));
            let mut d = v;
            for c in 0..C {
                d[c] = isa.mul(dt, v[c]);
            }
            let mut o = write(isa, rows, self.token(t), d);
            for c in 0..C {
                o[c] = isa.fma(skip, v[c], o[c]);
            }
            store(isa, o, &mut self.out.row(t)[columns.clone()]);
        }
    }

    /// Between tokens S is what the next one leaves of it already.
    #[inline(always)]
    fn delta<I: Isa, const C: usize>(&mut self, isa: I, rows: &mut [[f32; PANEL]], columns: &Range<usize>, beta: &[f32]) {
        let (count, first) = (self.out.rows(), self.token(0));
        let mut p = recall(isa, rows, first);
        if count > 1 {
            fade::<I, _, C>(isa, rows, first.fade);
        }
        for t in 0..count {
            let (v, beta, now) = (self.value::<I, C>(isa, t, columns), isa.splat(self.factor(t, beta)), self.token(t));
            let mut d = v;
            for c in 0..C {
                d[c] = isa.mul(beta, isa.sub(v[c], p[c]));
            }
            let o;
            if t + 1 < count {
                (o, p) = write_and_recall(isa, rows, now, d, self.token(t + 1));
            } else if count > 1 {
                o = write(isa, rows, Token { q: now.q, k: now.k, fade: Whole }, d);
            } else {
                o = write(isa, rows, first, d);
            }
            store(isa, o, &mut self.out.row(t)[columns.clone()]);
        }
    }

    /// The `t`th token of the walk.
    #[inline(always)]
    fn token(&self, t: usize) -> Token<'a, F::Fade> {
        let (Shape { key_heads, keys, .. }, t) = (*self.shape, self.start + t);
        let at = (t * key_heads + self.shape.key_head(self.head)) * keys;
        Token { q: &self.inputs.q[at..][..keys], k: &self.inputs.k[at..][..keys], fade: self.fades.at(self.shape, self.head, t) }
    }

    /// Its value, up to a panel's row, zeros beyond.
    #[inline(always)]
    fn value<I: Isa, const C: usize>(&self, isa: I, t: usize, columns: &Range<usize>) -> [I::F; C] {
        let Shape { heads, values, .. } = *self.shape;
        let v = &self.inputs.v[((self.start + t) * heads + self.head) * values..][columns.clone()];
        let mut row = [isa.zero(); C];
        for c in 0..C {
            row[c] = isa.load_some(v.get(c * I::LANES..).unwrap_or_default());
        }
        row
    }

    /// Its own of the factors `[tokens, heads]`.
    #[inline(always)]
    fn factor(&self, t: usize, of: &[f32]) -> f32 {
        of[(self.start + t) * self.shape.heads + self.head]
    }
}

#[inline(always)]
fn store<I: Isa, const C: usize>(isa: I, row: [I::F; C], out: &mut [f32]) {
    for c in 0..C {
        isa.store_some(row[c], out.get_mut(c * I::LANES..).unwrap_or_default());
    }
}

/// `S = a·S`
#[inline(always)]
fn fade<I: Isa, F: Fade, const C: usize>(isa: I, rows: &mut [[f32; PANEL]], fade: F) {
    for (i, row) in rows.iter_mut().enumerate() {
        for c in 0..C {
            let part = &mut row[c * I::LANES..];
            isa.store(fade.apply(isa, i, isa.load(part)), part);
        }
    }
}

/// `kᵀ(a·S)`
#[inline(always)]
fn recall<I: Isa, const C: usize>(isa: I, rows: &[[f32; PANEL]], token: Token<'_, impl Fade>) -> [I::F; C] {
    let mut p = [isa.zero(); C];
    for (i, (row, k)) in rows.iter().zip(token.k).enumerate() {
        let k = isa.splat(*k);
        for c in 0..C {
            p[c] = isa.fma(k, token.fade.apply(isa, i, isa.load(&row[c * I::LANES..])), p[c]);
        }
    }
    p
}

/// `S = a·S + k ⊗ d`; gives `qᵀS`.
#[inline(always)]
fn write<I: Isa, const C: usize>(isa: I, rows: &mut [[f32; PANEL]], token: Token<'_, impl Fade>, d: [I::F; C]) -> [I::F; C] {
    let mut o = [isa.zero(); C];
    for (i, (row, (q, k))) in rows.iter_mut().zip(token.q.iter().zip(token.k)).enumerate() {
        let (q, k) = (isa.splat(*q), isa.splat(*k));
        for c in 0..C {
            let part = &mut row[c * I::LANES..];
            let s = isa.fma(k, d[c], token.fade.apply(isa, i, isa.load(part)));
            o[c] = isa.fma(q, s, o[c]);
            isa.store(s, part);
        }
    }
    o
}

/// `S = S + k ⊗ d` and `qᵀS`; then, in the same pass, what the next token leaves of S, and what it recalls.
#[inline(always)]
fn write_and_recall<I: Isa, F: Fade, const C: usize>(
    isa: I,
    rows: &mut [[f32; PANEL]],
    now: Token<'_, F>,
    d: [I::F; C],
    next: Token<'_, F>,
) -> ([I::F; C], [I::F; C]) {
    let (mut o, mut p) = ([isa.zero(); C], [isa.zero(); C]);
    for (i, (row, ((q, k), then))) in rows.iter_mut().zip(now.q.iter().zip(now.k).zip(next.k)).enumerate() {
        let (q, k, then) = (isa.splat(*q), isa.splat(*k), isa.splat(*then));
        for c in 0..C {
            let part = &mut row[c * I::LANES..];
            let s = isa.fma(k, d[c], isa.load(part));
            o[c] = isa.fma(q, s, o[c]);
            let s = next.fade.apply(isa, i, s);
            p[c] = isa.fma(then, s, p[c]);
            isa.store(s, part);
        }
    }
    (o, p)
}
