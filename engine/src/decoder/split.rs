//! A model in two parts, each on a back end of its own: the first layers with the embedding, and the last with the head.
//!
//! Once a step the residual stream goes from one to the other by way of the host, as rows of f32; each part keeps what its own
//! layers remember. The parts are decoders like any other, and know nothing of each other.

use super::{Carried, Decoder, MixerFacts, Run, Share, WeightsRead, asked, card, described, foreign, running, settle};
use crate::backend::Backend;
use crate::backend::cpu::CpuBackend;
use crate::batch::{Canceller, Entry};
use crate::cache::{Cache, CacheOptions};
use crate::config::Config;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::weights::Loader;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// A model on two back ends.
pub struct Split<A: Backend, B: Backend> {
    lower: Decoder<A>,
    upper: Decoder<B>,
    /// What carried the stream in steps that are over, for the next ones.
    spare: Mutex<Vec<Carried>>,
}

/// The layers before which a model can be cut in two: those where no later layer looks at the keys of an earlier one.
///
/// # Errors
/// As [`device::load`](crate::device::load), as far as the header tells.
pub fn cuts(gguf: &Gguf) -> Result<Vec<usize>> {
    let (config, family) = described(gguf)?;
    let backend = CpuBackend::new(1)?;
    let loader = Loader::new(gguf, &backend, &config, family, config.context);
    let looks = (0..config.layers).map(|index| loader.kv_layer(index)).collect::<Result<Vec<_>>>()?;
    Ok((1..config.layers).filter(|cut| looks[*cut..].iter().all(|layer| layer >= cut)).collect())
}

impl<A: Backend, B: Backend> Split<A, B> {
    /// The model in a file, its layers before `cut` on one back end and the others on the other.
    ///
    /// # Errors
    /// As [`device::load`](crate::device::load).
    pub fn load(gguf: &Gguf, backends: (A, B), cut: usize, context: Option<usize>) -> Result<Split<A, B>> {
        let mut used = HashSet::new();
        let lower = Decoder::load_share(gguf, backends.0, context, Share::Before(cut), &mut used)?;
        let upper = Decoder::load_share(gguf, backends.1, context, Share::From(cut), &mut used)?;
        asked(gguf, &lower.config, &used)?;
        Ok(Split { lower, upper, spare: Mutex::default() })
    }
}

impl<A: Backend, B: Backend> Run for Split<A, B> {
    fn config(&self) -> &Config {
        self.lower.config()
    }

    fn cache(&self, options: &CacheOptions) -> Result<Cache> {
        Ok(Cache::pair(self.lower.cache(options)?, self.upper.cache(options)?))
    }

    fn step(&self, batch: &[Entry], caches: &mut [&mut Cache], stop: &Canceller, logits: &mut Vec<f32>) -> Result<()> {
        logits.clear();
        if batch.is_empty() {
            return Ok(());
        }
        running(stop)?;
        caches.iter().try_for_each(|cache| cache.sound())?;
        let halves = caches.iter_mut().map(|cache| cache.halves().ok_or_else(foreign)).collect::<Result<Vec<_>>>()?;
        let (mut below, mut above): (Vec<_>, Vec<_>) = halves.into_iter().unzip();
        let (mut below, mut above) = (self.lower.admit(batch, &mut below)?, self.upper.admit(batch, &mut above)?);
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut carried = spare().pop().unwrap_or_default();
        // Neither part takes note of the tokens before both have computed them.
        let done = self.lower.compute(batch, &mut below, stop, &mut carried, logits);
        let done = done.and_then(|()| self.upper.compute(batch, &mut above, stop, &mut carried, logits));
        spare().push(carried);
        settle(&mut below, batch, &done);
        settle(&mut above, batch, &done);
        done
    }

    fn card(&self) -> String {
        let layers: Vec<_> = self.lower.layer_cards().chain(self.upper.layer_cards()).collect();
        card(&self.lower.heading(), &layers, &self.upper.ending())
    }

    fn weights_read(&self) -> WeightsRead {
        self.lower.weights_read()
    }

    fn positions(&self) -> String {
        format!("{} {}", self.lower.positions(), self.upper.positions())
    }

    fn mixers(&self, options: &CacheOptions) -> Vec<MixerFacts> {
        [self.lower.mixers(options), self.upper.mixers(options)].concat()
    }
}
