//! From text to number in one look: an open-addressing index over strings that stay where they are in the mapped file.
//!
//! ```text
//! slots  [tag 32 | index 32] × 2^k, at most half full, probed one after the other
//! tag    upper half of the string's hash: a slot is compared with the string only where the tags agree
//! ```
//! Built twice per model: over the tokens (text → id) and over the merges ("left right" → rank). The strings are not copied, so a
//! vocabulary of 128 000 tokens and 280 000 merges costs 6 MB and some milliseconds.

use std::hash::{BuildHasher, RandomState};

use crate::gguf::Strings;

/// Strings and the way back from a string to its number.
pub(super) struct Table {
    strings: Strings,
    slots: Box<[Slot]>,
    seed: u64,
    longest: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    index: u32,
}

const EMPTY: Slot = Slot { tag: 0, index: u32::MAX };

impl Table {
    /// Indexes `strings`. Of equal strings the first is found; empty ones are not found. `None` where there are too many for 32 bits.
    pub(super) fn new(strings: Strings) -> Option<Table> {
        let count = u32::try_from(strings.len()).ok().filter(|count| *count < u32::MAX / 4)?;
        let slots = vec![EMPTY; (count as usize * 2).next_power_of_two().max(8)].into_boxed_slice();
        // A seed of its own, so that no file can be written whose strings all fall into one slot.
        let mut table = Table { strings, slots, seed: RandomState::new().hash_one(count), longest: 0 };
        for index in 0..count {
            table.insert(index);
        }
        Some(table)
    }

    fn insert(&mut self, index: u32) {
        let text = self.strings.get(index as usize).unwrap_or_default();
        if text.is_empty() {
            return;
        }
        let hash = self.hash(text);
        let (tag, mask) = ((hash >> 32) as u32, self.slots.len() - 1);
        let mut at = hash as usize & mask;
        while self.slots[at].index != EMPTY.index {
            if self.slots[at].tag == tag && self.strings.get(self.slots[at].index as usize) == Some(text) {
                return;
            }
            at = (at + 1) & mask;
        }
        self.longest = self.longest.max(text.len());
        self.slots[at] = Slot { tag, index };
    }

    /// The number of the string that is exactly `text`.
    #[inline]
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        if text.is_empty() || text.len() > self.longest {
            return None;
        }
        let hash = self.hash(text);
        let (tag, mask) = ((hash >> 32) as u32, self.slots.len() - 1);
        let mut at = hash as usize & mask;
        while self.slots[at].index != EMPTY.index {
            if self.slots[at].tag == tag && self.strings.get(self.slots[at].index as usize) == Some(text) {
                return Some(self.slots[at].index);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The string with this number, as it is in the file.
    pub(super) fn get(&self, index: u32) -> Option<&[u8]> {
        self.strings.get(index as usize)
    }

    /// How many strings there are.
    pub(super) fn len(&self) -> usize {
        self.strings.len()
    }

    /// Bytes of the longest string.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Eight bytes a step, each folded in by the two halves of a 64 × 64 bit product.
    #[inline]
    fn hash(&self, text: &[u8]) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let fold = |state: u64, word: u64| {
            let product = u128::from(state ^ word) * u128::from(ODD);
            (product >> 64) as u64 ^ product as u64
        };
        let mut state = self.seed ^ text.len() as u64;
        let mut words = text.chunks_exact(8);
        for word in &mut words {
            state = fold(state, word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
        let rest = words.remainder().iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        fold(fold(state, rest), self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_string_is_found_and_no_other() {
        let names: Vec<String> = (0..5000).map(|n| format!("{}{n}", "x".repeat(n % 23))).collect();
        let table = Table::new(Strings::from_iter(&names)).unwrap();
        for (index, name) in names.iter().enumerate() {
            assert_eq!(table.find(name.as_bytes()), Some(index as u32));
            assert_eq!(table.find(format!("{name}?").as_bytes()), None);
        }
        assert_eq!((table.len(), table.longest()), (5000, 26));
    }

    #[test]
    fn of_equal_strings_the_first_counts_and_empty_ones_do_not() {
        let table = Table::new(Strings::from_iter(["", "a", "b", "a", ""])).unwrap();
        assert_eq!([table.find(b"a"), table.find(b"b"), table.find(b"")], [Some(1), Some(2), None]);
        let none = Table::new(Strings::from_iter::<[&str; 0]>([])).unwrap();
        assert_eq!((none.find(b"a"), none.len()), (None, 0));
    }
}
