//! Heads that write to and read from a matrix: a state space model's scan, and the delta rule.

use super::{Inputs, Lane, PANEL, Shape, starts};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::pool::{Disjoint, Tile};
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
    let lanes: Vec<_> = lanes
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

/// What is left of each row of S after a token.
trait Fade: Copy {
    fn of<I: Isa>(self, isa: I, row: usize) -> I::F;
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
    fn of<I: Isa>(self, isa: I, _: usize) -> I::F {
        isa.splat(self.0)
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
    fn of<I: Isa>(self, isa: I, row: usize) -> I::F {
        isa.splat(self.0[row])
    }
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

impl<F: Fades> Head<'_, F> {
    /// Panel by panel down the tokens.
    #[inline(always)]
    fn walk<I: Isa, const C: usize>(mut self, isa: I) {
        let Shape { key_heads, heads, keys, values, .. } = *self.shape;
        let key_head = self.shape.key_head(self.head);
        for (i, panel) in self.memory.chunks_exact_mut(keys * PANEL).enumerate() {
            let rows = panel.as_chunks_mut::<PANEL>().0;
            let columns = i * PANEL..values.min((i + 1) * PANEL);
            for token in 0..self.out.rows() {
                let t = self.start + token;
                let key = (t * key_heads + key_head) * keys;
                let (q, k) = (&self.inputs.q[key..][..keys], &self.inputs.k[key..][..keys]);
                let v = &self.inputs.v[(t * heads + self.head) * values..][columns.clone()];
                let (v, fade) = (load::<I, C>(isa, v), self.fades.at(self.shape, self.head, t));
                let mut d = v;
                let o = match self.rule {
                    Rule::Scan { dt, skip } => {
                        let (dt, skip) = (isa.splat(dt[t * heads + self.head]), isa.splat(skip[self.head]));
                        for c in 0..C {
                            d[c] = isa.mul(dt, v[c]);
                        }
                        let mut o = write(isa, rows, q, k, fade, d);
                        for c in 0..C {
                            o[c] = isa.fma(skip, v[c], o[c]);
                        }
                        o
                    }
                    Rule::Delta { beta } => {
                        let beta = isa.splat(beta[t * heads + self.head]);
                        let p = recall::<I, C>(isa, rows, k, fade);
                        for c in 0..C {
                            d[c] = isa.mul(beta, isa.sub(v[c], p[c]));
                        }
                        write(isa, rows, q, k, fade, d)
                    }
                };
                store(isa, o, &mut self.out.row(token)[columns.clone()]);
            }
        }
    }
}

/// Up to a panel's row, zeros beyond.
#[inline(always)]
fn load<I: Isa, const C: usize>(isa: I, x: &[f32]) -> [I::F; C] {
    let mut whole = [0f32; PANEL];
    whole[..x.len()].copy_from_slice(x);
    let mut row = [isa.zero(); C];
    for c in 0..C {
        row[c] = isa.load(&whole[c * I::LANES..]);
    }
    row
}

#[inline(always)]
fn store<I: Isa, const C: usize>(isa: I, row: [I::F; C], out: &mut [f32]) {
    let mut whole = [0f32; PANEL];
    for c in 0..C {
        isa.store(row[c], &mut whole[c * I::LANES..]);
    }
    out.copy_from_slice(&whole[..out.len()]);
}

/// `kᵀ(a·S)`
#[inline(always)]
fn recall<I: Isa, const C: usize>(isa: I, rows: &[[f32; PANEL]], k: &[f32], fade: impl Fade) -> [I::F; C] {
    let mut p = [isa.zero(); C];
    for (i, (row, k)) in rows.iter().zip(k).enumerate() {
        let (a, k) = (fade.of(isa, i), isa.splat(*k));
        let mut s = [isa.zero(); C];
        for c in 0..C {
            s[c] = isa.load(&row[c * I::LANES..]);
        }
        for c in 0..C {
            p[c] = isa.fma(k, isa.mul(a, s[c]), p[c]);
        }
    }
    p
}

/// `S = a·S + k ⊗ d`; gives `qᵀS`.
#[inline(always)]
fn write<I: Isa, const C: usize>(isa: I, rows: &mut [[f32; PANEL]], q: &[f32], k: &[f32], fade: impl Fade, d: [I::F; C]) -> [I::F; C] {
    let mut o = [isa.zero(); C];
    for (i, (row, (q, k))) in rows.iter_mut().zip(q.iter().zip(k)).enumerate() {
        let (a, q, k) = (fade.of(isa, i), isa.splat(*q), isa.splat(*k));
        let mut s = [isa.zero(); C];
        for c in 0..C {
            s[c] = isa.load(&row[c * I::LANES..]);
        }
        for c in 0..C {
            s[c] = isa.fma(k, d[c], isa.mul(a, s[c]));
            o[c] = isa.fma(q, s[c], o[c]);
        }
        for c in 0..C {
            isa.store(s[c], &mut row[c * I::LANES..]);
        }
    }
    o
}
