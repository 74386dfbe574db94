//! How a generation ends.

use std::fmt;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The model ended its turn.
    EndOfTurn,
    /// The limit of tokens was reached.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// A canceller stopped it.
    Cancelled,
    /// A stop string came.
    StopString,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndReason::EndOfTurn => "end of turn",
            EndReason::MaxTokens => "token limit reached",
            EndReason::ContextFull => "context full",
            EndReason::Cancelled => "cancelled",
            EndReason::StopString => "stop string",
        })
    }
}
