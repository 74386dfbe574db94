//! Texts that end a generation, and texts that it must not say, found across the borders of tokens.
//!
//! ```text
//! tokens   said ──│ The │ end │<│/s│>│         stop "</s>": what may be its beginning is held back; once it is complete, all before it
//! text     let go ────────────▶ held             is let go and the rest is cut off
//! ```
//!
//! Everything is bytes, so a character that falls into several tokens makes no difference. Text is let go up to where the beginning of
//! a stop string may stand, in the middle of a token too. Of a banned string the token with its first byte is held back as a whole: it is
//! the one that is taken back and forbidden at its place when the string is completed.

use crate::error::{Error, Fault, Result};
use crate::sampler::{Learnt, Logprobs};
use crate::tokenizer::Token;
use std::collections::VecDeque;

/// A token, with its log-probabilities where they are asked for.
pub(super) struct Said {
    pub(super) token: Token,
    pub(super) logprobs: Option<Logprobs>,
}

/// A token that has not been handed out yet.
struct Held {
    said: Said,
    /// How many bytes it stands for.
    bytes: usize,
    /// What the sampler had learnt before it.
    learnt: Learnt,
}

/// What a token has brought about.
pub(super) enum Verdict {
    /// Nothing.
    GoOn,
    /// A stop string is complete: so many tokens, from the one with its first byte on, are no part of the text.
    Stop(usize),
    /// A banned string is complete: so many tokens are to be taken back, and this one must not come again where the first of them stood.
    Banned(usize, Token, Learnt),
}

/// What is watched for, and what is held back meanwhile.
#[derive(Default)]
pub(super) struct Watch {
    stops: Vec<String>,
    bans: Vec<String>,
    held: VecDeque<Held>,
    /// The bytes of what is held.
    bytes: Vec<u8>,
    /// How many of them were let go as text.
    gone: usize,
    /// Tokens that must not come at a position, as they led to a banned string.
    forbidden: Vec<(usize, Token)>,
}

impl Watch {
    pub(super) fn stop(&mut self, text: String) {
        self.stops.push(text);
    }

    pub(super) fn ban(&mut self, text: String) {
        self.bans.push(text);
    }

    /// Whether there is nothing to watch for.
    pub(super) fn is_idle(&self) -> bool {
        self.stops.is_empty() && self.bans.is_empty()
    }

    /// That no text is empty.
    pub(super) fn check(&self) -> Result<()> {
        for (what, texts) in [("stop string", &self.stops), ("banned string", &self.bans)] {
            if texts.iter().any(String::is_empty) {
                return Err(Error::Input(Fault::at(what).expected("a text").found("an empty one")));
            }
        }
        Ok(())
    }

    /// The tokens that must not come at a position.
    pub(super) fn forbidden(&self, position: usize) -> impl Iterator<Item = Token> + '_ {
        self.forbidden.iter().filter(move |(at, _)| *at == position).map(|(_, token)| *token)
    }

    /// Takes the next token, whose bytes `spell` adds.
    pub(super) fn push(&mut self, said: Said, learnt: Learnt, spell: impl FnOnce(&mut Vec<u8>)) -> Verdict {
        let start = self.bytes.len();
        spell(&mut self.bytes);
        self.held.push_back(Held { said, bytes: self.bytes.len() - start, learnt });
        let (stop, ban) = (self.find(&self.stops), self.find(&self.bans));
        match (stop, ban) {
            (None, None) => Verdict::GoOn,
            (Some(at), ban) if ban.is_none_or(|ban| at < ban) => {
                self.bytes.truncate(at);
                let kept = self.within(at);
                let cut = self.held.len() - kept;
                self.held.truncate(kept);
                Verdict::Stop(cut)
            }
            (_, Some(at)) | (Some(at), None) => self.take_back(at),
        }
    }

    /// Where the first of the texts that are complete begins.
    fn find(&self, texts: &[String]) -> Option<usize> {
        let fresh = &self.bytes[self.gone..];
        let place = |text: &String| fresh.windows(text.len()).position(|w| w == text.as_bytes());
        texts.iter().filter_map(place).min().map(|at| at + self.gone)
    }

    /// Where the first text may begin that is not complete yet; the end where none may.
    fn opening(&self, texts: &[String]) -> usize {
        let may = |at: &usize| texts.iter().any(|text| text.as_bytes().starts_with(&self.bytes[*at..]));
        (self.gone..self.bytes.len()).find(may).unwrap_or(self.bytes.len())
    }

    /// How many of the held tokens lie before a byte as a whole.
    fn within(&self, byte: usize) -> usize {
        let mut end = 0;
        let ends = self.held.iter().map(|held| {
            end += held.bytes;
            end
        });
        ends.take_while(|end| *end <= byte).count()
    }

    /// Takes back the token with this byte, and what came after it.
    fn take_back(&mut self, byte: usize) -> Verdict {
        let kept = self.within(byte);
        let back = self.held.len() - kept;
        let first = self.held.drain(kept..).next();
        self.bytes.truncate(self.held.iter().map(|held| held.bytes).sum());
        match first {
            Some(first) => Verdict::Banned(back, first.said.token, first.learnt),
            None => Verdict::GoOn,
        }
    }

    /// Takes note of what must not come at a position again. What was forbidden further on is open again.
    pub(super) fn forbid(&mut self, position: usize, token: Token) {
        self.forbidden.retain(|(at, _)| *at <= position);
        self.forbidden.push((position, token));
    }

    /// So many tokens before those that are held have gone.
    pub(super) fn shift(&mut self, shorter: usize) {
        self.forbidden.iter_mut().for_each(|(at, _)| *at -= shorter.min(*at));
    }

    /// Lets go what may go, `len` tokens being there in all: bytes to `text`, tokens to `ready`.
    pub(super) fn release(&mut self, len: usize, text: &mut Vec<u8>, ready: &mut VecDeque<Said>) {
        let whole = self.within(self.opening(&self.bans));
        let of_whole: usize = self.held.iter().take(whole).map(|held| held.bytes).sum();
        let open = if whole == self.held.len() { self.bytes.len() } else { of_whole };
        self.let_go(open.min(self.opening(&self.stops)).max(self.gone), text, ready);
        let first = len - self.held.len();
        self.forbidden.retain(|(at, _)| *at >= first);
    }

    /// Lets everything go.
    pub(super) fn flush(&mut self, text: &mut Vec<u8>, ready: &mut VecDeque<Said>) {
        self.let_go(self.bytes.len(), text, ready);
    }

    fn let_go(&mut self, to: usize, text: &mut Vec<u8>, ready: &mut VecDeque<Said>) {
        text.extend_from_slice(&self.bytes[self.gone..to]);
        let whole = self.within(to);
        let of_whole: usize = self.held.iter().take(whole).map(|held| held.bytes).sum();
        ready.extend(self.held.drain(..whole).map(|held| held.said));
        self.bytes.drain(..of_whole);
        self.gone = to - of_whole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hears pieces of text as tokens 0, 1, 2 …; a step gives the text and the tokens that it let go, and what came of it.
    fn hear(watch: &mut Watch, pieces: &[&str]) -> Vec<String> {
        let mut ready = VecDeque::new();
        let mut out = Vec::new();
        for (token, piece) in (0u32..).zip(pieces) {
            let mut text = Vec::new();
            let said = Said { token, logprobs: None };
            let verdict = watch.push(said, Learnt::default(), |bytes| bytes.extend_from_slice(piece.as_bytes()));
            let end = match verdict {
                Verdict::GoOn => {
                    watch.release(watch.held.len(), &mut text, &mut ready);
                    String::new()
                }
                Verdict::Stop(cut) => {
                    watch.flush(&mut text, &mut ready);
                    format!(" stop {cut}")
                }
                Verdict::Banned(back, token, _) => format!(" back {back} from {token}"),
            };
            let tokens: Vec<_> = ready.drain(..).map(|said| said.token.to_string()).collect();
            out.push(format!("{}|{}{end}", String::from_utf8(text).unwrap(), tokens.join(",")));
        }
        out
    }

    #[test]
    fn strings_are_found_across_tokens_and_held_back_no_longer_than_needed() {
        type Strings = &'static [&'static str];
        // Stops, bans, tokens, and what comes of each.
        let cases: [(Strings, Strings, Strings, Strings); 9] = [
            (&["</s>"], &[], &["a", "b<", "/s", ">c"], &["a|0", "b|", "|", "| stop 3"]),
            (&["</s>"], &[], &["b<", "/", "x"], &["b|", "|", "</x|0,1,2"]),
            (&["ab"], &[], &["a", "", "a", "b"], &["|", "|", "a|0,1", "| stop 2"]),
            (&["x"], &[], &["axb"], &["a| stop 1"]),
            (&["aab"], &[], &["aa", "ab"], &["|", "a| stop 2"]),
            (&[], &["bad"], &["a", "xb", "ad"], &["a|0", "|", "| back 2 from 1"]),
            (&[], &["bad"], &["xb", "ag"], &["|", "xbag|0,1"]),
            (&["stop"], &["bad"], &["bas", "top"], &["ba|", "| stop 2"]),
            (&["ad"], &["bad"], &["b", "ad"], &["|", "| back 2 from 0"]),
        ];
        for (stops, bans, pieces, want) in cases {
            let mut watch = Watch::default();
            stops.iter().for_each(|text| watch.stop((*text).to_owned()));
            bans.iter().for_each(|text| watch.ban((*text).to_owned()));
            assert_eq!(hear(&mut watch, pieces), want, "{stops:?} {bans:?}");
        }
    }

    #[test]
    fn what_was_forbidden_further_on_is_open_again() {
        let mut watch = Watch::default();
        for (position, token) in [(4, 1), (7, 2), (4, 3)] {
            watch.forbid(position, token);
        }
        assert_eq!((watch.forbidden(4).collect::<Vec<_>>(), watch.forbidden(7).count()), (vec![1, 3], 0));
        watch.stop(String::new());
        assert!(watch.check().is_err());
    }
}
