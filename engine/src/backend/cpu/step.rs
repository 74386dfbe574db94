//! What the CPU back end holds while a step runs: activations, and what its verbs leave for each other.

use hob_kernels::Floats;
use hob_kernels::matmul::Inputs;

use crate::batch::{Canceller, Entry, Logits, Run};
use crate::block::rope::{Pairing, Rope};

/// Activations `[rows, width]`, in a buffer that only grows.
#[derive(Default)]
pub struct Tensor {
    data: Floats,
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Tensor {
    pub(super) fn values(&self) -> &[f32] {
        &self.data
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Takes this shape; what it holds is left from before.
    pub(super) fn shape(&mut self, rows: usize, width: usize) -> &mut [f32] {
        (self.rows, self.width) = (rows, width);
        self.data.reshape(rows * width)
    }
}

/// What a step needs besides tensors.
#[derive(Default)]
pub struct Step {
    pub(super) stop: Canceller,
    pub(super) ids: Vec<u32>,
    pub(super) wanted: Vec<usize>,
    pub(super) runs: Vec<Run>,
    /// Cosines and sines of each rope, `[tokens, rotary / 2]`.
    pub(super) angles: Vec<Angles>,
    pub(super) inputs: Inputs,
    /// Experts of each token, `[tokens, k]`, and their weights.
    pub(super) chosen: Vec<u32>,
    pub(super) weights: Vec<f32>,
    pub(super) k: usize,
    /// The same by expert.
    pub(super) offsets: Vec<u32>,
    pub(super) slots: Vec<u32>,
    /// Tokens by head, where each head has weights of its own.
    pub(super) heads: Heads,
    /// Per slot: `[slots, ff]`, `[slots, ff]`, `[slots, columns]` of some columns of the width.
    pub(super) gate: Tensor,
    pub(super) up: Tensor,
    pub(super) down: Tensor,
    /// What is left of a state after each token, `[tokens, heads]`.
    pub(super) decay: Tensor,
}

impl Step {
    pub(super) fn begin(&mut self, batch: &[Entry], ropes: &[Rope], stop: &Canceller) {
        self.stop = stop.clone();
        self.ids.clear();
        self.ids.extend(batch.iter().map(|e| e.token));
        self.wanted.clear();
        self.wanted.extend(batch.iter().enumerate().filter(|(_, e)| e.logits == Logits::Want).map(|(i, _)| i));
        Run::all(batch, &mut self.runs);
        self.angles.resize_with(ropes.len(), Angles::default);
        for (angles, rope) in self.angles.iter_mut().zip(ropes) {
            rope.angles(batch.iter().map(|e| e.position), &mut angles.cos, &mut angles.sin);
            (angles.rotary, angles.pairing) = (rope.rotary(), Some(rope.pairing));
        }
    }
}

/// Those of a step's tokens, for one rope.
#[derive(Default)]
pub(super) struct Angles {
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
    pub(super) rotary: usize,
    pub(super) pairing: Option<Pairing>,
}

/// Slots (token · heads + head) by head.
#[derive(Default)]
pub(super) struct Heads {
    pub(super) offsets: Vec<u32>,
    pub(super) slots: Vec<u32>,
}

impl Heads {
    pub(super) fn set(&mut self, tokens: usize, heads: usize) {
        if self.offsets.len() != heads + 1 || self.slots.len() != tokens * heads {
            self.offsets.clear();
            self.offsets.extend((0..=heads).map(|head| (head * tokens) as u32));
            self.slots.clear();
            self.slots.extend((0..heads).flat_map(|head| (0..tokens).map(move |t| (t * heads + head) as u32)));
        }
    }
}
