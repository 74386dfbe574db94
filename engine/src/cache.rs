//! What a model remembers of a sequence: one state per layer, and the length of them all.
//!
//! The cache answers for itself: how long it is, whether it can be cut back, what a checkpoint of it costs. A [`Cache`] is
//! the same type whatever back end made it; a [`Sequence`] is its inside.

use crate::error::{Error, Fault, Result};
pub use hob_kernels::attention::KvType;
use hob_kernels::attention::{BLOCK, Window};
pub use hob_kernels::recurrent::StateSize;
use pair::Pair;
pub use saved::{Part, Saved};
pub use sequence::Sequence;
use std::any::Any;

mod pair;
mod saved;
mod sequence;

/// How a cache is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Most positions it will hold.
    pub capacity: usize,
    /// Type of the keys.
    pub k: KvType,
    /// Type of the values.
    pub v: KvType,
    /// Most tokens of its sequence in one step: a layer that looks through a window keeps so many beyond it.
    pub batch: usize,
}

/// What a layer needs to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateSpec {
    /// Keys and values of every position that is seen again.
    KeyValue {
        /// Key/value heads.
        heads: usize,
        /// Width of a key.
        key_dim: usize,
        /// Width of a value.
        value_dim: usize,
        /// Precision of the keys.
        k: KvType,
        /// Precision of the values.
        v: KvType,
        /// Which positions a query sees.
        window: Window,
        /// Most queries at a time. What none of them sees may go.
        batch: usize,
    },
    /// One head's keys of every position, of whose channels the first are the values too.
    Latent {
        /// Width of a key.
        key_dim: usize,
        /// Width of a value.
        value_dim: usize,
        /// Precision of both.
        kind: KvType,
        /// Which positions a query sees.
        window: Window,
        /// Most queries at a time. What none of them sees may go.
        batch: usize,
    },
    /// The same, and entries that stand for several positions each.
    Entries {
        /// Width of a key, which is its own value.
        key_dim: usize,
        /// Precision of both.
        kind: KvType,
        /// Which positions a query sees.
        window: Window,
        /// Most queries at a time.
        batch: usize,
        /// Positions of an entry.
        ratio: usize,
        /// 2 where entries overlap.
        halves: usize,
        /// Width of the keys that choose among entries, where they do.
        index: Option<usize>,
    },
    /// The same room however many positions: a matrix a head, and the last inputs of convolutions. At position 0 it begins anew.
    Recurrent(StateSize),
}

/// What is said where there is no room for so many bytes of a state.
pub(crate) fn no_room(bytes: u64) -> Error {
    let fault = Fault::at("KV cache").found(format!("no memory for {:.1} MiB", bytes as f64 / (1 << 20) as f64));
    Error::Memory(fault.help("ask for a smaller context, or a smaller cache type"))
}

impl StateSpec {
    /// Bytes of a state with room for `capacity` positions: what [`LayerState::bytes`] tells of it on the CPU, without making it.
    pub fn bytes(&self, capacity: usize) -> u64 {
        let whole = |n: usize| n.next_multiple_of(BLOCK);
        let kept = |window: Window, batch: usize| window.reach().map_or(capacity, |reach| reach.saturating_add(batch).min(capacity));
        // Positions kept lie in that many blocks and a part of one more.
        let room = |keep: usize, capacity: usize| (whole(keep) + BLOCK).min(whole(capacity)) as u64;
        let row = |kind: KvType, dim: usize| kind.bytes(dim) as u64;
        match *self {
            StateSpec::KeyValue { heads, key_dim, value_dim, k, v, window, batch } => {
                room(kept(window, batch), capacity) * heads as u64 * (row(k, key_dim) + row(v, value_dim))
            }
            StateSpec::Latent { key_dim, kind, window, batch, .. } => room(kept(window, batch), capacity) * row(kind, key_dim),
            StateSpec::Entries { key_dim, kind, window, batch, ratio, halves, index } => {
                let keep = kept(window, batch);
                let all = capacity / ratio + 1;
                let entries = |dim: usize| room(all, all) * row(kind, dim) + ((keep + 2 * ratio) * 2 * halves * dim * 4) as u64;
                room(keep, capacity) * row(kind, key_dim) + std::iter::once(key_dim).chain(index).map(entries).sum::<u64>()
            }
            StateSpec::Recurrent(size) => size.bytes(),
        }
    }

    /// Bytes of a checkpoint's copy; none where the state can be cut back anywhere.
    pub fn copy_bytes(&self, capacity: usize) -> u64 {
        match *self {
            StateSpec::KeyValue { window, batch, .. }
            | StateSpec::Latent { window, batch, .. }
            | StateSpec::Entries { window, batch, .. } => {
                let lets_go = window.reach().is_some_and(|reach| reach.saturating_add(batch) < capacity);
                if lets_go { self.bytes(capacity) } else { 0 }
            }
            StateSpec::Recurrent(_) => self.bytes(capacity),
        }
    }
}

/// How far a state can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// To any shorter length, for nothing: later positions are overwritten.
    Free,
    /// To any shorter length from this one on, and to 0; further only to a copy taken before. It grows as positions are let go.
    Since(usize),
    /// Only to 0 or to a copy taken before.
    CopyOnly,
}

/// A layer's memory of one sequence, as a back end keeps it.
pub trait LayerState: Send + Sized + 'static {
    /// How far it can be taken back.
    fn rewind(&self) -> Rewind;
    /// A copy of the first `len` positions, with room for as many as this one.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no room for it.
    fn copy(&self, len: usize) -> Result<Self>;
    /// Bytes it holds when full.
    fn bytes(&self) -> u64;
    /// Whether it could still be taken back to `len` positions once it has grown to `end`.
    fn holds(&self, len: usize, end: usize) -> bool {
        let _ = (len, end);
        self.rewind() == Rewind::Free
    }
    /// Has the next step, which goes on past these lengths, keep what it is at each; what was kept before is let go. Whether it can.
    fn keep(&mut self, lengths: &[usize]) -> bool {
        let _ = lengths;
        false
    }
    /// What a step kept of it at this length, to be had once.
    fn kept(&mut self, len: usize) -> Option<Self> {
        let _ = len;
        None
    }
    /// Whether and how it can be written down as bytes.
    fn saved(&self) -> Saved {
        Saved::Never
    }
    /// Bytes that a part of it takes, none where it is not written so.
    fn part_bytes(&self, part: &Part) -> usize {
        let _ = part;
        0
    }
    /// Appends a part of it, which it holds, to `out`.
    fn save(&self, part: &Part, out: &mut Vec<u8>) {
        let _ = (part, out);
    }
    /// Takes up a part of it, of as many bytes as [`part_bytes`](LayerState::part_bytes) says.
    fn load(&mut self, part: &Part, bytes: &[u8]) {
        let _ = (part, bytes);
    }
}

/// A length to come back to.
pub struct Checkpoint {
    len: usize,
    cuts: usize,
    /// Copies of the states that may not be rewound so far.
    copies: Option<Box<dyn Any + Send>>,
    /// Bytes of the copies.
    bytes: u64,
}

impl Checkpoint {
    /// Positions that the cache held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it held none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the copies that it is made of.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What [`Cache`] asks of a sequence of any back end.
trait Erased: Send {
    fn len(&self) -> usize;
    fn capacity(&self) -> usize;
    fn batch(&self) -> usize;
    fn bytes(&self) -> u64;
    fn only_copies(&self) -> bool;
    fn sound(&self) -> Result<()>;
    /// Whether it can be cut back to `len`.
    fn allows(&self, len: usize) -> Result<()>;
    fn truncate(&mut self, len: usize) -> Result<()>;
    fn checkpoint(&self, len: usize) -> Result<Checkpoint>;
    fn holds(&self, len: usize, end: usize) -> bool;
    fn keep(&mut self, lengths: &[usize]) -> bool;
    fn kept(&mut self, len: usize) -> Option<Checkpoint>;
    fn saved(&self) -> Saved;
    fn part_bytes(&self, part: &Part) -> usize;
    fn save(&self, part: &Part, from: Option<&Checkpoint>, out: &mut Vec<u8>);
    fn resume(&mut self, len: usize, parts: &[(Part, &[u8])]) -> Result<()>;
    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()>;
    fn fork(&self) -> Result<Box<dyn Erased>>;
    fn any(&mut self) -> &mut dyn Any;
}

/// A sequence's memory. Made by [`Run::cache`](crate::decoder::Run::cache), filled by
/// [`Run::step`](crate::decoder::Run::step).
pub struct Cache(Box<dyn Erased>);

impl Cache {
    /// Wraps a back end's sequence.
    pub fn new<S: LayerState>(sequence: Sequence<S>) -> Cache {
        Cache(Box::new(sequence))
    }

    /// Two caches of one sequence, whose model is in two parts.
    pub(crate) fn pair(lower: Cache, upper: Cache) -> Cache {
        Cache(Box::new(Pair { lower, upper }))
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// Most positions it can hold.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Most tokens of a step.
    pub fn batch(&self) -> usize {
        self.0.batch()
    }

    /// Bytes it takes when full. Memory is touched as positions fill it.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Whether a layer's state can only be taken back to copies of it: then a checkpoint is worth its room.
    pub fn only_copies(&self) -> bool {
        self.0.only_copies()
    }

    /// Sees to it that the cache has survived the last step.
    ///
    /// # Errors
    /// [`Error::Input`] where the step was broken off and a state can only be copied: then a checkpoint must be restored, or
    /// the cache cut back to 0.
    pub fn sound(&self) -> Result<()> {
        self.0.sound()
    }

    /// Forgets all positions from `len` on.
    ///
    /// # Errors
    /// [`Error::Input`] where `len` is beyond the end, or a layer's state cannot be rewound so far; the error says how far it can.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        self.0.truncate(len)
    }

    /// Marks this length, to [`restore`](Cache::restore) it later.
    ///
    /// # Errors
    /// [`Error::Memory`] where a state must be copied and there is no room.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        self.checkpoint_at(self.len())
    }

    /// Marks an earlier length.
    ///
    /// # Errors
    /// [`Error::Input`] where it could not be cut back to, [`Error::Memory`] where there is no room for a copy.
    pub fn checkpoint_at(&self, len: usize) -> Result<Checkpoint> {
        self.0.checkpoint(len)
    }

    /// Whether it could still be cut back to `len` positions once it has grown to `end`.
    pub fn holds(&self, len: usize, end: usize) -> bool {
        self.0.holds(len, end)
    }

    /// Has the next step, which goes on past these lengths, keep what states are there that can only be copied. Whether all of them can,
    /// on their back ends and with the memory there is.
    pub fn keep(&mut self, lengths: &[usize]) -> bool {
        self.0.keep(lengths)
    }

    /// The checkpoint of a length within the last step that it was told to [`keep`](Cache::keep), to be had once.
    pub fn kept(&mut self, len: usize) -> Option<Checkpoint> {
        self.0.kept(len)
    }

    /// Whether and how it can be written down as bytes: its parts by position need [`Part::Whole`] beside them where a state is
    /// written so.
    pub fn saved(&self) -> Saved {
        self.0.saved()
    }

    /// Bytes that a part takes.
    pub fn part_bytes(&self, part: &Part) -> usize {
        self.0.part_bytes(part)
    }

    /// Appends a part to `out`: of what it holds now, or of what it held at a checkpoint of it that can be restored.
    ///
    /// # Errors
    /// [`Error::Input`] where it does not hold that.
    pub fn save(&self, part: &Part, from: Option<&Checkpoint>, out: &mut Vec<u8>) -> Result<()> {
        let held = match (part, from) {
            (Part::Positions(positions), _) => positions.end <= self.len(),
            (Part::Whole(len), Some(checkpoint)) => *len == checkpoint.len && *len <= self.len(),
            (Part::Whole(len), None) => *len == self.len() || *len < self.len() && self.holds(*len, self.len()),
        };
        if !held {
            return Err(Error::Input(Fault::at("cache").expected("a part that it holds").found(format!("{part:?} of {}", self.len()))));
        }
        self.sound()?;
        self.0.save(part, from, out);
        Ok(())
    }

    /// Goes on from saved parts, as if their positions had been computed: those by position in order, without gaps, from a position
    /// that is held on, to `len` or beyond; [`Part::Whole`] of `len` where a state is written so.
    ///
    /// # Errors
    /// [`Error::Input`] where they are not that, or their sizes differ; nothing is changed then.
    pub fn resume(&mut self, len: usize, parts: &[(Part, &[u8])]) -> Result<()> {
        self.0.resume(len, parts)
    }

    /// Comes back to a checkpoint of this cache.
    ///
    /// # Errors
    /// [`Error::Input`] where positions before it have been overwritten since it was taken.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.0.restore(checkpoint)
    }

    /// A second cache with the same content.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no room for it.
    pub fn fork(&self) -> Result<Cache> {
        self.0.fork().map(Cache)
    }

    /// Both, of a sequence whose model is in two parts.
    pub(crate) fn halves(&mut self) -> Option<(&mut Cache, &mut Cache)> {
        self.0.any().downcast_mut().map(|Pair { lower, upper }| (lower, upper))
    }

    /// The back end's own, where `B` made it.
    pub(crate) fn sequence<S: LayerState>(&mut self) -> Option<&mut Sequence<S>> {
        self.0.any().downcast_mut()
    }
}
