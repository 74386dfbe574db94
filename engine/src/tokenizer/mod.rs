//! Text to tokens and back, from nothing but a GGUF file's metadata.
//!
//! ```text
//! text ─ special.rs ─ special tokens │ stretches of text ─┬─ split.rs, pre.rs: words ─ bpe.rs, merge.rs   `gpt2`, `gemma4`
//!                                                         ├─ bpe.rs, merge.rs, by score                   `llama`
//!                                                         ├─ wordpiece.rs                                 `bert`
//!                                                         └─ unigram.rs                                   `t5`
//! tokens ─ vocab.rs: bytes ─ stream.rs: whole characters ─ text
//! ```
//! What a user writes never becomes a control token unless the caller says so, with [`Special::Parse`]:
//! ```no_run
//! # fn main() -> hob::Result<()> {
//! use hob::tokenizer::{Ends, Special, Tokenizer, TokenizerOptions};
//!
//! let gguf = hob::gguf::Gguf::open("qwen3-4b-q4_k_m.gguf")?;
//! let tokenizer = Tokenizer::from_gguf(gguf.metadata(), &TokenizerOptions::default())?;
//! let tokens = tokenizer.encode("<|im_end|> is how a turn ends.", Special::Literal)?;
//! assert!(!tokens.iter().any(|token| tokenizer.is_end(*token)));
//! assert_eq!(tokenizer.decode(&tokens), "<|im_end|> is how a turn ends.");
//! # Ok(())
//! # }
//! ```
//! The vectors of llama.cpp are what this is held against; where files leave something out, the same is assumed as there.
//!
//! All of it is hob's own, none the `tokenizers` crate's: that one copies every token and merge into maps (for Llama 3's vocabulary 0.33 s
//! and 55 MB against 0.05 s and 8 MB here), has SentencePiece's merging only by conversion, lets plain text become control tokens in its
//! unigram model, cuts words of over 100 characters short, and where a pattern backtracks too far it leaves the rest of the text uncut.

mod bpe;
mod build;
mod bytes;
mod cuts;
mod merge;
mod pre;
mod special;
mod split;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod unigram;
mod vocab;
mod wordpiece;

use std::fmt;
use std::sync::Arc;

pub use stream::Detokenizer;

use crate::error::{Error, Fault, Result};
use bpe::{Bpe, Place, Prefix, Spm};
use special::{Specials, Stretch};
use unigram::Unigram;
use vocab::Vocab;
use wordpiece::WordPiece;

/// A token: its number in the vocabulary.
pub type Token = u32;

/// What files call a vocabulary of bytes that merge.
pub(crate) const BYTE_LEVEL: &str = "gpt2";

/// What becomes of the text of a control token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It is text like any other: for what users write. (Tokens of kind [`TokenKind::UserDefined`] are found all the same.)
    Literal,
    /// It is that token: for what a chat template has rendered.
    Parse,
}

/// Whether the tokens that begin and end a text are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// None are.
    None,
    /// Those that the file asks for; not a second BOS where the text has begun with one.
    AsModelWants,
}

/// Whether control tokens appear in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// They leave nothing behind.
    Hide,
    /// They appear as they are spelt in the vocabulary.
    Show,
}

/// What kind of token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// What stands for text that has no token.
    Unknown,
    /// Steers the model, is no text: `<s>`, `<|im_end|>`.
    Control,
    /// Added to the vocabulary by hand; found in text before anything else.
    UserDefined,
    /// Kept free.
    Unused,
    /// One byte: `<0x0A>`.
    Byte,
}

/// What a caller may decide about a tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// The name of the pre-tokenizer to be used in place of the file's `tokenizer.ggml.pre`.
    pub pre: Option<String>,
}

/// The tokenizer of a model. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    vocab: Vocab,
    algorithm: Algorithm,
    specials: Specials,
    roles: Roles,
    /// Every end-of-generation token, ascending.
    ends: Vec<Token>,
    /// Added by [`Ends::AsModelWants`].
    first: Option<Token>,
    last: Option<Token>,
    /// Whether encoding begins a text with a space that decoding takes away.
    prefix: Prefix,
}

enum Algorithm {
    Bpe(Bpe),
    Spm(Spm),
    WordPiece(WordPiece),
    Unigram(Unigram),
}

/// Tokens that have a role, by role.
#[derive(Clone, Copy, Debug, Default)]
struct Roles {
    bos: Option<Token>,
    eos: Option<Token>,
    eot: Option<Token>,
    eom: Option<Token>,
    unknown: Option<Token>,
    separator: Option<Token>,
    padding: Option<Token>,
    mask: Option<Token>,
}

impl Tokenizer {
    /// The tokens of `text`, without BOS or EOS.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<Token>> {
        let Inner { vocab, algorithm, specials, .. } = &*self.inner;
        if text.len() > u32::MAX as usize / 4 {
            return Err(Error::Input(Fault::at("text").expected("less than a gigabyte").found(format!("{} bytes", text.len()))));
        }
        let mut out = Vec::with_capacity(text.len() / 3 + 4);
        let mut place = Place::Begins;
        for stretch in specials.cut(text, special) {
            place = match stretch {
                Stretch::Token(token) => {
                    out.push(token);
                    Place::Begins
                }
                Stretch::Text(text) => {
                    match algorithm {
                        Algorithm::Bpe(bpe) => bpe.encode(vocab, text, &mut out),
                        Algorithm::Spm(spm) => spm.encode(vocab, text, place, &mut out),
                        Algorithm::WordPiece(wordpiece) => wordpiece.encode(vocab, text, &mut out),
                        Algorithm::Unigram(unigram) => unigram.encode(vocab, text, &mut out),
                    }
                    Place::GoesOn
                }
            };
        }
        Ok(out)
    }

    /// The tokens of `text`, with the tokens around it that `ends` says.
    pub fn encode_with(&self, text: &str, special: Special, ends: Ends) -> Result<Vec<Token>> {
        let mut tokens = self.encode(text, special)?;
        if ends == Ends::AsModelWants {
            if let Some(first) = self.inner.first.filter(|first| tokens.first() != Some(first)) {
                tokens.insert(0, first);
            }
            tokens.extend(self.inner.last);
        }
        Ok(tokens)
    }

    /// The text of whole `tokens`. Control tokens leave nothing behind, bytes that are no text come out as U+FFFD.
    pub fn decode(&self, tokens: &[Token]) -> String {
        let mut stream = self.stream();
        let mut text: String = tokens.iter().map(|token| stream.push(*token)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// A detokenizer for a text that begins here.
    pub fn stream(&self) -> Detokenizer {
        Detokenizer::new(self.clone())
    }

    /// How the vocabulary spells a token (`Ġthe`, `▁the`, `<|im_end|>`); `None` for an id that is none or a spelling that is not UTF-8.
    pub fn token_text(&self, id: Token) -> Option<&str> {
        std::str::from_utf8(self.inner.vocab.table.get(id)?).ok()
    }

    /// The bytes that a token stands for in text: of ` the`, of one byte, or a control token's spelling.
    pub fn token_bytes(&self, id: Token) -> Vec<u8> {
        let mut out = Vec::new();
        self.push_bytes(id, Controls::Show, &mut out);
        out
    }

    /// The token spelt exactly so in the vocabulary, of any kind.
    pub fn find(&self, spelling: &str) -> Option<Token> {
        self.inner.vocab.table.find(spelling.as_bytes())
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab.table.len()
    }

    /// What kind of token it is; `None` for an id that is none.
    pub fn token_kind(&self, id: Token) -> Option<TokenKind> {
        ((id as usize) < self.vocab_size()).then(|| self.inner.vocab.kind(id))
    }

    /// Whether a model that has produced it is done: end of text, of turn, of message, by the file's word or by its well-known name.
    pub fn is_end(&self, token: Token) -> bool {
        self.inner.ends.binary_search(&token).is_ok()
    }

    /// Every token for which [`is_end`](Tokenizer::is_end) holds, ascending.
    pub fn ends(&self) -> &[Token] {
        &self.inner.ends
    }

    /// Whether [`Ends::AsModelWants`] begins a text with a BOS token.
    pub fn adds_bos(&self) -> bool {
        self.inner.first.is_some()
    }

    /// Whether [`Ends::AsModelWants`] ends a text with an EOS (BERT: separator) token.
    pub fn adds_eos(&self) -> bool {
        self.inner.last.is_some()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<Token> {
        self.inner.roles.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<Token> {
        self.inner.roles.eos
    }

    /// The token that ends a turn of a conversation.
    pub fn eot(&self) -> Option<Token> {
        self.inner.roles.eot
    }

    /// The token that ends a message, where a turn may have several.
    pub fn eom(&self) -> Option<Token> {
        self.inner.roles.eom
    }

    /// The token that stands for text without one.
    pub fn unknown(&self) -> Option<Token> {
        self.inner.roles.unknown
    }

    /// The token between two texts.
    pub fn separator(&self) -> Option<Token> {
        self.inner.roles.separator
    }

    /// The token that fills up a batch.
    pub fn padding(&self) -> Option<Token> {
        self.inner.roles.padding
    }

    /// The token that hides another.
    pub fn mask(&self) -> Option<Token> {
        self.inner.roles.mask
    }

    fn strips_first_space(&self) -> bool {
        self.inner.prefix == Prefix::Space
    }

    /// Adds the bytes that a token leaves in text; none for one that steers.
    pub(crate) fn spell(&self, id: Token, out: &mut Vec<u8>) {
        self.push_bytes(id, Controls::Hide, out);
    }

    fn push_bytes(&self, id: Token, controls: Controls, out: &mut Vec<u8>) {
        match (self.inner.vocab.kind(id), controls) {
            (TokenKind::Control | TokenKind::Unknown, Controls::Hide) => {}
            (_, Controls::Hide | Controls::Show) => self.inner.vocab.push_text(id, out),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).field("roles", &self.inner.roles).finish_non_exhaustive()
    }
}
