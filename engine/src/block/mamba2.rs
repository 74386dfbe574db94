//! Mamba-2's state space mixer (Dao & Gu 2024: Transformers are SSMs).
//!
//! ```text
//! z, x, B, C, dt = h·W_in;   x, B, C = silu(conv(x, B, C));   dt = softplus(dt + bias)
//! S = exp(dt·A)·S + B ⊗ (dt·x);   y = CᵀS + D·x               a state S [state, head] a head; B, C shared by groups of heads
//! out = norm(y ⊙ silu(z)) · W_out                             the norm by groups, or none (Falcon-H1)
//! ```
//! In the words of linear attention, which the back end uses: q, k, v = C, B, x.

use crate::backend::{Backend, Conv, HeadInputs, Linear, Norm, Scan};
use crate::block::Work;
use crate::block::short_conv::convs;
use crate::cache::{Sequence, StateSpec};
use crate::config::NormKind;
use crate::error::{Error, Fault, Result};
use crate::weights::Loader;
use hob_kernels::ops::Activation;
use hob_kernels::recurrent::{KeyHeads, Shape, StateSize};
use std::fmt;

/// One state space mixer.
pub struct Mamba2<B: Backend> {
    z: Linear<B>,
    v: Linear<B>,
    k: Linear<B>,
    q: Linear<B>,
    dt: Linear<B>,
    /// Of v, k and q.
    convs: [Conv<B>; 3],
    scan: Scan<B>,
    norm: Option<Norm<B>>,
    out: Linear<B>,
    size: StateSize,
}

/// A, the rates at which heads forget: `[heads]`, none above 0.
///
/// # Errors
/// Where the tensor is missing or does not fit, or a state would grow without end.
pub fn rates<B: Backend>(loader: &Loader<'_, B>, name: &str, heads: usize) -> Result<Vec<f32>> {
    let rates = loader.values(name, heads)?.ok_or_else(|| loader.missing(name))?;
    match rates.iter().find(|a| !(**a <= 0.0 && a.is_finite())) {
        None => Ok(rates),
        Some(a) => Err(Error::Model(Fault::at(name).expected("-exp(A_log), which is below 0").found(a))),
    }
}

impl<B: Backend> Mamba2<B> {
    /// The mixer of layer `index`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<Mamba2<B>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let ssm = loader.config.ssm()?;
        let (inner, keys) = (ssm.inner, ssm.groups * ssm.state);
        let shape = Shape { key_heads: ssm.groups, heads: ssm.heads, keys: ssm.state, values: inner / ssm.heads, order: KeyHeads::Grouped };
        let [z, v, k, q, dt] = loader.fused(&name("ssm_in"), [inner, inner, keys, keys, ssm.heads], loader.config.width)?;
        let convs = convs(loader, &name("ssm_conv1d"), ssm.taps, 0, [inner, keys, keys], Activation::Silu)?;
        let heads = |part: &str| -> Result<B::Vector> {
            let name = name(part);
            loader.vector(&name, ssm.heads)?.ok_or_else(|| loader.missing(&name))
        };
        // One weight for each channel, but the mean is taken over those of a group.
        let width = inner / ssm.groups;
        let weight = loader.numbers(&name("ssm_norm.weight"), &[width, ssm.groups])?;
        let weight = weight.map(|w| loader.backend.vector(w)).transpose()?;
        Ok(Mamba2 {
            z,
            v,
            k,
            q,
            dt,
            convs,
            scan: Scan {
                shape,
                bias: heads("ssm_dt.bias")?,
                rate: loader.backend.vector(rates(loader, &name("ssm_a"), ssm.heads)?)?,
                skip: heads("ssm_d")?,
            },
            norm: weight.map(|weight| Norm { kind: NormKind::Rms, weight, bias: None, eps: loader.config.eps, width }),
            out: loader.linear(&name("ssm_out"), loader.config.width, inner)?,
            size: StateSize { channels: inner + 2 * keys, past: ssm.taps - 1, heads: ssm.heads, keys: ssm.state, values: shape.values },
        })
    }

    /// The last inputs of the convolutions, and a matrix a head.
    pub fn state(&self) -> StateSpec {
        StateSpec::Recurrent(self.size)
    }

    /// `out = mixer(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B::State>], slot: usize, out: &mut B::Tensor) {
        let Work { step, h, q, k, v, mixed, gate, dt, .. } = work;
        let products = &mut [(&self.z, &mut *gate), (&self.v, &mut *v), (&self.k, &mut *k), (&self.q, &mut *q), (&self.dt, &mut *dt)];
        backend.linear(step, h, products);
        let [of_v, of_k, of_q] = &self.convs;
        backend.conv(step, &mut [(of_v, &mut *v), (of_k, &mut *k), (of_q, &mut *q)], sequences, slot);
        backend.scan(step, &self.scan, HeadInputs { q, k, v, dt }, sequences, slot, mixed);
        backend.glu(step, Activation::Silu, gate, mixed);
        if let Some(norm) = &self.norm {
            backend.norm_in_place(step, gate, norm);
        }
        backend.linear(step, gate, &mut [(&self.out, out)]);
    }
}

impl<B: Backend> fmt::Display for Mamba2<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { key_heads, heads, keys, values, .. } = self.scan.shape;
        write!(f, "mamba2 {heads}×{values} state {keys}")?;
        if key_heads > 1 {
            write!(f, " groups {key_heads}")?;
        }
        write!(f, " conv {}", self.size.past + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{Paper, linear, silu};

    /// One head with a state of one number; h is 1, then 2. With s for silu:
    ///
    /// z, B = s(1), s(2) and, as W_C = 2, C = s(2), s(4). The convolution of x adds the input before: x = s(1), s(1 + 2).
    /// dt = softplus(0) = ln 2, so that e^(-dt) = ½ of the state stays.
    #[test]
    fn two_positions_by_hand() {
        let conv = |taps: [f32; 2], first| Conv { weight: taps.to_vec(), bias: None, activation: Activation::Silu, first, channels: 1 };
        let shape = Shape { key_heads: 1, heads: 1, keys: 1, values: 1, order: KeyHeads::Grouped };
        let mixer: Mamba2<CpuBackend> = Mamba2 {
            z: linear(&[1.0], 1),
            v: linear(&[1.0], 1),
            k: linear(&[1.0], 1),
            q: linear(&[2.0], 1),
            dt: linear(&[0.0], 1),
            convs: [conv([1.0, 1.0], 0), conv([0.0, 1.0], 1), conv([0.0, 1.0], 2)],
            scan: Scan { shape, bias: vec![0.0], rate: vec![-1.0], skip: vec![3.0] },
            norm: None,
            out: linear(&[1.0], 1),
            size: StateSize { channels: 3, past: 1, heads: 1, keys: 1, values: 1 },
        };
        let (mut paper, mut out) = (Paper::new(&[1.0, 2.0], 1, &[]), Default::default());
        let mut sequence = paper.sequence(&mixer.state());
        mixer.forward(&paper.backend, &mut paper.work, &mut [&mut sequence], 0, &mut out);
        let first = 2f64.ln() * silu(1.0) * silu(1.0);
        let second = 0.5 * first + 2f64.ln() * silu(2.0) * silu(3.0);
        let y = [silu(2.0) * first + 3.0 * silu(1.0), silu(4.0) * second + 3.0 * silu(3.0)];
        paper.near(&out, &[y[0] * silu(1.0), y[1] * silu(2.0)]);
    }
}
