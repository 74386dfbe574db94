//! What a layer remembers of one sequence on a candle device.

use super::attention::KeyValue;
use super::entries::Entries;
use super::recurrent::Memory;
use crate::cache::{LayerState, Rewind, StateSpec};
use crate::error::Result;
use candle_core::Device;

/// A layer's memory of one sequence.
pub enum State {
    /// Keys and values.
    KeyValue(KeyValue),
    /// The keys of a window, which are values too, and entries: those attended to, and those that choose among them.
    Compressed(KeyValue, Vec<Entries>),
    /// What every token changes.
    Recurrent(Memory),
}

impl State {
    /// An empty one, for up to `capacity` positions.
    pub(super) fn new(spec: &StateSpec, capacity: usize, device: &Device) -> Result<State> {
        match *spec {
            StateSpec::KeyValue { heads, key_dim, value_dim, k, v, window, batch } => {
                let values = Some((value_dim, v));
                KeyValue::within(heads, capacity, (key_dim, k), values, (window, batch), device).map(State::KeyValue)
            }
            StateSpec::Latent { key_dim, kind, window, batch, .. } => {
                KeyValue::within(1, capacity, (key_dim, kind), None, (window, batch), device).map(State::KeyValue)
            }
            StateSpec::Entries { key_dim, kind, window, batch, ratio, halves, index } => {
                let keys = KeyValue::within(1, capacity, (key_dim, kind), None, (window, batch), device)?;
                let of = |dim| Entries::new((dim, kind), (ratio, halves), capacity, batch, device);
                let entries = std::iter::once(key_dim).chain(index).map(of).collect::<Result<_>>()?;
                Ok(State::Compressed(keys, entries))
            }
            StateSpec::Recurrent(size) => Ok(State::Recurrent(Memory::new(size))),
        }
    }
}

/// Everything that compressed attention keeps.
fn stores<'a>(keys: &'a KeyValue, entries: &'a [Entries]) -> impl Iterator<Item = &'a KeyValue> {
    std::iter::once(keys).chain(entries.iter().flat_map(Entries::stores))
}

/// How far two states can be taken back together.
fn nearer(a: Rewind, b: Rewind) -> Rewind {
    match (a, b) {
        (Rewind::CopyOnly, _) | (_, Rewind::CopyOnly) => Rewind::CopyOnly,
        (Rewind::Free, other) | (other, Rewind::Free) => other,
        (Rewind::Since(a), Rewind::Since(b)) => Rewind::Since(a.max(b)),
    }
}

impl LayerState for State {
    fn rewind(&self) -> Rewind {
        match self {
            State::KeyValue(state) => state.rewind(),
            State::Compressed(keys, entries) => stores(keys, entries).map(KeyValue::rewind).fold(Rewind::Free, nearer),
            State::Recurrent(_) => Rewind::CopyOnly,
        }
    }

    fn copy(&self, _: usize) -> Result<State> {
        match self {
            State::KeyValue(state) => state.copy().map(State::KeyValue),
            State::Compressed(keys, entries) => {
                let copies = entries.iter().map(Entries::copy).collect::<Result<_>>()?;
                Ok(State::Compressed(keys.copy()?, copies))
            }
            State::Recurrent(memory) => Ok(State::Recurrent(memory.clone())),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            State::KeyValue(state) => state.bytes(),
            State::Compressed(keys, entries) => stores(keys, entries).map(KeyValue::bytes).sum(),
            State::Recurrent(memory) => memory.bytes(),
        }
    }
}
