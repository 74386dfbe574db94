//! Pieces in memory, shared by the sessions of a process. The least recently used go first.

use super::hash::Address;
use super::piece::{Kind, Piece};
use crate::tokenizer::Token;
use std::collections::HashMap;

/// Where a piece lies: what it is of, and the address of all of its tokens.
type Place = (Kind, Address);

struct Held {
    piece: Piece,
    /// The address of the tokens before its own.
    before: Address,
    used: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Memory {
    held: HashMap<Place, Held>,
    /// Pieces of positions, by the address of the tokens before them.
    behind: HashMap<Address, Vec<Address>>,
    budget: u64,
    bytes: u64,
    clock: u64,
}

impl Memory {
    pub(super) fn new(budget: u64) -> Memory {
        Memory { budget, ..Memory::default() }
    }

    /// Of the positions behind `before` those whose tokens go on longest as `tokens` do, all from 0 on; and how far that is.
    pub(super) fn longest(&mut self, before: Address, first: usize, tokens: &[Token]) -> Option<(Piece, usize)> {
        let behind = self.behind.get(&before)?;
        let common = |own: &Address| {
            let piece = &self.held.get(&(Kind::Positions, *own))?.piece;
            let end = super::common(&piece.head.tokens, tokens);
            (piece.head.first == first && end > first).then_some((*own, end))
        };
        let (own, end) = behind.iter().filter_map(common).max_by_key(|(_, end)| *end)?;
        self.get((Kind::Positions, own)).map(|piece| (piece, end))
    }

    /// Lengths at which there may be whole states of these tokens.
    pub(super) fn wholes(&self) -> impl Iterator<Item = usize> + '_ {
        self.held.iter().filter(|((kind, _), _)| *kind == Kind::Whole).map(|(_, held)| held.piece.head.tokens.len())
    }

    /// The whole states after exactly these tokens.
    pub(super) fn whole(&mut self, own: Address, tokens: &[Token]) -> Option<Piece> {
        self.get((Kind::Whole, own)).filter(|piece| piece.head.tokens == tokens)
    }

    /// Begins a use: what is looked at until the next one counts as used at the same time.
    pub(super) fn tick(&mut self) {
        self.clock += 1;
    }

    fn get(&mut self, place: Place) -> Option<Piece> {
        let held = self.held.get_mut(&place)?;
        held.used = self.clock;
        Some(held.piece.clone())
    }

    /// Whether it is there; then it counts as used.
    pub(super) fn has(&mut self, kind: Kind, own: Address) -> bool {
        self.get((kind, own)).is_some()
    }

    /// Takes a piece. Positions that it goes beyond with the same tokens go.
    pub(super) fn put(&mut self, before: Address, own: Address, piece: Piece) {
        if size(&piece) > self.budget {
            return;
        }
        self.remove((piece.head.kind, own));
        if piece.head.kind == Kind::Positions {
            let beyond = |other: &&Address| {
                let held = self.held.get(&(Kind::Positions, **other));
                held.is_some_and(|held| piece.head.tokens.starts_with(&held.piece.head.tokens))
            };
            let less: Vec<Address> = self.behind.get(&before).into_iter().flatten().filter(beyond).copied().collect();
            less.into_iter().for_each(|other| self.remove((Kind::Positions, other)));
            self.behind.entry(before).or_default().push(own);
        }
        self.bytes += size(&piece);
        self.held.insert((piece.head.kind, own), Held { piece, before, used: self.clock });
        while self.bytes > self.budget {
            // Of pieces used together, those at the end of a sequence go first: without the others they are of no use.
            let oldest = self.held.iter().min_by_key(|(_, held)| (held.used, usize::MAX - held.piece.head.tokens.len()));
            let Some(place) = oldest.map(|(place, _)| *place) else { break };
            self.remove(place);
        }
    }

    pub(super) fn remove(&mut self, place: Place) {
        let Some(held) = self.held.remove(&place) else { return };
        self.bytes -= size(&held.piece);
        if let Some(behind) = self.behind.get_mut(&held.before) {
            behind.retain(|own| *own != place.1);
            if behind.is_empty() {
                self.behind.remove(&held.before);
            }
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn size(piece: &Piece) -> u64 {
    piece.payload.len() as u64 + 4 * piece.head.tokens.len() as u64
}
