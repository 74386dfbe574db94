//! WordPiece (BERT): words are normalised and cut at whitespace and punctuation, then the longest token that fits is taken, and again.
//!
//! ```text
//! "Naïve!"  →  naive | !  →  ▁naive | ▁!      GGUF writes ▁ where a word begins; BERT's own files write ## where one goes on
//! ```
//! Normalisation and cutting are those of the `tokenizers` crate. The search is ours: the crate's looks at every end of a word, which takes
//! quadratic time for a word of a megabyte, and gives up at 100 characters; this one looks no further than the longest token.
//! Source: Devlin et al. 2018 (arXiv:1810.04805).

use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::Token;
use super::bytes::SPACE;
use super::vocab::Vocab;
use crate::error::{Error, Fault, Result};

/// The normalisation of one vocabulary.
pub(super) struct WordPiece {
    pub(super) normalizer: BertNormalizer,
}

impl WordPiece {
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<Token>) -> Result<()> {
        let failed = |why: tokenizers::Error| Error::Input(Fault::at("text").found(format!("cannot be normalised: {why}")));
        let mut normalized = NormalizedString::from(text);
        self.normalizer.normalize(&mut normalized).map_err(failed)?;
        let mut words = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut words).map_err(failed)?;
        let mut spelt = String::new();
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            spelt.clear();
            spelt.push(SPACE);
            spelt.push_str(word);
            let before = out.len();
            if !word.is_empty() && longest_first(vocab, &spelt, out).is_none() {
                out.truncate(before);
                out.extend(vocab.unknown);
            }
        }
        Ok(())
    }
}

/// Takes the longest token that begins the word, then the longest that goes on, to its end; `None` where it cannot be reached.
fn longest_first(vocab: &Vocab, word: &str, out: &mut Vec<Token>) -> Option<()> {
    let mut rest = word;
    while !rest.is_empty() {
        let most = rest.floor_char_boundary(vocab.table.longest());
        let ends = rest[..most].char_indices().rev().map(|(at, char)| at + char.len_utf8());
        let (end, token) = ends.into_iter().find_map(|end| Some((end, vocab.find(&rest.as_bytes()[..end])?)))?;
        out.push(token);
        rest = &rest[end..];
    }
    Some(())
}
