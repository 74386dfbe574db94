//! Tokens that are found in the text before anything else is done with it: control tokens, unknown-token marks, user-defined tokens.
//!
//! ```text
//! "<|im_start|>user\nHi"   Parse    → [<|im_start|>] "user\nHi"
//!                          Literal  → "<|im_start|>user\nHi"          (user-defined tokens are found in both)
//! ```
//! The longest token is looked for first in the whole text, then the next in what is left, so that a token is never found inside a
//! longer one. One Aho-Corasick pass says which tokens occur at all; text without any costs that pass and no more.

use aho_corasick::{AhoCorasick, MatchKind};

use super::{Special, Token, TokenKind};
use crate::error::{Error, Fault, Result};

/// The tokens to be looked for, longest first.
pub(super) struct Specials {
    tokens: Vec<Mark>,
    occurs: Option<AhoCorasick>,
}

/// One of them.
pub(super) struct Mark {
    pub(super) id: Token,
    pub(super) kind: TokenKind,
    pub(super) text: String,
    pub(super) takes: Takes,
}

/// Which whitespace around it a token swallows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    SpaceBefore,
    SpaceAfter,
}

/// A stretch of the text: a token found, or bytes yet to be tokenized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch<'a> {
    Token(Token),
    Text(&'a str),
}

impl Specials {
    pub(super) fn new(mut tokens: Vec<Mark>) -> Result<Specials> {
        tokens.retain(|mark| !mark.text.is_empty());
        tokens.sort_by_key(|mark| (std::cmp::Reverse(mark.text.len()), mark.id));
        let occurs = match tokens.is_empty() {
            true => None,
            false => {
                let automaton = AhoCorasick::builder().match_kind(MatchKind::Standard).build(tokens.iter().map(|mark| &mark.text));
                Some(automaton.map_err(|why| Error::Gguf(Fault::at("tokenizer.ggml.tokens").found(format!("special tokens: {why}"))))?)
            }
        };
        Ok(Specials { tokens, occurs })
    }

    /// Cuts `text` at the tokens that `special` lets through.
    pub(super) fn cut<'a>(&self, text: &'a str, special: Special) -> Vec<Stretch<'a>> {
        let mut stretches = if text.is_empty() { vec![] } else { vec![Stretch::Text(text)] };
        for mark in self.occurring(text, special) {
            let mut next = Vec::with_capacity(stretches.len() + 2);
            for stretch in stretches {
                match stretch {
                    Stretch::Token(_) => next.push(stretch),
                    Stretch::Text(text) => mark.cut(text, &mut next),
                }
            }
            stretches = next;
        }
        stretches
    }

    /// The tokens to look for that are somewhere in `text`, longest first.
    fn occurring(&self, text: &str, special: Special) -> impl Iterator<Item = &Mark> {
        let wanted = |mark: &Mark| match (special, mark.kind) {
            (Special::Parse, _) | (Special::Literal, TokenKind::UserDefined) => true,
            (Special::Literal, TokenKind::Normal | TokenKind::Unknown | TokenKind::Control | TokenKind::Unused | TokenKind::Byte) => false,
        };
        let mut seen = vec![false; self.tokens.len()];
        let mut missing = self.tokens.iter().filter(|mark| wanted(mark)).count();
        if let (Some(automaton), true) = (&self.occurs, missing > 0) {
            for found in automaton.find_overlapping_iter(text) {
                let at = found.pattern().as_usize();
                if !seen[at] && wanted(&self.tokens[at]) {
                    seen[at] = true;
                    missing -= 1;
                    if missing == 0 {
                        break;
                    }
                }
            }
        }
        self.tokens.iter().zip(seen).filter_map(|(mark, seen)| seen.then_some(mark))
    }
}

impl Mark {
    /// Cuts `text` at every place where this token is.
    fn cut<'a>(&self, text: &'a str, out: &mut Vec<Stretch<'a>>) {
        let mut rest = text;
        while let Some(at) = rest.find(&self.text) {
            let (mut before, mut after) = (&rest[..at], &rest[at + self.text.len()..]);
            match self.takes {
                Takes::Nothing => {}
                Takes::SpaceBefore => before = before.trim_end_matches(is_space),
                Takes::SpaceAfter => after = after.trim_start_matches(is_space),
            }
            out.extend((!before.is_empty()).then_some(Stretch::Text(before)));
            out.push(Stretch::Token(self.id));
            rest = after;
        }
        out.extend((!rest.is_empty()).then_some(Stretch::Text(rest)));
    }
}

/// C's `isspace`.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stretch::{Text, Token};

    fn mark(id: u32, kind: TokenKind, text: &str, takes: Takes) -> Mark {
        Mark { id, kind, text: text.to_owned(), takes }
    }

    #[test]
    fn longest_first_and_user_defined_always() {
        let specials = Specials::new(vec![
            mark(1, TokenKind::Control, "<s>", Takes::Nothing),
            mark(2, TokenKind::Control, "<s><s>", Takes::Nothing),
            mark(3, TokenKind::UserDefined, "  ", Takes::Nothing),
            mark(4, TokenKind::UserDefined, "", Takes::Nothing),
            mark(5, TokenKind::Control, "<r>", Takes::SpaceAfter),
            mark(6, TokenKind::Unknown, "<l>", Takes::SpaceBefore),
        ])
        .unwrap();
        let parse: [(&str, &[Stretch]); 7] = [
            ("", &[]),
            ("a", &[Text("a")]),
            ("<s>", &[Token(1)]),
            ("a<s><s><s>b", &[Text("a"), Token(2), Token(1), Text("b")]),
            ("x   y", &[Text("x"), Token(3), Text(" y")]),
            ("<r> \t\nx<r>", &[Token(5), Text("x"), Token(5)]),
            ("x \n<l> y", &[Text("x"), Token(6), Text(" y")]),
        ];
        for (text, want) in parse {
            assert_eq!(specials.cut(text, Special::Parse), want, "{text:?}");
        }
        assert_eq!(specials.cut("<s>  <l>", Special::Literal), [Text("<s>"), Token(3), Text("<l>")]);
        assert_eq!(Specials::new(vec![]).unwrap().cut("<s>", Special::Parse), [Text("<s>")]);
    }
}
