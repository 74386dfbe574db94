//! Outputs that the items of one parallel region fill together.
//!
//! ```text
//! canvas  [rows, width]     a tile: some columns of some rows, owned by one item
//!         ┌────┬────┬──┐
//!         │ t0 │ t1 │t2│    columns are cut into chunks; rows are all of them, or those of one group (an expert's slots)
//!         └────┴────┴──┘
//! ```
//! Tiles never overlap, which is what makes handing them to threads sound; that is settled in this file alone.
#![allow(unsafe_code)]

use crate::Cpu;
use std::marker::PhantomData;
use std::ops::Range;

/// A row-major matrix `[height, width]` to be filled in one region.
#[derive(Clone, Copy)]
pub(crate) struct Canvas<'a> {
    base: *mut f32,
    height: usize,
    width: usize,
    /// Columns that one item gets.
    chunk: usize,
    out: PhantomData<&'a mut [f32]>,
}

// SAFETY: a canvas is only a place; writing goes through tiles, and those do not overlap.
unsafe impl Sync for Canvas<'_> {}

impl<'a> Canvas<'a> {
    /// `out` as rows of `width`, handed out `chunk` columns at a time.
    pub(crate) fn new(out: &'a mut [f32], width: usize, chunk: usize) -> Canvas<'a> {
        let height = out.len().checked_div(width).unwrap_or(0);
        Canvas { base: out.as_mut_ptr(), height, width, chunk: chunk.max(1), out: PhantomData }
    }

    /// A canvas of nothing.
    pub(crate) const EMPTY: Canvas<'static> = Canvas { base: std::ptr::dangling_mut(), height: 0, width: 0, chunk: 1, out: PhantomData };

    fn chunks(&self) -> usize {
        self.width.div_ceil(self.chunk)
    }

    /// # Safety
    /// No other live tile of this canvas may share both a column and a row with this one.
    unsafe fn tile<'t>(&'t self, chunk: usize, rows: Option<&'t [u32]>) -> Tile<'t> {
        let start = chunk * self.chunk;
        Tile { canvas: *self, columns: start..(start + self.chunk).min(self.width), rows }
    }
}

/// The part of a canvas that one item fills.
pub(crate) struct Tile<'a> {
    canvas: Canvas<'a>,
    columns: Range<usize>,
    rows: Option<&'a [u32]>,
}

impl Tile<'_> {
    /// The columns of this tile.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The columns of this tile in its `index`th row.
    #[inline(always)]
    pub(crate) fn row(&mut self, index: usize) -> &mut [f32] {
        let row = self.rows.map_or(index, |rows| rows[index] as usize);
        assert!(row < self.canvas.height, "row beyond the output");
        // SAFETY: row < height and columns ≤ width, so it lies in the slice; nobody else has these columns of this row.
        unsafe {
            let start = self.canvas.base.add(row * self.canvas.width + self.columns.start);
            std::slice::from_raw_parts_mut(start, self.columns.len())
        }
    }
}

/// Calls `f(canvas, tile)` for every chunk of every canvas, in one region.
pub(crate) fn fill(cpu: Cpu, canvases: &[Canvas], f: &(dyn Fn(usize, Tile) + Sync)) {
    let total: usize = canvases.iter().map(Canvas::chunks).sum();
    cpu.parallel(total, &|item| {
        let (which, chunk) = locate(canvases, item);
        // SAFETY: each item comes once, and items differ in canvas or chunk; chunks of columns are disjoint.
        f(which, unsafe { canvases[which].tile(chunk, None) });
    });
}

/// Groups that are looked at in one region; models have at most 256 experts, as a rule.
const BATCH: usize = 256;

/// Calls `f(canvas, group, tile)` for every chunk of every canvas and every group that has rows: group g's are
/// `rows[offsets[g]..offsets[g + 1]]`. One region, or one for each 256 groups that have rows.
///
/// # Panics
/// Where a row is listed twice or lies beyond a canvas.
pub(crate) fn fill_groups(cpu: Cpu, canvases: &[Canvas], offsets: &[u32], rows: &[u32], f: &(dyn Fn(usize, usize, Tile) + Sync)) {
    let Some(first) = canvases.first() else { return };
    assert_distinct(first, rows);
    let chunks: usize = canvases.iter().map(Canvas::chunks).sum();
    let members = |group: usize| &rows[offsets[group] as usize..offsets[group + 1] as usize];
    let mut busy = (0..offsets.len().saturating_sub(1)).filter(|&group| !members(group).is_empty());
    loop {
        let mut batch = [0usize; BATCH];
        let mut count = 0;
        for (slot, group) in batch.iter_mut().zip(&mut busy) {
            *slot = group;
            count += 1;
        }
        if count == 0 {
            return;
        }
        cpu.parallel(count * chunks, &|item| {
            let group = batch[item / chunks];
            let (which, chunk) = locate(canvases, item % chunks);
            // SAFETY: as in `fill`; tiles of the same columns differ in their group, and no row is in two groups:
            // slices between ascending offsets are disjoint (others panic), and the rows in them are distinct.
            f(which, group, unsafe { canvases[which].tile(chunk, Some(members(group))) });
        });
    }
}

fn locate(canvases: &[Canvas], mut item: usize) -> (usize, usize) {
    let mut which = 0;
    while item >= canvases[which].chunks() {
        item -= canvases[which].chunks();
        which += 1;
    }
    (which, item)
}

/// Marks the first element of each row, which will be overwritten: a row that is marked already is listed twice.
fn assert_distinct(canvas: &Canvas, rows: &[u32]) {
    const MARK: u32 = 1;
    if canvas.width == 0 {
        return;
    }
    for pass in [0, MARK] {
        for &row in rows {
            assert!((row as usize) < canvas.height, "row beyond the output");
            // SAFETY: row < height and width > 0; this thread alone uses the canvas, as no tile is out yet.
            let first = unsafe { &mut *canvas.base.add(row as usize * canvas.width) };
            assert!(pass == 0 || first.to_bits() != MARK, "a row belongs to two groups");
            *first = f32::from_bits(pass);
        }
    }
}
