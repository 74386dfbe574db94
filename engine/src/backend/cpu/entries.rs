//! What compressed attention remembers of a sequence: the last positions' values and scores, and the entries made of them.

use super::CpuBackend;
use crate::backend::Pooling;
use crate::cache::no_room;
use crate::error::Result;
use hob_kernels::attention::{KvStore, KvType};
use hob_kernels::{Cpu, ops};

/// Entries of one kind.
pub struct Entries {
    ratio: usize,
    halves: usize,
    dim: usize,
    /// A ring `[room][values (halves · dim) | scores]`: position p at p mod room.
    rows: Vec<f32>,
    room: usize,
    /// One past the last position written since position 0 was.
    end: usize,
    /// No row before this position was ever here: it was loaded without them.
    since: usize,
    /// Entry j is its position j.
    pub(super) store: KvStore,
}

impl Entries {
    /// Room for the entries of `capacity` positions; `keep` of the last ones can be taken back.
    pub(super) fn new(kind: KvType, dim: usize, (ratio, halves): (usize, usize), capacity: usize, keep: usize) -> Result<Entries> {
        let room = keep.min(capacity) + 2 * ratio;
        let store = KvStore::shared(kind, dim, dim, capacity / ratio + 1, capacity / ratio + 1);
        let store = store.map_err(|_| no_room(kind.bytes(dim) as u64 * (capacity / ratio) as u64))?;
        Ok(Entries { ratio, halves, dim, rows: vec![0.0; room * 2 * halves * dim], room, end: 0, since: 0, store })
    }

    /// The shortest length but 0 to go on from.
    pub(super) fn shortest(&self) -> usize {
        self.shortest_at(self.end)
    }

    /// The same once it has grown to `end` positions.
    pub(super) fn shortest_at(&self, end: usize) -> usize {
        let end = end.max(self.end);
        let gone = if end <= self.room { 0 } else { end - self.room + 2 * self.ratio };
        gone.max(if self.since > 0 { self.since + self.ratio } else { 0 })
    }

    /// Positions whose rows a sequence of `len` needs to go on: those of the entry that it is in, and of the one before.
    fn needed(&self, len: usize) -> std::ops::Range<usize> {
        (len - len % self.ratio).saturating_sub(self.ratio)..len
    }

    /// Numbers of a row.
    fn width(&self) -> usize {
        2 * self.halves * self.dim
    }

    pub(super) fn saved_bytes(&self, len: usize) -> usize {
        self.needed(len).len() * self.width() * 4 + self.store.saved_bytes(&(0..len / self.ratio))
    }

    /// Appends what a sequence of `len` needs to go on to `out`: `[rows][entries]`.
    pub(super) fn save(&self, len: usize, out: &mut Vec<u8>) {
        let width = self.width();
        for position in self.needed(len) {
            out.extend(self.rows[position % self.room * width..][..width].iter().flat_map(|x| x.to_ne_bytes()));
        }
        self.store.save(0..len / self.ratio, out);
    }

    /// Takes up what [`save`](Entries::save) wrote, in place of everything.
    pub(super) fn load(&mut self, len: usize, bytes: &[u8]) {
        let (width, needed) = (self.width(), self.needed(len));
        let (rows, entries) = bytes.split_at(needed.len() * width * 4);
        for (position, row) in needed.clone().zip(rows.chunks_exact(width * 4)) {
            let to = &mut self.rows[position % self.room * width..][..width];
            for (to, x) in to.iter_mut().zip(row.as_chunks::<4>().0) {
                *to = f32::from_ne_bytes(*x);
            }
        }
        self.store.load(0..len / self.ratio, entries);
        (self.end, self.since) = (len, needed.start);
    }

    /// A copy of what the first `len` positions left.
    pub(super) fn copy(&self, len: usize) -> Result<Entries> {
        let store = self.store.copy(len / self.ratio).map_err(|_| no_room(self.store.bytes() as u64))?;
        Ok(Entries { rows: self.rows.clone(), end: self.end.max(len), store, ..*self })
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.rows.len() * 4 + self.store.bytes()) as u64
    }

    /// Entries that a query at `position` may see: those whose positions are all there.
    pub(super) fn visible(&self, position: usize) -> usize {
        (position + 1) / self.ratio
    }

    /// Takes the positions from `first` on, `[positions, halves · dim]` of values and of scores, and makes the entries that they complete.
    pub(super) fn push(&mut self, cpu: Cpu<'_>, first: usize, values: &[f32], scores: &[f32], pooling: &Pooling<CpuBackend>) {
        let width = self.halves * self.dim;
        let (mut made, from) = (Vec::new(), first / self.ratio);
        for (i, (values, scores)) in values.chunks_exact(width).zip(scores.chunks_exact(width)).enumerate() {
            let position = first + i;
            let row = &mut self.rows[position % self.room * 2 * width..][..2 * width];
            row[..width].copy_from_slice(values);
            let place = &pooling.places[position % self.ratio * width..][..width];
            for (row, (score, place)) in row[width..].iter_mut().zip(scores.iter().zip(place)) {
                *row = score + place;
            }
            if (position + 1).is_multiple_of(self.ratio) {
                made.resize(made.len() + self.dim, 0.0);
                let at = made.len() - self.dim;
                self.blend(cpu, position / self.ratio, &mut made[at..]);
            }
        }
        let n = values.len() / width;
        (self.end, self.since) = if first == 0 { (n, 0) } else { (self.end.max(first + n), self.since) };
        if made.is_empty() {
            return;
        }
        ops::rms_norm_in_place(cpu, &mut made, Some(&pooling.norm.weight), pooling.norm.eps, self.dim);
        let (mut cos, mut sin, rotary) = (Vec::new(), Vec::new(), pooling.rope.rotary());
        let positions = (from..from + made.len() / self.dim).map(|entry| (entry * self.ratio) as u32);
        pooling.rope.angles(positions, &mut cos, &mut sin);
        let mut last: Vec<f32> = made.chunks_exact(self.dim).flat_map(|entry| &entry[self.dim - rotary..]).copied().collect();
        ops::rope(cpu, &mut last, 1, rotary, rotary, pooling.rope.pairing, &cos, &sin);
        for (entry, last) in made.chunks_exact_mut(self.dim).zip(last.chunks_exact(rotary)) {
            entry[self.dim - rotary..].copy_from_slice(last);
        }
        self.store.write(cpu, from, &made, &[]);
    }

    /// One entry, before its norm: of its own positions' last half and those' first half that come before it.
    fn blend(&self, cpu: Cpu<'_>, entry: usize, out: &mut [f32]) {
        let (width, dim) = (self.halves * self.dim, self.dim);
        let own = entry * self.ratio;
        let start = if self.halves == 2 { own.saturating_sub(self.ratio) } else { own };
        let (mut rows, mut scores) = (Vec::new(), Vec::new());
        for position in start..own + self.ratio {
            let half = if self.halves == 2 && position >= own { dim } else { 0 };
            let row = &self.rows[position % self.room * 2 * width..][..2 * width];
            rows.push(&row[half..half + dim]);
            scores.push(&row[width + half..width + half + dim]);
        }
        ops::blend(cpu.level, &rows, &scores, out);
    }
}
