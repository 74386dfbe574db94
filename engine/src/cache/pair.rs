//! What a model in two parts remembers of a sequence: a cache for each part, which go together.

use super::{Cache, Checkpoint, Erased, Part, Saved};
use crate::error::{Error, Fault, Result};
use std::any::Any;

/// Two caches of one sequence.
pub(super) struct Pair {
    pub(super) lower: Cache,
    pub(super) upper: Cache,
}

impl Pair {
    fn both(&self) -> [&dyn Erased; 2] {
        [&*self.lower.0, &*self.upper.0]
    }

    fn checkpoint_of(lower: Checkpoint, upper: Checkpoint) -> Checkpoint {
        let (len, bytes) = (lower.len, lower.bytes + upper.bytes);
        Checkpoint { len, cuts: 0, copies: Some(Box::new((lower, upper))), bytes }
    }
}

impl Erased for Pair {
    fn len(&self) -> usize {
        self.lower.len().min(self.upper.len())
    }

    fn capacity(&self) -> usize {
        self.lower.capacity()
    }

    fn batch(&self) -> usize {
        self.lower.batch()
    }

    fn bytes(&self) -> u64 {
        self.lower.bytes() + self.upper.bytes()
    }

    fn only_copies(&self) -> bool {
        self.lower.only_copies() || self.upper.only_copies()
    }

    fn sound(&self) -> Result<()> {
        if self.lower.len() != self.upper.len() {
            let fault = Fault::at("cache").found("a checkpoint that was restored on one device and not on the other");
            return Err(Error::Input(fault.help("restore a checkpoint, or cut it back to 0")));
        }
        self.both().into_iter().try_for_each(Erased::sound)
    }

    fn allows(&self, len: usize) -> Result<()> {
        self.both().into_iter().try_for_each(|half| half.allows(len))
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.allows(len)?;
        self.lower.truncate(len)?;
        self.upper.truncate(len)
    }

    fn checkpoint(&self, len: usize) -> Result<Checkpoint> {
        self.sound()?;
        Ok(Pair::checkpoint_of(self.lower.0.checkpoint(len)?, self.upper.0.checkpoint(len)?))
    }

    fn holds(&self, len: usize, end: usize) -> bool {
        self.lower.holds(len, end) && self.upper.holds(len, end)
    }

    fn keep(&mut self, lengths: &[usize]) -> bool {
        let able = self.lower.keep(lengths) && self.upper.keep(lengths);
        if !able {
            self.lower.keep(&[]);
        }
        able
    }

    fn kept(&mut self, len: usize) -> Option<Checkpoint> {
        self.sound().ok()?;
        Some(Pair::checkpoint_of(self.lower.kept(len)?, self.upper.kept(len)?))
    }

    // One half is on a device, from which nothing is saved.
    fn saved(&self) -> Saved {
        Saved::Never
    }

    fn part_bytes(&self, _: &Part) -> usize {
        0
    }

    fn save(&self, _: &Part, _: Option<&Checkpoint>, _: &mut Vec<u8>) {}

    fn resume(&mut self, _: usize, _: &[(Part, &[u8])]) -> Result<()> {
        Err(Error::Input(Fault::at("saved cache").expected("a model on the CPU alone").found("one in two parts")))
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let Some((lower, upper)) = checkpoint.copies.as_ref().and_then(|copies| copies.downcast_ref::<(Checkpoint, Checkpoint)>()) else {
            return Err(Error::Input(Fault::at("cache").expected("a checkpoint of its own").found("another cache's")));
        };
        self.lower.restore(lower)?;
        self.upper.restore(upper)
    }

    fn fork(&self) -> Result<Box<dyn Erased>> {
        self.sound()?;
        Ok(Box::new(Pair { lower: self.lower.fork()?, upper: self.upper.fork()? }))
    }

    fn any(&mut self) -> &mut dyn Any {
        self
    }
}
