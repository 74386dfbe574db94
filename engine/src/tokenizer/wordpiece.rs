//! WordPiece (BERT): words are normalised and cut at whitespace and punctuation, then the longest token that fits is taken, and again.
//!
//! ```text
//! "Naïve!"  →  naive | !  →  ▁naive | ▁!      GGUF writes ▁ where a word begins; BERT's own files write ## where one goes on
//! ```
//! Source: Devlin et al. 2018 (arXiv:1810.04805). As in llama.cpp, by which embedding models in GGUF are measured, a character is replaced
//! by the first of its canonical decomposition, and every combining mark is dropped; Hugging Face's own keeps spacing marks and all of a
//! decomposed Hangul syllable.

use regex_automata::meta::Regex;

use super::Token;
use super::bytes::SPACE;
use super::vocab::Vocab;

/// The normalisation of one vocabulary.
pub(super) struct WordPiece {
    letter_case: Case,
    accents: Accents,
    /// What characters other than ASCII are, in the order of [`CLASSES`].
    classes: Regex,
}

/// Whether capitals are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Keep,
    Lower,
}

/// Whether accents are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accents {
    Keep,
    Strip,
}

/// What a character does to the word it is in.
#[derive(Clone, Copy)]
enum Class {
    /// Dropped.
    Control,
    /// Dropped with the accents.
    Mark,
    /// A word of its own: punctuation, Han.
    Alone,
    /// Part of a word.
    Part,
}

const CLASSES: [(&str, Class); 3] = [
    (r"[\p{Cc}\p{Cf}\p{Co}\u{fffd}]", Class::Control),
    (r"\p{M}", Class::Mark),
    (
        concat!(
            r"[\p{P}\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}",
            r"\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]"
        ),
        Class::Alone,
    ),
];

impl WordPiece {
    /// The error is the regular expression engine's.
    pub(super) fn new(letter_case: Case, accents: Accents) -> Result<WordPiece, String> {
        let classes = Regex::new_many(&CLASSES.map(|(pattern, _)| pattern)).map_err(|why| why.to_string())?;
        Ok(WordPiece { letter_case, accents, classes })
    }

    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<Token>) {
        let mut word = String::new();
        for char in text.chars() {
            let char = match self.accents {
                Accents::Keep => char,
                Accents::Strip => base(char),
            };
            if char.is_whitespace() {
                flush(vocab, &mut word, out);
                continue;
            }
            match (self.class(char), self.accents) {
                (Class::Control, _) | (Class::Mark, Accents::Strip) => {}
                (Class::Mark, Accents::Keep) | (Class::Part, _) => self.push(&mut word, char),
                (Class::Alone, _) => {
                    flush(vocab, &mut word, out);
                    self.push(&mut word, char);
                    flush(vocab, &mut word, out);
                }
            }
        }
        flush(vocab, &mut word, out);
    }

    fn push(&self, word: &mut String, char: char) {
        word.push(match self.letter_case {
            Case::Keep => char,
            Case::Lower => char.to_lowercase().next().unwrap_or(char),
        });
    }

    fn class(&self, char: char) -> Class {
        match char.is_ascii() {
            true if char.is_ascii_control() => Class::Control,
            true if char.is_ascii_punctuation() => Class::Alone,
            true => Class::Part,
            false => {
                let found = self.classes.find(char.encode_utf8(&mut [0; 4]).as_bytes());
                found.map_or(Class::Part, |found| CLASSES[found.pattern().as_usize()].1)
            }
        }
    }
}

/// The first character of the canonical decomposition.
fn base(char: char) -> char {
    let mut first = None;
    if char.is_ascii() {
        return char;
    }
    unicode_normalization::char::decompose_canonical(char, |part| {
        first.get_or_insert(part);
    });
    first.unwrap_or(char)
}

/// Ends the word: its tokens, or the unknown token where it has none.
fn flush(vocab: &Vocab, word: &mut String, out: &mut Vec<Token>) {
    if !word.is_empty() {
        word.insert(0, SPACE);
        let before = out.len();
        if longest_first(vocab, word, out).is_none() {
            out.truncate(before);
            out.extend(vocab.unknown);
        }
        word.clear();
    }
}

/// Takes the longest token that begins the word, then the longest that goes on, to its end; `None` where it cannot be reached.
fn longest_first(vocab: &Vocab, word: &str, out: &mut Vec<Token>) -> Option<()> {
    let mut rest = word;
    while !rest.is_empty() {
        let most = rest.floor_char_boundary(vocab.table.longest());
        let mut ends = rest[..most].char_indices().rev().map(|(at, char)| at + char.len_utf8());
        let (end, token) = ends.find_map(|end| Some((end, vocab.find(&rest.as_bytes()[..end])?)))?;
        out.push(token);
        rest = &rest[end..];
    }
    Some(())
}
