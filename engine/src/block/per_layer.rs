//! Per-layer embeddings (Gemma 3n, Gemma 4 E2B and E4B): each layer gets a small vector of the token, besides the stream.
//!
//! ```text
//! e = (√w · table[token] + norm(Wp·x / √width)) / √2        once, x the embeddings: [layers, w]; the norm over w
//! x += norm(Wo · (act(Wg·x) · e[layer]))                    at the end of each layer
//! ```
//! Source: `modeling_gemma4.py` of Hugging Face transformers, `get_per_layer_inputs`, `project_per_layer_inputs` and the layer.

use crate::backend::{Backend, Linear, Norm, Row};
use crate::block::Work;
use crate::error::Result;
use crate::weights::Loader;
use hob_kernels::ops::Activation;
use std::fmt;

/// The vectors of all layers.
pub struct LayerInputs<B: Backend> {
    /// `[vocab, layers · w]`
    table: B::Weight,
    table_scale: f32,
    /// `[layers · w, width]`
    project: Linear<B>,
    project_scale: f32,
    norm: Norm<B>,
}

impl<B: Backend> LayerInputs<B> {
    /// Those of a model whose metadata speaks of them.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>) -> Result<Option<LayerInputs<B>>> {
        let config = loader.config;
        let Some(w) = config.per_layer_width else { return Ok(None) };
        let all = w * config.layers;
        let norm = "per_layer_proj_norm";
        Ok(Some(LayerInputs {
            table: loader.matrix("per_layer_token_embd.weight", config.vocab, all)?,
            table_scale: (w as f32).sqrt(),
            project: loader.linear("per_layer_model_proj", all, config.width)?,
            project_scale: 1.0 / (config.width as f32).sqrt(),
            norm: loader.norm(norm, w)?.ok_or_else(|| loader.missing(&format!("{norm}.weight")))?,
        }))
    }

    /// `work.inputs = e`, of the embeddings `x`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor) {
        let step = &mut work.step;
        backend.embed(step, &self.table, Row::Token, self.table_scale, &mut work.inputs);
        backend.linear(step, x, &mut [(&self.project, &mut work.up)]);
        backend.scale(step, &mut work.up, self.project_scale);
        backend.norm_in_place(step, &mut work.up, &self.norm);
        backend.add(step, &mut work.inputs, &work.up);
        backend.scale(step, &mut work.inputs, std::f32::consts::FRAC_1_SQRT_2);
    }
}

/// What a layer does with its vector.
pub struct LayerInput<B: Backend> {
    /// `[w, width]`
    gate: Linear<B>,
    /// `[width, w]`
    project: Linear<B>,
    norm: Norm<B>,
    activation: Activation,
    /// Where its vector begins among those of all layers, and its width.
    from: usize,
    w: usize,
}

impl<B: Backend> LayerInput<B> {
    /// That of layer `index`, where the model has them.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<Option<LayerInput<B>>> {
        let Some(w) = loader.config.per_layer_width else { return Ok(None) };
        let (width, name) = (loader.config.width, |part: &str| format!("blk.{index}.{part}"));
        Ok(Some(LayerInput {
            gate: loader.linear(&name("inp_gate"), w, width)?,
            project: loader.linear(&name("proj"), width, w)?,
            norm: loader.norm(&name("post_norm"), width)?.ok_or_else(|| loader.missing(&name("post_norm.weight")))?,
            activation: loader.family.activation,
            from: index * w,
            w,
        }))
    }

    /// `x += norm(Wo · (act(Wg·x) · e))`
    pub fn forward(&self, backend: &B, work: &mut Work<B>, x: &mut B::Tensor) {
        self.vector(backend, work, x);
        backend.add(&mut work.step, x, &work.h);
    }

    /// `h = norm(Wo · (act(Wg·x) · e))`
    pub fn vector(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor) {
        let step = &mut work.step;
        backend.linear(step, x, &mut [(&self.gate, &mut work.gate)]);
        backend.columns(step, &work.inputs, self.from, self.w, &mut work.up);
        backend.glu(step, self.activation, &mut work.gate, &work.up);
        backend.linear(step, &work.gate, &mut [(&self.project, &mut work.shared)]);
        backend.norm(step, &work.shared, &self.norm, &mut work.h);
    }
}

impl<B: Backend> fmt::Display for LayerInput<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer input {} → {} → +", self.w, self.norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{Paper, linear, matrix, norm};

    /// w = 1: what is projected becomes 1 by its norm, the table's 1 and 2 stay; (1 + 1, 2 + 1) / √2.
    #[test]
    fn the_vectors_of_all_layers() {
        let mut paper = Paper::new(&[3.0, 5.0], 2, &[]);
        let x = paper.tensor(&[3.0, 5.0]);
        let inputs = LayerInputs {
            table: matrix(&[1.0, 2.0], 2),
            table_scale: 1.0,
            project: linear(&[1.0, 0.0, 0.0, 1.0], 2),
            project_scale: std::f32::consts::FRAC_1_SQRT_2,
            norm: norm(&[1.0]),
        };
        inputs.forward(&paper.backend, &mut paper.work, &x);
        let found = std::mem::take(&mut paper.work.inputs);
        paper.near(&found, &[2.0 / 2f64.sqrt(), 3.0 / 2f64.sqrt()]);
    }

    /// Layer 1 of vectors (10, 2): relu(3) · 2 = 6, projected (6, 12), whose root mean square is √90.
    #[test]
    fn a_layer_and_its_vector() {
        let mut paper = Paper::new(&[3.0, 5.0], 2, &[]);
        let mut x = paper.tensor(&[3.0, 5.0]);
        paper.work.inputs = paper.tensor(&[10.0, 2.0]);
        let input = LayerInput::<CpuBackend> {
            gate: linear(&[1.0, 0.0], 2),
            project: linear(&[1.0, 2.0], 1),
            norm: norm(&[1.0, 1.0]),
            activation: Activation::Relu,
            from: 1,
            w: 1,
        };
        input.forward(&paper.backend, &mut paper.work, &mut x);
        paper.near(&x, &[3.0 + 6.0 / 90f64.sqrt(), 5.0 + 12.0 / 90f64.sqrt()]);
    }
}
