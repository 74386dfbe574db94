//! What a layer remembers of one sequence on a candle device.

use super::attention::KeyValue;
use super::recurrent::Memory;
use crate::backend::Window;
use crate::cache::{LayerState, Rewind, StateSpec};
use crate::error::{Error, Fault, Result};
use candle_core::Device;

/// A layer's memory of one sequence.
pub enum State {
    /// Keys and values.
    KeyValue(KeyValue),
    /// What every token changes.
    Recurrent(Memory),
}

impl State {
    /// An empty one, for up to `capacity` positions.
    pub(super) fn new(spec: &StateSpec, capacity: usize, device: &Device) -> Result<State> {
        match *spec {
            StateSpec::KeyValue { heads, key_dim, value_dim, k, v, window, batch } => {
                // Twice the window: what moves to the front moves once for every window of tokens.
                let keep = window.reach().map_or(capacity, |reach| reach.saturating_add(batch.max(reach)).min(capacity));
                KeyValue::new(heads, keep, (key_dim, k), Some((value_dim, v)), window, device).map(State::KeyValue)
            }
            StateSpec::Latent { key_dim, kind, .. } => {
                KeyValue::new(1, capacity, (key_dim, kind), None, Window::None, device).map(State::KeyValue)
            }
            StateSpec::Entries { .. } => {
                let fault = Fault::at("compressed attention").found("candle's back end has none");
                Err(Error::Unsupported(fault.help("compute on the CPU")))
            }
            StateSpec::Recurrent(size) => Ok(State::Recurrent(Memory::new(size))),
        }
    }
}

impl LayerState for State {
    fn rewind(&self) -> Rewind {
        match self {
            State::KeyValue(state) => state.rewind(),
            State::Recurrent(_) => Rewind::CopyOnly,
        }
    }

    fn copy(&self, _: usize) -> Result<State> {
        match self {
            State::KeyValue(state) => state.copy().map(State::KeyValue),
            State::Recurrent(memory) => Ok(State::Recurrent(memory.clone())),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            State::KeyValue(state) => state.bytes(),
            State::Recurrent(memory) => memory.bytes(),
        }
    }
}
