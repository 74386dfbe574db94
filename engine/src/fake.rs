//! A decoder that computes nothing, for tests: it says the same answer again and again, and takes note of what it was asked.

use crate::backend::Backend;
use crate::backend::cpu::{CpuBackend, State};
use crate::batch::{Canceller, Entry, Logits};
use crate::cache::{Cache, CacheOptions, Sequence, StateSize, StateSpec};
use crate::config::Config;
use crate::decoder::{MixerFacts, Run, WeightsRead};
use crate::device::{Device, Placed};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Model, ModelOptions};
use crate::tokenizer::{Special, Token, Tokenizer, TokenizerOptions};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The tiny model's file: its vocabulary and its template are used, its weights are not.
pub(crate) static TINY: &[u8] = include_bytes!("../tests/data/tiny.gguf");

/// What a step was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) position: usize,
    pub(crate) tokens: Vec<Token>,
    pub(crate) rows: usize,
}

pub(crate) struct Fake {
    config: Config,
    answer: Vec<Token>,
    said: Mutex<usize>,
    asked: Arc<Mutex<Vec<Asked>>>,
    pause: Duration,
    memory: Option<StateSize>,
}

/// A model that answers `text` and then ends its turn, and the record of its steps. Each token takes `pause`.
pub(crate) fn model(options: &ModelOptions, text: &str, pause: Duration) -> (Model, Arc<Mutex<Vec<Asked>>>) {
    made(options, text, pause, None)
}

/// The same, whose cache cannot be cut back.
pub(crate) fn recurrent_model(options: &ModelOptions, text: &str, pause: Duration) -> (Model, Arc<Mutex<Vec<Asked>>>) {
    made(options, text, pause, Some(StateSize { channels: 2, past: 1, heads: 1, keys: 1, values: 1 }))
}

fn made(options: &ModelOptions, text: &str, pause: Duration, memory: Option<StateSize>) -> (Model, Arc<Mutex<Vec<Asked>>>) {
    let gguf = Gguf::from_static(TINY).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata(), &TokenizerOptions::default()).unwrap();
    let mut config = Config::from_metadata(gguf.metadata()).unwrap();
    config.vocab = tokenizer.vocab_size();
    let mut answer = tokenizer.encode(text, Special::Literal).unwrap();
    answer.push(tokenizer.find("<|im_end|>").unwrap());
    let asked = Arc::default();
    let run = Fake { config, answer, said: Mutex::new(0), asked: Arc::clone(&asked), pause, memory };
    (options.assemble(gguf, Placed { run: Box::new(run), device: Device::Cpu, notice: None }).unwrap(), asked)
}

impl Run for Fake {
    fn config(&self) -> &Config {
        &self.config
    }

    fn cache(&self, options: &CacheOptions) -> Result<Cache> {
        let state = |size| CpuBackend::new(1)?.state(&StateSpec::Recurrent(size), options.capacity);
        let states = self.memory.map(state).transpose()?;
        Ok(Cache::new(Sequence::<State>::new(states.into_iter().collect(), options)))
    }

    fn step(&self, batch: &[Entry], caches: &mut [&mut Cache], stop: &Canceller, logits: &mut Vec<f32>) -> Result<()> {
        for _ in batch {
            std::thread::sleep(self.pause);
            if stop.is_cancelled() {
                caches[0].sequence::<State>().unwrap().broken_off();
                return Err(Error::Cancelled);
            }
        }
        caches[0].sound().unwrap();
        let start = caches[0].len();
        assert!(start + batch.len() <= caches[0].capacity());
        assert!(batch.iter().enumerate().all(|(i, e)| e.position as usize == start + i));
        let rows = batch.iter().filter(|e| e.logits == Logits::Want).count();
        self.asked.lock().unwrap().push(Asked { position: start, tokens: batch.iter().map(|e| e.token).collect(), rows });
        caches[0].sequence::<State>().unwrap().advance(batch.len());
        logits.clear();
        let mut said = self.said.lock().unwrap();
        for _ in 0..rows {
            let mut row = vec![0.0; self.config.vocab];
            row[self.answer[*said % self.answer.len()] as usize] = 10.0;
            logits.extend_from_slice(&row);
            *said += 1;
        }
        Ok(())
    }

    fn card(&self) -> String {
        "fake".to_owned()
    }

    fn weights_read(&self) -> WeightsRead {
        WeightsRead { bytes: 1_000_000, ..WeightsRead::default() }
    }

    fn mixers(&self, _: &CacheOptions) -> Vec<MixerFacts> {
        Vec::new()
    }
}
