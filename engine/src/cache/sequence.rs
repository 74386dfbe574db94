//! The states of one sequence, a layer each: what a [`Cache`](super::Cache) has inside.

use std::any::Any;

use super::{CacheOptions, Checkpoint, Erased, LayerState, Part, Rewind, Saved, saved};
use crate::error::{Error, Fault, Result};

/// The states of one sequence.
pub struct Sequence<S: LayerState> {
    /// One state per mixer, in the order the decoder numbers them.
    pub states: Vec<S>,
    pub(super) len: usize,
    pub(super) capacity: usize,
    pub(super) batch: usize,
    /// Length after each cut, so that a checkpoint knows whether its positions were overwritten since.
    pub(super) cuts: Vec<usize>,
    /// A step was broken off, which states that can only be copied do not survive.
    pub(super) lost: bool,
}

impl<S: LayerState> Sequence<S> {
    /// An empty sequence.
    pub fn new(states: Vec<S>, options: &CacheOptions) -> Sequence<S> {
        Sequence { states, len: 0, capacity: options.capacity, batch: options.batch, cuts: Vec::new(), lost: false }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes note that a step was broken off, whichever layers it had reached.
    pub(crate) fn broken_off(&mut self) {
        self.lost = self.only_copies();
        self.states.iter_mut().for_each(|s| _ = s.keep(&[]));
    }

    fn only_copies(&self) -> bool {
        self.states.iter().any(|s| s.rewind() == Rewind::CopyOnly)
    }

    /// # Errors
    /// Where a step was broken off that the states did not survive.
    fn sound(&self) -> Result<()> {
        if !self.lost {
            return Ok(());
        }
        let fault = Fault::at("cache").found("a step was broken off, and with it a recurrent state lost");
        Err(Error::Input(fault.help("restore a checkpoint, or cut it back to 0")))
    }

    /// Takes note that every layer has appended `n` positions.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }

    /// The shortest length but 0 that all states can be taken back to.
    fn shortest(&self) -> usize {
        let shortest = self.states.iter().map(|s| match s.rewind() {
            Rewind::Free => 0,
            Rewind::Since(least) => least,
            Rewind::CopyOnly => self.len,
        });
        shortest.max().unwrap_or(0)
    }

    /// A checkpoint with these copies of states that may not be rewound so far.
    fn checkpoint_of(&self, len: usize, copies: Vec<Option<S>>) -> Checkpoint {
        let bytes = copies.iter().flatten().map(LayerState::bytes).sum();
        let copies = copies.iter().any(Option::is_some).then(|| Box::new(copies) as Box<dyn Any + Send>);
        Checkpoint { len, cuts: self.cuts.len(), copies, bytes }
    }

    fn copy_states(&self, len: usize, which: impl Fn(Rewind) -> bool) -> Result<Vec<Option<S>>> {
        self.states.iter().map(|s| if which(s.rewind()) { s.copy(len).map(Some) } else { Ok(None) }).collect()
    }
}

impl<S: LayerState> Erased for Sequence<S> {
    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn bytes(&self) -> u64 {
        self.states.iter().map(LayerState::bytes).sum()
    }

    fn only_copies(&self) -> bool {
        Sequence::only_copies(self)
    }

    fn sound(&self) -> Result<()> {
        Sequence::sound(self)
    }

    fn allows(&self, len: usize) -> Result<()> {
        if len > self.len {
            return Err(Error::Input(Fault::at("cache").expected(format!("a length up to {}", self.len)).found(len)));
        }
        if len > 0 && len == self.len {
            return self.sound();
        }
        let shortest = self.shortest();
        if len > 0 && len < shortest {
            let fault = Fault::at("cache").expected(format!("a length of 0 or from {shortest} to {}", self.len)).found(len);
            return Err(Error::Input(fault.help("what came before has been let go: restore a checkpoint, or start again")));
        }
        Ok(())
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.allows(len)?;
        if len == 0 {
            self.lost = false;
        }
        if len < self.len {
            self.len = len;
            self.cuts.push(len);
        }
        Ok(())
    }

    fn checkpoint(&self, len: usize) -> Result<Checkpoint> {
        self.sound()?;
        if len > self.len || len < self.len && len < self.shortest() {
            return Err(Error::Input(
                Fault::at("cache").expected(format!("a length that it can be cut back to, up to {}", self.len)).found(len),
            ));
        }
        Ok(self.checkpoint_of(len, self.copy_states(len, |r| r != Rewind::Free)?))
    }

    fn keep(&mut self, lengths: &[usize]) -> bool {
        let able = self.states.iter_mut().all(|s| s.rewind() != Rewind::CopyOnly || s.keep(lengths));
        if !able {
            self.states.iter_mut().for_each(|s| _ = s.keep(&[]));
        }
        able
    }

    fn kept(&mut self, len: usize) -> Option<Checkpoint> {
        self.sound().ok()?;
        let copy = |s: &mut S| match s.rewind() {
            Rewind::Free => Some(None),
            Rewind::Since(least) if least <= len => s.copy(len).ok().map(Some),
            Rewind::Since(_) => None,
            Rewind::CopyOnly => s.kept(len).map(Some),
        };
        let copies = self.states.iter_mut().map(copy).collect::<Option<_>>()?;
        Some(self.checkpoint_of(len, copies))
    }

    fn holds(&self, len: usize, end: usize) -> bool {
        self.states.iter().all(|s| s.holds(len, end))
    }

    fn saved(&self) -> Saved {
        saved::how(self)
    }

    fn part_bytes(&self, part: &Part) -> usize {
        self.states.iter().map(|s| s.part_bytes(part)).sum()
    }

    fn save(&self, part: &Part, from: Option<&Checkpoint>, out: &mut Vec<u8>) {
        saved::save(self, part, from, out);
    }

    fn resume(&mut self, len: usize, parts: &[(Part, &[u8])]) -> Result<()> {
        saved::resume(self, len, parts)
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let since = self.cuts.get(checkpoint.cuts..).unwrap_or(&[]);
        if self.len < checkpoint.len || since.iter().any(|cut| *cut < checkpoint.len) {
            let fault = Fault::at("cache").found(format!("the {} positions of the checkpoint were overwritten since", checkpoint.len));
            return Err(Error::Input(fault.help("take a new checkpoint after cutting back")));
        }
        if let Some(copies) = checkpoint.copies.as_ref().and_then(|c| c.downcast_ref::<Vec<Option<S>>>()) {
            let mut fresh = Vec::with_capacity(copies.len());
            for (copy, state) in copies.iter().zip(&self.states) {
                let held = match state.rewind() {
                    Rewind::Free => true,
                    Rewind::Since(least) => least <= checkpoint.len,
                    Rewind::CopyOnly => false,
                };
                fresh.push(copy.as_ref().filter(|_| !held).map(|c| c.copy(checkpoint.len)).transpose()?);
            }
            for (state, fresh) in self.states.iter_mut().zip(fresh) {
                if let Some(fresh) = fresh {
                    *state = fresh;
                }
            }
        }
        if checkpoint.len < self.len {
            self.len = checkpoint.len;
            self.cuts.push(checkpoint.len);
        }
        self.lost = false;
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Erased>> {
        self.sound()?;
        let states = self.states.iter().map(|s| s.copy(self.len)).collect::<Result<_>>()?;
        Ok(Box::new(Sequence::<S> { states, len: self.len, capacity: self.capacity, batch: self.batch, cuts: Vec::new(), lost: false }))
    }

    fn any(&mut self) -> &mut dyn Any {
        self
    }
}
