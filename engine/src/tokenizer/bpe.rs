//! The two kinds of byte-pair encoding: GPT-2's, by a list of merges, and SentencePiece's, by the scores of the tokens.
//!
//! Both are the loop of merge.rs over an index of the mapped file. Where the vocabulary allows, text without a pre-tokenizer is cut at
//! its spaces first (cuts.rs).

use std::collections::HashMap;
use std::ops::Range;

use super::Token;
use super::bytes::{SPACE, to_alphabet};
use super::cuts::Cuts;
use super::merge::Merger;
use super::pre::{Alphabet, Words};
use super::split::Splitter;
use super::table::Table;
use super::vocab::Vocab;

/// GPT-2's: words of the pre-tokenizer, merged by the rank of "left right" in the file's list.
pub(super) struct Bpe {
    pub(super) splitter: Splitter,
    pub(super) merges: Table,
    /// Where tokens are spelt as text: further cuts.
    pub(super) cuts: Option<Cuts>,
    pub(super) words: Words,
}

impl Bpe {
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<Token>) {
        let (mut merger, mut seen, mut spelt, mut key) = (Merger::default(), Seen::default(), String::new(), Vec::new());
        match (vocab.alphabet, &self.cuts) {
            (Alphabet::Text, Some(cuts)) => {
                let text = text.replace(' ', SPACE.encode_utf8(&mut [0; 4]));
                let mut seen = Seen::default();
                self.splitter.split(&text, &mut |line| {
                    cuts.cut(line, &mut |word| seen.once(word, out, |out| self.word(vocab, word, &mut merger, &mut key, out)));
                });
            }
            (Alphabet::Text | Alphabet::Bytes, _) => self.splitter.split(text, &mut |word| {
                seen.once(word, out, |out| {
                    spelt.clear();
                    to_alphabet(word, &mut spelt);
                    self.word(vocab, &spelt, &mut merger, &mut key, out);
                });
            }),
        }
    }

    fn word(&self, vocab: &Vocab, word: &str, merger: &mut Merger, key: &mut Vec<u8>, out: &mut Vec<Token>) {
        let whole = match self.words {
            Words::WholeFirst => true,
            Words::WholeLines => word.bytes().all(|byte| byte == b'\n'),
            Words::Merge => false,
        };
        match vocab.find(word.as_bytes()).filter(|_| whole) {
            Some(token) => out.push(token),
            None => self.merge(vocab, word, merger, key, out),
        }
    }

    fn merge(&self, vocab: &Vocab, word: &str, merger: &mut Merger, key: &mut Vec<u8>, out: &mut Vec<Token>) {
        let rank = |pair: &[u8], at: usize| {
            if pair.len() >= self.merges.longest() {
                return None;
            }
            key.clear();
            key.extend_from_slice(&pair[..at]);
            key.push(b' ');
            key.extend_from_slice(&pair[at..]);
            self.merges.find(key)
        };
        merger.run(word, rank, |symbol| match (vocab.find(symbol.as_bytes()), vocab.alphabet) {
            (Some(token), _) => out.push(token),
            (None, Alphabet::Text) => vocab.push_bytes(symbol, out),
            // A file whose merges make what its vocabulary lacks: character by character, and nothing for those that have no token.
            (None, Alphabet::Bytes) => {
                out.extend(
                    symbol.chars().filter_map(|char| vocab.find(char.encode_utf8(&mut [0; 4]).as_bytes()).or_else(|| vocab.stand_in())),
                );
            }
        });
    }
}

/// SentencePiece's: merged by score, best first.
pub(super) struct Spm {
    pub(super) scores: Vec<f32>,
    pub(super) prefix: Prefix,
    pub(super) cuts: Cuts,
}

/// Whether a text is begun with a space that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    Nothing,
    Space,
}

/// Where a stretch of text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the beginning of the whole text, or after a special token.
    Begins,
    /// After other text.
    GoesOn,
}

impl Spm {
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, place: Place, out: &mut Vec<Token>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + 3);
        if (self.prefix, place) == (Prefix::Space, Place::Begins) {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|char| if char == ' ' { SPACE } else { char }));
        let rank = |pair: &[u8], _| vocab.find(pair).map(|token| descending(self.scores.get(token as usize).copied().unwrap_or_default()));
        let (mut merger, mut seen) = (Merger::default(), Seen::default());
        self.cuts.cut(&escaped, &mut |word| {
            seen.once(word, out, |out| {
                merger.run(word, rank, |symbol| match vocab.find(symbol.as_bytes()) {
                    Some(token) => out.push(token),
                    None => vocab.push_bytes(symbol, out),
                });
            });
        });
    }
}

/// The words of a text that have been merged already, with the place of their tokens in the output: most words come again.
#[derive(Default)]
struct Seen<'t> {
    words: HashMap<&'t str, Range<usize>>,
}

/// Longer words than this are not remembered.
const REMEMBERED: usize = 32;

impl<'t> Seen<'t> {
    fn once(&mut self, word: &'t str, out: &mut Vec<Token>, merge: impl FnOnce(&mut Vec<Token>)) {
        match self.words.get(word) {
            Some(tokens) => out.extend_from_within(tokens.clone()),
            None => {
                let from = out.len();
                merge(out);
                if word.len() <= REMEMBERED {
                    self.words.insert(word, from..out.len());
                }
            }
        }
    }
}

/// A number that is less the greater the score is.
fn descending(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { bits } else { !bits & 0x7fff_ffff }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greater_scores_come_first() {
        let scores = [f32::INFINITY, 3.0, 1e-20, 0.0, -1e-20, -1.0, -2.5, -1e9, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| descending(pair[0]) < descending(pair[1])));
        assert_eq!(descending(0.0), descending(-0.0));
    }
}
