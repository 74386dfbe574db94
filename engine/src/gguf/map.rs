//! Bytes of a model, shared: a range of a mapped file, of an owned buffer, or of the program itself.
//!
//! The one unsafe call of this crate is here: mapping a file.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Fault, Result};

/// A shared range of bytes. Cloning it copies nothing; the file stays mapped as long as one of them lives.
#[derive(Clone)]
pub struct Bytes {
    storage: Arc<Storage>,
    start: usize,
    len: usize,
}

/// What says whether bytes are still held by somebody: whether their place is still theirs.
#[cfg(feature = "candle")]
pub(crate) struct Holder(std::sync::Weak<Storage>);

#[cfg(feature = "candle")]
impl Holder {
    /// Whether they are.
    pub(crate) fn holds(&self) -> bool {
        self.0.strong_count() > 0
    }
}

enum Storage {
    Mapped(Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Bytes {
    /// Maps a file, all of it. The caller has seen that it is a regular file and not empty.
    pub(crate) fn map(file: &File) -> std::io::Result<Bytes> {
        // SAFETY: the mapping is read-only and private to this value. What Rust cannot rule out is that another process
        // rewrites or cuts the file while it is mapped; then numbers change under us, or the system ends the process
        // with a bus error. Every reader of a mapped file accepts this, and it cannot be checked from here. Nothing in
        // hob relies on the bytes for memory safety: strings are validated where they are copied out, and offsets
        // derived from them are kept apart from the mapping and checked again by slice indexing when used.
        let map = unsafe { Mmap::map(file)? };
        // What is not in memory yet is then read, and mapped, 2 MB at a time where the file system can: weights are streamed
        // through every token, and a walk of the page tables for every 4 KB takes a third of the memory's rate in a virtual
        // machine. A system that cannot says so, which changes nothing.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Bytes::whole(Storage::Mapped(map)))
    }

    /// `len` bytes, which `fill` writes; they lie in memory as those of a mapped file do.
    pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Bytes> {
        let no_room = |_| Error::Memory(Fault::at("weights in memory").found(format!("no room for {} MiB", len >> 20)));
        let mut map = MmapOptions::new().len(len.max(1)).map_anon().map_err(no_room)?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        fill(&mut map[..len])?;
        Ok(Bytes { len, ..Bytes::whole(Storage::Mapped(map.make_read_only().map_err(no_room)?)) })
    }

    /// So many zeros, which take no memory until they are read.
    pub(super) fn blank(len: usize) -> std::io::Result<Bytes> {
        let map = MmapOptions::new().len(len.max(1)).no_reserve_swap().map_anon()?.make_read_only()?;
        Ok(Bytes { len, ..Bytes::whole(Storage::Mapped(map)) })
    }

    fn whole(storage: Storage) -> Bytes {
        let len = storage.as_slice().len();
        Bytes { storage: Arc::new(storage), start: 0, len }
    }

    /// Who says how long they are held.
    #[cfg(feature = "candle")]
    pub(crate) fn holder(&self) -> Holder {
        Holder(Arc::downgrade(&self.storage))
    }

    /// Has the system bring these bytes into memory, and waits for them.
    pub(super) fn fetch(&self) {
        // One request for all of them where there is one (Linux 5.14); it leaves pages ready to use, large ones where it can.
        #[cfg(target_os = "linux")]
        if let Storage::Mapped(map) = &*self.storage {
            let _ = map.advise_range(memmap2::Advice::PopulateRead, self.start, self.len);
        }
        // Elsewhere, and where it was refused, touching a page brings it.
        std::hint::black_box(self.iter().step_by(4096).fold(0, |sum, byte| sum ^ byte));
    }

    /// The bytes in `range`, sharing the storage.
    ///
    /// # Panics
    /// Where the range reaches beyond these bytes, like slicing does.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len, "range {range:?} of {} bytes", self.len);
        Bytes { storage: Arc::clone(&self.storage), start: self.start + range.start, len: range.end - range.start }
    }
}

impl Storage {
    fn as_slice(&self) -> &[u8] {
        match self {
            Storage::Mapped(map) => map,
            Storage::Owned(bytes) => bytes,
            Storage::Static(bytes) => bytes,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage.as_slice()[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::whole(Storage::Owned(bytes))
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Bytes {
        Bytes::whole(Storage::Static(bytes))
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}
