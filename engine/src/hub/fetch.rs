//! One file: from an address to its place, whole and right, or not at all.
//!
//! ```text
//! lock ── there already? ── yes → done
//!         │ no
//!         PLACE.incomplete, N bytes (hashed)  ←─────────────────────┐
//!         GET bytes=N-                                              │ cut off, refused for now: after a wait
//!           206 from N      → written on, hashed                    │
//!           200             → from the start                        │
//!           416             → what is there is wrong: thrown away ──┘
//!         size and SHA-256 as announced? ── no → thrown away, once more, then an error
//!         synced to disk, renamed to PLACE
//! ```
//! Bytes are written to the place in the file that they belong to, never appended: should a file system not honour the lock, two
//! programs write the same bytes to the same places.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::client::{Answer, Ask, Client, Stumble, Tries, host_and_file};
use super::{Event, Tell, layout, say};
use crate::error::{Error, Fault, Result, Trouble};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// How often a download begins again from nothing: with servers that do not do ranges, every cut does.
const RESTARTS: u32 = 5;

/// What is to come, and where to.
pub(super) struct Job<'a> {
    pub(super) address: &'a str,
    pub(super) bytes: u64,
    /// In lower-case hexadecimal.
    pub(super) sha256: Option<&'a str>,
    /// The entity tag that a range is asked for with, where the hash does not tell files apart.
    pub(super) etag: Option<&'a str>,
    /// Where it is to lie in the end.
    pub(super) place: &'a Path,
    /// What is there while it comes.
    pub(super) partial: &'a Path,
    pub(super) lock: &'a Path,
}

/// Counts bytes for the reader, over all files of a model.
pub(super) struct Count<'a> {
    pub(super) before: u64,
    pub(super) total: u64,
    pub(super) tell: Tell<'a>,
    /// Bytes that the disk takes until it is full, for tests.
    #[cfg(test)]
    pub(super) room: &'a std::sync::atomic::AtomicU64,
}

impl Count<'_> {
    fn at(&mut self, done: u64) -> Result<()> {
        say(self.tell, Event::Bytes { done: self.before + done, total: self.total })
    }
}

/// Brings the file. Gives whether it had to come.
pub(super) fn fetch(client: &Client, job: &Job<'_>, count: &mut Count<'_>) -> Result<layout::Age> {
    for path in [job.place, job.partial, job.lock] {
        if let Some(folder) = path.parent() {
            layout::create(folder)?;
        }
    }
    let _lock = lock(job.lock, count)?;
    if fs::metadata(job.place).is_ok_and(|facts| facts.len() == job.bytes) {
        count.at(job.bytes)?;
        return Ok(layout::Age::Old);
    }
    let mut partial = Partial::open(job, count)?;
    let (mut tries, mut spoilt) = (Tries::new(client.patience), false);
    loop {
        while partial.written < job.bytes {
            match more(client, job, &mut partial, count, &mut tries) {
                Ok(()) => {}
                Err(stumble) => tries.after(stumble, count.tell)?,
            }
        }
        match partial.wrong(job)? {
            None => break,
            Some(fault) => {
                partial.restart(job)?;
                if std::mem::replace(&mut spoilt, true) {
                    partial.forget();
                    let help =
                        "what came twice is not what was announced; nothing was kept. A proxy may be in the way: try another network";
                    return Err(Error::Network(Trouble::Corrupt, fault.help(help)));
                }
                tracing::debug!(%fault, "once more from the start");
            }
        }
    }
    partial.settle(job)?;
    Ok(layout::Age::New)
}

/// Waits for the lock. Where the file system has none, the download goes on without.
fn lock(path: &Path, count: &mut Count<'_>) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|source| Error::Io { path: path.to_owned(), source })?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "no lock");
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) => {
                say(count.tell, Event::Locked)?;
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

/// What has come of a file.
struct Partial {
    path: PathBuf,
    file: File,
    written: u64,
    hash: Sha256,
    /// How often bytes that had come were thrown away.
    restarts: u32,
}

impl Partial {
    /// Takes up what an earlier try left.
    fn open(job: &Job<'_>, count: &mut Count<'_>) -> Result<Partial> {
        let path = job.partial.to_owned();
        let fail = |source| Error::Io { path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(fail)?;
        let there = file.metadata().map_err(fail)?.len();
        let mut partial = Partial { path: path.clone(), file, written: 0, hash: Sha256::new(), restarts: 0 };
        if there > job.bytes {
            partial.restart(job)?;
        }
        let mut piece = vec![0; PIECE];
        while partial.written < there.min(job.bytes) {
            let read = partial.file.read(&mut piece).map_err(fail)?;
            if read == 0 {
                break;
            }
            partial.hash.update(&piece[..read]);
            partial.written += read as u64;
            say(count.tell, Event::Checking { done: count.before + partial.written, total: count.total })?;
        }
        Ok(partial)
    }

    fn restart(&mut self, job: &Job<'_>) -> Result<()> {
        self.restarts += u32::from(self.written > 0);
        if self.restarts > RESTARTS {
            let fault = Fault::at(host_and_file(job.address))
                .found(format!("the {RESTARTS}th start anew, as the server does not go on where it stopped"));
            return Err(Error::Network(
                Trouble::Protocol,
                fault.help("try again on a better connection, or set HF_ENDPOINT to another server"),
            ));
        }
        self.file.set_len(0).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        (self.written, self.hash) = (0, Sha256::new());
        Ok(())
    }

    /// What is wrong with all that has come.
    fn wrong(&self, job: &Job<'_>) -> Result<Option<Fault>> {
        let place = host_and_file(job.address);
        let there = self.file.metadata().map_err(|source| Error::Io { path: self.path.clone(), source })?.len();
        if there != job.bytes {
            return Ok(Some(Fault::at(place).expected(format!("{} bytes", job.bytes)).found(there)));
        }
        let found = hex(&self.hash.clone().finalize());
        Ok(job.sha256.filter(|sha256| *sha256 != found).map(|sha256| Fault::at(place).expected(format!("SHA-256 {sha256}")).found(found)))
    }

    /// Puts it in its place.
    fn settle(&self, job: &Job<'_>) -> Result<()> {
        let fail = |source| full(job.place, source);
        self.file.sync_all().map_err(fail)?;
        fs::rename(&self.path, job.place).map_err(fail)?;
        // That the name is on disk too; not every system lets a folder be opened for it.
        if let Some(folder) = job.place.parent().and_then(|folder| File::open(folder).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn write(&mut self, bytes: &[u8], count: &Count<'_>) -> Result<()> {
        let fail = |source| full(&self.path, source);
        room(bytes.len(), count).map_err(fail)?;
        self.file.seek(SeekFrom::Start(self.written)).and_then(|_| self.file.write_all(bytes)).map_err(fail)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
fn room(bytes: usize, count: &Count<'_>) -> io::Result<()> {
    use std::sync::atomic::Ordering::Relaxed;
    let taken = count.room.fetch_update(Relaxed, Relaxed, |room| room.checked_sub(bytes as u64));
    taken.map(drop).map_err(|_| io::ErrorKind::StorageFull.into())
}

#[cfg(not(test))]
fn room(_bytes: usize, _count: &Count<'_>) -> io::Result<()> {
    Ok(())
}

/// The system's refusal to write; that the disk is full has a name of its own.
fn full(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let fault = Fault::at(path.display().to_string()).found(source);
            let help = "make room and run the same again: it goes on where it stopped. HF_HUB_CACHE names another place";
            Error::Network(Trouble::DiskFull, fault.help(help))
        }
        _ => Error::Io { path: path.to_owned(), source },
    }
}

/// One request, and what it brings.
fn more(client: &Client, job: &Job<'_>, partial: &mut Partial, count: &mut Count<'_>, tries: &mut Tries) -> Result<(), Stumble> {
    let from = partial.written;
    let ask = Ask { address: job.address, range: (from > 0).then_some((from, None)), same: job.etag.filter(|_| job.sha256.is_none()) };
    let answer = client.once(ask)?;
    let place = host_and_file(job.address);
    let changed = |expected: String, found: String| {
        let fault = Fault::at(&place).expected(expected).found(found);
        Error::Network(Trouble::Changed, fault.help("the file was replaced meanwhile: run the same again"))
    };
    let etag = answer.linked.etag.as_deref().filter(|etag| is_sha256(etag) && job.sha256.is_some_and(|sha256| sha256 != *etag));
    if let (Some(sha256), Some(etag)) = (job.sha256, etag) {
        return Err(changed(format!("SHA-256 {sha256}"), etag.to_owned()).into());
    }
    if let Some(size) = answer.linked.size.filter(|size| *size != job.bytes) {
        return Err(changed(format!("{} bytes", job.bytes), size.to_string()).into());
    }
    match answer.status {
        206 => {
            let (start, whole) = content_range(&answer).unwrap_or((from, None));
            if let Some(whole) = whole.filter(|whole| *whole != job.bytes) {
                return Err(changed(format!("{} bytes", job.bytes), whole.to_string()).into());
            }
            if start != from {
                let fault = Fault::at(&place).expected(format!("bytes from {from}")).found(format!("bytes from {start}"));
                return Err(Stumble::Again { trouble: Trouble::Protocol, fault, after: None });
            }
        }
        200 => {
            let length = answer.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            if let Some(length) = length.filter(|length| *length != job.bytes) {
                return Err(changed(format!("{} bytes", job.bytes), length.to_string()).into());
            }
            // The server does not do ranges, or the file is another one.
            partial.restart(job)?;
        }
        _ => {
            // 416: what is here is longer than the file, which it cannot be, or the server errs.
            partial.restart(job)?;
            return Err(Stumble::again(Trouble::Protocol, job.address, "range not satisfiable (416)"));
        }
    }
    pour(answer, job, partial, count, tries)
}

/// Reads a body to its end, or to where it breaks.
fn pour(answer: Answer, job: &Job<'_>, partial: &mut Partial, count: &mut Count<'_>, tries: &mut Tries) -> Result<(), Stumble> {
    let mut body = answer.body;
    let mut piece = vec![0; PIECE];
    loop {
        let read = match body.read(&mut piece) {
            Ok(0) => return Err(Stumble::again(Trouble::Unreachable, job.address, "the connection broke off")),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Stumble::again(Trouble::Unreachable, job.address, format!("the connection broke off ({error})"))),
        };
        // What comes beyond the announced size is let go of; the hash judges what is kept.
        let wanted = usize::try_from(job.bytes - partial.written).map_or(read, |left| left.min(read));
        partial.write(&piece[..wanted], count)?;
        tries.progress();
        count.at(partial.written)?;
        if partial.written == job.bytes {
            return Ok(());
        }
    }
}

/// `Content-Range: bytes 5-9/10` as (5, 10).
fn content_range(answer: &Answer) -> Option<(u64, Option<u64>)> {
    let said = answer.headers.get("content-range")?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, whole) = said.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, whole.trim().parse().ok()))
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The size that a server tells of a file, by an answer to a range.
pub(super) fn whole_size(answer: &Answer) -> Option<u64> {
    match answer.status {
        206 => content_range(answer)?.1,
        _ => answer.headers.get("content-length")?.to_str().ok()?.parse().ok(),
    }
}
