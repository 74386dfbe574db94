//! The feed-forward block: `down(act(gate·h) · (up·h))` (GLU, Shazeer 2020), or `down(act(up·h))` where there is no gate.

use crate::backend::{Backend, Linear};
use crate::block::{Work, activation_name};
use crate::error::Result;
use crate::weights::Loader;
use hob_kernels::ops::{Activation, Xielu};
use std::fmt;

/// One feed-forward block.
pub struct Dense<B: Backend> {
    gate: Option<Linear<B>>,
    up: Linear<B>,
    down: Linear<B>,
    activation: Activation,
    /// In place of the activation, where it is trained.
    xielu: Option<Xielu>,
    /// Standard deviations that a gate must be above its mean, where not all pass.
    sparse: Option<f32>,
    ff: usize,
}

impl<B: Backend> Dense<B> {
    /// The block of layer `index`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<Dense<B>> {
        let ff = loader.config.ff[index];
        let name = |part: &str| format!("blk.{index}.{part}");
        if !loader.has(&name("ffn_gate.weight")) && loader.rows(&name("ffn_up.weight")) == Some(2 * ff) {
            let [gate, up] = loader.fused(&name("ffn_up"), [ff, ff], loader.config.width)?;
            let down = loader.linear(&name("ffn_down"), loader.config.width, ff)?;
            return Ok(Dense { gate: Some(gate), up, down, activation: loader.family.activation, xielu: None, sparse: None, ff });
        }
        let dense = Dense::of(loader, [&name("ffn_gate"), &name("ffn_up"), &name("ffn_down")], ff)?;
        let sparse = loader.config.sparsity.as_ref().map(|layers| layers[index]).filter(|sigmas| *sigmas != 0.0);
        let xielu = loader.config.xielu.as_ref().map(|layers| layers[index]).filter(|_| dense.gate.is_none());
        Ok(Dense { xielu, sparse, ..dense })
    }

    /// A block of the tensors `[gate, up, down]` with hidden width `ff`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn of(loader: &Loader<'_, B>, [gate, up, down]: [&str; 3], ff: usize) -> Result<Dense<B>> {
        let width = loader.config.width;
        let gated = loader.has(&format!("{gate}.weight"));
        Ok(Dense {
            gate: if gated { Some(loader.linear(gate, ff, width)?) } else { None },
            up: loader.linear(up, ff, width)?,
            down: loader.linear(down, width, ff)?,
            activation: loader.family.activation,
            xielu: None,
            sparse: None,
            ff,
        })
    }

    /// `out = ffn(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, out: &mut B::Tensor) {
        let step = &mut work.step;
        let hidden = match &self.gate {
            Some(gate) => {
                backend.linear(step, &work.h, &mut [(gate, &mut work.gate), (&self.up, &mut work.up)]);
                if let Some(sigmas) = self.sparse {
                    backend.sparsify(step, &mut work.gate, sigmas);
                }
                backend.glu(step, self.activation, &mut work.gate, &work.up);
                &work.gate
            }
            None => {
                backend.linear(step, &work.h, &mut [(&self.up, &mut work.up)]);
                match self.xielu {
                    Some(xielu) => backend.xielu(step, xielu, &mut work.up),
                    None => backend.activate(step, self.activation, &mut work.up),
                }
                &work.up
            }
        };
        backend.linear(step, hidden, &mut [(&self.down, out)]);
    }
}

impl<B: Backend> fmt::Display for Dense<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let glu = if self.gate.is_some() { " glu" } else { "" };
        let activation = if self.xielu.is_some() { "xielu" } else { activation_name(self.activation) };
        write!(f, "{activation}{glu} {}", self.ff)?;
        self.sparse.map_or(Ok(()), |sigmas| write!(f, " above {sigmas:.2}σ"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{Paper, linear};

    /// A block as wide within as without.
    pub(in crate::block) fn dense(gate: Option<&[f32]>, up: &[f32], down: &[f32], activation: Activation) -> Dense<CpuBackend> {
        let width = up.len().isqrt();
        let gate = gate.map(|gate| linear(gate, width));
        Dense { gate, up: linear(up, width), down: linear(down, width), activation, xielu: None, sparse: None, ff: width }
    }

    fn gives(dense: &Dense<CpuBackend>, h: [f32; 2], want: [f64; 2]) {
        let (mut paper, mut out) = (Paper::new(&h, 2, &[]), Default::default());
        dense.forward(&paper.backend, &mut paper.work, &mut out);
        paper.near(&out, &want);
    }

    /// h = (1, 2). The gate (1, -2) leaves (1, 0) of itself, times up = (-3, -1): (-3, 0), which down maps to (2·-3, 1·-3).
    #[test]
    fn gated_by_hand() {
        let block = dense(Some(&[1.0, 0.0, 0.0, -1.0]), &[-1.0, -1.0, 1.0, -1.0], &[2.0, 5.0, 1.0, 1.0], Activation::Relu);
        gives(&block, [1.0, 2.0], [-6.0, -3.0]);
    }

    /// The same h: up = (3, -1), of which relu² leaves (9, 0).
    #[test]
    fn without_a_gate_by_hand() {
        gives(&dense(None, &[1.0, 1.0, 1.0, -1.0], &[2.0, 5.0, 1.0, 1.0], Activation::ReluSquared), [1.0, 2.0], [18.0, 9.0]);
    }

    /// up = (2, -1): (1·2 + ½)·2 above 0, and below it 2·(e⁻¹ - 1 + 1) - ½.
    #[test]
    fn a_trained_activation_by_hand() {
        let one = &[1.0, 0.0, 0.0, 1.0];
        let xielu = Some(Xielu { above: 1.0, below: 2.0, slope: 0.5, edge: -1e-6 });
        gives(&Dense { xielu, ..dense(None, one, one, Activation::Relu) }, [2.0, -1.0], [5.0, 2.0 * (-1f64).exp() - 0.5]);
    }

    /// The gate (1, 3) has mean 2 and deviation 1. What is above 2 + ½: (0, ½), times up = (1, 3).
    #[test]
    fn a_sparse_gate_by_hand() {
        let one = &[1.0, 0.0, 0.0, 1.0];
        gives(&Dense { sparse: Some(0.5), ..dense(Some(one), one, one, Activation::Relu) }, [1.0, 3.0], [0.0, 1.5]);
    }
}
