//! A store's positions as bytes, to be kept elsewhere and taken up again, by a store of another capacity too.
//!
//! ```text
//! [position / 64][head][keys of the block | values of the block]        each block as it lies in a store
//! ```
//! A block of 64 positions of a head is contiguous in every store, and the same bytes in each: so nothing is computed, and no bit
//! changes. What the last block holds beyond the positions is whatever was there.

use super::{KvStore, Numbers};
use crate::attention::shape::{BLOCK, Window};
use std::ops::Range;

impl Numbers {
    /// Bytes of a block of heads of `dim`.
    fn block_bytes(&self, dim: usize) -> usize {
        self.kind().bytes(dim) * BLOCK
    }

    /// The bytes of block `at`.
    fn block(&self, at: usize, dim: usize) -> &[u8] {
        let len = self.block_bytes(dim);
        &self.bytes()[at * len..][..len]
    }

    /// The same, to be written.
    fn block_mut(&mut self, at: usize, dim: usize) -> &mut [u8] {
        let len = self.block_bytes(dim);
        &mut self.bytes_mut()[at * len..][..len]
    }
}

impl KvStore {
    /// The positions that a sequence of `len` needs to go on, where queries look through `window`: whole blocks of them.
    pub fn seen(window: Window, len: usize) -> Range<usize> {
        let first = window.first(len).min(len);
        first - first % BLOCK..len
    }

    /// Bytes that positions take when they are saved.
    pub fn saved_bytes(&self, positions: &Range<usize>) -> usize {
        let blocks = positions.end.div_ceil(BLOCK).saturating_sub(positions.start / BLOCK);
        let values = self.v.as_ref().map_or(0, |v| v.block_bytes(self.value_dim));
        blocks * self.kv_heads * (self.k.block_bytes(self.key_dim) + values)
    }

    /// Appends the blocks in which positions lie to `out`.
    ///
    /// # Panics
    /// If a ring has let go of some of them, or they are beyond the capacity.
    pub fn save(&self, positions: Range<usize>, out: &mut Vec<u8>) {
        assert!(self.oldest() <= positions.start && positions.end <= self.capacity, "{positions:?} of {self:?}");
        for block in positions.start / BLOCK..positions.end.div_ceil(BLOCK) {
            for head in 0..self.kv_heads {
                let at = self.place(head, block) / BLOCK;
                out.extend_from_slice(self.k.block(at, self.key_dim));
                if let Some(v) = &self.v {
                    out.extend_from_slice(v.block(at, self.value_dim));
                }
            }
        }
    }

    /// Takes up positions that [`save`](KvStore::save) wrote, behind or in place of those that are here from their first on.
    ///
    /// # Panics
    /// If they do not begin with a block, are more than there is room for, or the bytes are not so many.
    pub fn load(&mut self, positions: Range<usize>, bytes: &[u8]) {
        self.put(&positions, bytes);
        self.reach(positions);
    }

    /// The same in place of everything that is here: what comes before them is not held any more.
    ///
    /// # Panics
    /// As [`load`](KvStore::load).
    pub fn load_alone(&mut self, positions: Range<usize>, bytes: &[u8]) {
        self.put(&positions, bytes);
        (self.end, self.since) = (positions.end, positions.start);
    }

    fn put(&mut self, positions: &Range<usize>, mut bytes: &[u8]) {
        assert!(positions.start.is_multiple_of(BLOCK) && positions.end <= self.capacity, "{positions:?} of {self:?}");
        assert!(bytes.len() == self.saved_bytes(positions), "{} bytes for {positions:?} of {self:?}", bytes.len());
        let blocks = positions.start / BLOCK..positions.end.div_ceil(BLOCK);
        assert!(blocks.len() <= self.room / BLOCK, "{positions:?} into {self:?}");
        for (block, head) in blocks.flat_map(|block| (0..self.kv_heads).map(move |head| (block, head))) {
            let at = self.place(head, block) / BLOCK;
            let values = self.v.as_mut().map(|v| v.block_mut(at, self.value_dim));
            for to in [Some(self.k.block_mut(at, self.key_dim)), values].into_iter().flatten() {
                let (from, rest) = bytes.split_at(to.len());
                to.copy_from_slice(from);
                bytes = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::KvType;
    use crate::{Cpu, Level, Pool};
    use std::sync::atomic::AtomicBool;

    /// Positions `from..to` of a made-up sequence, `[position, heads, dim]`.
    fn numbers(from: usize, to: usize, width: usize) -> Vec<f32> {
        (from * width..to * width).map(|i| (i % 1009) as f32).collect()
    }

    fn fill(store: &mut KvStore, from: usize, to: usize) {
        let pool = Pool::new(1);
        let stop = AtomicBool::new(false);
        let cpu = Cpu { level: Level::best(), pool: &pool, stop: &stop };
        let (heads, key, value) = store.shape();
        let values = if store.is_shared() { Vec::new() } else { numbers(from, to, heads * value) };
        store.write(cpu, from, &numbers(from, to, heads * key), &values);
    }

    fn stores(capacity: usize, keep: usize) -> Vec<KvStore> {
        let pairs = KvType::ALL.into_iter().flat_map(|k| KvType::ALL.map(|v| (k, v)));
        let apart = pairs.map(|(k, v)| KvStore::ring(k, v, 2, 8, 5, capacity, keep).unwrap());
        apart.chain(KvType::ALL.map(|kind| KvStore::shared(kind, 12, 8, capacity, keep).unwrap())).collect()
    }

    #[test]
    fn positions_come_back_in_a_store_of_another_capacity() {
        for (mut from, mut to) in stores(300, 300).into_iter().zip(stores(500, 500)) {
            fill(&mut from, 0, 290);
            fill(&mut to, 0, 70);
            let mut bytes = Vec::new();
            from.save(64..290, &mut bytes);
            assert_eq!(bytes.len(), from.saved_bytes(&(64..290)));
            to.load(64..290, &bytes);
            assert_eq!((to.read(290), to.oldest()), (from.read(290), 0));
            let mut again = Vec::new();
            to.save(64..290, &mut again);
            assert!(again == bytes);
        }
    }

    #[test]
    fn a_window_comes_back_in_a_ring_of_another_size() {
        let window = Window::Sliding(70);
        for (mut from, mut to) in stores(2000, 100).into_iter().zip(stores(3000, 200)) {
            for at in (0..1000).step_by(25) {
                fill(&mut from, at, at + 25);
            }
            let seen = KvStore::seen(window, 990);
            assert_eq!(seen, 896..990);
            let mut bytes = Vec::new();
            from.save(seen.clone(), &mut bytes);
            to.load_alone(seen, &bytes);
            assert_eq!((to.oldest(), to.shortest(window), to.is_ring()), (896, 965, true));
            fill(&mut to, 990, 1100);
            assert_eq!(to.oldest(), 896);
            fill(&mut to, 1100, 1300);
            assert_eq!(to.oldest(), 1344 - 320);
            // From position 0 on it is as new.
            fill(&mut to, 0, 10);
            assert_eq!((to.oldest(), to.shortest(window)), (0, 0));
        }
    }
}
