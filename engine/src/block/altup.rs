//! AltUp and LAuReL: a residual stream of several strands of which a layer works on one, and predicts and corrects the others;
//! and a low-rank map beside attention (Baykal et al. 2023, "Alternating Updates"; Menghani et al. 2024, "LAuReL"; Gemma 3n).
//!
//! ```text
//! m(v) = tanh(R·norm(v) / width)
//! p = x + P(m(x[0]))·x                                        every strand predicted of all; x [strands, width]
//! h = pre(p[0]);  r = (p[0] + post(mixer(h)) + h + norm(L₂·L₁·h)) / √2;  r += post_ffn(ffn(pre_ffn(r)))
//! x = p + (1 + C·m(r)) ⊗ (r − p[0])                           and corrected by how wrong the first one was
//! x[1..] += input(scale · x[0])                               each layer's own vector of the token
//! ```
//! The other strands begin as maps of the first, and end as maps that are added to it, each of the first one's magnitude.
//! Source: `modeling_gemma3n.py` of Hugging Face transformers (`Gemma3nTextAltUp`, `Gemma3nTextLaurelBlock`).

use crate::backend::{Backend, HeadWeights, Linear, Norm, Stored};
use crate::block::Work;
use crate::error::{Error, Fault, Result};
use crate::weights::Loader;
use hob_kernels::Format;
use std::fmt;

/// How a layer meets the strands.
pub struct AltUp<B: Backend> {
    /// Strands.
    count: usize,
    width: usize,
    router_norm: Norm<B>,
    /// `[strands, width]`
    router: Linear<B>,
    /// Of the coefficients of a prediction those for the first strand, `[strands, strands]`.
    first: Linear<B>,
    /// Those of all strands, each strand's own weight of one in them, `[from · to, strands]`.
    all: Linear<B>,
    /// `[strands, strands]`, its bias one.
    correct: Linear<B>,
    /// On the first strand, before the layer's vector of the token comes in, `[width]`.
    scale: B::Vector,
    laurel: [Linear<B>; 2],
    laurel_norm: Norm<B>,
}

/// What stays from a prediction to its correction.
pub struct Held<B: Backend> {
    /// m(v).
    modes: B::Tensor,
    /// Weights of the strands in the prediction of the first.
    first: B::Tensor,
    /// In that of all of them.
    all: B::Tensor,
    /// How much of the error each strand gets.
    correct: B::Tensor,
    /// Weights side by side.
    beside: B::Tensor,
    /// What LAuReL gives, `[tokens, width]`.
    laurel: B::Tensor,
    /// r, `[tokens, width]`.
    pub result: B::Tensor,
}

impl<B: Backend> Default for Held<B> {
    fn default() -> Held<B> {
        let tensor = B::Tensor::default;
        Held { modes: tensor(), first: tensor(), all: tensor(), correct: tensor(), beside: tensor(), laurel: tensor(), result: tensor() }
    }
}

impl<B: Backend> AltUp<B> {
    /// That of layer `index`, where the model has it.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<Option<AltUp<B>>> {
        let Some(n) = loader.config.altup_strands else { return Ok(None) };
        let (width, name) = (loader.config.width, |part: &str| format!("blk.{index}.{part}"));
        let norm = |part: &str| loader.norm(&name(part), width)?.ok_or_else(|| loader.missing(&name(&format!("{part}.weight"))));
        let coefficients = name("altup_predict_coef.weight");
        // [to, from] of each mode.
        let raw = loader.numbers(&coefficients, &[n, n * n])?.ok_or_else(|| loader.missing(&coefficients))?;
        let row = |from: usize, to: usize| &raw[(to * n + from) * n..][..n];
        let one = |from: usize, to: usize| if from == to { 1.0 } else { 0.0 };
        let pairs = || (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
        let all: Vec<f32> = pairs().flat_map(|(from, to)| row(from, to)).copied().collect();
        let first: Vec<f32> = (0..n).flat_map(|from| row(from, 0)).copied().collect();
        let small = |values: &[f32], bias: Vec<f32>| -> Result<Linear<B>> {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let stored = Stored { name: coefficients.clone(), format: Format::F32, rows: values.len() / n, cols: n, bytes: bytes.into() };
            Ok(Linear { weight: loader.backend.weight(stored)?, bias: Some(loader.backend.vector(bias)?) })
        };
        let rank = loader.rows(&name("laurel_l.weight")).ok_or_else(|| loader.missing(&name("laurel_l.weight")))?;
        let scale = name("altup_correct_scale.weight");
        let mut correct = loader.linear(&name("altup_correct_coef"), n, n)?;
        correct.bias = Some(loader.backend.vector(vec![1.0; n])?);
        Ok(Some(AltUp {
            count: n,
            width,
            router_norm: norm("altup_router_norm")?,
            router: loader.linear(&name("altup_router"), n, width)?,
            first: small(&first, (0..n).map(|from| one(from, 0)).collect())?,
            all: small(&all, pairs().map(|(from, to)| one(from, to)).collect())?,
            correct,
            scale: loader.vector(&scale, width)?.ok_or_else(|| loader.missing(&scale))?,
            laurel: [loader.linear(&name("laurel_l"), rank, width)?, loader.linear(&name("laurel_r"), width, rank)?],
            laurel_norm: norm("laurel_post_norm")?,
        }))
    }

    /// `held.modes = m(v)`
    fn modes(&self, backend: &B, step: &mut B::Step, held: &mut Held<B>, v: &B::Tensor, h: &mut B::Tensor) {
        backend.norm(step, v, &self.router_norm, h);
        backend.linear(step, h, &mut [(&self.router, &mut held.modes)]);
        backend.scale(step, &mut held.modes, 1.0 / self.width as f32);
        backend.softcap(step, &mut held.modes, 1.0); // 1 · tanh(x / 1)
    }

    /// `out = p[0]`
    pub fn predict(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor, out: &mut B::Tensor) {
        let Work { step, altup: held, h, .. } = work;
        backend.columns(step, x, 0, self.width, out);
        self.modes(backend, step, held, out, h);
        backend.linear(step, &held.modes, &mut [(&self.first, &mut held.first), (&self.all, &mut held.all)]);
        backend.mix_strands(step, x, self.count, &held.first, out);
    }

    /// What goes beside attention, of the same h.
    pub fn beside(&self, backend: &B, work: &mut Work<B>) {
        let Work { step, altup: held, h, gate, up, .. } = work;
        backend.linear(step, h, &mut [(&self.laurel[0], gate)]);
        backend.linear(step, gate, &mut [(&self.laurel[1], up)]);
        backend.norm(step, up, &self.laurel_norm, &mut held.laurel);
        backend.add(step, &mut held.laurel, h);
    }

    /// `r = (p + y + what goes beside) / √2`, y what attention gave.
    pub fn meet(&self, backend: &B, work: &mut Work<B>, p: &B::Tensor, y: &B::Tensor) {
        let Work { step, altup: held, .. } = work;
        backend.copy(step, p, &mut held.result);
        backend.add(step, &mut held.result, y);
        backend.add(step, &mut held.result, &held.laurel);
        backend.scale(step, &mut held.result, std::f32::consts::FRAC_1_SQRT_2);
    }

    /// The strands corrected by r; `p` becomes the error, then the first strand, scaled.
    pub fn correct(&self, backend: &B, work: &mut Work<B>, x: &mut B::Tensor, p: &mut B::Tensor) {
        let Work { step, altup: held, h, strands, .. } = work;
        let result = std::mem::take(&mut held.result);
        self.modes(backend, step, held, &result, h);
        backend.linear(step, &held.modes, &mut [(&self.correct, &mut held.correct)]);
        backend.scale(step, p, -1.0);
        backend.add(step, p, &result);
        held.result = result;
        backend.join(step, &held.correct, &held.all, 1, &mut held.beside);
        backend.join(step, &held.first, &held.beside, 1, strands);
        backend.add_to_strands(step, x, self.count, strands, p);
        backend.columns(step, x, 0, self.width, p);
        backend.scale_by(step, p, &self.scale);
    }

    /// Adds the layer's vector to all strands but the first.
    pub fn add_input(&self, backend: &B, step: &mut B::Step, x: &mut B::Tensor, input: &B::Tensor) {
        (1..self.count).for_each(|strand| backend.add_to_columns(step, x, strand * self.width, input));
    }
}

impl<B: Backend> fmt::Display for AltUp<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the first of {} strands, LAuReL beside", self.count)
    }
}

/// How many strands a model of this kind has.
fn strands<B: Backend>(loader: &Loader<'_, B>) -> Result<Option<usize>> {
    let Some(count) = loader.config.altup_strands else { return Ok(None) };
    let most = hob_kernels::ops::STRANDS;
    if (2..=most).contains(&count) {
        return Ok(Some(count));
    }
    let fault = Fault::at(format!("{}.altup.num_inputs", loader.config.architecture));
    Err(Error::Unsupported(fault.expected(format!("2 to {most} strands")).found(count)))
}

/// Where the strands come from.
pub struct Spread<B: Backend> {
    count: usize,
    /// `[(strands - 1) · width, width]`
    others: Linear<B>,
}

impl<B: Backend> Spread<B> {
    /// That of a model that has strands of this kind.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for more strands than there is code for; where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>) -> Result<Option<Spread<B>>> {
        let Some(count) = strands(loader)? else { return Ok(None) };
        let width = loader.config.width;
        let weight = loader.stack("altup_proj.weight", count - 1, width, width)?;
        Ok(Some(Spread { count, others: Linear { weight, bias: None } }))
    }

    /// `x` becomes all strands, of the first.
    pub fn forward(&self, backend: &B, step: &mut B::Step, x: &mut B::Tensor, y: &mut B::Tensor, z: &mut B::Tensor) {
        backend.linear(step, x, &mut [(&self.others, y)]);
        backend.rescale(step, y, x, self.count - 1);
        backend.join(step, x, y, 1, z);
        std::mem::swap(x, z);
    }
}

/// Where the strands go.
pub struct Merge<B: Backend> {
    count: usize,
    width: usize,
    /// `[(strands - 1) · width, width]`, a strand each.
    others: HeadWeights<B>,
}

impl<B: Backend> Merge<B> {
    /// That of a model that has strands of this kind.
    ///
    /// # Errors
    /// As [`Spread::load`].
    pub fn load(loader: &Loader<'_, B>) -> Result<Option<Merge<B>>> {
        let Some(count) = strands(loader)? else { return Ok(None) };
        let width = loader.config.width;
        Ok(Some(Merge { count, width, others: loader.by_head("altup_unembd_proj.weight", count - 1, width, width)? }))
    }

    /// `x` becomes the mean of the strands.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, x: &mut B::Tensor) {
        let Work { step, altup: Held { result, laurel, .. }, h, .. } = work;
        let (count, width) = (self.count, self.width);
        backend.columns(step, x, width, (count - 1) * width, h);
        backend.linear_by_head(step, h, &self.others, laurel);
        backend.columns(step, x, 0, width, result);
        backend.rescale(step, laurel, result, count - 1);
        for strand in 1..count {
            backend.columns(step, laurel, (strand - 1) * width, width, h);
            backend.add(step, result, h);
        }
        backend.scale(step, result, 1.0 / count as f32);
        std::mem::swap(x, result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{Paper, linear, norm};

    fn biased(weight: &[f32], bias: &[f32]) -> Linear<CpuBackend> {
        Linear { bias: Some(bias.to_vec()), ..linear(weight, 2) }
    }

    /// Two strands of one channel. A norm of one channel is its sign, so that m(v) = (tanh(½ ln 3), 0) = (½, 0) for every v > 0.
    fn altup() -> AltUp<CpuBackend> {
        AltUp {
            count: 2,
            width: 1,
            router_norm: norm(&[1.0]),
            router: linear(&[3f32.ln() / 2.0, 0.0], 1),
            first: biased(&[2.0, 0.0, 4.0, 0.0], &[1.0, 0.0]),
            all: biased(&[2.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0], &[1.0, 0.0, 0.0, 1.0]),
            correct: biased(&[1.0, 0.0, 2.0, 0.0], &[1.0, 1.0]),
            scale: vec![10.0],
            laurel: [linear(&[3.0], 1), linear(&[1.0], 1)],
            laurel_norm: norm(&[7.0]),
        }
    }

    /// x = (3, 5). Of the first strand (½·2 + 1) = 2, of the second ½·4 = 2 go into the first: p = 16; the second stays 5.
    /// r = 20 is 4 more than p: of that (½·1 + 1) and (½·2 + 1) go to the strands, 16 + 6 and 5 + 8. The first one, scaled: 220.
    #[test]
    fn predicted_and_corrected_by_hand() {
        let altup = altup();
        let (mut paper, mut p) = (Paper::new(&[0.0], 1, &[]), Default::default());
        let mut x = paper.tensor(&[3.0, 5.0]);
        altup.predict(&paper.backend, &mut paper.work, &x, &mut p);
        paper.near(&p, &[16.0]);
        paper.work.altup.result = paper.tensor(&[20.0]);
        altup.correct(&paper.backend, &mut paper.work, &mut x, &mut p);
        paper.near(&x, &[22.0, 13.0]);
        paper.near(&p, &[220.0]);
    }

    /// Beside attention: h = 2 by 3 and 1 is 6, by its norm 7; 2 + 7 = 9. With p = 1 and y = 2: 12/√2.
    #[test]
    fn laurel_by_hand() {
        let altup = altup();
        let mut paper = Paper::new(&[2.0], 1, &[]);
        let (p, y) = (paper.tensor(&[1.0]), paper.tensor(&[2.0]));
        altup.beside(&paper.backend, &mut paper.work);
        altup.meet(&paper.backend, &mut paper.work, &p, &y);
        let result = std::mem::take(&mut paper.work.altup.result);
        paper.near(&result, &[12.0 / 2f64.sqrt()]);
    }
}
