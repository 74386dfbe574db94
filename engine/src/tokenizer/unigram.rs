//! Unigram (T5, XLM-R): of all ways to cut the text into tokens, the one whose scores sum highest; and SentencePiece's normalisation.
//!
//! ```text
//! best[end] = max over tokens that are text[start..end] of best[start] + score(token)        (Viterbi, over character boundaries)
//! ```
//! Source: Kudo 2018 (arXiv:1804.10959); the character map: SentencePiece.

use std::borrow::Cow;

use super::bpe::Prefix;
use super::bytes::SPACE;
use super::vocab::Vocab;
use super::{Token, TokenKind};

/// A token of more bytes than this is not found in text: a bound on the time per character whatever the file says.
const LONGEST: usize = 256;
/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Scores and normalisation of one vocabulary.
pub(super) struct Unigram {
    pub(super) scores: Vec<f32>,
    pub(super) unknown_score: f64,
    pub(super) charsmap: Option<Charsmap>,
    pub(super) prefix: Prefix,
    pub(super) spaces: Spaces,
    pub(super) prefixes: Prefixes,
}

/// What tokens begin with: a set that may say yes in error, never no (a Bloom filter of one bit). Most characters begin no long token,
/// and this says so at once.
pub(super) struct Prefixes {
    bits: Vec<u64>,
}

impl Prefixes {
    /// All prefixes of all tokens.
    pub(super) fn of(vocab: &Vocab) -> Prefixes {
        let mut prefixes = Prefixes { bits: vec![0; vocab.table.len().next_power_of_two().max(64)] };
        for token in (0..vocab.table.len() as u32).filter_map(|id| vocab.table.get(id)) {
            let mut state = 0;
            for byte in token.iter().take(LONGEST) {
                let (word, bit) = prefixes.step(&mut state, *byte);
                prefixes.bits[word] |= bit;
            }
        }
        prefixes
    }

    /// Whether a token may begin with what has been stepped through, `byte` the last of it.
    fn goes_on(&self, state: &mut u64, byte: u8) -> bool {
        let (word, bit) = self.step(state, byte);
        self.bits[word] & bit != 0
    }

    fn step(&self, state: &mut u64, byte: u8) -> (usize, u64) {
        *state = (*state ^ u64::from(byte).wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        ((*state >> 6) as usize & (self.bits.len() - 1), 1 << (*state & 63))
    }
}

/// What becomes of runs of spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spaces {
    Keep,
    /// One for each run, none at the end.
    Merge,
}

#[derive(Clone, Copy)]
struct Best {
    score: f64,
    start: usize,
    token: Option<Token>,
}

impl Unigram {
    /// The score of an unknown character in this vocabulary.
    pub(super) fn unknown_score(scores: &[f32], vocab: &Vocab) -> f64 {
        let normal = scores.iter().zip(0..).filter(|(_, id)| vocab.kind(*id) == TokenKind::Normal);
        f64::from(normal.map(|(score, _)| *score).fold(0.0, f32::min)) - UNKNOWN_PENALTY
    }

    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<Token>) {
        let text = self.normalize(text);
        let mut best = vec![Best { score: f64::NEG_INFINITY, start: 0, token: None }; text.len() + 1];
        best[0].score = 0.0;
        let longest = vocab.table.longest().min(LONGEST);
        for (start, first) in text.char_indices() {
            let here = best[start].score;
            let mut offer = |end: usize, token: Option<Token>, score: f64| {
                if here + score > best[end].score {
                    best[end] = Best { score: here + score, start, token };
                }
            };
            let (rest, mut state) = (&text[start..], 0);
            for (at, byte) in rest.bytes().enumerate().take(longest) {
                if !self.prefixes.goes_on(&mut state, byte) {
                    break;
                }
                if let Some(token) = vocab.find(&rest.as_bytes()[..=at]).filter(|_| rest.is_char_boundary(at + 1)) {
                    let normal = vocab.kind(token) != TokenKind::UserDefined;
                    offer(start + at + 1, Some(token), if normal { f64::from(self.scores[token as usize]) } else { 0.0 });
                }
            }
            let alone = start + first.len_utf8();
            if vocab.find(&text.as_bytes()[start..alone]).is_none() {
                offer(alone, None, self.unknown_score);
            }
        }
        let (begin, mut end, mut after_unknown) = (out.len(), text.len(), false);
        while end > 0 {
            let Best { start, token, .. } = best[end];
            // Neighbouring unknown characters are one unknown token.
            match token {
                Some(token) => out.push(token),
                None if !after_unknown => out.extend(vocab.unknown),
                None => {}
            }
            (end, after_unknown) = (start.min(end - 1), token.is_none());
        }
        out[begin..].reverse();
    }

    /// The text as the vocabulary spells it: characters mapped, spaces as `▁`.
    fn normalize(&self, text: &str) -> String {
        let mapped = self.charsmap.as_ref().map_or(Cow::Borrowed(text), |map| Cow::Owned(map.apply(text)));
        let mut out = String::with_capacity(mapped.len() + 3);
        let (mut in_word, mut begun) = (false, false);
        for char in mapped.chars() {
            if char == ' ' {
                in_word = false;
                if self.spaces == Spaces::Keep {
                    out.push(SPACE);
                }
                continue;
            }
            if !in_word && (self.spaces == Spaces::Merge || (self.prefix == Prefix::Space && !begun)) {
                out.push(SPACE);
                begun = true;
            }
            in_word = true;
            out.push(char);
        }
        out
    }
}

/// SentencePiece's compiled character map: a double array over the bytes to be replaced, then the replacements, each ended by a zero.
///
/// ```text
/// u32 bytes of the array | units u32… | text\0text\0…      unit: label 0..8, leaf 8, offset scale 9, offset 10.. | value 0..31
/// ```
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    /// Reads a map; `None` where its lengths contradict each other.
    pub(super) fn new(bytes: &[u8]) -> Option<Charsmap> {
        let (size, rest) = bytes.split_first_chunk()?;
        let (units, replacements) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        let units = units.chunks_exact(4).map(|unit| unit.iter().rev().fold(0, |unit, byte| unit << 8 | u32::from(*byte))).collect();
        Some(Charsmap { units, replacements: replacements.to_vec() })
    }

    /// Replaces, from left to right, the longest match at each place; what matches nothing stays.
    fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            // A match may end within a character in a damaged map only.
            match self.longest(rest.as_bytes()).filter(|(len, _)| rest.is_char_boundary(*len)) {
                Some((len, replacement)) => {
                    out.push_str(&String::from_utf8_lossy(replacement));
                    rest = &rest[len..];
                }
                None => {
                    out.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        out
    }

    /// The longest match at the beginning of `text`: its length and replacement.
    fn longest(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize;
        let (mut at, mut found) = (offset(*self.units.first()?), None);
        for (index, byte) in text.iter().enumerate().take_while(|(_, byte)| **byte != 0) {
            at ^= *byte as usize;
            let Some(unit) = self.units.get(at).copied().filter(|unit| unit & 0x8000_00ff == u32::from(*byte)) else { break };
            at ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                found = self.units.get(at).map(|value| (index + 1, (value & 0x7fff_ffff) as usize));
            }
        }
        let (len, at) = found?;
        let replacement = self.replacements.get(at..)?;
        Some((len, replacement.split(|byte| *byte == 0).next()?))
    }
}
