//! A dense block and experts side by side (Gemma 4 26B-A4B), each with norms of its own; the router has one too.
//!
//! ```text
//! y = norm(dense(h)) + norm(experts(norm(x)))          h = the layer's own norm of x
//! router logits = Wr · (rms(x) · s / √width)
//! ```
//! Source: `modeling_gemma4.py` of Hugging Face transformers, `Gemma4TextDecoderLayer` and `Gemma4TextRouter`.

use crate::backend::{Backend, Norm};
use crate::block::Work;
use crate::block::dense::Dense;
use crate::block::experts::Experts;
use crate::config::NormKind;
use crate::error::Result;
use crate::weights::Loader;
use std::fmt;

/// Both blocks of a layer.
pub struct Beside<B: Backend> {
    dense: Dense<B>,
    dense_post: Norm<B>,
    router: Norm<B>,
    pre: Norm<B>,
    experts: Experts<B>,
    post: Norm<B>,
}

impl<B: Backend> Beside<B> {
    /// Whether layer `index` has both.
    pub fn is_in(loader: &Loader<'_, B>, index: usize) -> bool {
        loader.has(&format!("blk.{index}.pre_ffw_norm_2.weight"))
    }

    /// The blocks of layer `index`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<Beside<B>> {
        let width = loader.config.width;
        let name = |part: &str| format!("blk.{index}.{part}");
        let norm = |part: &str| loader.norm(&name(part), width)?.ok_or_else(|| loader.missing(&name(&format!("{part}.weight"))));
        let scale = name("ffn_gate_inp.scale");
        let mut weight = loader.values(&scale, width)?.ok_or_else(|| loader.missing(&scale))?;
        weight.iter_mut().for_each(|w| *w /= (width as f32).sqrt());
        let weight = loader.backend.vector(weight)?;
        Ok(Beside {
            dense: Dense::load(loader, index)?,
            dense_post: norm("post_ffw_norm_1")?,
            router: Norm { kind: NormKind::Rms, weight, bias: None, eps: loader.config.eps, width },
            pre: norm("pre_ffw_norm_2")?,
            experts: Experts::load(loader, index)?,
            post: norm("post_ffw_norm_2")?,
        })
    }

    /// `out = norm(dense(h)) + norm(experts(norm(x)))`. What `h` holds is gone afterwards.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor, out: &mut B::Tensor) {
        let mut part = std::mem::take(&mut work.shared);
        self.dense.forward(backend, work, &mut part);
        backend.norm(&mut work.step, &part, &self.dense_post, out);
        backend.norm(&mut work.step, x, &self.router, &mut work.h);
        self.experts.choose(backend, work);
        backend.norm(&mut work.step, x, &self.pre, &mut work.h);
        self.experts.compute(backend, work, &mut part);
        backend.norm(&mut work.step, &part, &self.post, &mut work.h);
        backend.add(&mut work.step, out, &work.h);
        work.shared = part;
    }
}

impl<B: Backend> fmt::Display for Beside<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} → {} ∥ {} → {} → {})", self.dense, self.dense_post, self.pre, self.experts, self.post)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::dense::tests::dense;
    use crate::block::experts::tests::two_of;
    use crate::block::paper::{Paper, norm};
    use hob_kernels::ops::Activation;

    /// x = (3, 4), whose root mean square is √12.5, and h = (1, 0).
    ///
    /// The dense block gives (1, 1), which its norm leaves. The router's norm has the weight √12.5·ln 3: it sees (3, 4)·ln 3, and
    /// finds 0 and -3 ln 3 + 4 ln 3 = ln 3: the experts weigh ¼ and ¾. Each makes 3·4/12.5 of the normed x, the first in the first
    /// channel, the other in the second; the norm makes (1, 3)/√5 of that.
    #[test]
    fn both_by_hand() {
        let root = 12.5f32.sqrt() * 3f32.ln();
        let beside: Beside<CpuBackend> = Beside {
            dense: dense(None, &[1.0, 0.0, 0.0, 1.0], &[1.0, 0.0, 1.0, 0.0], Activation::Relu),
            dense_post: norm(&[1.0, 1.0]),
            router: norm(&[root, root]),
            pre: norm(&[1.0, 1.0]),
            experts: two_of(&[0.0, 0.0, -1.0, 1.0], [&[1.0, 0.0, 1.0, 0.0], &[0.0, 1.0, 0.0, 1.0], &[1.0, 0.0, 0.0, 1.0]], 2),
            post: norm(&[1.0, 1.0]),
        };
        let (mut paper, mut out) = (Paper::new(&[1.0, 0.0], 2, &[]), Default::default());
        let x = paper.tensor(&[3.0, 4.0]);
        beside.forward(&paper.backend, &mut paper.work, &x, &mut out);
        paper.near(&out, &[1.0 + 1.0 / 5f64.sqrt(), 1.0 + 3.0 / 5f64.sqrt()]);
    }
}
