//! Where a decoder ends: the residual stream to logits.

use super::{Buffers, normed};
use crate::backend::{Backend, Linear, Norm};
use crate::block::altup::Merge;
use crate::block::strands::{Role, Strands};
use crate::error::Result;
use crate::family::LogitScale;
use crate::weights::Loader;
use std::fmt;

/// The residual stream to logits.
pub(super) struct Head<B: Backend> {
    /// How it reads the strands of the residual stream, where it has several.
    strands: Option<Strands<B>>,
    /// Where strands go that layers predict and correct.
    merge: Option<Merge<B>>,
    norm: Norm<B>,
    /// `[vocab, width]`
    linear: Linear<B>,
    /// Factor on the logits, or divisor.
    scale: Option<(LogitScale, f32)>,
    softcap: Option<f32>,
}

impl<B: Backend> Head<B> {
    pub(super) fn load(loader: &Loader<'_, B>) -> Result<Head<B>> {
        let (config, width, vocab) = (loader.config, loader.config.width, loader.config.vocab);
        // A file without a head shares the embedding table.
        let linear = if loader.has("output.weight") {
            loader.linear("output", vocab, width)?
        } else {
            Linear { weight: loader.matrix("token_embd.weight", vocab, width)?, bias: None }
        };
        // LFM2 calls it by the name of the norm that other families have behind the embeddings.
        let norm = match loader.stream_norm("output_norm")? {
            Some(norm) => norm,
            None => loader.norm("token_embd_norm", width)?.ok_or_else(|| loader.missing("output_norm.weight or token_embd_norm.weight"))?,
        };
        Ok(Head {
            strands: config.strands.map(|c| Strands::load(loader, "output_hc", c, Role::Head)).transpose()?,
            merge: Merge::load(loader)?,
            norm,
            linear,
            scale: config.logit_scale.map(|scale| (loader.family.logit_scale, scale)),
            softcap: config.final_softcap,
        })
    }

    /// `logits` of the rows that want them.
    pub(super) fn forward(&self, backend: &B, buffers: &mut Buffers<B>) {
        let Buffers { work, x, y, z, logits } = buffers;
        backend.wanted(&mut work.step, x, y);
        if let Some(strands) = &self.strands {
            strands.read(backend, work, y, z);
            std::mem::swap(y, z);
        }
        if let Some(merge) = &self.merge {
            merge.forward(backend, work, y);
        }
        normed(backend, work, y, Some(&self.norm));
        backend.linear(&mut work.step, &work.h, &mut [(&self.linear, &mut *logits)]);
        match self.scale {
            Some((LogitScale::Factor, scale)) => backend.scale(&mut work.step, logits, scale),
            Some((LogitScale::Divisor, scale)) => backend.scale(&mut work.step, logits, 1.0 / scale),
            None => {}
        }
        if let Some(cap) = self.softcap {
            backend.softcap(&mut work.step, logits, cap);
        }
    }
}

impl<B: Backend> fmt::Display for Head<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → logits", self.norm)?;
        match self.scale {
            Some((LogitScale::Factor, scale)) => write!(f, " ×{scale}")?,
            Some((LogitScale::Divisor, scale)) => write!(f, " ÷{scale}")?,
            None => {}
        }
        match self.softcap {
            Some(cap) => write!(f, " softcap {cap}"),
            None => Ok(()),
        }
    }
}
