//! Pieces on disk: a file each, in a folder for every identity, under a name that says what it is. What is there is what a listing of the
//! folder says, so that processes need not know of each other.
//!
//! ```text
//! FOLDER/<identity>/p-<first>-<tokens>-<address of those before>-<address>       positions
//!                   w-<tokens>-<address>                                           whole states
//!                   <name>.<process>.<number>.part                                 being written
//! ```
//! A file is written under a name of its own and renamed when it is whole; a thread does that, so that a session goes on. When it was last
//! used is the time that the file bears. A file that is not what its name says is removed when it is met, and taken for absent.

use super::hash::Address;
use super::identity::Identity;
use super::piece::{Filed, Head, Kind, Piece};
use crate::error::{Error, Result};
use crate::gguf::Bytes;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Pieces that wait to be written at most, each a few tens of MB.
const WAITING: usize = 2;
/// After this time what was being written is given up for dead.
const STALE: Duration = Duration::from_secs(3600);

/// What a file name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) kind: Kind,
    pub(super) first: usize,
    pub(super) tokens: usize,
    pub(super) before: Address,
    pub(super) own: Address,
}

impl Name {
    fn file(&self) -> String {
        let Name { kind, first, tokens, before, own } = self;
        match kind {
            Kind::Positions => format!("p-{first}-{tokens}-{:016x}-{:016x}", before.0, own.0),
            Kind::Whole | Kind::Session => format!("w-{tokens}-{:016x}", own.0),
        }
    }

    fn parse(file: &str) -> Option<Name> {
        let mut words = file.split('-');
        let kind = words.next()?;
        let name = match kind {
            "p" => {
                let mut number = || words.next()?.parse().ok();
                let (first, tokens) = (number()?, number()?);
                let mut address = || u64::from_str_radix(words.next()?, 16).ok().map(Address);
                Name { kind: Kind::Positions, first, tokens, before: address()?, own: address()? }
            }
            "w" => {
                let tokens = words.next()?.parse().ok()?;
                let own = u64::from_str_radix(words.next()?, 16).ok().map(Address)?;
                Name { kind: Kind::Whole, first: 0, tokens, before: Address(0), own }
            }
            _ => return None,
        };
        // What is spelt in another way is not ours.
        (name.file() == file && name.first < name.tokens).then_some(name)
    }
}

/// What a thread is to do.
enum Job {
    Write(Name, Head, Bytes),
    Remove(Name),
    /// To say when it has come so far.
    Tell(SyncSender<()>),
}

/// One identity's pieces in a folder.
pub(super) struct Disk {
    shared: Arc<Shared>,
    jobs: Mutex<Option<(SyncSender<Job>, JoinHandle<()>)>>,
}

struct Shared {
    root: PathBuf,
    folder: PathBuf,
    identity: Identity,
    budget: u64,
    /// Why it was given up.
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Trouble {
    why: Option<String>,
    over: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    pub(super) fn new(root: &Path, identity: Identity, budget: u64) -> Disk {
        let folder = root.join(identity.to_string());
        let shared = Shared { root: root.to_owned(), folder, identity, budget, trouble: Mutex::default() };
        Disk { shared: Arc::new(shared), jobs: Mutex::new(None) }
    }

    /// What is there. What is on its way comes first.
    pub(super) fn names(&self) -> Vec<Name> {
        self.wait();
        names(&self.shared.folder).into_iter().map(|(name, _)| name).collect()
    }

    /// The header of a file, where it is what its name says.
    pub(super) fn open(&self, name: &Name) -> Option<Filed> {
        let path = self.shared.folder.join(name.file());
        let filed = map(&path).and_then(|bytes| Filed::read(&bytes));
        let fits = |filed: &Filed| {
            let head = &filed.head;
            let here = (head.identity, head.kind, head.first, head.tokens.len());
            here == (self.shared.identity, name.kind, name.first, name.tokens)
        };
        let filed = filed.filter(fits);
        if filed.is_none() {
            self.drop_file(name);
        }
        filed
    }

    /// The piece in an open file, read through.
    pub(super) fn read(&self, name: &Name, filed: Filed) -> Option<Piece> {
        let piece = filed.piece();
        if piece.is_none() {
            self.drop_file(name);
        }
        piece
    }

    fn drop_file(&self, name: &Name) {
        let path = self.shared.folder.join(name.file());
        if fs::remove_file(&path).is_ok() {
            tracing::warn!(path = %path.display(), "a damaged file of the prefix cache was removed");
        }
    }

    /// Takes note that these were used, all at the same time.
    pub(super) fn used<'a>(&self, names: impl IntoIterator<Item = &'a Name>) {
        let now = SystemTime::now();
        for name in names {
            let file = OpenOptions::new().append(true).open(self.shared.folder.join(name.file()));
            // A folder that may only be read serves as well as it can.
            let _ = file.and_then(|file| file.set_modified(now));
        }
    }

    /// Has a piece written.
    pub(super) fn put(&self, name: Name, head: Head, payload: Bytes) {
        self.send(Job::Write(name, head, payload));
    }

    /// Has a piece removed.
    pub(super) fn remove(&self, name: Name) {
        self.send(Job::Remove(name));
    }

    fn send(&self, job: Job) {
        if locked(&self.shared.trouble).over {
            return;
        }
        let mut jobs = locked(&self.jobs);
        if jobs.is_none() {
            let (sender, receiver) = mpsc::sync_channel(WAITING);
            let shared = Arc::clone(&self.shared);
            let work = move || receiver.iter().for_each(|job| shared.work(job));
            // A machine that cannot start a thread keeps nothing.
            *jobs = std::thread::Builder::new().name("hob prefixes".into()).spawn(work).ok().map(|thread| (sender, thread));
        }
        if let Some((sender, _)) = &*jobs {
            let _ = sender.send(job);
        }
    }

    /// Waits for all that is on its way.
    pub(super) fn wait(&self) {
        let (tell, told) = mpsc::sync_channel(1);
        if let Some((sender, _)) = &*locked(&self.jobs) {
            let _ = sender.send(Job::Tell(tell));
        } else {
            return;
        }
        let _ = told.recv();
    }

    /// Why nothing is written any more; said once.
    pub(super) fn trouble(&self) -> Option<String> {
        locked(&self.shared.trouble).why.take()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some((sender, thread)) = locked(&self.jobs).take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work(&self, job: Job) {
        match job {
            Job::Write(name, head, payload) if !locked(&self.trouble).over => {
                if let Err(error) = self.write(&name, &head, &payload) {
                    let mut trouble = locked(&self.trouble);
                    trouble.over = true;
                    trouble.why = Some(format!("{}: {error}", self.root.display()));
                    tracing::warn!(path = %self.root.display(), %error, "the prefix cache is given up");
                }
            }
            Job::Write(..) => {}
            Job::Remove(name) => {
                let _ = fs::remove_file(self.folder.join(name.file()));
            }
            Job::Tell(tell) => {
                let _ = tell.send(());
            }
        }
    }

    fn write(&self, name: &Name, head: &Head, payload: &[u8]) -> std::io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let header = head.encode(payload);
        let bytes = (header.len() + payload.len()) as u64;
        if bytes > self.budget {
            return Ok(());
        }
        private_folder(&self.folder)?;
        make_room(&self.root, self.budget - bytes)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let part = self.folder.join(format!("{}.{}.{number}.part", name.file(), std::process::id()));
        let written = create(&part).and_then(|mut file| {
            file.write_all(&header)?;
            file.write_all(payload)
        });
        let done = written.and_then(|()| fs::rename(&part, self.folder.join(name.file())));
        if done.is_err() {
            let _ = fs::remove_file(&part);
            return done;
        }
        self.remove_shorter(name, head);
        Ok(())
    }

    /// Removes positions that a new piece goes beyond with the same tokens.
    fn remove_shorter(&self, new: &Name, head: &Head) {
        if new.kind != Kind::Positions {
            return;
        }
        for (name, _) in names(&self.folder) {
            let less = name.kind == Kind::Positions && (name.before, name.first) == (new.before, new.first) && name.tokens < new.tokens;
            let own = head.tokens.get(name.first..name.tokens).map(|tokens| name.before.then(tokens));
            if less && own == Some(name.own) {
                let _ = fs::remove_file(self.folder.join(name.file()));
            }
        }
    }
}

/// A folder that only its owner may look into: what was said is in it.
fn private_folder(path: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn map(path: &Path) -> Option<Bytes> {
    let file = File::open(path).ok()?;
    let facts = file.metadata().ok()?;
    (facts.is_file() && facts.len() > 0).then(|| Bytes::map(&file).ok())?
}

/// The files of a folder that are pieces, by their names, with what the system says of them.
fn names(folder: &Path) -> Vec<(Name, fs::Metadata)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = |entry: fs::DirEntry| Some((Name::parse(entry.file_name().to_str()?)?, entry.metadata().ok()?));
    entries.filter_map(named).filter(|(_, facts)| facts.is_file()).collect()
}

/// A file in any of the folders.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) name: Name,
    pub(super) bytes: u64,
    pub(super) used: SystemTime,
}

/// All pieces of all identities; what was left half written by a process that has died is removed.
pub(super) fn entries(root: &Path) -> Vec<Entry> {
    let mut all = Vec::new();
    for folder in fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| is_ours(path)) {
        for (name, facts) in names(&folder) {
            let used = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            all.push(Entry { path: folder.join(name.file()), name, bytes: facts.len(), used });
        }
        remove_stale(&folder);
    }
    all
}

fn is_ours(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && folder.is_dir()
}

fn remove_stale(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let age = entry.metadata().and_then(|facts| facts.modified()).ok().and_then(|time| time.elapsed().ok());
        if path.extension().is_some_and(|ending| ending == "part") && age.is_some_and(|age| age > STALE) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes what was used longest ago until no more than `budget` bytes are left. Of pieces used together, those at the end of a sequence
/// go first: without the others they are of no use.
fn make_room(root: &Path, budget: u64) -> std::io::Result<()> {
    let mut all = entries(root);
    let mut bytes: u64 = all.iter().map(|entry| entry.bytes).sum();
    all.sort_by(|a, b| a.used.cmp(&b.used).then(b.name.tokens.cmp(&a.name.tokens)));
    for entry in all {
        if bytes <= budget {
            break;
        }
        // Another process may have been faster.
        let _ = fs::remove_file(&entry.path);
        bytes -= entry.bytes;
    }
    Ok(())
}

/// Removes files, and folders that are empty then; how many, and their bytes.
pub(super) fn remove(root: &Path, which: impl Fn(&Head) -> bool) -> Result<(usize, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for entry in entries(root) {
        if !head(&entry).is_none_or(|head| which(&head)) {
            continue;
        }
        match fs::remove_file(&entry.path) {
            Ok(()) => (count, bytes) = (count + 1, bytes + entry.bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { path: entry.path, source }),
        }
    }
    for folder in fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| is_ours(path)) {
        // Refused where something is left in it.
        let _ = fs::remove_dir(folder);
    }
    Ok((count, bytes))
}

/// The header of a file; `None` where it is damaged.
pub(super) fn head(entry: &Entry) -> Option<Head> {
    map(&entry.path).and_then(|bytes| Filed::read(&bytes)).map(|filed| filed.head)
}

/// Writes one file whole or not at all.
pub(super) fn write_file(path: &Path, header: &[u8], payload: &[u8]) -> Result<()> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let _ = fs::remove_file(&part);
    let written = create(&part).and_then(|mut file| {
        file.write_all(header)?;
        file.write_all(payload)?;
        file.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&part, path));
    done.map_err(|source| {
        let _ = fs::remove_file(&part);
        Error::Io { path: path.to_owned(), source }
    })
}

/// Maps one file.
pub(super) fn open_file(path: &Path) -> Result<Option<Filed>> {
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    drop(file);
    Ok(map(path).and_then(|bytes| Filed::read(&bytes)))
}
