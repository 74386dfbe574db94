//! What a session shares with others: what it takes up of what they have computed, and what it keeps for them. See [`crate::prefix`].

use super::Session;
use crate::batch::Canceller;
use crate::cache::{Checkpoint, Saved};
use crate::error::Result;
use crate::model::Model;
use crate::prefix::{Keeping, Prefixes, Where};
use crate::tokenizer::Token;
use std::path::Path;
use std::time::{Duration, Instant};

/// Tokens from which on what a session has computed is worth a look.
const WORTH: usize = 16;

/// What is kept of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Its first tokens are kept in memory, so many.
    in_memory: usize,
    /// And in the folder.
    on_disk: usize,
    /// Lengths of its tokens whose whole states were kept for it.
    wholes: Vec<usize>,
    /// Seconds that a token takes in a prompt; of the quickest step so far.
    pace: f64,
}

impl Known {
    /// Takes note of a step.
    pub(super) fn paced(&mut self, tokens: usize, time: Duration) {
        let pace = time.as_secs_f64() / tokens.max(1) as f64;
        self.pace = if self.pace > 0.0 { self.pace.min(pace) } else { pace };
    }

    /// Of a session that goes on from here: what was kept for this one is not its own.
    pub(super) fn forked(&self) -> Known {
        Known { wholes: Vec::new(), ..self.clone() }
    }

    /// Takes note that tokens from `len` on are others now.
    pub(super) fn cut(&mut self, len: usize) {
        (self.in_memory, self.on_disk) = (self.in_memory.min(len), self.on_disk.min(len));
        self.wholes.retain(|whole| *whole <= len);
    }
}

impl Session {
    /// Takes up what is known of the tokens that the cache lacks. The last is computed in any case, for its logits.
    pub(super) fn recall(&mut self) {
        let model = self.model.clone();
        let Some(last) = self.tokens.len().checked_sub(1).filter(|last| *last >= self.cache.len() + WORTH) else { return };
        let Some(prefixes) = model.prefixes() else { return };
        let start = Instant::now();
        let Some(found) = prefixes.find(&self.tokens[..last], &self.cache) else { return };
        if self.cache.resume(found.len, &found.parts()).is_err() {
            return;
        }
        self.stats.from_memory += found.from_memory;
        self.stats.from_disk += found.from_disk;
        self.stats.restore_time += start.elapsed();
        (self.known.in_memory, self.known.on_disk) = (found.len, found.len);
        if self.needs_marks() {
            self.marks.want(found.len);
        }
        tracing::debug!(tokens = found.len, disk = found.from_disk, time = ?start.elapsed(), "a prefix was restored");
    }

    /// Keeps what has been computed for other sessions, where the model was opened with [`prefix_cache`](crate::ModelOptions::prefix_cache)
    /// or [`prefix_folder`](crate::ModelOptions::prefix_folder): a chat does it at the end of every turn, a session when it is
    /// dropped. Nothing happens where what is new costs less to compute than to keep.
    pub fn keep(&mut self) {
        // What was computed on trial is nobody's.
        if self.settle().is_ok() {
            self.keep_now(Where::Everywhere);
        }
    }

    /// A prompt has been read: sessions of this process may want it from now on.
    pub(super) fn keep_in_memory(&mut self) {
        self.keep_now(Where::Memory);
    }

    fn keep_now(&mut self, place: Where) {
        let (model, len) = (self.model.clone(), self.cache.len().min(self.tokens.len()));
        let known = match place {
            Where::Everywhere => self.known.on_disk.min(self.known.in_memory),
            Where::Memory => self.known.in_memory,
        };
        if !model.keeps_prefixes() || len < known + WORTH || self.cache.saved() == Saved::Never || self.cache.sound().is_err() {
            return;
        }
        let Some(prefixes) = model.prefixes() else { return };
        let cost = match place {
            Where::Everywhere => {
                Duration::try_from_secs_f64(self.known.pace * (len - self.known.on_disk.min(len)) as f64).unwrap_or_default()
            }
            Where::Memory => Duration::ZERO,
        };
        let wholes = self.places(len);
        let lens: Vec<usize> = wholes.iter().map(|(len, _)| *len).collect();
        let stale = self.known.wholes.iter().filter(|old| **old <= len && !lens.contains(old)).copied().collect();
        let kept =
            prefixes.keep(&Keeping { tokens: &self.tokens[..len], cache: &self.cache, wholes, stale, cost, place }, model.tokenizer());
        self.known.in_memory = len;
        if kept {
            self.known.on_disk = len;
            // What it began with stays for others that begin so too.
            self.known.wholes = lens.into_iter().skip(1).collect();
        }
    }

    /// Where whole states are kept, of `len` tokens: where the first and the last mark are, and at the end.
    fn places(&self, len: usize) -> Vec<(usize, Option<&Checkpoint>)> {
        let held = self.marks.wanted.iter().filter(|place| **place < len && self.cache.holds(**place, len)).map(|place| (*place, None));
        let mut marks: Vec<_> =
            self.marks.taken.iter().map(|mark| (mark.len(), Some(mark))).chain(held).filter(|(at, _)| *at < len).collect();
        marks.sort_by_key(|(at, _)| *at);
        if marks.len() > 2 {
            marks.drain(1..marks.len() - 1);
        }
        marks.push((len, None));
        marks
    }

    /// Writes the session into a file, for [`Model::load_session`]: its tokens and their states, as far as they have been computed. The
    /// file is there whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where it cannot be written, [`Error::Input`](crate::Error::Input) where nothing has been computed
    /// or the device keeps its states to itself.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.settle()?;
        let name = self.model.gguf().metadata().str("general.name").ok().flatten().unwrap_or_default().to_owned();
        Prefixes::write(self.model.identified(), path.as_ref(), &self.tokens, &self.cache, name)
    }

    pub(crate) fn read(model: &Model, path: &Path) -> Result<Session> {
        let mut session = Session::new(model, Canceller::default())?;
        let tokens: Vec<Token> = Prefixes::read(model.identified(), path, &mut session.cache)?;
        session.tokens = tokens;
        Ok(session)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.keep();
        }
    }
}
