//! How generated text comes onto the screen: piece by piece, Ctrl-C listening, a spinner until the first piece is there.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use hob::{EndReason, Error, Event, Model, Reply, Result};

use crate::failure::Failure;
use crate::flags::Thoughts;
use crate::interrupt::Guard;
use crate::terminal::{Ink, Waiting, aside, ink, printable};

/// How the text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, or at a limit.
    Complete,
    /// By Ctrl-C.
    Interrupted,
}

/// What comes of a reply.
enum Piece {
    Answer(String),
    Thought(String),
    /// Something that the reader should know of.
    Note(String),
}

/// Writes the pieces that `model` makes as they come, and ends the line.
pub(crate) fn show(
    pieces: &mut dyn Iterator<Item = Result<String>>,
    model: &Model,
    guard: &Guard<'_>,
    out: &mut dyn Write,
) -> Result<Ending, Failure> {
    write(&mut pieces.map(|piece| piece.map(Piece::Answer)), model, Thoughts::Hidden, guard, out)
}

/// Writes a reply of `model` as it comes, what it thinks dimmed and to stderr, and ends the line.
pub(crate) fn show_reply(
    reply: &mut Reply<'_>,
    model: &Model,
    thoughts: Thoughts,
    guard: &Guard<'_>,
    out: &mut dyn Write,
) -> Result<Ending, Failure> {
    let piece = |event: Result<Event>| {
        event.map(|event| match event {
            Event::Answer(text) | Event::Malformed { raw: text, .. } => Piece::Answer(text),
            Event::Thinking(text) => Piece::Thought(text),
            Event::Call(call) => Piece::Thought(format!("{}{}\n", call.name, call.arguments)),
            Event::Rolled(rolled) => Piece::Note(rolled.to_string()),
            _ => Piece::Answer(String::new()),
        })
    };
    write(&mut reply.events().map(piece), model, thoughts, guard, out)
}

fn write(
    pieces: &mut dyn Iterator<Item = Result<Piece>>,
    model: &Model,
    thoughts: Thoughts,
    guard: &Guard<'_>,
    out: &mut dyn Write,
) -> Result<Ending, Failure> {
    let clean = std::io::stdout().is_terminal();
    let mut waiting = Some(Waiting::on_model(model, "reading the prompt".into()));
    let (mut last, mut thinking) = (None, false);
    let ending = loop {
        let piece = pieces.next();
        match &piece {
            Some(Ok(Piece::Thought(_))) if thoughts == Thoughts::Hidden => {}
            _ => drop(waiting.take()),
        }
        match piece {
            Some(Ok(Piece::Thought(_))) if thoughts == Thoughts::Hidden => {
                if !thinking {
                    // The spinner of before is to end first.
                    drop(waiting.take());
                    waiting = Some(Waiting::on("thinking".into()));
                }
                thinking = true;
            }
            Some(Ok(Piece::Thought(text))) => {
                thinking = true;
                aside(&ink(Ink::Dim, &printable(&text)));
            }
            Some(Ok(Piece::Note(text))) => {
                let line = if last.is_none_or(|last| last == '\n') && !thinking { "" } else { "\n" };
                aside(&format!("{line}{}\n", ink(Ink::Dim, &printable(&text))));
            }
            Some(Ok(Piece::Answer(piece))) if piece.is_empty() => {}
            Some(Ok(Piece::Answer(piece))) => {
                if std::mem::take(&mut thinking) && thoughts == Thoughts::Shown {
                    aside("\n\n");
                }
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
    if thinking && thoughts == Thoughts::Shown {
        aside("\n");
    }
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
        Some(EndReason::MaxTokens | EndReason::EndOfTurn | EndReason::StopString | EndReason::Cancelled) | None => None,
    }
}
