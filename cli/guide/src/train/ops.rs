//! The steps of a transformer that candle has no gradient for, or only in many small operations: norm, attention, gate, loss.
//!
//! ```text
//! norm       y = x·r·w,  r = 1/√(mean x² + ε)
//! attention  per segment and head: o = softmax(rope(q)·rope(k)ᵀ/√d + causal)·v;  input rows are [q heads | k heads | v heads]
//! gate       y = silu(g)·u;  input rows are [g | u]
//! loss       mean over rows of -ln softmax(z)[target]
//! ```
//! Rotary pairs are neighbours (2i, 2i+1), as GGUF's `llama` architecture has them. What the backward pass needs is computed again.
//!
//! Source: Vaswani et al. 2017; Zhang & Sennrich 2019 (RMSNorm); Su et al. 2021 (RoPE); Shazeer 2020 (GLU variants).

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// The numbers of a contiguous tensor.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((from, to))) => Ok(&all[from..to]),
        _ => bail!("expected contiguous f32"),
    }
}

fn vector(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest = a.len() / 16 * 16;
    sums.iter().sum::<f32>() + a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b).sum::<f32>()
}

fn add_scaled(to: &mut [f32], scale: f32, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += scale * from);
}

/// Root-mean-square norm of rows.
pub(crate) struct Norm {
    pub(crate) epsilon: f32,
}

impl Norm {
    fn scale(&self, row: &[f32]) -> f32 {
        1.0 / (dot(row, row) / row.len() as f32 + self.epsilon).sqrt()
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (numbers(x, lx)?, numbers(w, lw)?);
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(w.len()) {
            let scale = self.scale(row);
            y.extend(row.iter().zip(w).map(|(x, w)| x * scale * w));
        }
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (xs, ws, gs) = (vector(x)?, vector(w)?, vector(grad)?);
        let (mut dx, mut dw) = (Vec::with_capacity(xs.len()), vec![0f32; ws.len()]);
        for (row, grad) in xs.chunks_exact(ws.len()).zip(gs.chunks_exact(ws.len())) {
            let scale = self.scale(row);
            let weighted: Vec<f32> = grad.iter().zip(&ws).map(|(g, w)| g * w).collect();
            let mean = dot(&weighted, row) / row.len() as f32 * scale * scale;
            dx.extend(row.iter().zip(&weighted).map(|(x, g)| scale * (g - x * mean)));
            dw.iter_mut().zip(row.iter().zip(grad)).for_each(|(dw, (x, g))| *dw += g * x * scale);
        }
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), Some(Tensor::from_vec(dw, w.shape(), w.device())?)))
    }
}

/// The gate of a feed-forward block.
pub(crate) struct Gate;

impl CustomOp1 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, twice) = layout.shape().dims2()?;
        let mut y = Vec::with_capacity(rows * twice / 2);
        for row in numbers(x, layout)?.chunks_exact(twice) {
            let (gate, up) = row.split_at(twice / 2);
            y.extend(gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u));
        }
        Ok((CpuStorage::F32(y), Shape::from((rows, twice / 2))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let twice = x.dims2()?.1;
        let (xs, gs) = (vector(x)?, vector(grad)?);
        let mut dx = vec![0f32; xs.len()];
        for ((row, grad), out) in xs.chunks_exact(twice).zip(gs.chunks_exact(twice / 2)).zip(dx.chunks_exact_mut(twice)) {
            let ((gate, up), (dgate, dup)) = (row.split_at(twice / 2), out.split_at_mut(twice / 2));
            for at in 0..grad.len() {
                let sigmoid = 1.0 / (1.0 + (-gate[at]).exp());
                dgate[at] = grad[at] * up[at] * sigmoid * (1.0 + gate[at] * (1.0 - sigmoid));
                dup[at] = grad[at] * gate[at] * sigmoid;
            }
        }
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Mean negative log-likelihood of the targets.
pub(crate) struct Loss {
    pub(crate) targets: Vec<u32>,
}

/// Probabilities, in place; the logarithm of what they were divided by, and the maximum that was taken off.
fn softmax(row: &mut [f32]) -> f32 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|z| *z = (*z - most).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|z| *z /= sum);
    sum.ln() + most
}

impl CustomOp1 for Loss {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, vocabulary) = layout.shape().dims2()?;
        let mut total = 0f64;
        for (row, target) in numbers(logits, layout)?.chunks_exact(vocabulary).zip(&self.targets) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = row.iter().map(|z| (z - most).exp()).sum();
            total += f64::from(sum.ln() + most - row[*target as usize]);
        }
        Ok((CpuStorage::F32(vec![(total / rows as f64) as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, vocabulary) = logits.dims2()?;
        let scale = grad.to_scalar::<f32>()? / rows as f32;
        let mut out = vector(logits)?;
        for (row, target) in out.chunks_exact_mut(vocabulary).zip(&self.targets) {
            softmax(row);
            row[*target as usize] -= 1.0;
            row.iter_mut().for_each(|p| *p *= scale);
        }
        Ok(Some(Tensor::from_vec(out, logits.shape(), logits.device())?))
    }
}

/// Causal attention of segments that do not see each other.
pub(crate) struct Attention {
    pub(crate) starts: Vec<usize>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) base: f32,
}

/// Which way positions turn.
#[derive(Clone, Copy)]
enum Turn {
    On,
    Back,
}

/// One head of one segment, rows side by side: `[tokens, head_dim]`.
struct Head {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Attention {
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Turns the pairs of rows by their position in the segment.
    fn rope(&self, rows: &mut [f32], angles: &[(f32, f32)], turn: Turn) {
        let half = self.head_dim / 2;
        for (position, row) in rows.chunks_exact_mut(self.head_dim).enumerate() {
            for (pair, (cos, sin)) in row.chunks_exact_mut(2).zip(&angles[position * half..]) {
                let sin = match turn {
                    Turn::On => *sin,
                    Turn::Back => -sin,
                };
                let (a, b) = (pair[0], pair[1]);
                (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
            }
        }
    }

    fn angles(&self, tokens: usize) -> Vec<(f32, f32)> {
        let half = self.head_dim / 2;
        let angle = |position: usize, pair: usize| position as f64 * f64::from(self.base).powf(-(pair as f64) / half as f64);
        (0..tokens * half).map(|at| angle(at / half, at % half)).map(|angle| (angle.cos() as f32, angle.sin() as f32)).collect()
    }

    fn column(&self, rows: &[f32], width: usize, head: usize) -> Vec<f32> {
        rows.chunks_exact(width).flat_map(|row| &row[head * self.head_dim..(head + 1) * self.head_dim]).copied().collect()
    }

    fn head(&self, rows: &[f32], head: usize, angles: &[(f32, f32)]) -> Head {
        let kv = self.heads + head / (self.heads / self.kv_heads);
        let of = |head| self.column(rows, self.width(), head);
        let (mut q, mut k) = (of(head), of(kv));
        self.rope(&mut q, angles, Turn::On);
        self.rope(&mut k, angles, Turn::On);
        Head { q, k, v: of(kv + self.kv_heads) }
    }

    /// The probabilities of one query: those of the tokens up to it.
    fn probabilities(&self, head: &Head, at: usize) -> Vec<f32> {
        let (d, scale) = (self.head_dim, 1.0 / (self.head_dim as f32).sqrt());
        let q = &head.q[at * d..(at + 1) * d];
        let mut row: Vec<f32> = head.k.chunks_exact(d).take(at + 1).map(|k| scale * dot(q, k)).collect();
        softmax(&mut row);
        row
    }

    fn longest(&self) -> usize {
        self.starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, rows, d) = (numbers(x, layout)?, layout.shape().dims2()?.0, self.head_dim);
        let (angles, width) = (self.angles(self.longest()), self.heads * d);
        let mut out = vec![0f32; rows * width];
        for pair in self.starts.windows(2) {
            let (from, tokens) = (pair[0], pair[1] - pair[0]);
            for index in 0..self.heads {
                let head = self.head(&x[from * self.width()..pair[1] * self.width()], index, &angles);
                for at in 0..tokens {
                    let to = (from + at) * width + index * d;
                    let probabilities = self.probabilities(&head, at);
                    probabilities.iter().zip(head.v.chunks_exact(d)).for_each(|(p, v)| add_scaled(&mut out[to..to + d], *p, v));
                }
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((rows, width))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (xs, gs, d, width) = (vector(x)?, vector(grad)?, self.head_dim, self.width());
        let (angles, scale) = (self.angles(self.longest()), 1.0 / (d as f32).sqrt());
        let mut dx = vec![0f32; xs.len()];
        for pair in self.starts.windows(2) {
            let (rows, tokens) = (pair[0] * width..pair[1] * width, pair[1] - pair[0]);
            let grads = &gs[pair[0] * self.heads * d..pair[1] * self.heads * d];
            for index in 0..self.heads {
                let head = self.head(&xs[rows.clone()], index, &angles);
                let dout = self.column(grads, self.heads * d, index);
                let mut turned = Head { q: vec![0.0; tokens * d], k: vec![0.0; tokens * d], v: vec![0.0; tokens * d] };
                for at in 0..tokens {
                    let here = at * d..(at + 1) * d;
                    let probabilities = self.probabilities(&head, at);
                    let g = &dout[here.clone()];
                    let dp: Vec<f32> = head.v.chunks_exact(d).take(at + 1).map(|v| dot(g, v)).collect();
                    let mean = dot(&probabilities, &dp);
                    for (other, (p, dp)) in probabilities.iter().zip(&dp).enumerate() {
                        let there = other * d..(other + 1) * d;
                        let ds = scale * p * (dp - mean);
                        add_scaled(&mut turned.v[there.clone()], *p, g);
                        add_scaled(&mut turned.q[here.clone()], ds, &head.k[there.clone()]);
                        add_scaled(&mut turned.k[there], ds, &head.q[here.clone()]);
                    }
                }
                self.rope(&mut turned.q, &angles, Turn::Back);
                self.rope(&mut turned.k, &angles, Turn::Back);
                let kv = self.heads + index / (self.heads / self.kv_heads);
                for (part, column) in [(&turned.q, index), (&turned.k, kv), (&turned.v, kv + self.kv_heads)] {
                    for (row, from) in dx[rows.clone()].chunks_exact_mut(width).zip(part.chunks_exact(d)) {
                        add_scaled(&mut row[column * d..(column + 1) * d], 1.0, from);
                    }
                }
            }
        }
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Each gradient against the difference quotient, at a few places.
    fn check(shape: (usize, usize), op: impl Fn(&Tensor) -> Result<Tensor>) {
        let numbers: Vec<f32> = (0..shape.0 * shape.1).map(|i| ((i * 7919 % 101) as f32 / 50.0 - 1.0) * 0.9).collect();
        let value = |numbers: &[f32]| -> f64 {
            let x = Tensor::from_vec(numbers.to_vec(), shape, &Device::Cpu).unwrap();
            let y = vector(&op(&x).unwrap()).unwrap();
            y.iter().enumerate().map(|(i, y)| f64::from(*y) * (((i * 31) % 17) as f64 / 8.0 - 1.0)).sum()
        };
        let x = Var::from_tensor(&Tensor::from_vec(numbers.clone(), shape, &Device::Cpu).unwrap()).unwrap();
        let y = op(&x).unwrap();
        let weights: Vec<f32> = (0..y.elem_count()).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.0).collect();
        let total =
            (y.flatten_all().unwrap() * Tensor::from_vec(weights, y.elem_count(), &Device::Cpu).unwrap()).unwrap().sum_all().unwrap();
        let grad = vector(total.backward().unwrap().get(&x).unwrap()).unwrap();
        for at in (0..numbers.len()).step_by(numbers.len() / 23 + 1) {
            let step = 1e-2f32;
            let (mut more, mut less) = (numbers.clone(), numbers.clone());
            more[at] += step;
            less[at] -= step;
            let want = (value(&more) - value(&less)) / f64::from(2.0 * step);
            assert!((want - f64::from(grad[at])).abs() < 0.02 * (1.0 + want.abs()), "at {at}: {want} and {}", grad[at]);
        }
    }

    #[test]
    fn gradients_are_difference_quotients() {
        check((5, 24), |x| x.apply_op1(Gate));
        check((4, 9), |x| x.apply_op1(Loss { targets: vec![1, 8, 0, 3] }));
        let w = Tensor::from_vec((0..16).map(|i| 0.5 + i as f32 / 16.0).collect::<Vec<_>>(), 16, &Device::Cpu).unwrap();
        check((3, 16), |x| x.apply_op2(&w, Norm { epsilon: 1e-5 }));
        check((9, 32), |x| x.apply_op1(Attention { starts: vec![0, 5, 9], heads: 4, kv_heads: 2, head_dim: 4, base: 100.0 }));
    }
}
