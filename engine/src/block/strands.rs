//! Hyper-connections (Zhu et al. 2024; manifold-constrained: Xie et al. 2025): the residual stream has several strands, which a
//! block reads as one and writes to all, by weights that depend on the strands themselves.
//!
//! ```text
//! pre, post, comb = weights(norm(x)·W)           x: all strands of a token, one after the other; comb: Sinkhorn's doubly stochastic
//! y = block(Σ pre[s] · x[s])                     x[t] = post[t] · y + Σ comb[s, t] · x[s]
//! ```

use crate::backend::{Backend, Linear};
use crate::block::{Norm, Work};
use crate::config::{NormKind, StrandConfig};
use crate::error::Result;
use crate::weights::Loader;

/// How one block meets the strands.
pub struct Strands<B: Backend> {
    /// How many there are.
    pub count: usize,
    norm: Norm<B>,
    mixes: Linear<B>,
    /// Factors on the raw mixes, one for each of their parts.
    pub scale: B::Vector,
    /// Added to the raw mixes.
    pub base: B::Vector,
    /// Rounds of Sinkhorn's normalisation.
    pub iterations: usize,
    /// Added to weights and sums.
    pub eps: f32,
}

/// Whether a block writes to the strands or only reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// pre, post and comb.
    Block,
    /// pre alone: the head.
    Head,
}

impl<B: Backend> Strands<B> {
    /// Those of the tensors `{base}_fn`, `{base}_base` and `{base}_scale`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, base: &str, config: StrandConfig, role: Role) -> Result<Strands<B>> {
        let StrandConfig { count, iterations, eps } = config;
        let width = count * loader.config.width;
        let (rows, parts) = match role {
            Role::Block => (count * (count + 2), 3),
            Role::Head => (count, 1),
        };
        let vector = |part: &str, len: usize| {
            let name = format!("{base}_{part}.weight");
            loader.vector(&name, len)?.ok_or_else(|| loader.missing(&name))
        };
        let ones = loader.backend.vector(vec![1.0; width])?;
        Ok(Strands {
            count,
            norm: Norm { kind: NormKind::Rms, weight: ones, bias: None, eps: loader.config.eps, width },
            mixes: loader.linear(&format!("{base}_fn"), rows, width)?,
            scale: vector("scale", parts)?,
            base: vector("base", rows)?,
            iterations,
            eps,
        })
    }

    /// `out = Σ pre · x`; the weights stay in `work.strands`.
    pub fn read(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor, out: &mut B::Tensor) {
        backend.norm(&mut work.step, x, &self.norm, &mut work.h);
        backend.linear(&mut work.step, &work.h, &mut [(&self.mixes, &mut work.strands)]);
        backend.strand_weights(&mut work.step, self, &mut work.strands);
        backend.mix_strands(&mut work.step, x, self.count, &work.strands, out);
    }

    /// `x = post · y + comb · x`, by the weights that [`read`](Strands::read) left.
    pub fn write(&self, backend: &B, work: &mut Work<B>, x: &mut B::Tensor, y: &B::Tensor) {
        backend.add_to_strands(&mut work.step, x, self.count, &work.strands, y);
    }
}
