//! The cache of Hugging Face, as all programs that keep their files there lay it out:
//!
//! ```text
//! $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub
//!   .locks/models--USER--REPO/SHA256.lock      held while that file is downloaded
//!   models--USER--REPO/
//!     blobs/SHA256                             the bytes; SHA256.hob.incomplete while they come
//!     refs/main                                COMMIT
//!     snapshots/COMMIT/folder/file.gguf        → ../../../blobs/SHA256
//! ```
//! Where no link can be made (Windows without the right for it, some file systems), the file itself lies in the snapshot, as
//! huggingface_hub does it. Source: huggingface_hub, "Manage the cache", and its `file_download.py`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Fault, Result};
use crate::store::name::is_plain;

/// Where a repository's files lie.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    cache: PathBuf,
    folder: String,
}

/// How a snapshot points to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// By a symbolic link, or else in another way.
    Symbolic,
    /// Not by links (`HF_HUB_DISABLE_SYMLINKS`).
    None,
}

/// Whether a blob has just come, or was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    New,
    Old,
}

impl Layout {
    pub(super) fn new(cache: &Path, repository: &str) -> Layout {
        Layout { cache: cache.to_owned(), folder: format!("models--{}", repository.replace('/', "--")) }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    /// The bytes of a file whose tag is `etag`.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(etag)
    }

    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.folder).join(format!("{etag}.lock"))
    }

    /// Where programs look for a file of the repository.
    pub(super) fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        file.split('/').fold(self.root().join("snapshots").join(commit), |path, part| path.join(part))
    }

    /// Points from the snapshot to the blob, unless something good is there. Gives the pointer.
    pub(super) fn point(&self, commit: &str, file: &str, etag: &str, age: Age, links: Links) -> Result<PathBuf> {
        let (pointer, blob) = (self.pointer(commit, file), self.blob(etag));
        if pointer.exists() {
            return Ok(pointer);
        }
        let fail = |source| Error::Io { path: pointer.clone(), source };
        if let Some(folder) = pointer.parent() {
            create(folder)?;
        }
        // What is there and leads nowhere goes.
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            Ok(()) | Err(_) => {}
        }
        let mut relative = PathBuf::from("../..");
        file.split('/').skip(1).for_each(|_| relative.push(".."));
        let linked = match links {
            Links::Symbolic => symlink(&relative.join("blobs").join(etag), &pointer),
            Links::None => Err(io::ErrorKind::Unsupported.into()),
        };
        let done = match (linked, age) {
            (Ok(()), _) => Ok(()),
            // Two pulls at once: the other was faster.
            (Err(_), _) if pointer.exists() => Ok(()),
            (Err(_), Age::New) => fs::rename(&blob, &pointer),
            // Another snapshot may point to it.
            (Err(_), Age::Old) => copy(&blob, &pointer),
        };
        done.map_err(fail)?;
        Ok(pointer)
    }

    /// Notes which commit a branch stood at.
    pub(super) fn note(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = revision.split('/').fold(self.root().join("refs"), |path, part| path.join(part));
        if fs::read_to_string(&path).is_ok_and(|old| old == commit) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            create(folder)?;
        }
        let mut beside = OsString::from(path.as_os_str());
        beside.push(format!(".{}.tmp", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = fs::write(&beside, commit).and_then(|()| fs::rename(&beside, &path));
        written.map_err(|source| Error::Io { path, source })
    }
}

/// A copy that is whole or not there.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let beside = to.with_extension("hob.incomplete");
    let done = fs::copy(from, &beside).and_then(|_| fs::rename(&beside, to));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done
}

#[cfg(unix)]
fn symlink(target: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

#[cfg(windows)]
fn symlink(target: &Path, at: &Path) -> io::Result<()> {
    let target = PathBuf::from(target.to_string_lossy().replace('/', "\\"));
    std::os::windows::fs::symlink_file(target, at)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _at: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })
}

/// Refuses what a server says where it would become a path that leads elsewhere.
pub(super) fn harmless<'a>(place: &str, what: &str, said: &'a str) -> Result<&'a str> {
    if is_plain(said) && !said.starts_with('.') {
        return Ok(said);
    }
    let fault = Fault::at(format!("{place}: {what}")).expected("a name").found(format!("`{said}`"));
    Err(Error::Network(crate::error::Trouble::Protocol, fault.help("the server is not to be trusted, or something is between")))
}
