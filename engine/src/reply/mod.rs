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
mod event;
pub(crate) mod format;
mod notation;
mod stream;

pub use event::{Event, Rolled};
pub(crate) use format::{Format, Shape};
pub(crate) use stream::{Message, Offered, Stream, message};

#[cfg(test)]
mod tests;
