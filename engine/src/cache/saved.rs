//! A sequence as bytes, to be kept in memory or in a file and taken up again.
//!
//! ```text
//! Part::Positions(a..b)   [state][…]    what grows with every token: full attention's keys and values
//! Part::Whole(n)          [state][…]    what a sequence of n tokens needs besides: windows' last keys and values, recurrent states
//! ```
//! A state is written one way or the other, by what it is and not by how much room it was made with: so a cache with another
//! capacity, or for other batches, takes up the same bytes. They are the state's own: nothing is rounded on the way.

use super::{Checkpoint, LayerState, Sequence};
use crate::error::{Error, Fault, Result};
use std::ops::Range;

/// How a state is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Position by position.
    ByPosition,
    /// As it is after so many tokens.
    Whole,
    /// Not at all: its back end cannot.
    Never,
}

/// A part of what is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// These positions of the states that are written by position. The first is a multiple of 64.
    Positions(Range<usize>),
    /// The other states after so many tokens.
    Whole(usize),
}

/// How a sequence is written: by position alone, or with whole states too.
pub(super) fn how<S: LayerState>(sequence: &Sequence<S>) -> Saved {
    let ways = || sequence.states.iter().map(LayerState::saved);
    match (ways().any(|way| way == Saved::Never), ways().any(|way| way == Saved::Whole)) {
        (true, _) => Saved::Never,
        (false, true) => Saved::Whole,
        (false, false) => Saved::ByPosition,
    }
}

/// Appends a part; the copies of a checkpoint stand in for the states that they were made of.
pub(super) fn save<S: LayerState>(sequence: &Sequence<S>, part: &Part, from: Option<&Checkpoint>, out: &mut Vec<u8>) {
    out.reserve(sequence.states.iter().map(|s| s.part_bytes(part)).sum());
    let copies = from.and_then(|c| c.copies.as_ref()).and_then(|c| c.downcast_ref::<Vec<Option<S>>>());
    for (i, state) in sequence.states.iter().enumerate() {
        let copy = copies.and_then(|copies| copies.get(i)).and_then(Option::as_ref);
        copy.unwrap_or(state).save(part, out);
    }
}

/// Takes up parts, once it is sure that they fit.
pub(super) fn resume<S: LayerState>(sequence: &mut Sequence<S>, len: usize, parts: &[(Part, &[u8])]) -> Result<()> {
    let refuse = |expected: &str, found: String| Err(Error::Input(Fault::at("saved cache").expected(expected).found(found)));
    let (mut end, mut whole) = (sequence.len, false);
    for (part, bytes) in parts {
        let want: usize = sequence.states.iter().map(|s| s.part_bytes(part)).sum();
        if bytes.len() != want {
            return refuse(&format!("{want} bytes of {part:?}"), bytes.len().to_string());
        }
        match part {
            Part::Positions(p) if p.start % 64 == 0 && p.start <= end && p.start <= p.end && p.end <= sequence.capacity => {
                end = end.max(p.end)
            }
            Part::Positions(p) => return refuse(&format!("positions from a multiple of 64 up to {end} on"), format!("{p:?}")),
            Part::Whole(n) if *n == len => whole = true,
            Part::Whole(n) => return refuse(&format!("states after {len} tokens"), n.to_string()),
        }
    }
    let complete = match how(sequence) {
        Saved::Never => false,
        Saved::Whole => whole && (end >= len || sequence.states.iter().all(|s| s.saved() == Saved::Whole)),
        Saved::ByPosition => end >= len,
    };
    if !complete || len > sequence.capacity || len < sequence.len {
        return refuse(&format!("all states of {len} positions, {} at most", sequence.capacity), format!("{end} positions"));
    }
    for (part, mut bytes) in parts.iter().map(|(part, bytes)| (part, *bytes)) {
        for state in &mut sequence.states {
            let (own, rest) = bytes.split_at(state.part_bytes(part));
            if !own.is_empty() {
                state.load(part, own);
            }
            bytes = rest;
        }
    }
    sequence.len = len;
    sequence.lost = false;
    Ok(())
}
