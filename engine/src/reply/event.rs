//! What a reply is made of.

use crate::generate::end::EndReason;
use crate::template::ToolCall;
use std::fmt;
use std::ops::Range;

/// A part of a reply. Texts come in pieces, each whole UTF-8, of which several in a row may be of one kind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A piece of what the model thinks.
    Thinking(String),
    /// A piece of the answer.
    Answer(String),
    /// The model calls the tool of this name; its arguments are to come. It precedes every [`Event::Call`].
    Calling(String),
    /// A call, complete.
    Call(ToolCall),
    /// What a registered tool made of a call. The model sees it and goes on.
    Result {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
        /// What it said.
        content: String,
    },
    /// A call that cannot be read.
    Malformed {
        /// All of its text, markers included.
        raw: String,
        /// What is wrong with it.
        why: String,
    },
    /// The context is full, and old turns make room: see [`Full::Roll`](crate::chat::Full::Roll).
    Rolled(Rolled),
    /// The reply has ended; nothing comes after it.
    End(EndReason),
}

/// Turns that the model reads no more, as the context was full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rolled {
    /// The numbers of the questions that went now, from 1; with each its answer.
    pub turns: Range<usize>,
    /// Tokens that they took.
    pub tokens: usize,
}

impl fmt::Display for Rolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.turns;
        match end - start {
            1 => write!(f, "turn {start}")?,
            _ => write!(f, "turns {start} to {}", end - 1)?,
        }
        write!(f, " ({} tokens) made room: the model reads them no more", self.tokens)
    }
}
