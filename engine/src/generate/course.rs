//! The course of a generation: how far it may go, how it ended, and what of it is ready to be handed out.

use super::EndReason;
use super::watch::{Said, Verdict, Watch};
use crate::error::Result;
use crate::grammar::{Guide, Opening};
use crate::sampler::{Drawn, Learnt, Logprobs};
use crate::tokenizer::{Detokenizer, Token, Tokenizer};
use std::collections::VecDeque;

/// What becomes of end-of-generation tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Stop,
    Ignore,
}

/// What becomes of a generation when the context is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFull {
    End,
    /// It waits until there is room again.
    Pause,
}

/// See the module.
pub(crate) struct Course {
    pub(super) ends: Ends,
    pub(super) full: WhenFull,
    /// The context is full, and it waits.
    pub(super) paused: bool,
    /// Every token that was sampled, those that were taken back too, and where sampling was after it: what is needed to come here again.
    pub(super) record: Option<Vec<(Token, Drawn)>>,
    pub(super) left: usize,
    pub(super) end: Option<EndReason>,
    /// An error was handed out.
    pub(super) over: bool,
    /// How many of the likeliest tokens are asked for.
    pub(super) top: Option<usize>,
    pub(super) watch: Watch,
    /// What the text must be.
    pub(super) guide: Option<Guide>,
    /// Tokens that end the text as its grammar wants it, where the room for more has gone.
    pub(super) closing: VecDeque<Token>,
    /// Tokens that come next, whatever the model would say.
    pub(super) forced: VecDeque<Token>,
    /// Where the room for more has gone, which room it is.
    pub(super) limit: Option<EndReason>,
    /// Whether the text is whole, once it has ended.
    pub(super) whole: bool,
    /// Makes the text, where it is asked for.
    text: Option<Detokenizer>,
    bytes: Vec<u8>,
    /// Text that is ready.
    pub(super) piece: String,
    /// Tokens that are ready.
    pub(super) ready: VecDeque<Said>,
    /// The log-probabilities of the tokens handed out: of all where text is asked for, else of the last.
    pub(super) logprobs: Vec<Logprobs>,
}

impl Course {
    pub(crate) fn new(max_tokens: usize) -> Course {
        Course {
            ends: Ends::Stop,
            full: WhenFull::End,
            paused: false,
            record: None,
            left: max_tokens,
            end: None,
            over: false,
            top: None,
            watch: Watch::default(),
            guide: None,
            closing: VecDeque::new(),
            forced: VecDeque::new(),
            limit: None,
            whole: false,
            text: None,
            bytes: Vec::new(),
            piece: String::new(),
            ready: VecDeque::new(),
            logprobs: Vec::new(),
        }
    }

    /// A course that makes text, watches for strings and asks for log-probabilities.
    pub(crate) fn of_text(mut self, text: Detokenizer, stops: &[String], bans: &[String], top: Option<usize>) -> Course {
        self.text = Some(text);
        self.top = top;
        stops.iter().for_each(|text| self.watch.stop(text.clone()));
        bans.iter().for_each(|text| self.watch.ban(text.clone()));
        self
    }

    /// A course whose text is held to a grammar.
    pub(crate) fn guided(mut self, guide: Option<Guide>) -> Course {
        self.guide = guide;
        self
    }

    /// How the reply begins is known.
    pub(crate) fn opens(mut self, opening: Opening) -> Course {
        self.guide.iter_mut().for_each(|guide| guide.opens(opening));
        self
    }

    /// Whether the text is whole: as its grammar wants it, or else not cut.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Keeps a record of what is sampled.
    pub(crate) fn recorded(mut self) -> Course {
        self.record = Some(Vec::new());
        self
    }

    /// Waits where the context is full, instead of ending.
    pub(crate) fn pausing(mut self) -> Course {
        self.full = WhenFull::Pause;
        self
    }

    /// Whether it waits for room.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Goes on, the session being shorter by so many tokens that came before it.
    pub(crate) fn go_on(&mut self, shorter: usize) {
        self.paused = false;
        self.watch.shift(shorter);
    }

    /// Says these tokens next, whatever the model would say.
    pub(crate) fn force(&mut self, tokens: &[Token]) {
        self.forced.extend(tokens);
    }

    /// Whether such tokens are still to come.
    pub(crate) fn is_forced(&self) -> bool {
        !self.forced.is_empty()
    }

    /// How many tokens may still come.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// What was sampled since the last call.
    pub(crate) fn sampled(&mut self) -> Vec<(Token, Drawn)> {
        self.record.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Makes text from here on.
    pub(super) fn speak(&mut self, text: Detokenizer) {
        self.text = Some(text);
    }

    /// That it can be begun.
    pub(crate) fn check(&self) -> Result<()> {
        self.watch.check()
    }

    /// How it ended.
    pub(crate) fn end(&self) -> Option<EndReason> {
        self.end
    }

    /// The log-probabilities of what was handed out as text.
    pub(crate) fn logprobs(&self) -> &[Logprobs] {
        &self.logprobs
    }

    /// How it ends before another token, there being room for `room` of them in the context.
    pub(super) fn ends_before(&self, room: usize) -> Option<EndReason> {
        match self.limit {
            Some(limit) if self.closing.is_empty() => Some(limit),
            _ if self.guide.as_ref().is_some_and(Guide::is_done) => Some(self.limit.unwrap_or(EndReason::EndOfTurn)),
            _ if self.left == 0 => Some(EndReason::MaxTokens),
            _ if room == 0 => Some(EndReason::ContextFull),
            _ => None,
        }
    }

    /// Whether nothing more comes.
    pub(super) fn is_over(&self) -> bool {
        self.over || self.end.is_some()
    }

    /// Takes a token, the `len`-th of the session. What was learnt before it serves to take it back.
    pub(super) fn hear(&mut self, tokenizer: &Tokenizer, said: Said, learnt: Learnt, len: usize) -> Verdict {
        if self.watch.is_idle() {
            if let Some(text) = &mut self.text {
                self.piece.push_str(&text.push(said.token));
            }
            self.ready.push_back(said);
            return Verdict::GoOn;
        }
        let token = said.token;
        let verdict = self.watch.push(said, learnt, |bytes| match &self.text {
            Some(text) => text.spell(token, bytes),
            None => tokenizer.spell(token, bytes),
        });
        match verdict {
            Verdict::GoOn => {
                self.watch.release(len, &mut self.bytes, &mut self.ready);
                self.say();
            }
            Verdict::Stop(_) => self.finish(EndReason::StopString),
            Verdict::Banned(..) => {}
        }
        verdict
    }

    fn say(&mut self) {
        if let Some(text) = &mut self.text {
            self.piece.push_str(&text.push_bytes(&self.bytes));
        }
        self.bytes.clear();
    }

    /// The end: what was held back is let go.
    pub(crate) fn finish(&mut self, end: EndReason) {
        self.end = Some(end);
        self.whole = match (end, &mut self.guide) {
            (EndReason::EndOfTurn, _) | (EndReason::StopString, None) => true,
            (EndReason::MaxTokens | EndReason::ContextFull, Some(guide)) => guide.is_whole(),
            (EndReason::MaxTokens | EndReason::ContextFull | EndReason::Cancelled, _) | (EndReason::StopString, Some(_)) => false,
        };
        self.paused = false;
        self.flush();
    }

    fn flush(&mut self) {
        self.watch.flush(&mut self.bytes, &mut self.ready);
        self.say();
        if let Some(text) = &mut self.text {
            self.piece.push_str(&text.finish());
        }
    }

    /// All the text that is still to come, after an error.
    pub(crate) fn rest(&mut self) -> String {
        self.flush();
        std::mem::take(&mut self.piece)
    }
}
