//! The one loop of byte-pair encoding: of all neighbours that may be joined, join the best pair, until none may be.
//!
//! ```text
//! l o w e r     queue: (rank, left): best rank first, of equal ranks the leftmost
//! l ow e r      a joined symbol takes its left part's place; entries that name a symbol that has changed since are stale and dropped
//! low er
//! ```
//! GPT-2's BPE asks a list of merges for the rank, SentencePiece's asks the score of the token the two would make; nothing else differs.
//! Sources: Sennrich et al. 2016 (arXiv:1508.07909), Kudo and Richardson 2018 (arXiv:1808.06226). O(n log n) in the length of the word.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The state of the loop, kept between words so that nothing is allocated once it is warm.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Pair>>,
}

/// A run of bytes of the word: a character at first. `len` 0: joined into another.
struct Symbol {
    start: u32,
    len: u32,
    previous: u32,
    next: u32,
}

/// Two neighbours that may be joined, with the lengths they had when this was found.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: u32,
    left_len: u32,
    right_len: u32,
}

const NONE: u32 = u32::MAX;

impl Merger {
    /// Cuts `word` into symbols and hands them to `emit` in order. `rank(text, at)`: how good it is to join `text[..at]` and `text[at..]`
    /// (less is better), `None` where they may not be joined. Words are shorter than 4 GB.
    pub(super) fn run(&mut self, word: &str, mut rank: impl FnMut(&[u8], usize) -> Option<u32>, mut emit: impl FnMut(&str)) {
        self.symbols.clear();
        self.queue.clear();
        for (index, (start, char)) in word.char_indices().enumerate() {
            let index = index as u32;
            self.symbols.push(Symbol {
                start: start as u32,
                len: char.len_utf8() as u32,
                previous: index.checked_sub(1).unwrap_or(NONE),
                next: index + 1,
            });
        }
        let Some(last) = self.symbols.last_mut() else { return };
        last.next = NONE;
        for right in 1..self.symbols.len() as u32 {
            self.offer(word.as_bytes(), right - 1, right, &mut rank);
        }
        while let Some(Reverse(pair)) = self.queue.pop() {
            let left = &self.symbols[pair.left as usize];
            if left.len != pair.left_len || left.next == NONE || self.symbols[left.next as usize].len != pair.right_len {
                continue;
            }
            let (previous, right) = (left.previous, left.next);
            let next = self.symbols[right as usize].next;
            self.symbols[right as usize].len = 0;
            let left = &mut self.symbols[pair.left as usize];
            left.len += pair.right_len;
            left.next = next;
            if next != NONE {
                self.symbols[next as usize].previous = pair.left;
                self.offer(word.as_bytes(), pair.left, next, &mut rank);
            }
            if previous != NONE {
                self.offer(word.as_bytes(), previous, pair.left, &mut rank);
            }
        }
        let whole = self.symbols.iter().filter(|symbol| symbol.len > 0);
        whole.for_each(|symbol| emit(&word[symbol.start as usize..(symbol.start + symbol.len) as usize]));
    }

    fn offer(&mut self, word: &[u8], left: u32, right: u32, rank: &mut impl FnMut(&[u8], usize) -> Option<u32>) {
        let (a, b) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        let text = &word[a.start as usize..(b.start + b.len) as usize];
        if let Some(rank) = rank(text, a.len as usize) {
            self.queue.push(Reverse(Pair { rank, left, left_len: a.len, right_len: b.len }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(word: &str, merges: &[(&str, &str)]) -> Vec<String> {
        let mut out = Vec::new();
        let rank = |text: &[u8], at: usize| {
            let found = merges.iter().position(|(a, b)| (a.as_bytes(), b.as_bytes()) == text.split_at(at));
            found.map(|rank| rank as u32)
        };
        Merger::default().run(word, rank, |symbol| out.push(symbol.to_owned()));
        out
    }

    #[test]
    fn merges_by_rank_then_from_the_left() {
        let merges = [("o", "w"), ("l", "ow"), ("e", "r"), ("a", "a"), ("aa", "a")];
        let table: &[(&str, &[&str])] =
            &[("lower", &["low", "er"]), ("wol", &["w", "o", "l"]), ("aaa", &["aaa"]), ("aaaaa", &["aa", "aaa"]), ("é", &["é"]), ("", &[])];
        for (word, want) in table {
            assert_eq!(cut(word, &merges), *want, "{word}");
        }
    }

    #[test]
    fn a_long_word_takes_bounded_time() {
        let word = "a".repeat(1 << 20);
        let mut count = 0;
        Merger::default().run(
            &word,
            |text, _| (text.len() <= 64 && text.len().is_power_of_two()).then_some(text.len() as u32),
            |_| count += 1,
        );
        assert_eq!(count, 1 << 14);
    }
}
