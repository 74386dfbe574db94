//! Memory for the numbers of a store.
//!
//! It comes zeroed from the system, so capacity that no token has reached costs address space only.

use super::kind::KvType;
use half::bf16;
use memmap2::MmapMut;
use std::fmt;
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

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
    /// Singles.
    F32(Pages<f32>),
    /// Halves.
    F16(Pages<u16>),
    /// Upper halves of singles.
    Bf16(Pages<bf16>),
    /// Blocks of codes.
    Q8(Pages<u8>),
    /// Blocks of codes.
    Q4(Pages<u8>),
}

/// An expression for pages of every type: what they hold is `$x`, and how it lies ([`super::stored::Stored`]) is `$s`.
macro_rules! each {
    ($numbers:expr, $x:ident: $s:ident => $then:expr) => {{
        #![allow(dead_code)] // some ask only for what they hold
        use $crate::attention::coded::{Coded, Q4, Q8};
        use $crate::attention::stored::Plain;
        match $numbers {
            Numbers::F32($x) => {
                type $s = Plain<f32>;
                $then
            }
            Numbers::F16($x) => {
                type $s = Plain<u16>;
                $then
            }
            Numbers::Bf16($x) => {
                type $s = Plain<half::bf16>;
                $then
            }
            Numbers::Q8($x) => {
                type $s = Coded<Q8>;
                $then
            }
            Numbers::Q4($x) => {
                type $s = Coded<Q4>;
                $then
            }
        }
    }};
}
pub(super) use each;

impl Numbers {
    /// Room for heads of `dim` at so many positions.
    pub(super) fn new(kind: KvType, positions: usize, dim: usize) -> Result<Numbers, AllocError> {
        let bytes = positions.checked_mul(kind.bytes(dim));
        let error = AllocError { bytes };
        let bytes = bytes.ok_or(error)?;
        Ok(match kind {
            KvType::F32 => Numbers::F32(Pages::new(bytes).ok_or(error)?),
            KvType::F16 => Numbers::F16(Pages::new(bytes).ok_or(error)?),
            KvType::Bf16 => Numbers::Bf16(Pages::new(bytes).ok_or(error)?),
            KvType::Q8_0 => Numbers::Q8(Pages::new(bytes).ok_or(error)?),
            KvType::Q4_0 => Numbers::Q4(Pages::new(bytes).ok_or(error)?),
        })
    }

    pub(super) fn kind(&self) -> KvType {
        match self {
            Numbers::F32(_) => KvType::F32,
            Numbers::F16(_) => KvType::F16,
            Numbers::Bf16(_) => KvType::Bf16,
            Numbers::Q8(_) => KvType::Q8_0,
            Numbers::Q4(_) => KvType::Q4_0,
        }
    }

    /// All that is kept.
    pub(super) fn bytes(&self) -> &[u8] {
        each!(self, x: S => x.bytes())
    }

    /// The same, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        each!(self, x: S => x.bytes_mut())
    }
}

/// Numbers from the start of a page on, and some more behind them, so that vectors may be loaded across the end.
pub(super) struct Pages<T> {
    map: MmapMut,
    bytes: usize,
    numbers: PhantomData<T>,
}

/// Bytes behind the numbers: more than the widest vectors.
const BEHIND: usize = 256;

impl<T: FromBytes + IntoBytes + Immutable> Pages<T> {
    /// Zeros that the system hands out page by page as they are written. (An allocator would serve a large request from
    /// memory it has had before, and clear, that is touch, all of it.)
    fn new(bytes: usize) -> Option<Pages<T>> {
        let map = MmapMut::map_anon(bytes.checked_add(BEHIND)?).ok()?;
        Some(Pages { map, bytes, numbers: PhantomData })
    }

    fn bytes(&self) -> &[u8] {
        &self.map[..self.bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.bytes]
    }

    /// The numbers, to be written.
    pub(super) fn all_mut(&mut self) -> &mut [T] {
        match <[T]>::mut_from_bytes(self.bytes_mut()) {
            Ok(numbers) => numbers,
            Err(_) => unreachable!("pages are aligned, and hold whole numbers"),
        }
    }

    /// Number `i` and all behind it, beyond the end too.
    pub(super) fn from(&self, i: usize) -> &[T] {
        match <[T]>::ref_from_bytes(&self.map[..self.bytes + BEHIND]) {
            Ok(numbers) => &numbers[i..],
            Err(_) => unreachable!("pages are aligned, and hold whole numbers"),
        }
    }
}
