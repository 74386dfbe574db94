//! The iterators over what a session generates: [`Generator`] gives tokens, [`Pieces`] text.

use super::course::{Course, Ends};
use super::{EndReason, Session, Stats};
use crate::batch::Canceller;
use crate::error::Result;
use crate::grammar::Grammar;
use crate::sampler::{Logprobs, Sampler};
use crate::tokenizer::Token;

/// Tokens, one after another, until the model ends its turn, a limit is reached or a canceller stops it; then
/// [`end`](Generator::end) says which. The token that ends a turn is not given, and is not part of the session.
pub struct Generator<'a> {
    pub(super) session: &'a mut Session,
    pub(super) sampler: Sampler,
    pub(super) course: Course,
}

impl<'a> Generator<'a> {
    /// Ends after `n` tokens.
    pub fn max_tokens(mut self, n: usize) -> Self {
        self.course.left = n;
        self
    }

    /// Goes on after end-of-generation tokens, which are then given like any other.
    pub fn ignore_end(mut self) -> Self {
        self.course.ends = Ends::Ignore;
        self
    }

    /// Ends where the text says `text`, which is not given: tokens are held back while they may be its beginning, and the one that
    /// has its first byte is no part of the session any more, nor those after it. An empty text is an error of the first token.
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.course.watch.stop(text.into());
        self
    }

    /// Never says `text`: tokens are held back while they may be its beginning, and when it is complete, the one with its first byte is
    /// taken back, and another comes in its place. A cache that cannot be cut back there computes again what it lacks.
    pub fn ban(mut self, text: impl Into<String>) -> Self {
        self.course.watch.ban(text.into());
        self
    }

    /// Holds the text to a grammar from its first token on. End-of-generation tokens come only where the grammar is complete, and end it.
    /// Stop strings end the text wherever they come.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for what cannot be honoured, with its place; [`Error::Input`](crate::Error::Input)
    /// for what is no grammar.
    pub fn grammar(mut self, grammar: &Grammar) -> Result<Self> {
        self.course.guide = Some(self.session.model.guide(grammar)?);
        Ok(self)
    }

    /// Asks for the log-probability of every token, and of the `top` likeliest in its place.
    pub fn logprobs(mut self, top: usize) -> Self {
        self.course.top = Some(top);
        self
    }

    /// The log-probabilities of the token given last, where they were asked for.
    pub fn last_logprobs(&self) -> Option<&Logprobs> {
        self.course.logprobs.last()
    }

    /// The text of the tokens instead, in pieces of whole characters. Stop strings are cut out of it to the byte.
    pub fn text(mut self) -> Pieces<'a> {
        self.course.speak(self.session.model.tokenizer().stream().continuing());
        Pieces(self)
    }

    /// Why it ended; `None` while it has not, or where it ended with an error.
    pub fn end(&self) -> Option<EndReason> {
        self.course.end()
    }

    /// Whether what was said is whole: as its [`grammar`](Generator::grammar) wants it, or without one, not cut by a limit.
    pub fn is_whole(&self) -> bool {
        self.course.is_whole()
    }

    /// What stops it from another thread.
    pub fn canceller(&self) -> Canceller {
        self.session.canceller()
    }

    /// What has been computed so far.
    pub fn stats(&self) -> Stats {
        self.session.stats()
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Result<Token>> {
        self.session.advance(&mut self.sampler, &mut self.course)
    }
}

/// The text that a [`Generator`] makes, piece by piece.
pub struct Pieces<'a>(Generator<'a>);

impl Pieces<'_> {
    /// Why it ended; `None` while it has not, or where it ended with an error.
    pub fn end(&self) -> Option<EndReason> {
        self.0.end()
    }

    /// Whether the text is whole: as its grammar wants it, or without one, not cut by a limit.
    pub fn is_whole(&self) -> bool {
        self.0.is_whole()
    }

    /// What has been computed so far.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// The log-probabilities of all tokens so far, where they were asked for.
    pub fn logprobs(&self) -> &[Logprobs] {
        self.0.course.logprobs()
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        self.0.session.advance_text(&mut self.0.sampler, &mut self.0.course)
    }
}
