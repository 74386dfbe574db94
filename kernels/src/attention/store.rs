//! Keys and values of one sequence, one layer, laid out for attention.
//!
//! ```text
//! K  [head][position / 64][key_dim][64]    a block is contiguous, its innermost 64 are positions: lanes of a score
//! V  [head][position][value_dim]           a row is contiguous: lanes of an output
//! ```
//! Where values are the first channels of the keys, there is one copy of both, `[head][position][key_dim]`: its rows are those of
//! V, and scores take lanes along the queries (`shared.rs`).
//!
//! Memory comes zeroed from the system, so capacity that no token has reached costs address space only.
//!
//! A store whose layer looks back through a window can be a ring: block b lies where block b mod n lies, and takes the place of block
//! b - n. What is seen lies in the same blocks of 64 by absolute position as without the ring, so no bit of a result differs.

use super::Window;
use super::number::Number;
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::naive::attention::BLOCK;
use crate::pool::Disjoint;
use half::f16;
use memmap2::MmapMut;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes};

mod saved;

/// How a cached number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Half precision, rounded to nearest even.
    F16,
    /// As computed.
    F32,
}

impl KvType {
    /// All of them, for tables and tests.
    pub const ALL: [KvType; 2] = [KvType::F16, KvType::F32];

    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }

    /// `x` as it comes back from the store.
    pub fn round(self, x: f32) -> f32 {
        match self {
            KvType::F16 => f16::from_f32(x).to_f32(),
            KvType::F32 => x,
        }
    }
}

/// A store of this many bytes cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError {
    /// Bytes asked for; `None` where the number is beyond all addresses.
    pub bytes: Option<usize>,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            Some(bytes) => write!(f, "no memory for {bytes} bytes of keys and values"),
            None => write!(f, "keys and values larger than the address space"),
        }
    }
}

impl std::error::Error for AllocError {}

/// Numbers of one type, zero at first.
pub(super) enum Numbers {
    /// Halves.
    F16(Pages<u16>),
    /// Singles.
    F32(Pages<f32>),
}

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

/// Numbers from the start of a page on, and some more behind them, so that vectors may be loaded across the end.
pub(super) struct Pages<T> {
    map: MmapMut,
    len: usize,
    numbers: PhantomData<T>,
}

/// Room behind the numbers, in numbers: more than the widest vector.
const BEHIND: usize = 64;

impl<T: FromBytes + IntoBytes + Immutable> Pages<T> {
    /// Zeros that the system hands out page by page as they are written. (An allocator would serve a large request from
    /// memory it has had before, and clear, that is touch, all of it.)
    fn new(len: usize) -> Option<Pages<T>> {
        let bytes = len.checked_add(BEHIND)?.checked_mul(size_of::<T>())?;
        let map = MmapMut::map_anon(bytes).ok()?;
        Some(Pages { map, len, numbers: PhantomData })
    }

    /// The numbers.
    fn all(&self) -> &[T] {
        &self.from(0)[..self.len]
    }

    /// The numbers, to be written.
    fn all_mut(&mut self) -> &mut [T] {
        match <[T]>::mut_from_bytes(&mut self.map) {
            Ok(numbers) => &mut numbers[..self.len],
            Err(_) => unreachable!("pages are aligned, and hold whole numbers"),
        }
    }

    /// Number `i` and all behind it, beyond the end too.
    pub(super) fn from(&self, i: usize) -> &[T] {
        match <[T]>::ref_from_bytes(&self.map) {
            Ok(numbers) => &numbers[i..],
            Err(_) => unreachable!("pages are aligned, and hold whole numbers"),
        }
    }
}

impl Numbers {
    fn new(kind: KvType, len: usize) -> Result<Numbers, AllocError> {
        let error = AllocError { bytes: len.checked_mul(kind.bytes()) };
        Ok(match kind {
            KvType::F16 => Numbers::F16(Pages::new(len).ok_or(error)?),
            KvType::F32 => Numbers::F32(Pages::new(len).ok_or(error)?),
        })
    }

    fn kind(&self) -> KvType {
        match self {
            Numbers::F16(_) => KvType::F16,
            Numbers::F32(_) => KvType::F32,
        }
    }

    fn len(&self) -> usize {
        match self {
            Numbers::F16(x) => x.len,
            Numbers::F32(x) => x.len,
        }
    }

    fn copy_from(&mut self, from: &Numbers, range: Range<usize>) {
        match (self, from) {
            (Numbers::F16(to), Numbers::F16(from)) => to.all_mut()[range.clone()].copy_from_slice(&from.all()[range]),
            (Numbers::F32(to), Numbers::F32(from)) => to.all_mut()[range.clone()].copy_from_slice(&from.all()[range]),
            (Numbers::F16(_), Numbers::F32(_)) | (Numbers::F32(_), Numbers::F16(_)) => unreachable!("a copy has the same types"),
        }
    }

    fn get(&self, i: usize) -> f32 {
        match self {
            Numbers::F16(x) => f16::from_bits(x.all()[i]).to_f32(),
            Numbers::F32(x) => x.all()[i],
        }
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
        let len = |dim: usize| room.checked_mul(kv_heads).and_then(|n| n.checked_mul(dim)).ok_or(AllocError { bytes: None });
        let k = Numbers::new(k, len(key_dim)?)?;
        let v = match v {
            Some(v) => Some(Numbers::new(v, len(value_dim)?)?),
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
        let put = Put { cpu, kv_heads, blocks, first, n, room };
        let layout = if self.v.is_some() { Keys } else { Rows };
        match &mut self.k {
            Numbers::F16(x) => put.all(x.all_mut(), k, key_dim, layout),
            Numbers::F32(x) => put.all(x.all_mut(), k, key_dim, layout),
        }
        match &mut self.v {
            Some(Numbers::F16(x)) => put.all(x.all_mut(), v, value_dim, Rows),
            Some(Numbers::F32(x)) => put.all(x.all_mut(), v, value_dim, Rows),
            None => {}
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
        let mut k = Vec::with_capacity(n * kv_heads * key_dim);
        let mut v = Vec::with_capacity(n * kv_heads * value_dim);
        for (p, head) in (0..n).flat_map(|p| (0..kv_heads).map(move |head| (p, head))) {
            let Some(values) = &self.v else {
                k.extend((0..key_dim).map(|d| self.k.get(p * key_dim + d)));
                v.extend((0..value_dim).map(|d| self.k.get(p * key_dim + d)));
                continue;
            };
            k.extend((0..key_dim).map(|d| self.k.get(head * room * key_dim + (p / BLOCK * key_dim + d) * BLOCK + p % BLOCK)));
            v.extend((0..value_dim).map(|d| values.get((head * room + p) * value_dim + d)));
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
        (copy.end, copy.since) = (if self.oldest() > 0 { self.end } else { n }, self.since);
        let n = if self.oldest() > 0 { room } else { n.min(room) };
        for head in 0..kv_heads {
            let keys = head * room * key_dim..(head * room + n.next_multiple_of(BLOCK)) * key_dim;
            let values = head * room * value_dim..(head * room + n) * value_dim;
            copy.k.copy_from(&self.k, keys);
            if let (Some(copy), Some(v)) = (&mut copy.v, &self.v) {
                copy.copy_from(v, values);
            }
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
        self.k.len() * self.k.kind().bytes() + self.v.as_ref().map_or(0, |v| v.len() * v.kind().bytes())
    }

    /// Types of keys and of values.
    pub fn types(&self) -> (KvType, KvType) {
        (self.k.kind(), self.v.as_ref().map_or(self.k.kind(), Numbers::kind))
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

/// How the positions of a block lie.
#[derive(Clone, Copy)]
enum Layout {
    /// `[dim][64]`
    Keys,
    /// `[64][dim]`
    Rows,
}
use Layout::{Keys, Rows};

/// Positions `first .. first + n` on their way into a store, block by block.
struct Put<'a> {
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

impl Put<'_> {
    /// `from` `[n, kv_heads, dim]` into a store of blocks `[head][block][dim · 64]`.
    fn all<N: Number>(&self, to: &mut [N], from: &[f32], dim: usize, layout: Layout) {
        let (level, blocks) = (self.cpu.level, self.blocks.len());
        let one = |i: usize, to: &mut [N]| {
            let (head, block) = (i / blocks, self.blocks.start + i % blocks);
            let positions = self.first.max(block * BLOCK)..(self.first + self.n).min((block + 1) * BLOCK);
            for p in positions {
                let row = &from[((p - self.first) * self.kv_heads + head) * dim..][..dim];
                vectorize(level, PutRow { row, to, layout, dim, p: p % BLOCK });
            }
        };
        let round = self.room / BLOCK;
        let at = |i: usize| i / blocks * round + (self.blocks.start + i % blocks) % round;
        if from.len() < GRAIN {
            for i in 0..self.kv_heads * blocks {
                one(i, &mut to[at(i) * dim * BLOCK..][..dim * BLOCK]);
            }
        } else {
            let tiles = Disjoint::new(to, dim * BLOCK, dim * BLOCK);
            self.cpu.parallel(self.kv_heads * blocks, &|i| one(i, tiles.take(at(i)..at(i) + 1, 0).row(0)));
        }
    }
}

/// One position of one head, into its block.
struct PutRow<'a, N> {
    row: &'a [f32],
    to: &'a mut [N],
    layout: Layout,
    dim: usize,
    p: usize,
}

impl<N: Number> Op for PutRow<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, x) in self.row.chunks(I::LANES).enumerate() {
            let mut narrow = [N::default(); 16];
            N::store(isa, isa.load_some(x), &mut narrow);
            let d = i * I::LANES;
            match self.layout {
                Keys => {
                    let (columns, _) = self.to[d * BLOCK..].as_chunks_mut::<BLOCK>();
                    for (column, x) in columns.iter_mut().zip(&narrow[..x.len()]) {
                        column[self.p % BLOCK] = *x;
                    }
                }
                Rows => self.to[self.p * self.dim + d..][..x.len()].copy_from_slice(&narrow[..x.len()]),
            }
        }
    }
}
