//! Keys and values of one sequence, one layer, laid out for attention.
//!
//! ```text
//! K  [head][position / 64][key_dim][64]    across: a block is contiguous, its innermost 64 are positions: lanes of a score
//! V  [head][position][value_dim]           along: a row is contiguous: lanes of an output
//! ```
//! Where values are the first channels of the keys, there is one copy of both, `[head][position][key_dim]`: its rows are those of
//! V, and scores take lanes along the queries (`shared.rs`). Quantized numbers lie in such blocks of 64 positions as well, by groups of
//! 32 channels (`coded.rs`).
//!
//! A store whose layer looks back through a window can be a ring: block b lies where block b mod n lies, and takes the place of block
//! b - n. What is seen lies in the same blocks of 64 by absolute position as without the ring, so no bit of a result differs.

use super::kind::KvType;
use super::pages::{AllocError, Numbers, each};
use super::shape::{BLOCK, Window};
use super::stored::Layout::{Across, Along};
use super::stored::{Layout, Put, Stored, Widen};
use crate::Cpu;
use crate::Level;
use crate::isa::vectorize;
use crate::pool::Disjoint;
use std::fmt;
use std::ops::Range;

mod saved;

/// Keys and values of one sequence, one layer.
pub struct KvStore {
    pub(super) k: Numbers,
    /// `None` where values are the first channels of the keys, which lie in rows then.
    pub(super) v: Option<Numbers>,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
    /// Positions that can be written.
    capacity: usize,
    /// Positions there is room for at a time.
    room: usize,
    /// One past the last position written since position 0 was.
    end: usize,
    /// Whole blocks before this position were never here: it was loaded without them.
    since: usize,
}

impl fmt::Debug for KvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KvStore { kv_heads, key_dim, value_dim, capacity, room, .. } = self;
        write!(f, "KvStore({kv_heads} heads of {key_dim} and {value_dim}, {room} of {capacity} positions)")
    }
}

impl KvStore {
    /// Room for `capacity` positions, rounded up to a multiple of 64.
    ///
    /// # Errors
    /// Where there is no memory for so many.
    ///
    /// # Panics
    /// If `kv_heads`, `key_dim` or `value_dim` is 0.
    pub fn new(k: KvType, v: KvType, kv_heads: usize, key_dim: usize, value_dim: usize, capacity: usize) -> Result<KvStore, AllocError> {
        KvStore::ring(k, v, kv_heads, key_dim, value_dim, capacity, capacity)
    }

    /// The same where only the last `keep` positions, those that are being written among them, are ever looked at.
    ///
    /// # Errors
    /// Where there is no memory for so many.
    ///
    /// # Panics
    /// If `kv_heads`, `key_dim` or `value_dim` is 0.
    pub fn ring(
        k: KvType,
        v: KvType,
        kv_heads: usize,
        key_dim: usize,
        value_dim: usize,
        capacity: usize,
        keep: usize,
    ) -> Result<KvStore, AllocError> {
        KvStore::make(k, Some(v), kv_heads, key_dim, value_dim, capacity, keep)
    }

    /// One head whose values are the first `value_dim` channels of its keys; only the last `keep` positions are ever looked at.
    ///
    /// # Errors
    /// Where there is no memory for so many.
    ///
    /// # Panics
    /// If `value_dim` is 0 or more than `key_dim`.
    pub fn shared(kind: KvType, key_dim: usize, value_dim: usize, capacity: usize, keep: usize) -> Result<KvStore, AllocError> {
        assert!(value_dim <= key_dim, "values of {value_dim} in keys of {key_dim}");
        KvStore::make(kind, None, 1, key_dim, value_dim, capacity, keep)
    }

    fn make(
        k: KvType,
        v: Option<KvType>,
        kv_heads: usize,
        key_dim: usize,
        value_dim: usize,
        capacity: usize,
        keep: usize,
    ) -> Result<KvStore, AllocError> {
        assert!(kv_heads > 0 && key_dim > 0 && value_dim > 0, "{kv_heads} heads of {key_dim} and {value_dim}");
        let capacity = capacity.checked_next_multiple_of(BLOCK).ok_or(AllocError { bytes: None })?;
        // n positions lie in up to n / 64 blocks and a part of one more.
        let room = keep.checked_next_multiple_of(BLOCK).and_then(|n| n.checked_add(BLOCK)).map_or(capacity, |n| n.min(capacity));
        let positions = room.checked_mul(kv_heads).ok_or(AllocError { bytes: None })?;
        let k = Numbers::new(k, positions, key_dim)?;
        let v = match v {
            Some(v) => Some(Numbers::new(v, positions, value_dim)?),
            None => None,
        };
        Ok(KvStore { k, v, kv_heads, key_dim, value_dim, capacity, room, end: 0, since: 0 })
    }

    /// Stores keys `[n, kv_heads, key_dim]` and values `[n, kv_heads, value_dim]`, none where keys hold them, of positions
    /// `first..first + n`. Position 0 starts anew.
    ///
    /// # Panics
    /// If they are not whole positions, go beyond the capacity, or are more than a ring has room for.
    pub fn write(&mut self, cpu: Cpu<'_>, first: usize, k: &[f32], v: &[f32]) {
        let KvStore { kv_heads, key_dim, value_dim, capacity, room, .. } = *self;
        let n = k.len() / (kv_heads * key_dim);
        let values = if self.v.is_some() { n * kv_heads * value_dim } else { 0 };
        assert!(k.len() == n * kv_heads * key_dim && v.len() == values, "{} keys, {} values", k.len(), v.len());
        assert!(first + n <= capacity, "{n} positions from {first} on in {capacity}");
        if n == 0 {
            return;
        }
        let blocks = first / BLOCK..(first + n).div_ceil(BLOCK);
        assert!(blocks.len() <= room / BLOCK, "{n} positions from {first} on into a ring of {room}");
        self.reach(first..first + n);
        let (across, along) = self.turned();
        let put = Run { cpu, kv_heads, blocks, first, n, room };
        let layout = if self.v.is_some() { Across } else { Along };
        each!(&mut self.k, x: S => put.all::<S>(x.all_mut(), k, key_dim, across, layout));
        if let Some(values) = &mut self.v {
            each!(values, x: S => put.all::<S>(x.all_mut(), v, value_dim, along, Along));
        }
    }

    /// Takes note of positions that are there now. Position 0 starts anew.
    fn reach(&mut self, positions: Range<usize>) {
        if positions.start == 0 {
            (self.end, self.since) = (0, 0);
        }
        self.end = self.end.max(positions.end);
    }

    /// Whether it may lack old positions: it has less room than capacity and lets go of them, or was loaded without them.
    pub fn is_ring(&self) -> bool {
        self.room < self.capacity || self.since > 0
    }

    /// The first position still held: 0 until a ring has gone round.
    pub fn oldest(&self) -> usize {
        self.oldest_at(self.end)
    }

    fn oldest_at(&self, end: usize) -> usize {
        end.next_multiple_of(BLOCK).saturating_sub(self.room).max(self.since)
    }

    /// The shortest length but 0 that the sequence can be cut back to and go on from, where queries look through `window`.
    pub fn shortest(&self, window: Window) -> usize {
        self.shortest_at(self.end, window)
    }

    /// The same once it has grown to `end` positions.
    pub fn shortest_at(&self, end: usize, window: Window) -> usize {
        let end = end.max(self.end);
        match (self.oldest_at(end), window) {
            (0, _) => 0,
            (_, Window::None) => end,
            (oldest, Window::Sliding(n)) => oldest + n - 1,
            (oldest, Window::Chunked(n)) => oldest.next_multiple_of(n),
        }
    }

    /// Where block `block` of a head lies, in positions.
    pub(super) fn place(&self, head: usize, block: usize) -> usize {
        head * self.room + block % (self.room / BLOCK) * BLOCK
    }

    /// Keys and values of positions `..n` as they lie in [`crate::naive::attention::Context`].
    ///
    /// # Panics
    /// If a ring has gone round.
    pub fn read(&self, n: usize) -> (Vec<f32>, Vec<f32>) {
        let KvStore { kv_heads, key_dim, value_dim, room, .. } = *self;
        assert!(self.oldest() == 0 && n <= room, "{n} positions of {room}");
        let (mut k, mut v) = (vec![0.0; n * kv_heads * key_dim], vec![0.0; n * kv_heads * value_dim]);
        for (block, head) in (0..n.div_ceil(BLOCK)).flat_map(|block| (0..kv_heads).map(move |head| (block, head))) {
            let (at, positions) = (head * room + block * BLOCK, block * BLOCK..n.min((block + 1) * BLOCK));
            let layout = if self.v.is_some() { Across } else { Along };
            let keys = block_of(&self.k, at, key_dim, layout);
            let own = self.v.as_ref().map(|values| block_of(values, at, value_dim, Along));
            let (values, pitch) = own.as_ref().map_or((&keys, key_dim), |own| (own, value_dim));
            for p in positions {
                k[(p * kv_heads + head) * key_dim..][..key_dim].copy_from_slice(&keys[p % BLOCK * key_dim..][..key_dim]);
                v[(p * kv_heads + head) * value_dim..][..value_dim].copy_from_slice(&values[p % BLOCK * pitch..][..value_dim]);
            }
        }
        (k, v)
    }

    /// A second store of the same capacity that holds the first `n` positions, a ring of them those that this one does.
    ///
    /// # Errors
    /// Where there is no memory for it.
    ///
    /// # Panics
    /// If there are fewer positions.
    pub fn copy(&self, n: usize) -> Result<KvStore, AllocError> {
        let KvStore { kv_heads, key_dim, value_dim, capacity, room, .. } = *self;
        assert!(n <= capacity, "{n} positions of {capacity}");
        let (k, v) = (self.k.kind(), self.v.as_ref().map(Numbers::kind));
        let mut copy = KvStore::make(k, v, kv_heads, key_dim, value_dim, capacity, room - BLOCK.min(room))?;
        // What a ring has let go of stays gone in the copy.
        let gone = self.oldest() > 0;
        (copy.end, copy.since) = (if gone { self.end } else { n }, self.since);
        let n = if gone { room } else { n.min(room) };
        copy_heads(&mut copy.k, &self.k, room * k.bytes(key_dim), n.next_multiple_of(BLOCK) * k.bytes(key_dim));
        if let (Some(to), Some(from)) = (&mut copy.v, &self.v) {
            let kind = from.kind();
            // Blocks of codes are written as a whole.
            let n = if kind.is_quantized() { n.next_multiple_of(BLOCK) } else { n };
            copy_heads(to, from, room * kind.bytes(value_dim), n * kind.bytes(value_dim));
        }
        Ok(copy)
    }

    /// Whether values are the first channels of the keys.
    pub fn is_shared(&self) -> bool {
        self.v.is_none()
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes at full use.
    pub fn bytes(&self) -> usize {
        self.k.bytes().len() + self.v.as_ref().map_or(0, |v| v.bytes().len())
    }

    /// Types of keys and of values.
    pub fn types(&self) -> (KvType, KvType) {
        (self.k.kind(), self.v.as_ref().map_or(self.k.kind(), Numbers::kind))
    }

    /// Channels of a key and of a value that are turned together before they are kept; 1 where none are.
    pub fn turned(&self) -> (usize, usize) {
        match &self.v {
            Some(v) => (self.k.kind().turned(self.key_dim), v.kind().turned(self.value_dim)),
            // Values are turned with the keys that hold them: by a number that divides both.
            None => {
                let turned = self.k.kind().turned(self.key_dim | self.value_dim);
                (turned, turned)
            }
        }
    }

    /// Heads, channels of a key, channels of a value.
    pub(super) fn shape(&self) -> (usize, usize, usize) {
        (self.kv_heads, self.key_dim, self.value_dim)
    }

    /// Heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Channels of a key.
    pub fn key_dim(&self) -> usize {
        self.key_dim
    }

    /// Channels of a value.
    pub fn value_dim(&self) -> usize {
        self.value_dim
    }
}

/// The first `bytes` of each head's `stride`.
fn copy_heads(to: &mut Numbers, from: &Numbers, stride: usize, bytes: usize) {
    for (to, from) in to.bytes_mut().chunks_exact_mut(stride).zip(from.bytes().chunks_exact(stride)) {
        to[..bytes].copy_from_slice(&from[..bytes]);
    }
}

/// A block of 64 positions from position `at` of the store on, as f32 `[64][dim]`.
fn block_of(numbers: &Numbers, at: usize, dim: usize, layout: Layout) -> Vec<f32> {
    each!(numbers, x: S => {
        let pitch = S::pitch(dim);
        let mut wide = vec![0.0; pitch * BLOCK + 16];
        let (block, positions) = (&x.from(at * S::units(dim))[..BLOCK * S::units(dim)], 0..BLOCK);
        vectorize(Level::best(), Widen::<S> { block, dim, layout, positions, to: &mut wide });
        let number = |p: usize, d: usize| match layout {
            Across => wide[d * BLOCK + p],
            Along => wide[p * pitch + d],
        };
        (0..BLOCK).flat_map(|p| (0..dim).map(move |d| (p, d))).map(|(p, d)| number(p, d)).collect()
    })
}

/// Positions `first .. first + n` on their way into a store, block by block.
struct Run<'a> {
    cpu: Cpu<'a>,
    kv_heads: usize,
    blocks: Range<usize>,
    first: usize,
    n: usize,
    /// Positions of a head that there is room for.
    room: usize,
}

/// Numbers from which on a second thread pays.
const GRAIN: usize = 1 << 15;

impl Run<'_> {
    /// `from` `[n, kv_heads, dim]` into a store of blocks `[head][block][dim · 64]`.
    fn all<S: Stored>(&self, to: &mut [S::Unit], from: &[f32], dim: usize, turned: usize, layout: Layout) {
        let (level, blocks, len) = (self.cpu.level, self.blocks.len(), S::units(dim) * BLOCK);
        let one = |i: usize, block: &mut [S::Unit]| {
            let (head, index) = (i / blocks, self.blocks.start + i % blocks);
            let positions = self.first.max(index * BLOCK)..(self.first + self.n).min((index + 1) * BLOCK);
            for p in positions {
                let row = &from[((p - self.first) * self.kv_heads + head) * dim..][..dim];
                vectorize(level, Put::<S> { row, turned, block, layout, p: p % BLOCK });
            }
        };
        let round = self.room / BLOCK;
        let at = |i: usize| i / blocks * round + (self.blocks.start + i % blocks) % round;
        if from.len() < GRAIN {
            for i in 0..self.kv_heads * blocks {
                one(i, &mut to[at(i) * len..][..len]);
            }
        } else {
            let tiles = Disjoint::new(to, len, len);
            self.cpu.parallel(self.kv_heads * blocks, &|i| one(i, tiles.take(at(i)..at(i) + 1, 0).row(0)));
        }
    }
}
