//! Rows of blocks as vectors see them: lane r reads row r.
//!
//! ```text
//! row 0   [block 0][block 1] …      a Block is one column of blocks: LANES base addresses, `stride` apart
//! row 1   [block 0][block 1] …
//! …
//! ```
#![allow(unsafe_code)]

use super::Isa;
use std::marker::PhantomData;

/// `lanes` rows of a matrix of blocks. Lengths were checked when it was made, so reading a block costs one comparison.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    base: *const u8,
    stride: usize,
    row_bytes: usize,
    lanes: usize,
    /// Rows to the ones that come next.
    ahead: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Rows<'a> {
    /// Rows `first .. first + lanes` of a matrix of rows of `row_bytes`; those `ahead` of them come next.
    #[inline(always)]
    pub(crate) fn each(bytes: &'a [u8], row_bytes: usize, first: usize, lanes: usize, ahead: usize) -> Rows<'a> {
        let base = bytes[first * row_bytes..(first + lanes) * row_bytes].as_ptr();
        Rows { base, stride: row_bytes, row_bytes, lanes, ahead, bytes: PhantomData }
    }

    /// The `rows` rows after the first `rows` from here on, to be asked for in so many looks; in none, never.
    #[inline(always)]
    pub(crate) fn following(&self, rows: usize, looks: usize) -> Following {
        let bytes = rows * self.row_bytes;
        Following { at: self.base.wrapping_add(bytes), lines: bytes.checked_div(64 * looks).map_or(0, |lines| lines + 1) }
    }

    /// Row `row` in each of `lanes` lanes.
    #[inline(always)]
    pub(crate) fn same(bytes: &'a [u8], row_bytes: usize, row: usize, lanes: usize) -> Rows<'a> {
        let base = bytes[row * row_bytes..(row + 1) * row_bytes].as_ptr();
        Rows { base, stride: 0, row_bytes, lanes, ahead: 1, bytes: PhantomData }
    }

    /// Bytes `from .. from + len` of row `lane`.
    #[inline(always)]
    pub(crate) fn lane(&self, lane: usize, from: usize, len: usize) -> &'a [u8] {
        assert!(lane < self.lanes && from + len <= self.row_bytes, "bytes beyond their row");
        // SAFETY: within that row, which was checked when this was made.
        unsafe { std::slice::from_raw_parts(self.base.add(lane * self.stride + from), len) }
    }

    /// Block `index` of each row, of `BYTES` bytes.
    #[inline(always)]
    pub(crate) fn block<const BYTES: usize>(&self, index: usize) -> Block<'a, BYTES> {
        let at = index * BYTES;
        assert!(at + BYTES <= self.row_bytes, "block beyond its row");
        // SAFETY: within the first row.
        let base = unsafe { self.base.add(at) };
        let ahead = self.base.wrapping_add(self.row_bytes * self.ahead + at * self.lanes);
        Block { base, stride: self.stride, lanes: self.lanes, ahead, bytes: PhantomData }
    }
}

/// What is read next, asked for a few lines at a time, in address order: hints, which read nothing.
pub(crate) struct Following {
    at: *const u8,
    lines: usize,
}

impl Following {
    #[inline(always)]
    pub(crate) fn ask<I: Isa>(&mut self, isa: I) {
        for _ in 0..self.lines {
            isa.prefetch(self.at);
            self.at = self.at.wrapping_add(64);
        }
    }
}

/// One block of each of `lanes` rows: `BYTES` readable bytes at `base + lane · stride`.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a, const BYTES: usize> {
    base: *const u8,
    stride: usize,
    lanes: usize,
    ahead: *const u8,
    bytes: PhantomData<&'a [u8]>,
}

impl<const BYTES: usize> Block<'_, BYTES> {
    /// Address of byte `at` in the row of lane 0, for the instruction sets to read `len` bytes from in every lane below
    /// `lanes`, and the distance of the rows.
    #[inline(always)]
    pub(super) fn at(&self, at: usize, len: usize, lanes: usize) -> (*const u8, usize) {
        assert!(at + len <= BYTES && lanes <= self.lanes, "bytes beyond their block");
        // SAFETY: the assertion, and `Rows::block`, keep it within the row.
        (unsafe { self.base.add(at) }, self.stride)
    }

    /// The like share of the rows that come next, in address order: a hint to prefetch, never read.
    #[inline(always)]
    pub(super) fn ahead(&self, at: usize) -> *const u8 {
        self.ahead.wrapping_add(at * self.lanes)
    }
}

impl<const BYTES: usize> Block<'_, BYTES> {
    /// 4 bytes at `at` of each of 8 rows: the scalar level's way to read.
    #[inline(always)]
    pub(super) fn words(&self, at: usize) -> [i32; 8] {
        let (base, stride) = self.at(at, 4, 8);
        // SAFETY: `at` vouches for 4 bytes in each of 8 rows.
        std::array::from_fn(|row| i32::from_le_bytes(unsafe { base.add(row * stride).cast::<[u8; 4]>().read() }))
    }
}
