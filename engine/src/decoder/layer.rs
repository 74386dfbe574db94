//! One layer: the formula at the head of the decoder.

use super::{Buffers, normed, running};
use crate::backend::{Backend, Norm};
use crate::batch::Canceller;
use crate::block::altup::AltUp;
use crate::block::per_layer::LayerInput;
use crate::block::rope::Rope;
use crate::block::strands::{Role, Strands};
use crate::block::{FeedForward, Mixer, Work};
use crate::cache::Sequence;
use crate::error::Result;
use crate::weights::Loader;
use std::fmt;

/// How a layer's two halves meet the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Residual {
    /// Each is added before the next begins.
    Serial,
    /// Both work on the same input (GPT-J; Command R).
    Parallel,
}

/// One layer: see the formula at the head of this file.
pub(super) struct Layer<B: Backend> {
    pre: Option<Norm<B>>,
    pub(super) mixers: Vec<Mixer<B>>,
    post: Option<Norm<B>>,
    pre_ffn: Option<Norm<B>>,
    ffn: Option<FeedForward<B>>,
    post_ffn: Option<Norm<B>>,
    residual: Residual,
    /// How its two halves meet the strands of the residual stream, where it has several.
    strands: Option<[Strands<B>; 2]>,
    /// How it predicts and corrects them, where it does (Gemma 3n).
    altup: Option<AltUp<B>>,
    /// Factor on what each half adds to the residual stream.
    residual_scale: f32,
    /// What it makes of its own vector of the token.
    input: Option<LayerInput<B>>,
    /// Factor on the residual stream at its end.
    scale: Option<f32>,
    /// Number of its first mixer's state among those of a sequence.
    pub(super) slot: usize,
}

impl<B: Backend> Layer<B> {
    pub(super) fn load(loader: &Loader<'_, B>, index: usize, slot: usize, ropes: &mut Vec<Rope>) -> Result<Layer<B>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let norm = |part: &str| loader.norm(&name(part), loader.config.width);
        let mut pre = loader.stream_norm(&name("attn_norm"))?;
        // DBRX's name for the same.
        let mut post = if loader.has(&name("attn_output_norm.weight")) { norm("attn_output_norm")? } else { norm("post_attention_norm")? };
        let mut pre_ffn = loader.stream_norm(&name("ffn_norm"))?;
        let post_ffn = norm("post_ffw_norm")?;
        if pre.is_some() && pre_ffn.is_none() && post_ffn.is_none() {
            pre_ffn = post.take();
        }
        let mut residual = match loader.config.parallel_residual {
            Some(true) => Residual::Parallel,
            Some(false) | None if pre_ffn.is_none() && post.is_none() => Residual::Parallel,
            Some(false) | None => Residual::Serial,
        };
        // Falcon 40B's norms: the second is attention's, the first the feed-forward block's.
        if let Some(second) = norm("attn_norm_2")? {
            (pre, pre_ffn, residual) = (Some(second), pre, Residual::Parallel);
        }
        let ffn = FeedForward::load(loader, index)?;
        let mixers = Mixer::load(loader, index, ropes)?;
        // Searched architectures leave out what a layer can do without, and say so (Nemotron Super: Puzzle, Bercovich et al. 2024).
        let without = loader.config.heads[index] == 0 && mixers.is_empty();
        if pre.is_none() && post.is_none() && !(without && pre_ffn.is_some() == ffn.is_some()) {
            return Err(loader.missing(&name("attn_norm.weight")));
        }
        if mixers.is_empty() && ffn.is_none() && !(without && loader.config.ff[index] == 0) {
            return Err(loader.missing(&name("attn_q.weight")));
        }
        let strands = match loader.config.strands {
            None => None,
            Some(config) => {
                let of = |part: &str| Strands::load(loader, &name(part), config, Role::Block);
                Some([of("hc_attn")?, of("hc_ffn")?])
            }
        };
        Ok(Layer {
            pre,
            mixers,
            post,
            pre_ffn,
            ffn,
            post_ffn,
            residual,
            strands,
            altup: AltUp::load(loader, index)?,
            residual_scale: loader.config.residual_scale.unwrap_or(1.0),
            input: LayerInput::load(loader, index)?,
            scale: loader.values(&name("layer_output_scale.weight"), 1)?.map(|s| s[0]),
            slot,
        })
    }

    /// Adds the layer's work to `x`.
    pub(super) fn forward(
        &self,
        backend: &B,
        buffers: &mut Buffers<B>,
        sequences: &mut [&mut Sequence<B::State>],
        stop: &Canceller,
    ) -> Result<()> {
        if let Some(altup) = &self.altup {
            return self.forward_predicted(altup, backend, buffers, sequences, stop);
        }
        let Buffers { work, x, y, z, .. } = buffers;
        if let Some([first, second]) = &self.strands {
            first.read(backend, work, x, z);
            normed(backend, work, z, self.pre.as_ref());
            self.mix(backend, work, sequences, y, z);
            first.write(backend, work, x, y);
            running(stop)?;
            let Some(ffn) = &self.ffn else { return Ok(()) };
            second.read(backend, work, x, z);
            normed(backend, work, z, self.pre_ffn.as_ref());
            ffn.forward(backend, work, z, y);
            second.write(backend, work, x, y);
            return running(stop);
        }
        if let Some(ffn) = &self.ffn {
            ffn.begin(backend, work, x);
        }
        normed(backend, work, x, self.pre.as_ref());
        self.mix(backend, work, sequences, y, z);
        running(stop)?;
        if self.residual == Residual::Parallel && self.pre_ffn.is_some() {
            normed(backend, work, x, self.pre_ffn.as_ref());
        }
        if !self.mixers.is_empty() {
            self.add_normed(backend, work, x, y, z, self.post.as_ref());
        }
        if let Some(ffn) = &self.ffn {
            match self.residual {
                Residual::Parallel => {}
                Residual::Serial => normed(backend, work, x, self.pre_ffn.as_ref()),
            }
            ffn.forward(backend, work, x, y);
            running(stop)?;
            self.add_normed(backend, work, x, y, z, self.post_ffn.as_ref());
        }
        if let Some(input) = &self.input {
            input.forward(backend, work, x);
        }
        if let Some(scale) = self.scale {
            backend.scale(&mut work.step, x, scale);
        }
        Ok(())
    }

    /// `y = Σ mixer(h)`, by way of `z`.
    fn mix(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B::State>], y: &mut B::Tensor, z: &mut B::Tensor) {
        for (i, mixer) in self.mixers.iter().enumerate() {
            mixer.forward(backend, work, sequences, self.slot + i, if i == 0 { &mut *y } else { &mut *z });
            if i > 0 {
                backend.add(&mut work.step, y, z);
            }
        }
    }

    /// The layer's work on the first of several strands: see [`crate::block::altup`].
    fn forward_predicted(
        &self,
        altup: &AltUp<B>,
        backend: &B,
        buffers: &mut Buffers<B>,
        sequences: &mut [&mut Sequence<B::State>],
        stop: &Canceller,
    ) -> Result<()> {
        let Buffers { work, x, y, z, .. } = buffers;
        altup.predict(backend, work, x, z);
        normed(backend, work, z, self.pre.as_ref());
        altup.beside(backend, work);
        self.mix(backend, work, sequences, y, &mut B::Tensor::default());
        running(stop)?;
        normed(backend, work, y, self.post.as_ref());
        std::mem::swap(y, &mut work.h);
        altup.meet(backend, work, z, y);
        if let Some(ffn) = &self.ffn {
            match &self.pre_ffn {
                Some(norm) => backend.norm(&mut work.step, &work.altup.result, norm, &mut work.h),
                None => backend.copy(&mut work.step, &work.altup.result, &mut work.h),
            }
            ffn.forward(backend, work, z, y);
            normed(backend, work, y, self.post_ffn.as_ref());
            backend.add(&mut work.step, &mut work.altup.result, &work.h);
        }
        running(stop)?;
        altup.correct(backend, work, x, z);
        if let Some(input) = &self.input {
            input.vector(backend, work, z);
            altup.add_input(backend, &mut work.step, x, &work.h);
        }
        Ok(())
    }

    /// `x += scale · norm(y)`, by way of `z`.
    fn add_normed(&self, backend: &B, work: &mut Work<B>, x: &mut B::Tensor, y: &mut B::Tensor, z: &mut B::Tensor, norm: Option<&Norm<B>>) {
        let part = match norm {
            Some(norm) => {
                backend.norm(&mut work.step, y, norm, z);
                z
            }
            None => y,
        };
        if self.residual_scale != 1.0 {
            backend.scale(&mut work.step, part, self.residual_scale);
        }
        backend.add(&mut work.step, x, part);
    }
}

impl<B: Backend> fmt::Display for Layer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let half = |f: &mut fmt::Formatter<'_>, pre: &Option<Norm<B>>, what: &str, post: &Option<Norm<B>>| {
            if let Some(norm) = pre {
                write!(f, "{norm} → ")?;
            }
            f.write_str(what)?;
            if let Some(norm) = post {
                write!(f, " → {norm}")?;
            }
            Ok(())
        };
        let mixers: Vec<_> = self.mixers.iter().map(Mixer::to_string).collect();
        match (&*mixers, &self.ffn) {
            ([], None) => return f.write_str("nothing"),
            ([], Some(ffn)) => {
                half(f, if self.pre.is_some() { &self.pre } else { &self.pre_ffn }, &ffn.to_string(), &self.post_ffn)?;
                return f.write_str(" → +");
            }
            (_, _) => {}
        }
        half(f, &self.pre, &mixers.join(" + "), &self.post)?;
        if let Some(ffn) = &self.ffn {
            f.write_str(match self.residual {
                Residual::Serial => " → +; ",
                Residual::Parallel => " ∥ ",
            })?;
            half(f, &self.pre_ffn, &ffn.to_string(), &self.post_ffn)?;
        }
        f.write_str(" → +")?;
        if let Some(input) = &self.input {
            write!(f, "; {input}")?;
        }
        if let Some(altup) = &self.altup {
            write!(f, "; {altup}")?;
        }
        if self.scale.is_some() {
            f.write_str("; scaled")?;
        }
        Ok(())
    }
}
