//! A tile: some consecutive queries of one sequence with one kv head, all heads of its group together.
//!
//! ```text
//! rows      query 0: head 0, 1, … of the group; query 1: …                a row is a chain of its own throughout
//! groups    6 6 5 … rows                                                 those go through a block together
//! blocks    for each block of each chunk: scores of all groups, weights of all rows, values of all groups
//! ```

use super::call::{Part, Tile, Work};
use super::kernel::{Finish, Merge, ROWS, Running, Scores, Values, Weights};
use super::pages::{Numbers, each};
use super::shape::{BLOCK, CHUNK};
use super::shared::{RowScores, rows_together};
use super::store::KvStore;
use super::stored::{Layout, Plain, Stored, Widen};
use super::turn::Turn;
use crate::isa::{lanes, vectorize};
use crate::{Cpu, Level, pool};
use std::cell::Cell;
use std::ops::Range;

/// Buffers of a thread, kept from tile to tile.
#[derive(Default)]
struct Scratch {
    /// `[group][key_dim][rows of the group]`, scaled.
    q: Vec<f32>,
    /// A query, scaled and turned.
    row: Vec<f32>,
    /// A block as f32.
    wide: Vec<f32>,
    /// `[rows][64]`, scores and then weights.
    s: Vec<[f32; BLOCK]>,
    /// State of the chunk: `[rows]`, `[rows][stride]`.
    part: Vec<Running>,
    o: Vec<f32>,
    /// State of the chunks before.
    whole: Vec<Running>,
    whole_o: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Calls `f` with this thread's buffers, sized for `rows`.
fn with_scratch(work: &Work<'_>, rows: usize, f: impl FnOnce(&mut Scratch)) {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    scratch.q.resize(rows.next_multiple_of(16) * work.key_dim, 0.0);
    scratch.row.resize(work.key_dim, 0.0);
    scratch.s.resize(rows, [0.0; BLOCK]);
    scratch.part.resize(rows, Running::START);
    scratch.whole.resize(rows, Running::START);
    scratch.o.resize(rows * work.stride(), 0.0);
    scratch.whole_o.resize(rows * work.stride(), 0.0);
    f(&mut scratch);
    SCRATCH.set(Some(scratch));
}

/// Numbers behind a widened block, so that vectors may be loaded across its end.
const BEHIND: usize = 64;

/// Calls `f` with this thread's room for a block of rows of `pitch`, apart from the other buffers.
fn with_wide(scratch: &mut Scratch, pitch: usize, f: impl FnOnce(&mut [f32], &mut Scratch)) {
    let mut wide = std::mem::take(&mut scratch.wide);
    wide.resize(pitch * BLOCK + BEHIND, 0.0);
    f(&mut wide, scratch);
    scratch.wide = wide;
}

impl Tile<'_> {
    /// The whole of attention, to rows of `group` heads.
    pub(super) fn whole(&self, cpu: Cpu<'_>, work: &Work<'_>, head: usize, mut out: pool::Tile<'_, f32>) {
        let (group, stride) = (work.group, work.stride());
        with_scratch(work, self.tokens * group, |scratch| {
            self.queries(cpu.level, work, head, scratch);
            self.accumulate(cpu, work, head, scratch);
            for row in 0..self.tokens * group {
                let out = &mut out.row(row / group)[row % group * work.value_dim..][..work.value_dim];
                let (running, sink) = (&scratch.whole[row], work.sink(head * group + row % group));
                vectorize(cpu.level, Finish { running, sink, o: &scratch.whole_o[row * stride..][..stride], out, turned: work.turned.1 });
            }
        });
    }

    /// All chunks of attention, merged.
    fn accumulate(&self, cpu: Cpu<'_>, work: &Work<'_>, head: usize, scratch: &mut Scratch) {
        let (group, stride) = (work.group, work.stride());
        for chunk in self.chunks() {
            self.chunk(cpu.level, work, head, chunk, scratch);
            for row in 0..self.tokens * group {
                let chunks = chunks_of(&self.seen(row / group));
                let (part, o) = (&scratch.part[row], &scratch.o[row * stride..][..stride]);
                let (whole, whole_o) = (&mut scratch.whole[row], &mut scratch.whole_o[row * stride..][..stride]);
                if chunk == chunks.start {
                    *whole = *part;
                    whole_o.copy_from_slice(o);
                } else if chunks.contains(&chunk) {
                    vectorize(cpu.level, Merge { whole: (whole, whole_o), part: (part, o) });
                }
            }
            if cpu.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return;
            }
        }
    }

    /// The whole of attention for one query and all heads, over its positions and then over the `chosen` of `entries`.
    pub(super) fn joined(&self, cpu: Cpu<'_>, work: &Work<'_>, entries: &KvStore, chosen: &[u32], mut out: pool::Tile<'_, f32>) {
        let (rows, stride, dim) = (work.group, work.stride(), work.key_dim);
        with_scratch(work, rows, |scratch| {
            self.queries(cpu.level, work, 0, scratch);
            self.accumulate(cpu, work, 0, scratch);
            let mut keys = std::mem::take(&mut scratch.wide);
            keys.resize(BLOCK * dim + BEHIND, 0.0);
            for chunk in chosen.chunks(CHUNK) {
                scratch.part.fill(Running::START);
                scratch.o.fill(0.0);
                for block in chunk.chunks(BLOCK) {
                    entries.gather(cpu.level, block, &mut keys);
                    let q = &scratch.q[..rows.next_multiple_of(rows_together(lanes(cpu.level))) * dim];
                    vectorize(cpu.level, RowScores { q, k: &keys, pitch: dim, key_dim: dim, end: block.len(), s: &mut scratch.s });
                    let Scratch { s, part, o, .. } = &mut *scratch;
                    let (seen, softcap) = (|_| 0..block.len(), work.attend.softcap);
                    vectorize(cpu.level, Weights { s, seen, softcap, running: part, o, stride });
                    for group in groups(rows) {
                        let o = &mut o[group.start * stride..group.end * stride];
                        let (e, seen, value_dim) = (&s[group], 0..block.len(), work.value_dim);
                        vectorize(cpu.level, Values::<Plain<f32>> { e, seen, v: &keys, pitch: dim, ahead: &[], value_dim, o, stride });
                    }
                }
                for row in 0..rows {
                    let (part, o) = (&scratch.part[row], &scratch.o[row * stride..][..stride]);
                    let (whole, whole_o) = (&mut scratch.whole[row], &mut scratch.whole_o[row * stride..][..stride]);
                    vectorize(cpu.level, Merge { whole: (whole, whole_o), part: (part, o) });
                }
            }
            scratch.wide = keys;
            for row in 0..rows {
                let out = &mut out.row(0)[row * work.value_dim..][..work.value_dim];
                let (running, sink) = (&scratch.whole[row], work.sink(row));
                vectorize(cpu.level, Finish { running, sink, o: &scratch.whole_o[row * stride..][..stride], out, turned: work.turned.1 });
            }
        });
    }

    /// One chunk of attention, to a [`Part`] for each row.
    pub(super) fn part(&self, cpu: Cpu<'_>, work: &Work<'_>, head: usize, chunk: usize, parts: &mut [f32]) {
        let rows = self.tokens * work.group;
        with_scratch(work, rows, |scratch| {
            self.queries(cpu.level, work, head, scratch);
            self.chunk(cpu.level, work, head, chunk, scratch);
            for (row, part) in parts.chunks_exact_mut(work.part_len()).take(rows).enumerate() {
                Part::write(&scratch.part[row], &scratch.o[row * work.stride()..][..work.stride()], part);
            }
        });
    }

    /// Merges the parts of query `t`'s row of query head `head`; `part` has them by chunk.
    pub(super) fn merge<'p>(
        &self,
        cpu: Cpu<'_>,
        work: &Work<'_>,
        (t, head): (usize, usize),
        part: impl Fn(usize) -> Part<'p>,
        out: &mut [f32],
    ) {
        let mut chunks = chunks_of(&self.seen(t));
        with_scratch(work, 1, |scratch| {
            let (whole, whole_o) = (&mut scratch.whole[0], &mut scratch.whole_o[..]);
            let first = part(chunks.start);
            *whole = first.running;
            whole_o.copy_from_slice(first.o);
            chunks.start += 1;
            for chunk in chunks {
                let part = part(chunk);
                vectorize(cpu.level, Merge { whole: (whole, whole_o), part: (&part.running, part.o) });
            }
            vectorize(cpu.level, Finish { running: whole, sink: work.sink(head), o: whole_o, out, turned: work.turned.1 });
        });
    }

    /// Scales the queries, turns them as keys are, and lays them out for the kernel.
    fn queries(&self, level: Level, work: &Work<'_>, head: usize, scratch: &mut Scratch) {
        let (dim, heads, rows) = (work.key_dim, work.attend.heads, self.tokens * work.group);
        let mut pack = |group: Range<usize>, width: usize| {
            let packed = &mut scratch.q[group.start * dim..(group.start + width) * dim];
            for (r, row) in group.enumerate() {
                let q = &work.q[((self.row + row / work.group) * heads + head * work.group + row % work.group) * dim..][..dim];
                scratch.row.iter_mut().zip(q).for_each(|(row, q)| *row = q * work.attend.scale);
                vectorize(level, Turn { x: &mut scratch.row, n: work.turned.0 });
                for (packed, q) in packed[r..].iter_mut().step_by(width).zip(&scratch.row) {
                    *packed = *q;
                }
            }
        };
        if self.store.is_shared() {
            let width = rows_together(lanes(level));
            (0..rows).step_by(width).for_each(|from| pack(from..(from + width).min(rows), width));
        } else {
            groups(rows).for_each(|group| pack(group.clone(), group.len()));
        }
    }

    /// All blocks of a chunk, from the start of a state to its end in `part` and `o`.
    fn chunk(&self, level: Level, work: &Work<'_>, head: usize, chunk: usize, scratch: &mut Scratch) {
        let start = self.seen(0).start.max(chunk * CHUNK);
        let end = (self.position + self.tokens).min((chunk + 1) * CHUNK);
        scratch.part.fill(Running::START);
        scratch.o.fill(0.0);
        let kv_head = if self.store.is_shared() { 0 } else { head };
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            let at = self.store.place(kv_head, block);
            let more = (block + 1) * BLOCK < end && self.store.place(kv_head, block + 1) > at;
            let Some(v) = &self.store.v else {
                each!(&self.store.k, x: S => self.shared::<S>(level, work, block, x.from(at * S::units(work.key_dim)), scratch));
                continue;
            };
            each!(&self.store.k, x: S => self.keys::<S>(level, work, block, x.from(at * S::units(work.key_dim)), more, scratch));
            self.weights(level, work, block, scratch);
            each!(v, x: S => self.rows::<S>(level, work, block, x.from(at * S::units(work.value_dim)), more, scratch));
        }
    }

    /// A block whose values are the first channels of its keys.
    fn shared<S: Stored>(&self, level: Level, work: &Work<'_>, block: usize, keys: &[S::Unit], scratch: &mut Scratch) {
        let (rows, pitch, dim) = (self.tokens * work.group, S::pitch(work.key_dim), work.key_dim);
        let end = (self.position + self.tokens - block * BLOCK).min(BLOCK);
        with_wide(scratch, pitch, |wide, scratch| {
            let from = &keys[..S::units(dim) * BLOCK];
            vectorize(level, Widen::<S> { block: from, dim, layout: Layout::Along, positions: 0..end, to: wide });
            let q = &scratch.q[..rows.next_multiple_of(rows_together(lanes(level))) * dim];
            vectorize(level, RowScores { q, k: wide, pitch, key_dim: dim, end, s: &mut scratch.s[..rows] });
            self.weights(level, work, block, scratch);
            if S::WIDEN {
                self.values::<Plain<f32>>(level, work, block, (wide, pitch), &[], scratch);
            } else {
                self.values::<S>(level, work, block, (keys, dim), &[], scratch);
            }
        });
    }

    /// The scores of a block; where several groups of rows look at codes, they are widened once for all.
    fn keys<S: Stored>(&self, level: Level, work: &Work<'_>, block: usize, k: &[S::Unit], more: bool, scratch: &mut Scratch) {
        let (dim, len) = (work.key_dim, S::units(work.key_dim) * BLOCK);
        let (from, ahead) = (&k[..len], if more { &k[len..2 * len] } else { &[] });
        if S::WIDEN && self.tokens * work.group > ROWS {
            with_wide(scratch, dim, |wide, scratch| {
                vectorize(level, Widen::<S> { block: from, dim, layout: Layout::Across, positions: 0..BLOCK, to: wide });
                self.scores::<Plain<f32>>(level, work, block, &wide[..dim * BLOCK], &[], scratch);
            });
        } else {
            self.scores::<S>(level, work, block, from, ahead, scratch);
        }
    }

    /// The values of a block, in the same way.
    fn rows<S: Stored>(&self, level: Level, work: &Work<'_>, block: usize, v: &[S::Unit], more: bool, scratch: &mut Scratch) {
        let (dim, len) = (work.value_dim, S::units(work.value_dim) * BLOCK);
        if S::WIDEN && self.tokens * work.group > ROWS {
            let pitch = S::pitch(dim);
            let seen = |row| self.seen_of_block(work, row, block);
            let positions = seen(0).start..seen(self.tokens * work.group - 1).end;
            with_wide(scratch, pitch, |wide, scratch| {
                vectorize(level, Widen::<S> { block: &v[..len], dim, layout: Layout::Along, positions, to: wide });
                self.values::<Plain<f32>>(level, work, block, (wide, pitch), &[], scratch);
            });
        } else {
            self.values::<S>(level, work, block, (v, dim), if more { &v[len..2 * len] } else { &[] }, scratch);
        }
    }

    /// The positions of `block` that the row sees, counted from the block's first.
    fn seen_of_block(&self, work: &Work<'_>, row: usize, block: usize) -> Range<usize> {
        let seen = self.seen(row / work.group);
        let start = block * BLOCK;
        seen.start.saturating_sub(start).min(BLOCK)..seen.end.saturating_sub(start).min(BLOCK)
    }

    fn scores<S: Stored>(&self, level: Level, work: &Work<'_>, block: usize, k: &[S::Unit], mut ahead: &[S::Unit], scratch: &mut Scratch) {
        for rows in groups(self.tokens * work.group) {
            if rows.clone().all(|row| self.seen_of_block(work, row, block).is_empty()) {
                continue;
            }
            let q = &scratch.q[rows.start * work.key_dim..rows.end * work.key_dim];
            vectorize(level, Scores::<S> { q, k, ahead, s: &mut scratch.s[rows] });
            ahead = &[];
        }
    }

    fn weights(&self, level: Level, work: &Work<'_>, block: usize, scratch: &mut Scratch) {
        let (seen, softcap, stride) = (|row| self.seen_of_block(work, row, block), work.attend.softcap, work.stride());
        let Scratch { s, part, o, .. } = scratch;
        vectorize(level, Weights { s, seen, softcap, running: part, o, stride });
    }

    /// Values that lie `pitch` apart.
    fn values<S: Stored>(
        &self,
        level: Level,
        work: &Work<'_>,
        block: usize,
        (v, pitch): (&[S::Unit], usize),
        mut ahead: &[S::Unit],
        scratch: &mut Scratch,
    ) {
        let stride = work.stride();
        for group in groups(self.tokens * work.group) {
            let seen = |row| self.seen_of_block(work, row, block);
            let all = group.clone().map(seen).fold(0..BLOCK, |all, seen| all.start.max(seen.start)..all.end.min(seen.end));
            let mut add = |rows: Range<usize>, seen: Range<usize>| {
                if !seen.is_empty() {
                    let o = &mut scratch.o[rows.start * stride..rows.end * stride];
                    vectorize(level, Values::<S> { e: &scratch.s[rows], seen, v, pitch, ahead, value_dim: work.value_dim, o, stride });
                    ahead = &[];
                }
            };
            // Where rows see different positions, those of one alone come before and after those of all: for each row they
            // stay in order, and what it does not see is not multiplied.
            if all.is_empty() {
                group.clone().for_each(|row| add(row..row + 1, seen(row)));
            } else {
                group.clone().for_each(|row| add(row..row + 1, seen(row).start..all.start));
                add(group.clone(), all.clone());
                group.clone().for_each(|row| add(row..row + 1, all.end..seen(row).end));
            }
        }
    }
}

/// The chunks of some positions.
fn chunks_of(seen: &Range<usize>) -> Range<usize> {
    seen.start / CHUNK..seen.end.div_ceil(CHUNK)
}

/// `rows` rows in groups that the kernel takes, as equal as can be.
fn groups(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(ROWS);
    (0..count).map(move |i| i * rows / count..(i + 1) * rows / count)
}
