//! From tokens back to text, one token at a time, in whole characters.
//!
//! ```text
//! token     ␣caf   <0xC3>   <0xA9>   !
//! pushed    " caf" ""       "é"      "!"        a character's bytes are held back until the last has come
//! ```
//! Bytes that can never become a character come out as U+FFFD, as many as `String::from_utf8_lossy` makes of the whole: how the text
//! falls into tokens does not show.

use super::{Controls, Token, Tokenizer};
use std::sync::Arc;

/// Turns tokens into text as they come. Made by [`Tokenizer::stream`]; owns what it needs.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    controls: Controls,
    /// Control tokens that appear all the same, ascending.
    shown: Arc<[Token]>,
    held: Vec<u8>,
    begins: bool,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Tokenizer) -> Detokenizer {
        let begins = tokenizer.strips_first_space();
        Detokenizer { tokenizer, controls: Controls::Hide, shown: Arc::new([]), held: Vec::new(), begins }
    }

    /// Whether control tokens appear in the text; they do not unless this is asked for.
    pub fn controls(mut self, controls: Controls) -> Detokenizer {
        self.controls = controls;
        self
    }

    /// These control tokens, ascending, appear in the text whatever becomes of the others.
    pub fn show(mut self, tokens: Arc<[Token]>) -> Detokenizer {
        self.shown = tokens;
        self
    }

    /// The text goes on from text that the caller has: the first token keeps its leading space in vocabularies that
    /// begin every text with one that is not there.
    pub fn continuing(mut self) -> Detokenizer {
        self.begins = false;
        self
    }

    /// Takes the next token; returns the text that is complete with it, which may be none.
    pub fn push(&mut self, token: Token) -> String {
        let before = self.held.len();
        let mut held = std::mem::take(&mut self.held);
        self.spell(token, &mut held);
        self.held = held;
        self.complete(before)
    }

    /// Adds the bytes that a token leaves in this text.
    pub(crate) fn spell(&self, token: Token, out: &mut Vec<u8>) {
        let shown = self.shown.binary_search(&token).is_ok();
        self.tokenizer.push_bytes(token, if shown { Controls::Show } else { self.controls }, out);
    }

    /// The same of bytes that tokens were turned into before.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) -> String {
        let before = self.held.len();
        self.held.extend_from_slice(bytes);
        self.complete(before)
    }

    /// The whole characters of what is held, of which the bytes from `before` on are new.
    fn complete(&mut self, before: usize) -> String {
        if self.begins && self.held.len() > before {
            self.begins = false;
            if self.held[before] == b' ' {
                self.held.remove(before);
            }
        }
        let mut text = String::new();
        let mut rest: &[u8] = &self.held;
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                }
                Err(why) => {
                    let (whole, odd) = rest.split_at(why.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(whole));
                    let Some(wrong) = why.error_len() else {
                        rest = odd;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &odd[wrong..];
                }
            }
        }
        let done = self.held.len() - rest.len();
        self.held.drain(..done);
        text
    }

    /// No more tokens: what is held back is an incomplete character, and comes out as U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}
