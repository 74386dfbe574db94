//! Keys and values of one sequence, one layer, laid out for attention.
//!
//! ```text
//! K  [head][position / 64][key_dim][64]    a block is contiguous, its innermost 64 are positions: lanes of a score
//! V  [head][position][value_dim]           a row is contiguous: lanes of an output
//! ```
//! Memory comes zeroed from the system, so capacity that no token has reached costs address space only.

use crate::Cpu;
use crate::naive::attention::BLOCK;
use half::f16;
use std::fmt;
use std::ops::Range;

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
#[derive(Clone)]
pub(super) enum Numbers {
    /// Halves.
    F16(Vec<u16>),
    /// Singles.
    F32(Vec<f32>),
}

/// Keys and values of one sequence, one layer.
#[derive(Clone)]
pub struct KvStore {
    pub(super) k: Numbers,
    pub(super) v: Numbers,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
    capacity: usize,
}

impl fmt::Debug for KvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KvStore { kv_heads, key_dim, value_dim, capacity, .. } = self;
        write!(f, "KvStore({kv_heads} heads of {key_dim} and {value_dim}, {capacity} positions)")
    }
}

impl Numbers {
    fn new(kind: KvType, len: usize) -> Result<Numbers, AllocError> {
        let error = AllocError { bytes: len.checked_mul(kind.bytes()) };
        Ok(match kind {
            KvType::F16 => Numbers::F16(zeroed(len).ok_or(error)?),
            KvType::F32 => Numbers::F32(zeroed(len).ok_or(error)?),
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
            Numbers::F16(x) => x.len(),
            Numbers::F32(x) => x.len(),
        }
    }

    fn copy_from(&mut self, from: &Numbers, range: Range<usize>) {
        match (self, from) {
            (Numbers::F16(to), Numbers::F16(from)) => to[range.clone()].copy_from_slice(&from[range]),
            (Numbers::F32(to), Numbers::F32(from)) => to[range.clone()].copy_from_slice(&from[range]),
            (Numbers::F16(_), Numbers::F32(_)) | (Numbers::F32(_), Numbers::F16(_)) => unreachable!("a copy has the same types"),
        }
    }

    fn get(&self, i: usize) -> f32 {
        match self {
            Numbers::F16(x) => f16::from_bits(x[i]).to_f32(),
            Numbers::F32(x) => x[i],
        }
    }
}

/// Zeros that the system hands out page by page as they are written. Asked for twice, since only the first way can fail
/// and only the second comes zeroed: memory that is there for the one is there for the other.
fn zeroed<T: Copy + Default>(len: usize) -> Option<Vec<T>> {
    let mut probe = Vec::<T>::new();
    probe.try_reserve_exact(len).ok()?;
    drop(probe);
    Some(vec![T::default(); len])
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
        assert!(kv_heads > 0 && key_dim > 0 && value_dim > 0, "{kv_heads} heads of {key_dim} and {value_dim}");
        let capacity = capacity.checked_next_multiple_of(BLOCK).ok_or(AllocError { bytes: None })?;
        let len = |dim: usize| capacity.checked_mul(kv_heads).and_then(|n| n.checked_mul(dim)).ok_or(AllocError { bytes: None });
        let (k, v) = (Numbers::new(k, len(key_dim)?)?, Numbers::new(v, len(value_dim)?)?);
        Ok(KvStore { k, v, kv_heads, key_dim, value_dim, capacity })
    }

    /// Stores keys `[n, kv_heads, key_dim]` and values `[n, kv_heads, value_dim]` of positions `first..first + n`.
    ///
    /// # Panics
    /// If they are not whole positions, or go beyond the capacity.
    pub fn write(&mut self, cpu: Cpu<'_>, first: usize, k: &[f32], v: &[f32]) {
        let KvStore { kv_heads, key_dim, value_dim, capacity, .. } = *self;
        let n = k.len() / (kv_heads * key_dim);
        assert!(k.len() == n * kv_heads * key_dim && v.len() == n * kv_heads * value_dim, "{} keys, {} values", k.len(), v.len());
        assert!(first + n <= capacity, "{n} positions from {first} on in {capacity}");
        if n == 0 {
            return;
        }
        let keys = |head: usize, put: &mut dyn FnMut(usize, f32)| {
            for p in 0..n {
                for (d, x) in k[(p * kv_heads + head) * key_dim..][..key_dim].iter().enumerate() {
                    put(((first + p) / BLOCK * key_dim + d) * BLOCK + (first + p) % BLOCK, *x);
                }
            }
        };
        let values = |head: usize, put: &mut dyn FnMut(usize, f32)| {
            for p in 0..n {
                for (d, x) in v[(p * kv_heads + head) * value_dim..][..value_dim].iter().enumerate() {
                    put((first + p) * value_dim + d, *x);
                }
            }
        };
        match &mut self.k {
            Numbers::F16(x) => {
                cpu.parallel_chunks(x, capacity * key_dim, &|head, x| keys(head, &mut |i, k| x[i] = f16::from_f32(k).to_bits()))
            }
            Numbers::F32(x) => cpu.parallel_chunks(x, capacity * key_dim, &|head, x| keys(head, &mut |i, k| x[i] = k)),
        }
        match &mut self.v {
            Numbers::F16(x) => {
                cpu.parallel_chunks(x, capacity * value_dim, &|head, x| values(head, &mut |i, v| x[i] = f16::from_f32(v).to_bits()))
            }
            Numbers::F32(x) => cpu.parallel_chunks(x, capacity * value_dim, &|head, x| values(head, &mut |i, v| x[i] = v)),
        }
    }

    /// Keys and values of positions `..n` as they lie in [`crate::naive::attention::Context`].
    pub fn read(&self, n: usize) -> (Vec<f32>, Vec<f32>) {
        let KvStore { kv_heads, key_dim, value_dim, capacity, .. } = *self;
        let mut k = Vec::with_capacity(n * kv_heads * key_dim);
        let mut v = Vec::with_capacity(n * kv_heads * value_dim);
        for (p, head) in (0..n).flat_map(|p| (0..kv_heads).map(move |head| (p, head))) {
            k.extend((0..key_dim).map(|d| self.k.get(head * capacity * key_dim + (p / BLOCK * key_dim + d) * BLOCK + p % BLOCK)));
            v.extend((0..value_dim).map(|d| self.v.get((head * capacity + p) * value_dim + d)));
        }
        (k, v)
    }

    /// A second store of the same capacity that holds the first `n` positions.
    ///
    /// # Errors
    /// Where there is no memory for it.
    ///
    /// # Panics
    /// If there are fewer positions.
    pub fn copy(&self, n: usize) -> Result<KvStore, AllocError> {
        let KvStore { kv_heads, key_dim, value_dim, capacity, .. } = *self;
        assert!(n <= capacity, "{n} positions of {capacity}");
        let (k, v) = self.types();
        let mut copy = KvStore::new(k, v, kv_heads, key_dim, value_dim, capacity)?;
        for head in 0..kv_heads {
            let keys = head * capacity * key_dim..(head * capacity + n.next_multiple_of(BLOCK)) * key_dim;
            let values = head * capacity * value_dim..(head * capacity + n) * value_dim;
            copy.k.copy_from(&self.k, keys);
            copy.v.copy_from(&self.v, values);
        }
        Ok(copy)
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes at full use.
    pub fn bytes(&self) -> usize {
        self.k.len() * self.k.kind().bytes() + self.v.len() * self.v.kind().bytes()
    }

    /// Types of keys and of values.
    pub fn types(&self) -> (KvType, KvType) {
        (self.k.kind(), self.v.kind())
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
