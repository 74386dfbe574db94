//! Mixture of experts (Shazeer et al. 2017): a router chooses some of the experts for each token; some models add an expert
//! that all tokens share (DeepSeekMoE, Dai et al. 2024), with or without a gate of its own.

use crate::backend::{Backend, ExpertWeights, Glu, Linear, Weighed};
use crate::block::dense::Dense;
use crate::block::{Work, activation_name};
use crate::error::{Error, Fault, Result};
use crate::family::RouterInput;
use crate::weights::Loader;
use hob_kernels::ops::{Gate, GroupLimit, GroupScore, Renormalize, Router};
use std::fmt;

/// A layer's experts.
pub struct Experts<B: Backend> {
    router: Linear<B>,
    input: RouterInput,
    routing: Router,
    /// `[experts]`, added to the scores for the choice alone: it balances the load (Wang et al. 2024; DeepSeek-V3).
    bias: Option<B::Vector>,
    /// `[vocab, used]`: the experts of each token, where its id settles them (DeepSeek-V4's first layers).
    table: Option<Vec<u32>>,
    weights: ExpertWeights<B>,
    shared: Option<Shared<B>>,
}

/// The expert that all tokens share.
struct Shared<B: Backend> {
    dense: Dense<B>,
    /// `[1, width]`: how much of it a token takes.
    gate: Option<Linear<B>>,
}

impl<B: Backend> Experts<B> {
    /// The experts of layer `index`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<Experts<B>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let width = loader.config.width;
        let Some(config) = loader.config.experts else {
            let key = format!("{}.expert_count", loader.config.architecture);
            let fault = Fault::at(key).expected("a number").found("no such key");
            return Err(Error::Model(fault.help(format!("the file has {}", name("ffn_gate_inp.weight")))));
        };
        let (up, both) = (name("ffn_up_exps.weight"), name("ffn_gate_up_exps.weight"));
        // Files of 2023 hold each expert as a tensor of its own.
        if loader.has(&name("ffn_up.0.weight")) {
            let fault = Fault::at(name("ffn_up.0.weight")).expected(format!("all experts in one tensor, {up}"));
            return Err(Error::Unsupported(fault.found("one tensor per expert").help("convert the model again with a current converter")));
        }
        let fused = loader.has(&both);
        let glu = if fused || loader.has(&name("ffn_gate_exps.weight")) { Glu::Gated } else { Glu::Plain };
        let ff = match loader.rows(&both) {
            Some(rows) => rows / 2,
            None => loader.rows(&up).ok_or_else(|| loader.missing(&up))?,
        };
        // Converters differ about the ending.
        let bias = ["exp_probs_b.bias", "exp_probs_b"].map(name).into_iter().find(|name| loader.has(name));
        let bias = bias.map(|name| loader.vector(&name, config.count)).transpose()?.flatten();
        // A choice without bias goes by a group's best expert, as DeepSeek-V2's does.
        let score = if bias.is_some() { GroupScore::BestTwo } else { GroupScore::Best };
        let added = |part: &str, rows: usize| loader.vectors(&name(part), config.count, rows);
        Ok(Experts {
            router: loader.linear(&name("ffn_gate_inp"), config.count, width)?,
            input: loader.family.router,
            routing: Router {
                gate: config.gate.unwrap_or(loader.family.gate),
                k: config.used,
                groups: config.groups.map(|(count, used)| GroupLimit { count, used, score }),
                renormalize: match config.renormalize {
                    None => loader.family.renormalize,
                    Some(true) => Renormalize::Yes,
                    Some(false) => Renormalize::No,
                },
                scale: config.scale,
            },
            bias,
            table: table(loader, &name("ffn_gate_tid2eid.weight"), config.used, config.count)?,
            weights: ExpertWeights {
                gate: match (fused, glu) {
                    (true, _) => loader.stack(&both, config.count, 2 * ff, width)?,
                    (false, Glu::Gated) => loader.stack(&name("ffn_gate_exps.weight"), config.count, ff, width)?,
                    (false, Glu::Plain) => loader.stack(&up, config.count, ff, width)?,
                },
                up: match (fused, glu) {
                    (false, Glu::Gated) => Some(loader.stack(&up, config.count, ff, width)?),
                    (true, _) | (false, Glu::Plain) => None,
                },
                glu,
                down: loader.stack(&name("ffn_down_exps.weight"), config.count, width, ff)?,
                gate_bias: added(if glu == Glu::Gated { "ffn_gate_exps.bias" } else { "ffn_up_exps.bias" }, ff)?,
                up_bias: if glu == Glu::Gated { added("ffn_up_exps.bias", ff)? } else { None },
                down_bias: added("ffn_down_exps.bias", width)?,
                scale: loader.vector(&name("ffn_down_exps.scale"), config.count)?,
                weighed: loader.family.weighed,
                count: config.count,
                ff,
                activation: loader.family.activation,
            },
            shared: Shared::load(loader, index)?,
        })
    }

    /// `out = Σ experts(h) + shared(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, out: &mut B::Tensor) {
        match self.input {
            RouterInput::Experts => self.choose(backend, work),
            RouterInput::Layer => {}
        }
        self.compute(backend, work, out);
    }

    /// Chooses by `x`, the residual stream at the beginning of the layer, where its router does. What `h` holds is gone afterwards.
    pub fn begin(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor) {
        match self.input {
            RouterInput::Experts => {}
            RouterInput::Layer => {
                backend.copy(&mut work.step, x, &mut work.h);
                self.choose(backend, work);
            }
        }
    }

    /// Chooses the experts of each token by `h`; the choice stays in the step.
    pub fn choose(&self, backend: &B, work: &mut Work<B>) {
        backend.linear(&mut work.step, &work.h, &mut [(&self.router, &mut work.router)]);
        match &self.table {
            Some(table) => backend.route_by_token(&mut work.step, &work.router, &self.routing, table),
            None => backend.route(&mut work.step, &work.router, &self.routing, self.bias.as_ref()),
        }
    }

    /// `out = Σ experts(h) + shared(h)` of the experts chosen.
    pub fn compute(&self, backend: &B, work: &mut Work<B>, out: &mut B::Tensor) {
        backend.experts(&mut work.step, &work.h, &self.weights, out);
        let Some(shared) = &self.shared else { return };
        let mut part = std::mem::take(&mut work.shared);
        shared.dense.forward(backend, work, &mut part);
        if let Some(gate) = &shared.gate {
            backend.linear(&mut work.step, &work.h, &mut [(gate, &mut work.router)]);
            backend.gate(&mut work.step, &mut part, &work.router);
        }
        backend.add(&mut work.step, out, &part);
        work.shared = part;
    }
}

/// The experts that ids of tokens settle.
fn table<B: Backend>(loader: &Loader<'_, B>, name: &str, used: usize, count: usize) -> Result<Option<Vec<u32>>> {
    let Some(table) = loader.integers(name, loader.config.vocab, used)? else { return Ok(None) };
    let expert = |id: &i32| u32::try_from(*id).ok().filter(|id| (*id as usize) < count);
    match table.iter().map(expert).collect() {
        Some(table) => Ok(Some(table)),
        None => Err(Error::Model(Fault::at(name).expected(format!("experts below {count}")).found("others"))),
    }
}

impl<B: Backend> Shared<B> {
    fn load(loader: &Loader<'_, B>, index: usize) -> Result<Option<Shared<B>>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let Some(ff) = loader.rows(&name("ffn_up_shexp.weight")) else { return Ok(None) };
        let dense = Dense::of(loader, [&name("ffn_gate_shexp"), &name("ffn_up_shexp"), &name("ffn_down_shexp")], ff)?;
        let gated = loader.has(&name("ffn_gate_inp_shexp.weight"));
        let gate = if gated { Some(loader.linear(&name("ffn_gate_inp_shexp"), 1, loader.config.width)?) } else { None };
        Ok(Some(Shared { dense, gate }))
    }
}

impl<B: Backend> fmt::Display for Experts<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Router { gate, k, groups, renormalize, .. } = &self.routing;
        let gate = match gate {
            Gate::Softmax => "softmax",
            Gate::SoftmaxTopK => "top-k softmax",
            Gate::Sigmoid => "sigmoid",
            Gate::SqrtSoftplus => "√softplus",
        };
        write!(f, "experts {k}/{} {gate}", self.weights.count)?;
        if self.bias.is_some() {
            f.write_str(" bias")?;
        }
        if self.table.is_some() {
            f.write_str(" by token")?;
        }
        if let Some(GroupLimit { count, used, .. }) = groups {
            write!(f, " groups {used}/{count}")?;
        }
        if *renormalize == Renormalize::Yes {
            f.write_str(" renorm")?;
        }
        match self.input {
            RouterInput::Experts => {}
            RouterInput::Layer => f.write_str(" by the layer's input")?,
        }
        let glu = if self.weights.glu == Glu::Gated { " glu" } else { "" };
        write!(f, " {}{glu} {}", activation_name(self.weights.activation), self.weights.ff)?;
        if self.weights.up_bias.is_some() {
            f.write_str(" bias")?;
        }
        match self.weights.weighed {
            Weighed::Output => {}
            Weighed::Input => f.write_str(" of weighed input")?,
        }
        match &self.shared {
            Some(shared) => write!(f, " + shared {}", shared.dense),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::dense::tests::dense;
    use crate::block::paper::{Paper, linear, matrix};
    use hob_kernels::ops::Activation;

    /// Two of these experts, each with one channel within, for tokens of `width`.
    pub(in crate::block) fn two_of(router: &[f32], [gate, up, down]: [&[f32]; 3], width: usize) -> Experts<CpuBackend> {
        Experts {
            router: linear(router, width),
            input: RouterInput::Experts,
            routing: Router { gate: Gate::Softmax, k: 2, groups: None, renormalize: Renormalize::Yes, scale: 1.0 },
            bias: None,
            table: None,
            weights: ExpertWeights {
                gate: matrix(gate, width),
                up: Some(matrix(up, width)),
                glu: Glu::Gated,
                down: matrix(down, 1),
                gate_bias: None,
                up_bias: None,
                down_bias: None,
                scale: None,
                weighed: Weighed::Output,
                count: router.len() / width,
                ff: 1,
                activation: Activation::Relu,
            },
            shared: None,
        }
    }

    /// Three that give 1, 3 and 6, and a shared one that has half of its say.
    fn experts() -> Experts<CpuBackend> {
        let shared = Some(Shared { dense: dense(None, &[4.0], &[1.0], Activation::Relu), gate: Some(linear(&[0.0], 1)) });
        Experts { shared, ..two_of(&[0.0, 3f32.ln(), 6f32.ln()], [&[1.0; 3], &[1.0, 3.0, 6.0], &[1.0; 3]], 1) }
    }

    fn gives(experts: &Experts<CpuBackend>, want: f64) {
        let (mut paper, mut out) = (Paper::new(&[1.0], 1, &[]), Default::default());
        experts.forward(&paper.backend, &mut paper.work, &mut out);
        paper.near(&out, &[want]);
    }

    /// h = 1. The router says 1 : 3 : 6, so the last two are chosen, by ⅓ and ⅔; they give 1·3 and 1·6, together 1 + 4. The
    /// shared expert gives 4, of which σ(0) takes half.
    #[test]
    fn two_of_three_by_hand() {
        gives(&experts(), 5.0 + 2.0);
    }

    /// With 10 for the first it is chosen, and the best of the others. Its weight stays 1 of 1 + 6: 1/7 · 1 + 6/7 · 6.
    #[test]
    fn a_bias_chooses_and_does_not_weigh() {
        gives(&Experts { bias: Some(vec![10.0, 0.0, 0.0]), ..experts() }, 37.0 / 7.0 + 2.0);
    }

    /// The layer began with 1, so the weights are ⅓ and ⅔; h is 2, of which they give 2·6 and 2·12, and the shared one 8.
    #[test]
    fn a_choice_by_the_layers_input_by_hand() {
        let experts = Experts { input: RouterInput::Layer, ..experts() };
        let (mut paper, mut out) = (Paper::new(&[1.0], 1, &[]), Default::default());
        let (x, h) = (paper.tensor(&[1.0]), paper.tensor(&[2.0]));
        experts.begin(&paper.backend, &mut paper.work, &x);
        paper.work.h = h;
        experts.forward(&paper.backend, &mut paper.work, &mut out);
        paper.near(&out, &[4.0 + 16.0 + 4.0]);
    }

    /// So many tokens that what experts give is summed in parts: each token's is what it is alone, with biases too.
    #[test]
    fn many_tokens_in_parts_give_the_bits_of_each_alone() {
        const WIDTH: usize = 1000;
        let numbers = |n: usize, seed: usize| (0..n).map(|i| ((i * 7919 + seed) % 1013) as f32 / 506.0 - 1.0).collect::<Vec<_>>();
        let of = |seed| numbers(2 * WIDTH, seed);
        let mut experts = two_of(&of(1), [&of(2), &of(3), &of(4)], WIDTH);
        experts.weights.down_bias = Some(of(5));
        let gives = |h: &[f32]| {
            let (mut paper, mut out, mut found) = (Paper::new(h, WIDTH, &[]), Default::default(), Vec::new());
            experts.forward(&paper.backend, &mut paper.work, &mut out);
            paper.backend.read(&mut paper.work.step, &out, &mut found).unwrap();
            found
        };
        let h = numbers(2200 * WIDTH, 6);
        let all = gives(&h);
        for token in [0, 1000, 2199] {
            let its = token * WIDTH..(token + 1) * WIDTH;
            assert!(all[its.clone()] == gives(&h[its]), "token {token}");
        }
    }

    /// ⅓ and ⅔ of h go in, by gate and by up: ⅓ · (3 · ⅓) and ⅔ · (6 · ⅔).
    #[test]
    fn weights_on_the_input_by_hand() {
        let weights = ExpertWeights { weighed: Weighed::Input, ..experts().weights };
        gives(&Experts { weights, ..experts() }, 1.0 / 3.0 + 8.0 / 3.0 + 2.0);
    }
}
