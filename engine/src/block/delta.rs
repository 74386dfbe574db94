//! The gated delta rule (Yang et al. 2024: Gated Delta Networks), as Qwen3-Next and Qwen3.5 have it, and with a decay for
//! each key as Kimi Linear has it (KDA, Kimi Team 2025).
//!
//! ```text
//! q, k, v = silu(conv(h·W_q, h·W_k, h·W_v));   q = q / (|q|·√keys), k = k / |k|
//! a = exp(A·softplus(h·W_a + bias)), A < 0;   β = σ(h·W_β)
//! S = a·S;   S += k ⊗ β(v - kᵀS);   y = qᵀS                    a state S [keys, values] a head
//! out = (norm(y) ⊙ act(h·W_g)) · W_out                         act: silu, for KDA σ
//! ```
//! In early files of Qwen3-Next W_q, W_k, W_v and W_g are one tensor, as in the model's checkpoint: for each key head its rows of
//! q, k, v and g (`fix_query_key_value_ordering` of `modeling_qwen3_next.py`; llama.cpp, PR 16095).

use crate::backend::{Backend, Conv, DeltaRule, HeadInputs, Linear, Norm};
use crate::block::Work;
use crate::block::mamba2::rates;
use crate::block::short_conv::convs;
use crate::cache::{Sequence, StateSpec};
use crate::config::NormKind;
use crate::error::{Error, Fault, Result};
use crate::weights::Loader;
use hob_kernels::ops::Activation;
use hob_kernels::recurrent::{KeyHeads, Shape, StateSize};
use std::fmt;

/// Added to |q|² and |k|² before the root.
const EPS: f32 = 1e-6;

/// One mixer by the gated delta rule.
pub struct Delta<B: Backend> {
    inputs: Inputs<B>,
    strengths: Strengths<B>,
    /// Of q, k and v.
    convs: [Conv<B>; 3],
    /// To unit length, for q also by 1/√keys.
    unit: [Norm<B>; 2],
    rule: DeltaRule<B>,
    norm: Norm<B>,
    /// Of the gate.
    activation: Activation,
    out: Linear<B>,
    size: StateSize,
}

/// A map of the input, whole or by way of fewer channels.
struct Projection<B: Backend> {
    first: Linear<B>,
    second: Option<Linear<B>>,
}

/// Queries, keys, values and the gate.
enum Inputs<B: Backend> {
    /// Each by itself.
    Apart { q: Linear<B>, k: Linear<B>, v: Linear<B>, gate: Projection<B> },
    /// For each key head its query and key, then values and gates of the heads that read it.
    Together(Linear<B>),
}

/// How strongly is forgotten, and how strongly written.
enum Strengths<B: Backend> {
    /// Each by itself.
    Apart { dt: Projection<B>, beta: Linear<B> },
    /// For each key head β, then a, of the heads that read it.
    Together(Linear<B>),
}

impl<B: Backend> Projection<B> {
    fn whole(first: Linear<B>) -> Projection<B> {
        Projection { first, second: None }
    }

    /// `{base}_a`, then `{base}_b`.
    fn low_rank(loader: &Loader<'_, B>, base: &str, rank: usize, rows: usize) -> Result<Projection<B>> {
        let first = loader.linear(&format!("{base}_a"), rank, loader.config.width)?;
        Ok(Projection { first, second: Some(loader.linear(&format!("{base}_b"), rows, rank)?) })
    }

    /// Where the first map's result goes.
    fn target<'a>(&self, out: &'a mut B::Tensor, narrow: &'a mut B::Tensor) -> &'a mut B::Tensor {
        if self.second.is_some() { narrow } else { out }
    }

    /// The second map, if there is one.
    fn finish(&self, backend: &B, step: &mut B::Step, narrow: &B::Tensor, out: &mut B::Tensor) {
        if let Some(second) = &self.second {
            backend.linear(step, narrow, &mut [(second, out)]);
        }
    }
}

impl<B: Backend> Delta<B> {
    /// The mixer of layer `index`, whichever of the two its tensors make.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<Delta<B>> {
        let by_key = ["ssm_f_a", "ssm_conv1d_q"].iter().any(|part| loader.has(&format!("blk.{index}.{part}.weight")));
        if by_key { Delta::by_key(loader, index) } else { Delta::by_head(loader, index) }
    }

    /// One decay a head (Gated DeltaNet).
    fn by_head(loader: &Loader<'_, B>, index: usize) -> Result<Delta<B>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (ssm, width) = (loader.config.ssm()?, loader.config.width);
        let order = loader.family.key_heads;
        let shape = Shape { key_heads: ssm.groups, heads: ssm.heads, keys: ssm.state, values: ssm.inner / ssm.heads, order };
        let (keys, values) = (shape.key_heads * shape.keys, ssm.inner);
        let inputs = if loader.has(&name("ssm_in.weight")) {
            Inputs::Together(loader.linear(&name("ssm_in"), 2 * (keys + values), width)?)
        } else {
            let [q, k, v] = loader.fused(&name("attn_qkv"), [keys, keys, values], width)?;
            Inputs::Apart { q, k, v, gate: Projection::whole(loader.linear(&name("attn_gate"), values, width)?) }
        };
        let strengths = if loader.has(&name("ssm_ba.weight")) {
            Strengths::Together(loader.linear(&name("ssm_ba"), 2 * ssm.heads, width)?)
        } else {
            let dt = Projection::whole(loader.linear(&name("ssm_alpha"), ssm.heads, width)?);
            Strengths::Apart { dt, beta: loader.linear(&name("ssm_beta"), ssm.heads, width)? }
        };
        let convs = convs(loader, &name("ssm_conv1d"), ssm.taps, 0, [keys, keys, values], Activation::Silu)?;
        let rate = rates(loader, &name("ssm_a"), ssm.heads)?;
        let out = loader.linear(&name("ssm_out"), width, values)?;
        let parts = Parts { inputs, strengths, convs, rate, out };
        Delta::assemble(loader, index, shape, parts, Activation::Silu, ssm.taps)
    }

    /// One decay a key (Kimi Delta Attention).
    fn by_key(loader: &Loader<'_, B>, index: usize) -> Result<Delta<B>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (config, heads) = (loader.config, loader.config.heads[index]);
        let (Some(dim), Some(taps)) = (config.delta_dim, config.taps) else {
            let fault = Fault::at(format!("{}.kda.head_dim", config.architecture)).expected("a number, and ssm.conv_kernel");
            return Err(Error::Model(fault.found("no such key")));
        };
        let (all, width) = (heads * dim, config.width);
        let conv = |part: &str, i: usize| -> Result<Conv<B>> {
            let [conv] = convs(loader, &name(part), taps, i * all, [all], Activation::Silu)?;
            Ok(conv)
        };
        let whole = loader.has(&name("attn_gate.weight"));
        let parts = Parts {
            inputs: Inputs::Apart {
                q: loader.linear(&name("attn_q"), all, width)?,
                k: loader.linear(&name("attn_k"), all, width)?,
                v: loader.linear(&name("attn_v"), all, width)?,
                gate: match whole {
                    true => Projection::whole(loader.linear(&name("attn_gate"), all, width)?),
                    false => Projection::low_rank(loader, &name("ssm_g"), dim, all)?,
                },
            },
            strengths: Strengths::Apart {
                dt: Projection::low_rank(loader, &name("ssm_f"), dim, all)?,
                beta: loader.linear(&name("ssm_beta"), heads, width)?,
            },
            convs: [conv("ssm_conv1d_q", 0)?, conv("ssm_conv1d_k", 1)?, conv("ssm_conv1d_v", 2)?],
            rate: rates(loader, &name("ssm_a"), heads)?.iter().flat_map(|a| std::iter::repeat_n(*a, dim)).collect(),
            out: loader.linear(&name("attn_output"), width, all)?,
        };
        let shape = Shape { key_heads: heads, heads, keys: dim, values: dim, order: KeyHeads::Grouped };
        Delta::assemble(loader, index, shape, parts, Activation::Sigmoid, taps)
    }

    fn assemble(
        loader: &Loader<'_, B>,
        index: usize,
        shape: Shape,
        parts: Parts<B>,
        activation: Activation,
        taps: usize,
    ) -> Result<Delta<B>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let Shape { key_heads, heads, keys, values, .. } = shape;
        // x/√(Σx² + ε) is the root mean square norm with ε/keys, times 1/√keys.
        let root = (keys as f32).sqrt();
        let unit = |factor: f32| -> Result<Norm<B>> {
            let weight = loader.backend.vector(vec![factor; keys])?;
            Ok(Norm { kind: NormKind::Rms, weight, bias: None, eps: EPS / keys as f32, width: keys })
        };
        let (dt_name, norm_name) = (name("ssm_dt.bias"), name("ssm_norm"));
        let bias = loader.vector(&dt_name, parts.rate.len())?.ok_or_else(|| loader.missing(&dt_name))?;
        Ok(Delta {
            inputs: parts.inputs,
            strengths: parts.strengths,
            convs: parts.convs,
            unit: [unit(1.0 / keys as f32)?, unit(1.0 / root)?],
            rule: DeltaRule { shape, bias, rate: loader.backend.vector(parts.rate)? },
            norm: loader.norm(&norm_name, values)?.ok_or_else(|| loader.missing(&norm_name))?,
            activation,
            out: parts.out,
            size: StateSize { channels: 2 * key_heads * keys + heads * values, past: taps - 1, heads, keys, values },
        })
    }

    /// The last inputs of the convolutions, and a matrix a head.
    pub fn state(&self) -> StateSpec {
        StateSpec::Recurrent(self.size)
    }

    /// `q`, `k`, `v`, `gate`, `dt` and `beta` of the input.
    fn project(&self, backend: &B, work: &mut Work<B>) {
        let Work { step, h, q, k, v, mixed, gate, up, router, dt, beta, .. } = work;
        let Shape { key_heads, heads, keys, values, .. } = self.rule.shape;
        let group = heads / key_heads;
        // What comes for several at once waits in `mixed` and `router`.
        match (&self.inputs, &self.strengths) {
            (Inputs::Apart { q: of_q, k: of_k, v: of_v, gate: of_gate }, Strengths::Apart { dt: of_dt, beta: of_beta }) => {
                let of_gate = (&of_gate.first, of_gate.target(gate, up));
                let first = (&of_dt.first, of_dt.target(dt, router));
                let products = &mut [(of_q, &mut *q), (of_k, &mut *k), (of_v, &mut *v), of_gate, first, (of_beta, &mut *beta)];
                backend.linear(step, h, products);
            }
            (Inputs::Apart { q: of_q, k: of_k, v: of_v, gate: of_gate }, Strengths::Together(both)) => {
                let of_gate = (&of_gate.first, of_gate.target(gate, up));
                backend.linear(step, h, &mut [(of_q, &mut *q), (of_k, &mut *k), (of_v, &mut *v), of_gate, (both, &mut *router)]);
            }
            (Inputs::Together(all), Strengths::Apart { dt: of_dt, beta: of_beta }) => {
                let first = (&of_dt.first, of_dt.target(dt, router));
                backend.linear(step, h, &mut [(all, &mut *mixed), first, (of_beta, &mut *beta)]);
            }
            (Inputs::Together(all), Strengths::Together(both)) => {
                backend.linear(step, h, &mut [(all, &mut *mixed), (both, &mut *router)]);
            }
        }
        match &self.strengths {
            Strengths::Apart { dt: of_dt, .. } => of_dt.finish(backend, step, router, dt),
            Strengths::Together(_) => backend.split(step, router, key_heads, group, beta, dt),
        }
        match &self.inputs {
            Inputs::Apart { gate: of_gate, .. } => of_gate.finish(backend, step, up, gate),
            Inputs::Together(_) => {
                backend.split(step, mixed, key_heads, 2 * keys, up, router);
                backend.split(step, up, key_heads, keys, q, k);
                backend.split(step, router, key_heads, group * values, v, gate);
            }
        }
    }

    /// `out = mixer(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B::State>], slot: usize, out: &mut B::Tensor) {
        self.project(backend, work);
        let Work { step, q, k, v, mixed, gate, dt, beta, .. } = work;
        let [of_q, of_k, of_v] = &self.convs;
        backend.conv(step, &mut [(of_q, &mut *q), (of_k, &mut *k), (of_v, &mut *v)], sequences, slot);
        backend.norm_in_place(step, q, &self.unit[0]);
        backend.norm_in_place(step, k, &self.unit[1]);
        backend.activate(step, Activation::Sigmoid, beta);
        backend.delta(step, &self.rule, HeadInputs { q, k, v, dt }, beta, sequences, slot, mixed);
        backend.norm_in_place(step, mixed, &self.norm);
        backend.glu(step, self.activation, gate, mixed);
        backend.linear(step, gate, &mut [(&self.out, out)]);
    }
}

/// What the two kinds name differently.
struct Parts<B: Backend> {
    inputs: Inputs<B>,
    strengths: Strengths<B>,
    convs: [Conv<B>; 3],
    /// `[heads]` or `[heads · keys]`.
    rate: Vec<f32>,
    out: Linear<B>,
}

impl<B: Backend> fmt::Display for Delta<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { key_heads, heads, keys, values, .. } = self.rule.shape;
        let kind = if self.activation == Activation::Sigmoid { "kimi delta" } else { "gated delta" };
        write!(f, "{kind} {heads}/{key_heads}×{keys}")?;
        if values != keys {
            write!(f, ":{values}")?;
        }
        write!(f, " conv {}", self.size.past + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{Paper, linear, norm, silu};

    /// One head, two keys, two values; h is (1, 0), then (0, 1).
    ///
    /// q and k are (9, 0) for both, by their norms (1, 0)/√2 and (1, 0); v is s·h, s = silu(9). a = e^(-softplus(0)) = ½ and
    /// β = σ(0) = ½. So the row of S that matters is ½v₀; then half of it is left, ¼v₀, and ½(v₁ - ¼v₀) comes to it:
    /// ⅛v₀ + ½v₁. The norm takes s and √2 out: (1, 0)·√2, (1, 4)/√8.5. The gates are silu(1) and silu(2).
    #[test]
    fn two_positions_by_hand() {
        let (qk, v, gate) = ([9.0, 9.0, 0.0, 0.0], [9.0, 0.0, 0.0, 9.0], [1.0, 1.0, 2.0, 2.0]);
        let apart = Inputs::Apart { q: linear(&qk, 2), k: linear(&qk, 2), v: linear(&v, 2), gate: Projection::whole(linear(&gate, 2)) };
        let nothing = || linear(&[0.0, 0.0], 2);
        let strengths = Strengths::Apart { dt: Projection::whole(nothing()), beta: nothing() };
        let together = Inputs::Together(linear(&[qk, qk, v, gate].concat(), 2));
        for (inputs, strengths) in [(apart, strengths), (together, Strengths::Together(linear(&[0.0; 4], 2)))] {
            let weight = vec![0.0, 0.0, 1.0, 1.0]; // what is now alone
            let conv = |first| Conv { weight: weight.clone(), bias: None, activation: Activation::Silu, first, channels: 2 };
            let shape = Shape { key_heads: 1, heads: 1, keys: 2, values: 2, order: KeyHeads::Grouped };
            let mixer: Delta<CpuBackend> = Delta {
                inputs,
                strengths,
                convs: [conv(0), conv(2), conv(4)],
                unit: [norm(&[0.5, 0.5]), norm(&[0.5f32.sqrt(), 0.5f32.sqrt()])],
                rule: DeltaRule { shape, bias: vec![0.0], rate: vec![-1.0] },
                norm: norm(&[1.0, 1.0]),
                activation: Activation::Silu,
                out: linear(&[1.0, 0.0, 0.0, 1.0], 2),
                size: StateSize { channels: 6, past: 1, heads: 1, keys: 2, values: 2 },
            };
            let (mut paper, mut out) = (Paper::new(&[1.0, 0.0, 0.0, 1.0], 2, &[]), Default::default());
            let mut sequence = paper.sequence(&mixer.state());
            mixer.forward(&paper.backend, &mut paper.work, &mut [&mut sequence], 0, &mut out);
            let root = 8.5f64.sqrt();
            paper.near(&out, &[2f64.sqrt() * silu(1.0), 0.0, silu(1.0) / root, 4.0 / root * silu(2.0)]);
        }
    }
}
