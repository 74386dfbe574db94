//! The prefix cache: what sessions have computed, kept for others, in memory and in a folder.
//!
//! ```text
//! tokens   0 … 255 | 256 … 511 | 512 … 700            a piece for every 256 positions: a tree, whose edges are pieces
//!                       └──────── 256 … 400           a sequence that parts from it shares what comes before
//! states                  ▲410          ▲700          windows and recurrent states: whole, at lengths to come back to
//! ```
//! A piece is found by the address of its tokens (a hash of them and of all before) and compared with them in full. Positions serve at
//! any length within a piece, whole states only at theirs; so a model of full attention goes on from the longest prefix that any
//! session had, others from the longest at which states were kept: where a message began, a reply did, or a turn ended.
//!
//! Bytes are the states' own, and logits do not depend on how positions were computed: so what is said is the same with or without it,
//! to the bit. Whose states they are is settled by an identity that covers all that their bits depend on; see `identity.rs`.
//!
//! What it costs: a copy of what is new at the end of a turn (256 tokens of an 8B model in f16: 32 MB), which a thread writes; a lookup
//! lists a folder. What costs less than half a second to compute anew is not written.

mod disk;
mod hash;
mod identity;
mod listing;
mod memory;
mod piece;

use crate::cache::{Cache, CacheOptions, Checkpoint, Part, Saved};
use crate::decoder::Run;
use crate::error::{Error, Fault, Result};
use crate::gguf::{Bytes, Gguf};
use crate::tokenizer::{Token, Tokenizer};
use disk::{Disk, Name};
use hash::Address;
use identity::Identity;
use memory::Memory;
use piece::{Filed, Head, Kind, Piece};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// Positions of a piece.
const STEP: usize = 256;
/// Tokens from which on a lookup pays.
const LEAST: usize = 16;
/// Bytes of text that a piece remembers.
const TEXT: usize = 1000;

/// A folder in which prefixes are kept from one run of a program to the next: [`ModelOptions::prefix_folder`](crate::ModelOptions::prefix_folder).
/// Any number of models and of programs may share it.
///
/// ```no_run
/// use hob::prefix::Folder;
/// let folder = Folder::new("/tmp/prefixes").budget(1 << 30);
/// let model = hob::Model::options().prefix_folder(folder.clone()).open("model.gguf")?;
/// model.chat().say("Hello!")?.text()?;          // computed, and kept
/// drop(model);
/// for kept in folder.list() {
///     println!("{} tokens of {}: {}", kept.tokens, kept.model, kept.text);
/// }
/// # Ok::<(), hob::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
    budget: u64,
    least: Duration,
}

/// A prefix in a [`Folder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What its model is called.
    pub model: String,
    /// Its length.
    pub tokens: usize,
    /// Its text from where it parts from the others of the list, some words of it; control tokens leave nothing behind.
    pub text: String,
    /// Bytes that it takes, without those that it shares with one used later.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// What was removed from a [`Folder`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Folder {
    /// The budget of a folder unless told otherwise: 4 GiB.
    pub const BUDGET: u64 = 4 << 30;

    /// A folder, which is made when something is first kept.
    pub fn new(path: impl Into<PathBuf>) -> Folder {
        Folder { path: path.into(), budget: Folder::BUDGET, least: Duration::from_millis(500) }
    }

    /// Keeps no more than so many bytes; what was used longest ago goes first (default: 4 GiB).
    pub fn budget(mut self, bytes: u64) -> Folder {
        self.budget = bytes;
        self
    }

    /// Keeps only what takes longer than this to compute anew (default: half a second).
    pub fn least(mut self, time: Duration) -> Folder {
        self.least = time;
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept, the latest first. A folder that is not there, or may not be read, has nothing.
    pub fn list(&self) -> Vec<Kept> {
        listing::list(&self.path)
    }

    /// Removes what is kept of the models whose name has `model` in it, in any case; of all where `None`.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be removed.
    pub fn clear(&self, model: Option<&str>) -> Result<Removed> {
        let wanted = model.map(str::to_lowercase);
        let which = |head: &Head| wanted.as_ref().is_none_or(|wanted| head.model.to_lowercase().contains(wanted));
        disk::remove(&self.path, which).map(|(files, bytes)| Removed { files, bytes })
    }
}

/// What one model's sessions share.
pub(crate) struct Prefixes {
    identity: OnceLock<Identity>,
    model: String,
    memory: Option<Mutex<Memory>>,
    folder: Option<Folder>,
    disk: OnceLock<Disk>,
}

/// Where something kept was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Memory,
    Disk,
}

/// What is known of a sequence.
pub(crate) struct Found {
    /// Tokens that need not be computed.
    pub(crate) len: usize,
    /// How many of those that were asked for came from a file.
    pub(crate) from_disk: usize,
    /// The others came from memory.
    pub(crate) from_memory: usize,
    pieces: Vec<Piece>,
}

impl Found {
    /// For [`Cache::resume`].
    pub(crate) fn parts(&self) -> Vec<(Part, &[u8])> {
        self.pieces.iter().map(|piece| (piece.head.part(), &*piece.payload)).collect()
    }
}

/// A session's tokens, their cache, and what else it says of them.
pub(crate) struct Keeping<'a> {
    /// Those that the cache holds.
    pub(crate) tokens: &'a [Token],
    pub(crate) cache: &'a Cache,
    /// Lengths at which whole states are kept, where the model has such, from a checkpoint or from the cache.
    pub(crate) wholes: Vec<(usize, Option<&'a Checkpoint>)>,
    /// Lengths of these tokens at which they are not needed any more.
    pub(crate) stale: Vec<usize>,
    /// What computing anew would cost.
    pub(crate) cost: Duration,
    pub(crate) place: Where,
}

/// Where something is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// In memory alone.
    Memory,
    /// There and in the folder.
    Everywhere,
}

impl Prefixes {
    /// None where nothing is to be kept anywhere.
    pub(crate) fn new(gguf: &Gguf, memory: u64, folder: Option<Folder>) -> Option<Prefixes> {
        if memory == 0 && folder.is_none() {
            return None;
        }
        let stem = gguf.path().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
        let named = || gguf.metadata().str("general.name").ok().flatten().map(str::to_owned);
        let model = stem.or_else(named).unwrap_or_default();
        let memory = (memory > 0).then(|| Mutex::new(Memory::new(memory)));
        Some(Prefixes { identity: OnceLock::new(), model, memory, folder, disk: OnceLock::new() })
    }

    /// Settles whose states they are, which looks at the file: not before it is needed.
    pub(crate) fn of(&self, gguf: &Gguf, run: &dyn Run, cache: &CacheOptions) -> &Prefixes {
        self.identity.get_or_init(|| Identity::of(gguf, run, cache));
        self
    }

    fn identity(&self) -> Identity {
        self.identity.get().copied().unwrap_or(Identity(0))
    }

    fn disk(&self) -> Option<&Disk> {
        let folder = self.folder.as_ref()?;
        Some(self.disk.get_or_init(|| Disk::new(&folder.path, self.identity(), folder.budget)))
    }

    fn memory(&self) -> Option<MutexGuard<'_, Memory>> {
        self.memory.as_ref().map(|memory| memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why nothing is written any more; said once.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.disk.get().and_then(Disk::trouble)
    }

    /// Waits for what is being written.
    pub(crate) fn flush(&self) {
        self.disk.get().into_iter().for_each(Disk::wait);
    }

    /// Bytes held in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory().map_or(0, |memory| memory.bytes())
    }

    /// What is known of `tokens` beyond what `cache` holds of them.
    pub(crate) fn find(&self, tokens: &[Token], cache: &Cache) -> Option<Found> {
        if tokens.len() < cache.len() + LEAST || cache.saved() == Saved::Never {
            return None;
        }
        let mut search = Search { prefixes: self, tokens, cache, names: self.disk().map(Disk::names).unwrap_or_default() };
        self.memory().iter_mut().for_each(|memory| memory.tick());
        let found = search.run()?;
        (found.len >= cache.len() + LEAST).then_some(found)
    }

    /// Keeps what is not kept yet. Whether there is nothing left to keep.
    pub(crate) fn keep(&self, keeping: &Keeping<'_>, tokenizer: &Tokenizer) -> bool {
        let names = self.disk_for(keeping).map(Disk::names).unwrap_or_default();
        self.memory().iter_mut().for_each(|memory| memory.tick());
        let (all, seed) = (keeping.tokens, Address(self.identity().seed()));
        let mut before = seed;
        let mut used = Vec::new();
        for first in (0..all.len()).step_by(STEP) {
            let end = all.len().min(first + STEP);
            let own = before.then(&all[first..end]);
            let name = Name { kind: Kind::Positions, first, tokens: end, before, own };
            if keeping.cache.part_bytes(&Part::Positions(first..end)) > 0 {
                self.keep_piece(keeping, &names, name.clone(), None, tokenizer);
                used.push(name);
            }
            before = own;
        }
        if keeping.cache.saved() == Saved::Whole {
            for (len, from) in &keeping.wholes {
                let name = Name { kind: Kind::Whole, first: 0, tokens: *len, before: Address(0), own: seed.then(&all[..*len]) };
                self.keep_piece(keeping, &names, name.clone(), *from, tokenizer);
                used.push(name);
            }
            for len in &keeping.stale {
                let own = seed.then(&all[..*len]);
                self.memory().iter_mut().for_each(|memory| memory.remove((Kind::Whole, own)));
                if let Some(disk) = self.disk_for(keeping) {
                    disk.remove(Name { kind: Kind::Whole, first: 0, tokens: *len, before: Address(0), own });
                }
            }
        }
        if let Some(disk) = self.disk_for(keeping) {
            disk.used(used.iter().filter(|name| names.contains(name)));
        }
        keeping.place == Where::Everywhere && (self.folder.is_none() || self.disk_for(keeping).is_some())
    }

    /// The disk, where it is worth its while.
    fn disk_for(&self, keeping: &Keeping<'_>) -> Option<&Disk> {
        let worth = |folder: &Folder| keeping.place == Where::Everywhere && keeping.cost >= folder.least;
        if self.folder.as_ref().is_some_and(worth) { self.disk() } else { None }
    }

    fn keep_piece(&self, keeping: &Keeping<'_>, names: &[Name], name: Name, from: Option<&Checkpoint>, tokenizer: &Tokenizer) {
        let in_memory = self.memory().is_none_or(|mut memory| memory.has(name.kind, name.own));
        let disk = self.disk_for(keeping).filter(|_| !names.contains(&name));
        if in_memory && disk.is_none() {
            return;
        }
        let tokens = keeping.tokens[..name.tokens].to_vec();
        let text = if name.kind == Kind::Positions { &tokens[name.first..] } else { &tokens[..] };
        let text = beginning(&tokenizer.decode(&text[..text.len().min(STEP)]));
        let head = Head { identity: self.identity(), kind: name.kind, first: name.first, tokens, model: self.model.clone(), text };
        let mut payload = Vec::new();
        if keeping.cache.save(&head.part(), from, &mut payload).is_err() {
            return;
        }
        let payload = Bytes::from(payload);
        if !in_memory && let Some(mut memory) = self.memory() {
            memory.put(name.before, name.own, Piece { head: head.clone(), payload: payload.clone() });
        }
        if let Some(disk) = disk {
            disk.put(name, head, payload);
        }
    }

    /// Writes a whole session into one file.
    pub(crate) fn write(identity: Identified, path: &Path, tokens: &[Token], cache: &Cache, model: String) -> Result<()> {
        let (len, mut payload) = (cache.len().min(tokens.len()), Vec::new());
        let fault = || Fault::at(path.display().to_string());
        if cache.saved() == Saved::Never || len == 0 {
            return Err(Error::Input(fault().expected("a session with something computed, on the CPU").found(format!("{len} positions"))));
        }
        cache.save(&Part::Positions(0..len), None, &mut payload)?;
        if cache.saved() == Saved::Whole {
            cache.save(&Part::Whole(len), None, &mut payload)?;
        }
        let head = Head { identity: identity.0, kind: Kind::Session, first: len, tokens: tokens.to_vec(), model, text: String::new() };
        disk::write_file(path, &head.encode(&payload), &payload)
    }

    /// Takes up a session from a file, into an empty cache; its tokens.
    pub(crate) fn read(identity: Identified, path: &Path, cache: &mut Cache) -> Result<Vec<Token>> {
        let refuse =
            |expected: &str, found: String| Err(Error::Input(Fault::at(path.display().to_string()).expected(expected).found(found)));
        let Some(filed) = disk::open_file(path)? else { return refuse("a saved session", "something else, or a damaged file".into()) };
        if filed.head.kind != Kind::Session || filed.head.identity != identity.0 {
            return refuse(
                "a session of this model, with these cache types, by this version of hob",
                format!("one of {}", filed.head.model),
            );
        }
        if filed.head.tokens.len() > cache.capacity() {
            return refuse(&format!("at most the context's {} tokens", cache.capacity()), filed.head.tokens.len().to_string());
        }
        let Some(Piece { head, payload }) = filed.piece() else { return refuse("a saved session", "a damaged file".into()) };
        let len = head.first;
        let split = cache.part_bytes(&Part::Positions(0..len)).min(payload.len());
        let (positions, whole) = payload.split_at(split);
        let mut parts = vec![(Part::Positions(0..len), positions)];
        if cache.saved() == Saved::Whole {
            parts.push((Part::Whole(len), whole));
        }
        cache.resume(len, &parts)?;
        Ok(head.tokens)
    }
}

/// Whose states a file has, for those outside.
#[derive(Clone, Copy)]
pub(crate) struct Identified(Identity);

impl Identified {
    pub(crate) fn of(gguf: &Gguf, run: &dyn Run, cache: &CacheOptions) -> Identified {
        Identified(Identity::of(gguf, run, cache))
    }
}

/// The first words of a text, on one line.
fn beginning(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = line.char_indices().map(|(at, _)| at).take_while(|at| *at <= TEXT).last().unwrap_or(0);
    if line.len() > TEXT {
        line.truncate(end);
    }
    line
}

/// Tokens that two sequences begin with alike.
fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A lookup under way.
struct Search<'a> {
    prefixes: &'a Prefixes,
    tokens: &'a [Token],
    cache: &'a Cache,
    names: Vec<Name>,
}

impl Search<'_> {
    fn run(&mut self) -> Option<Found> {
        let have = self.cache.len();
        let (mut chain, mut used, mut reached) = (Vec::new(), Vec::new(), 0);
        if self.cache.part_bytes(&Part::Positions(0..1)) == 0 {
            reached = self.tokens.len();
        } else {
            let mut before = Address(self.prefixes.identity().seed());
            while reached < self.tokens.len() {
                let Some((piece, source, end)) = self.longest(before, reached) else { break };
                let (first, last) = (reached, piece.head.tokens.len());
                used.push(Name { kind: Kind::Positions, first, tokens: last, before, own: before.then(&piece.head.tokens[first..]) });
                chain.push((piece, source));
                reached = end;
                if end < last || end < first + STEP {
                    break;
                }
                before = before.then(&self.tokens[first..end]);
            }
        }
        let mut whole = None;
        if self.cache.saved() == Saved::Whole {
            whole = self.whole(have + 1, reached);
            reached = whole.as_ref().map_or(0, |(piece, _)| piece.head.tokens.len());
        }
        let len = reached;
        if len <= have {
            return None;
        }
        chain.retain(|(piece, _)| piece.head.first < len && piece.head.tokens.len() > have);
        let from = |first: usize, end: usize| end.min(len).saturating_sub(first.max(have));
        let mut from_disk: usize = chain
            .iter()
            .filter(|(_, source)| *source == Source::Disk)
            .map(|(piece, _)| from(piece.head.first, piece.head.tokens.len()))
            .sum();
        if chain.is_empty() && whole.as_ref().is_some_and(|(_, source)| *source == Source::Disk) {
            from_disk = len - have;
        }
        self.touch(used, len);
        let pieces = chain.into_iter().chain(whole).map(|(piece, _)| piece).collect();
        Some(Found { len, from_disk, from_memory: len - have - from_disk, pieces })
    }

    /// The piece from `first` on whose tokens go on longest as these do, where it came from, and how far they do.
    fn longest(&mut self, before: Address, first: usize) -> Option<(Piece, Source, usize)> {
        let held = self.prefixes.memory().and_then(|mut memory| memory.longest(before, first, self.tokens));
        let held = held.filter(|(piece, _)| self.fits(&piece.head, piece.payload.len())).map(|(piece, end)| (piece, Source::Memory, end));
        let most = self.tokens.len().min(first + STEP);
        if held.as_ref().is_some_and(|(.., end)| *end == most) {
            return held;
        }
        let Some(disk) = self.prefixes.disk() else { return held };
        let mut there: Vec<(Name, Filed, usize)> = Vec::new();
        let behind = self.names.iter().filter(|name| name.kind == Kind::Positions && (name.before, name.first) == (before, first));
        for name in behind {
            let Some(filed) = disk.open(name).filter(|filed| self.fits(&filed.head, filed.payload_len())) else { continue };
            let end = common(&filed.head.tokens, self.tokens);
            if end > first && end >= held.as_ref().map_or(0, |(.., end)| end + 1) {
                there.push((name.clone(), filed, end));
            }
        }
        there.sort_by_key(|(.., end)| std::cmp::Reverse(*end));
        let read = |(name, filed, end): (Name, Filed, usize)| Some((disk.read(&name, filed)?, Source::Disk, end));
        there.into_iter().find_map(read).or(held)
    }

    /// The longest whole states of at least `least` and at most `most` of the tokens.
    fn whole(&mut self, least: usize, most: usize) -> Option<(Piece, Source)> {
        let seed = Address(self.prefixes.identity().seed());
        let mut lens: Vec<usize> = self.names.iter().filter(|name| name.kind == Kind::Whole).map(|name| name.tokens).collect();
        self.prefixes.memory().iter().for_each(|memory| lens.extend(memory.wholes()));
        lens.retain(|len| (least..=most).contains(len));
        lens.sort_unstable_by_key(|len| std::cmp::Reverse(*len));
        lens.dedup();
        lens.into_iter().find_map(|len| {
            let (own, tokens) = (seed.then(&self.tokens[..len]), &self.tokens[..len]);
            let held = self.prefixes.memory().and_then(|mut memory| memory.whole(own, tokens));
            if let Some(piece) = held.filter(|piece| self.fits(&piece.head, piece.payload.len())) {
                return Some((piece, Source::Memory));
            }
            let disk = self.prefixes.disk()?;
            let name = Name { kind: Kind::Whole, first: 0, tokens: len, before: Address(0), own };
            if !self.names.contains(&name) {
                return None;
            }
            let filed = disk.open(&name).filter(|filed| filed.head.tokens == tokens && self.fits(&filed.head, filed.payload_len()))?;
            disk.read(&name, filed).map(|piece| (piece, Source::Disk))
        })
    }

    /// Whether a piece is of the size that the cache has it in, and there is room for all of it.
    fn fits(&self, head: &Head, bytes: usize) -> bool {
        head.tokens.len() <= self.cache.capacity() && self.cache.part_bytes(&head.part()) == bytes
    }

    /// Files count as used now, all at the same time, whether they had to be read or not; and so do the whole states of `len` tokens.
    fn touch(&self, mut used: Vec<Name>, len: usize) {
        let Some(disk) = self.prefixes.disk() else { return };
        let own = Address(self.prefixes.identity().seed()).then(&self.tokens[..len]);
        used.push(Name { kind: Kind::Whole, first: 0, tokens: len, before: Address(0), own });
        disk.used(used.iter().filter(|name| self.names.contains(name)));
    }
}
