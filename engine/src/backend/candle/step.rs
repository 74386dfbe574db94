//! What candle's back end holds while a step runs: activations, and what its verbs leave for each other.

use candle_core::Tensor as Array;

use super::{CandleBackend, Done};
use crate::backend::Window;
use crate::batch::{Canceller, Entry, Logits, Run};
use crate::block::rope::{Pairing, Rope};

/// Activations `f32 [tokens, width]`; nothing before the first result.
#[derive(Default)]
pub struct Tensor(Option<Array>);

impl Tensor {
    pub(super) fn get(&self) -> Done<&Array> {
        self.0.as_ref().ok_or_else(|| candle_core::Error::Msg("a tensor is read before it is written".into()))
    }

    pub(super) fn put(&mut self, array: Array) {
        self.0 = Some(array);
    }
}

/// Rows of several runs as one.
pub(super) fn together(parts: &[Array]) -> Done<Array> {
    match parts {
        [one] => Ok(one.clone()),
        many => Array::cat(many, 0),
    }
}

/// What a mask is about.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Seen {
    /// Positions.
    Window(Window),
    /// Entries of so many positions each, which are seen once all of them are there.
    Entries(usize),
}

/// Cosines and sines of a rope, `[tokens, 1, rotary / 2]`.
pub(super) struct Angles {
    pub(super) cos: Array,
    pub(super) sin: Array,
    pub(super) pairing: Pairing,
}

/// The experts of each token, `u32 [tokens, k]`, best first, and their weights `[tokens, k]`.
pub(super) struct Choice {
    pub(super) ids: Array,
    pub(super) weights: Array,
}

/// What a step needs besides tensors.
#[derive(Default)]
pub struct Step {
    pub(super) stop: Canceller,
    pub(super) tokens: Vec<u32>,
    /// The same, `u32 [tokens]`, on the device.
    pub(super) ids: Option<Array>,
    /// Rows whose logits are wanted, `u32 [wanted]`; `None` where all are.
    pub(super) wanted: Option<Array>,
    pub(super) runs: Vec<Run>,
    pub(super) angles: Vec<Angles>,
    /// What was masked how in this step, by run.
    pub(super) masks: Vec<((usize, Seen), Array)>,
    pub(super) choice: Option<Choice>,
    /// The first verb that failed, and how.
    pub(super) failed: Option<(&'static str, candle_core::Error)>,
}

impl Step {
    /// Does a verb's work, unless one before it failed.
    pub(super) fn attempt(&mut self, verb: &'static str, work: impl FnOnce(&mut Step) -> Done) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = work(self) {
            self.failed = Some((verb, error));
        }
    }
}

impl CandleBackend {
    pub(super) fn start(&self, step: &mut Step, batch: &[Entry], ropes: &[Rope]) -> Done {
        let device = &self.device;
        step.tokens = batch.iter().map(|e| e.token).collect();
        step.ids = Some(Array::from_slice(&step.tokens, batch.len(), device)?);
        let rows = batch.iter().enumerate().filter(|(_, e)| e.logits == Logits::Want);
        let wanted: Vec<u32> = rows.map(|(i, _)| i as u32).collect();
        step.wanted = if wanted.len() == batch.len() || wanted.is_empty() {
            None
        } else {
            let count = wanted.len();
            Some(Array::from_vec(wanted, count, device)?)
        };
        Run::all(batch, &mut step.runs);
        for rope in ropes {
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            rope.angles(batch.iter().map(|e| e.position), &mut cos, &mut sin);
            let shape = (batch.len(), 1, rope.rotary() / 2);
            let (cos, sin) = (Array::from_vec(cos, shape, device)?, Array::from_vec(sin, shape, device)?);
            step.angles.push(Angles { cos, sin, pairing: rope.pairing });
        }
        Ok(())
    }
}
