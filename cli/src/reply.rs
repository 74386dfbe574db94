//! How generated text comes onto the screen: piece by piece, Ctrl-C listening, a spinner until the first piece is there.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use hob::{EndReason, Error, Result};

use crate::failure::Failure;
use crate::interrupt::Guard;
use crate::terminal::{Waiting, printable};

/// How the text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, or at a limit.
    Complete,
    /// By Ctrl-C.
    Interrupted,
}

/// Writes the pieces as they come, and ends the line.
pub(crate) fn show(pieces: &mut dyn Iterator<Item = Result<String>>, guard: &Guard<'_>, out: &mut dyn Write) -> Result<Ending, Failure> {
    let clean = std::io::stdout().is_terminal();
    let mut waiting = Some(Waiting::on("reading the prompt".into()));
    let mut last = None;
    let ending = loop {
        let piece = pieces.next();
        drop(waiting.take());
        match piece {
            Some(Ok(piece)) if piece.is_empty() => {}
            Some(Ok(piece)) => {
                out.write_all(if clean { printable(&piece) } else { Cow::Borrowed(piece.as_str()) }.as_bytes())?;
                out.flush()?;
                last = piece.chars().next_back();
            }
            None if guard.interrupted() => break Ending::Interrupted,
            Some(Err(Error::Cancelled)) => break Ending::Interrupted,
            None => break Ending::Complete,
            Some(Err(error)) => {
                if last.is_some() {
                    end_line(last, out)?;
                }
                return Err(error.into());
            }
        }
    };
    end_line(last, out)?;
    Ok(ending)
}

fn end_line(last: Option<char>, out: &mut dyn Write) -> std::io::Result<()> {
    if last != Some('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// A sentence about an end that the reader should know of.
pub(crate) fn remark(end: Option<EndReason>) -> Option<&'static str> {
    match end {
        Some(EndReason::ContextFull) => Some("the context is full; -c N makes room for more"),
        Some(EndReason::MaxTokens | EndReason::EndOfTurn | EndReason::Cancelled) | None => None,
    }
}
