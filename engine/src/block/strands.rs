//! Hyper-connections (Zhu et al. 2024; manifold-constrained: Xie et al. 2025): the residual stream has several strands, which a
//! block reads as one and writes to all, by weights that depend on the strands themselves.
//!
//! ```text
//! pre, post, comb = weights(norm(x)·W)           x: all strands of a token, one after the other; comb: Sinkhorn's doubly stochastic
//! y = block(Σ pre[s] · x[s])                     x[t] = post[t] · y + Σ comb[s, t] · x[s]
//! ```

use crate::backend::{Backend, Linear, Mixing, Norm};
use crate::block::Work;
use crate::config::{NormKind, StrandConfig};
use crate::error::Result;
use crate::weights::Loader;

/// How one block meets the strands.
pub struct Strands<B: Backend> {
    norm: Norm<B>,
    mixes: Linear<B>,
    mixing: Mixing<B>,
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
            norm: Norm { kind: NormKind::Rms, weight: ones, bias: None, eps: loader.config.eps, width },
            mixes: loader.linear(&format!("{base}_fn"), rows, width)?,
            mixing: Mixing { count, scale: vector("scale", parts)?, base: vector("base", rows)?, iterations, eps },
        })
    }

    /// `out = Σ pre · x`; the weights stay in `work.strands`.
    pub fn read(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor, out: &mut B::Tensor) {
        backend.norm(&mut work.step, x, &self.norm, &mut work.h);
        backend.linear(&mut work.step, &work.h, &mut [(&self.mixes, &mut work.strands)]);
        backend.strand_weights(&mut work.step, &self.mixing, &mut work.strands);
        backend.mix_strands(&mut work.step, x, self.mixing.count, &work.strands, out);
    }

    /// `x = post · y + comb · x`, by the weights that [`read`](Strands::read) left.
    pub fn write(&self, backend: &B, work: &mut Work<B>, x: &mut B::Tensor, y: &B::Tensor) {
        backend.add_to_strands(&mut work.step, x, self.mixing.count, &work.strands, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{Paper, linear, norm};

    /// Two strands of one channel, x = (1, 3), by its norm (1, 3)/√5.
    ///
    /// Raw: pre ln 3 (half of it from x, times the scale 2) and 0, post 0 and ln 3, comb (ln 3, 0) and (0, 0). So pre = σ: ¾, ½;
    /// post = 2σ: 1, 1½; comb by softmax (¾, ¼), (½, ½), each column then divided by its sum, 5/4 and 3/4: (⅗, ⅓), (⅖, ⅔).
    /// Read: ¾·1 + ½·3. Of y = 10: 1·10 + ⅗·1 + ⅖·3 and 1½·10 + ⅓·1 + ⅔·3.
    #[test]
    fn read_and_written_by_hand() {
        let mut mixes = [0.0; 16];
        mixes[0] = 5f32.sqrt() * 3f32.ln() / 2.0;
        let three = 3f32.ln();
        let strands: Strands<CpuBackend> = Strands {
            norm: norm(&[1.0, 1.0]),
            mixes: linear(&mixes, 2),
            mixing: Mixing {
                count: 2,
                scale: vec![2.0, 1.0, 1.0],
                base: vec![0.0, 0.0, 0.0, three, three, 0.0, 0.0, 0.0],
                iterations: 1,
                eps: 0.0,
            },
        };
        let (mut paper, mut read) = (Paper::new(&[0.0], 1, &[]), Default::default());
        let (mut x, y) = (paper.tensor(&[1.0, 3.0]), paper.tensor(&[10.0]));
        strands.read(&paper.backend, &mut paper.work, &x, &mut read);
        paper.near(&read, &[2.25]);
        strands.write(&paper.backend, &mut paper.work, &mut x, &y);
        paper.near(&x, &[11.8, 15.0 + 7.0 / 3.0]);
    }
}
