//! Where a session can come back to.
//!
//! A cache of full attention can be cut back anywhere. One with windows or recurrent states can be cut back a little or not at all: there
//! checkpoints are taken where a later prompt is likely to part from this one ([`Session::expect_cuts`]; a chat knows: where the user's
//! message begins, and where the reply does, before it thinks). A mark costs nothing as long as the cache could be cut back to it; the
//! copy is taken before the step that would make it lose that, or by the step itself as it passes the place: a step that ended there would
//! have its experts' weights read once more for what is left.

use super::Session;
use crate::cache::Checkpoint;
use crate::error::Result;
use crate::tokenizer::Token;

/// Most marks.
const MARKS: usize = 8;
/// Of these so many are kept whatever room they take: those where the last message and the reply to it begin.
const ALWAYS: usize = 2;
/// How many are taken within a step: each takes room beside the cache.
const AT_ONCE: usize = 2;
/// How far before the end of what is fed one is taken if nobody says where: a template words the end of a prompt anew once there is a
/// reply.
const TAIL: usize = 32;

/// Bytes that a session's marks take at most, where each copies `copy` bytes of a cache of `cache`, `passing` of them as steps pass.
pub(crate) fn most_bytes_of_marks(copy: u64, passing: u64, cache: u64) -> u64 {
    let kept = (MARKS as u64 * copy).min(cache.max(ALWAYS as u64 * copy));
    // New ones are there before some of the others go.
    kept + copy.max(AT_ONCE as u64 * passing)
}

/// The marks of a session.
#[derive(Default)]
pub(super) struct Marks {
    /// Copies, by ascending length.
    pub(super) taken: Vec<Checkpoint>,
    /// Lengths that the cache has not reached, or could still be cut back to; ascending.
    pub(super) wanted: Vec<usize>,
}

impl Marks {
    fn forget_beyond(&mut self, len: usize) {
        self.taken.retain(|mark| mark.len() <= len);
        self.wanted.retain(|wanted| *wanted <= len);
    }

    pub(super) fn want(&mut self, len: usize) {
        let known = self.taken.iter().any(|mark| mark.len() == len);
        if let (Err(at), false) = (self.wanted.binary_search(&len), known || len == 0) {
            self.wanted.insert(at, len);
            if self.wanted.len() > 2 * MARKS {
                // The first is where the conversation began.
                self.wanted.remove(1);
            }
        }
    }

    /// Takes one more, and lets go of others where they become too many, or their copies too large: first of those that stand
    /// closest to the one before.
    fn add(&mut self, mark: Checkpoint, room: u64) {
        let at = self.taken.partition_point(|other| other.len() < mark.len());
        self.taken.insert(at, mark);
        let too_large = |taken: &[Checkpoint]| taken.iter().map(Checkpoint::bytes).sum::<u64>() > room;
        while self.taken.len() > MARKS || self.taken.len() > ALWAYS && too_large(&self.taken) {
            let gap = |at: &usize| self.taken[*at].len() - if *at > 0 { self.taken[at - 1].len() } else { 0 };
            let least = (0..self.taken.len() - ALWAYS).min_by_key(gap).unwrap_or(0);
            self.taken.remove(least);
        }
    }
}

/// A place to come back to: [`Session::checkpoint`].
pub struct Mark {
    tokens: Vec<Token>,
    logits: Vec<f32>,
    cache: Checkpoint,
}

impl Mark {
    /// The tokens that the session had.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }
}

impl Session {
    /// Marks where the session is, to [`restore`](Session::restore) it later. It costs a copy of what cannot be cut back: windows, recurrent
    /// states; nothing with full attention.
    ///
    /// ```
    /// # use hob::{Model, Sampler, Sampling};
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf"))?;
    /// let mut session = model.session()?;
    /// session.feed(&[1, 2, 3])?;
    /// let here = session.checkpoint()?;
    /// let say = |session: &mut hob::Session, seed| -> hob::Result<Vec<_>> {
    ///     session.generate(Sampler::new(&Sampling::new(seed))?).max_tokens(4).collect()
    /// };
    /// let first = say(&mut session, 1)?;
    /// session.restore(&here)?;
    /// assert_eq!(say(&mut session, 1)?, first);
    /// # Ok::<(), hob::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) where there is no room for the copy.
    pub fn checkpoint(&self) -> Result<Mark> {
        Ok(Mark { tokens: self.tokens.clone(), logits: self.logits().to_vec(), cache: self.cache.checkpoint_at(self.computed())? })
    }

    /// Comes back to a mark: the tokens are those of then. Where the session, or another one whose mark it is, has gone a way on which
    /// what was computed then is lost, that is computed again when it is needed.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) where there is no room to go back.
    pub fn restore(&mut self, mark: &Mark) -> Result<()> {
        self.settle()?;
        let common = self.tokens.iter().zip(&mark.tokens).take_while(|(a, b)| a == b).count();
        let held = common >= mark.cache.len() && mark.cache.len() <= self.cache.len() && self.cache.restore(&mark.cache).is_ok();
        if held {
            self.marks.forget_beyond(mark.cache.len());
        } else if common < self.cache.len() {
            self.cut(common)?;
        }
        self.known.cut(common);
        self.tokens.clone_from(&mark.tokens);
        self.logits.clear();
        if self.cache.len() == self.tokens.len() && held {
            self.logits.clone_from(&mark.logits);
        }
        Ok(())
    }

    /// Says at which lengths a later prompt may part from the tokens that are fed next.
    pub(crate) fn expect_cuts(&mut self, places: impl IntoIterator<Item = usize>) {
        for place in places {
            if place >= self.cache.len() || self.cache.holds(place, self.cache.len()) {
                self.marks.want(place);
            }
        }
    }

    /// Whether such places matter: what lies behind them may not be to be had without a mark, or is to be kept for others.
    pub(crate) fn needs_marks(&self) -> bool {
        let elsewhere = self.model.keeps_prefixes() && self.cache.saved() == crate::cache::Saved::Whole;
        elsewhere || !self.cache.holds(1, self.cache.capacity())
    }

    /// Wants a mark near the end of what is fed, where nobody has said a better place. Who feeds one token at a time gets one in
    /// [`TAIL`], not a copy a token.
    pub(super) fn mark_the_end(&mut self) {
        let said = self.marks.wanted.last().is_some_and(|wanted| *wanted >= self.cache.len());
        let place = self.tokens.len().saturating_sub(TAIL).max(self.cache.len());
        let last = self.marks.wanted.last().copied().max(self.marks.taken.last().map(Checkpoint::len));
        let enough = self.tokens.len() - self.cache.len() <= 1 && last.is_some_and(|last| place < last + TAIL);
        if !said && !enough && self.needs_marks() {
            self.marks.want(place);
        }
    }

    /// How many tokens the next step takes, at most `most`. What can only be copied is kept on the way, at a few places; where it
    /// cannot be, the step ends at the first.
    pub(super) fn next_step(&mut self, most: usize) -> usize {
        let len = self.cache.len();
        let end = self.tokens.len().min(len + most);
        if !self.cache.only_copies() {
            return most;
        }
        let mut places = self.marks.wanted.iter().copied().filter(|place| len < *place && *place < end);
        let some: Vec<usize> = places.by_ref().take(AT_ONCE).collect();
        let beyond = places.next();
        match some.first() {
            None => most,
            Some(_) if self.cache.keep(&some) => beyond.map_or(most, |place| place - len),
            Some(first) => first - len,
        }
    }

    /// Takes the checkpoints that the last step, from `start` on, has kept on its way.
    pub(super) fn take_kept(&mut self, start: usize) {
        let end = self.cache.len();
        if end <= start + 1 || !self.cache.only_copies() {
            return;
        }
        let room = self.cache.bytes();
        for place in std::mem::take(&mut self.marks.wanted) {
            match if start < place && place < end { self.cache.kept(place) } else { None } {
                Some(mark) => self.marks.add(mark, room),
                None => self.marks.wanted.push(place),
            }
        }
    }

    /// Takes the checkpoints that a step to `end` would make impossible. Where there is no room for one, there is none.
    pub(super) fn take_marks(&mut self, end: usize) {
        let len = self.cache.len();
        if self.marks.wanted.iter().all(|place| *place > len || self.cache.holds(*place, end)) {
            return;
        }
        let wanted = std::mem::take(&mut self.marks.wanted);
        for place in wanted {
            if place > len || self.cache.holds(place, end) {
                self.marks.wanted.push(place);
            } else if let Ok(mark) = self.cache.checkpoint_at(place) {
                self.marks.add(mark, self.cache.bytes());
            }
        }
    }

    /// Makes the cache forget all but the first `len` positions, or more of them where it must: they are computed again when they
    /// are needed.
    pub(super) fn cut(&mut self, len: usize) -> Result<()> {
        self.known.cut(len);
        self.marks.forget_beyond(len);
        if self.cache.truncate(len).is_ok() {
            return Ok(());
        }
        while let Some(mark) = self.marks.taken.last() {
            if self.cache.restore(mark).is_ok() {
                return Ok(());
            }
            self.marks.taken.pop();
        }
        self.cache.truncate(0)
    }
}
