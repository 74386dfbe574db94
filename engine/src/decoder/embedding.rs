//! Where a decoder begins: ids to the residual stream.

use super::Buffers;
use crate::backend::{Backend, Row};
use crate::block::altup::Spread;
use crate::block::per_layer::LayerInputs;
use crate::error::Result;
use crate::family::{EmbeddingScale, Ropes};
use crate::weights::Loader;

/// Ids to the residual stream, and to each layer's own vector of the token.
pub(super) struct Embedding<B: Backend> {
    /// `[vocab, width]`
    table: B::Weight,
    pub(super) scale: f32,
    /// `[positions, width]`, added to it: positions that are learned (GPT-2).
    positions: Option<(B::Weight, usize)>,
    inputs: Option<LayerInputs<B>>,
    /// Strands that begin as copies of one (DeepSeek V4).
    copies: usize,
    /// Where strands come from that layers predict and correct (Gemma 3n).
    spread: Option<Spread<B>>,
}

impl<B: Backend> Embedding<B> {
    pub(super) fn load(loader: &Loader<'_, B>) -> Result<Embedding<B>> {
        let config = loader.config;
        Ok(Embedding {
            table: loader.matrix("token_embd.weight", config.vocab, config.width)?,
            scale: config.embedding_scale.unwrap_or(match loader.family.embedding {
                EmbeddingScale::One => 1.0,
                EmbeddingScale::SqrtWidth => (config.width as f32).sqrt(),
            }),
            positions: match loader.family.ropes {
                Ropes::All | Ropes::Windowed | Ropes::AllButEvery(_) | Ropes::None => None,
                Ropes::Learned => {
                    let name = "position_embd.weight";
                    let rows = loader.rows(name).ok_or_else(|| loader.missing(name))?;
                    Some((loader.matrix(name, rows, config.width)?, rows))
                }
            },
            inputs: LayerInputs::load(loader)?,
            copies: config.strands.map_or(1, |strands| strands.count),
            spread: Spread::load(loader)?,
        })
    }

    /// How many positions there are, where they are learned.
    pub(super) fn most(&self) -> Option<usize> {
        self.positions.as_ref().map(|(_, rows)| *rows)
    }

    /// `x` and `work.inputs` of the step's ids.
    pub(super) fn forward(&self, backend: &B, buffers: &mut Buffers<B>) {
        let Buffers { work, x, y, z, .. } = buffers;
        backend.embed(&mut work.step, &self.table, Row::Token, self.scale, x);
        if let Some((positions, _)) = &self.positions {
            backend.embed(&mut work.step, positions, Row::Position, 1.0, y);
            backend.add(&mut work.step, x, y);
        }
        if let Some(inputs) = &self.inputs {
            inputs.forward(backend, work, x);
        }
        if self.copies > 1 {
            backend.copy(&mut work.step, x, y);
            for _ in 1..self.copies {
                backend.join(&mut work.step, x, y, 1, z);
                std::mem::swap(x, z);
            }
        }
        if let Some(spread) = &self.spread {
            spread.forward(backend, &mut work.step, x, y, z);
        }
    }
}
