//! What a layer remembers of a sequence on the CPU: keys and values, entries, recurrent states; how far each can be cut back, copied,
//! saved and loaded.

use super::entries::Entries;
use crate::backend::Window;
use crate::cache::{LayerState, Part, Rewind, Saved, StateSpec, no_room};
use crate::error::Result;
use hob_kernels::attention::KvStore;
use hob_kernels::recurrent;

/// What one layer remembers of one sequence.
pub enum State {
    /// Keys and values of the positions that are seen again.
    KeyValue {
        /// Where they are kept.
        store: KvStore,
        /// Which of them a query sees.
        window: Window,
    },
    /// The same, and entries that stand for several positions each.
    Compressed {
        /// Where keys, which are values too, are kept.
        store: KvStore,
        /// Which of them a query sees.
        window: Window,
        /// The entries, and those that choose among them.
        entries: Vec<Entries>,
    },
    /// A state that every token changes.
    Recurrent(Recurrent),
}

/// A state that every token changes.
pub struct Recurrent {
    pub(super) now: recurrent::State,
    /// What the step under way leaves of it at lengths within it, ascending.
    pub(super) marks: Vec<(usize, recurrent::State)>,
}

impl From<recurrent::State> for State {
    fn from(now: recurrent::State) -> State {
        State::Recurrent(Recurrent { now, marks: Vec::new() })
    }
}

impl State {
    /// An empty one for `capacity` positions.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no room for it.
    pub(super) fn new(spec: &StateSpec, capacity: usize) -> Result<State> {
        match *spec {
            StateSpec::KeyValue { heads, key_dim, value_dim, k, v, window, batch } => {
                let keep = window.reach().map_or(capacity, |reach| reach.saturating_add(batch).min(capacity));
                let store = KvStore::ring(k, v, heads, key_dim, value_dim, capacity, keep);
                let bytes = (k.bytes(key_dim) + v.bytes(value_dim)) as u64 * heads as u64 * keep as u64;
                store.map(|store| State::KeyValue { store, window }).map_err(|_| no_room(bytes))
            }
            StateSpec::Recurrent(size) => {
                let memory = size.heads as u64 * size.keys as u64 * size.values as u64;
                let bytes = 4 * (memory + size.channels as u64 * size.past as u64);
                recurrent::State::new(size).map(State::from).map_err(|_| no_room(bytes))
            }
            StateSpec::Latent { key_dim, value_dim, kind, window, batch } => {
                let keep = window.reach().map_or(capacity, |reach| reach.saturating_add(batch).min(capacity));
                let store = KvStore::shared(kind, key_dim, value_dim, capacity, keep);
                let bytes = kind.bytes(key_dim) as u64 * keep as u64;
                store.map(|store| State::KeyValue { store, window }).map_err(|_| no_room(bytes))
            }
            StateSpec::Entries { key_dim, kind, window, batch, ratio, halves, index } => {
                let keep = window.reach().map_or(capacity, |reach| reach.saturating_add(batch).min(capacity));
                let store = KvStore::shared(kind, key_dim, key_dim, capacity, keep);
                let store = store.map_err(|_| no_room(kind.bytes(key_dim) as u64 * keep as u64))?;
                let of = |dim| Entries::new(kind, dim, (ratio, halves), capacity, keep);
                let entries = std::iter::once(key_dim).chain(index).map(of).collect::<Result<_>>()?;
                Ok(State::Compressed { store, window, entries })
            }
        }
    }

    pub(super) fn recurrent(&mut self) -> &mut Recurrent {
        match self {
            State::Recurrent(state) => state,
            State::KeyValue { .. } | State::Compressed { .. } => unreachable!("the slot of a recurrent layer holds keys and values"),
        }
    }

    pub(super) fn store(&self) -> &KvStore {
        match self {
            State::KeyValue { store, .. } | State::Compressed { store, .. } => store,
            State::Recurrent(_) => unreachable!("the slot of an attention layer holds a recurrent state"),
        }
    }

    pub(super) fn store_mut(&mut self) -> &mut KvStore {
        match self {
            State::KeyValue { store, .. } | State::Compressed { store, .. } => store,
            State::Recurrent(_) => unreachable!("the slot of an attention layer holds a recurrent state"),
        }
    }
}

impl LayerState for State {
    fn rewind(&self) -> Rewind {
        let of = |store: &KvStore, window: Window| if store.is_ring() { Some(store.shortest(window)) } else { None };
        match self {
            State::KeyValue { store, window } => of(store, *window).map_or(Rewind::Free, Rewind::Since),
            State::Compressed { store, window, entries } => {
                let ring = of(store, *window).unwrap_or(0);
                match entries.iter().map(Entries::shortest).fold(ring, usize::max) {
                    0 => Rewind::Free,
                    shortest => Rewind::Since(shortest),
                }
            }
            State::Recurrent(_) => Rewind::CopyOnly,
        }
    }

    fn copy(&self, len: usize) -> Result<State> {
        let copy = match self {
            State::KeyValue { store, window } => store.copy(len).map(|store| State::KeyValue { store, window: *window }),
            State::Compressed { store, window, entries } => {
                let entries = entries.iter().map(|e| e.copy(len)).collect::<Result<_>>()?;
                store.copy(len).map(|store| State::Compressed { store, window: *window, entries })
            }
            State::Recurrent(state) => state.now.copy().map(State::from),
        };
        copy.map_err(|_| no_room(self.bytes()))
    }

    fn bytes(&self) -> u64 {
        match self {
            State::KeyValue { store, .. } => store.bytes() as u64,
            State::Compressed { store, entries, .. } => store.bytes() as u64 + entries.iter().map(Entries::bytes).sum::<u64>(),
            State::Recurrent(state) => state.now.bytes() as u64,
        }
    }

    fn holds(&self, len: usize, end: usize) -> bool {
        let of = |store: &KvStore, window: Window| !store.is_ring() || store.shortest_at(end, window) <= len;
        match self {
            State::KeyValue { store, window } => of(store, *window),
            State::Compressed { store, window, entries } => of(store, *window) && entries.iter().all(|e| e.shortest_at(end) <= len),
            State::Recurrent(_) => false,
        }
    }

    fn keep(&mut self, lengths: &[usize]) -> bool {
        let State::Recurrent(Recurrent { now, marks }) = self else { return false };
        let room: Result<Vec<_>, _> = lengths.iter().map(|len| now.copy().map(|state| (*len, state))).collect();
        let able = room.is_ok();
        *marks = room.unwrap_or_default();
        able
    }

    fn kept(&mut self, len: usize) -> Option<State> {
        let State::Recurrent(Recurrent { marks, .. }) = self else { return None };
        let at = marks.iter().position(|(mark, _)| *mark == len)?;
        Some(State::from(marks.remove(at).1))
    }

    fn saved(&self) -> Saved {
        match self {
            State::KeyValue { window: Window::None, .. } => Saved::ByPosition,
            State::KeyValue { .. } | State::Compressed { .. } | State::Recurrent(_) => Saved::Whole,
        }
    }

    fn part_bytes(&self, part: &Part) -> usize {
        match (self, part) {
            (State::KeyValue { store, window: Window::None }, Part::Positions(positions)) => store.saved_bytes(positions),
            (State::KeyValue { window: Window::None, .. }, Part::Whole(_)) | (_, Part::Positions(_)) => 0,
            (State::KeyValue { store, window }, Part::Whole(len)) => store.saved_bytes(&KvStore::seen(*window, *len)),
            (State::Compressed { store, window, entries }, Part::Whole(len)) => {
                store.saved_bytes(&KvStore::seen(*window, *len)) + entries.iter().map(|e| e.saved_bytes(*len)).sum::<usize>()
            }
            (State::Recurrent(state), Part::Whole(_)) => state.now.bytes(),
        }
    }

    fn save(&self, part: &Part, out: &mut Vec<u8>) {
        match (self, part) {
            (State::KeyValue { store, window: Window::None }, Part::Positions(positions)) => store.save(positions.clone(), out),
            (State::KeyValue { window: Window::None, .. }, Part::Whole(_)) | (_, Part::Positions(_)) => {}
            (State::KeyValue { store, window }, Part::Whole(len)) => store.save(KvStore::seen(*window, *len), out),
            (State::Compressed { store, window, entries }, Part::Whole(len)) => {
                store.save(KvStore::seen(*window, *len), out);
                entries.iter().for_each(|e| e.save(*len, out));
            }
            (State::Recurrent(state), Part::Whole(_)) => state.now.save(out),
        }
    }

    fn load(&mut self, part: &Part, bytes: &[u8]) {
        match (self, part) {
            (State::KeyValue { store, window: Window::None }, Part::Positions(positions)) => store.load(positions.clone(), bytes),
            (State::KeyValue { window: Window::None, .. }, Part::Whole(_)) | (_, Part::Positions(_)) => {}
            (State::KeyValue { store, window }, Part::Whole(len)) => store.load_alone(KvStore::seen(*window, *len), bytes),
            (State::Compressed { store, window, entries }, Part::Whole(len)) => {
                let seen = KvStore::seen(*window, *len);
                let (own, mut bytes) = bytes.split_at(store.saved_bytes(&seen));
                store.load_alone(seen, own);
                for entries in entries {
                    let (own, rest) = bytes.split_at(entries.saved_bytes(*len));
                    entries.load(*len, own);
                    bytes = rest;
                }
            }
            (State::Recurrent(state), Part::Whole(_)) => state.now.load(bytes),
        }
    }
}
