//! A reply as data: from the text that a model writes to thinking, answer and tool calls, as it comes.
//!
//! ```text
//! text     <think>It may rain.</think>Let me look.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>
//! events   Thinking ─────────────────  Answer ────  Calling("weather") ─────────────── Call(weather {"city": "Rome"})  End
//! ```
//!
//! How a model marks these spans its chat template tells: [`format`] is the table, chosen by the markers in the template's source,
//! never by the architecture. `stream.rs` walks over the text, whose pieces may end anywhere, `body.rs` reads the calls. What looks
//! like a call and cannot be read is an event with its raw text: nothing that was said is lost.

mod body;
pub(crate) mod format;
mod notation;
mod stream;

pub(crate) use format::{Format, Shape};
pub(crate) use stream::{Message, Offered, Stream, message};

use crate::chat::Rolled;
use crate::generate::EndReason;
use crate::template::ToolCall;

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

#[cfg(test)]
mod tests;
