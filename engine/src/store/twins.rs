//! The same model twice: by place, by the hash that a store goes by, or by size and a sample of the bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Entry, Listing, size};

/// Pieces of a file that are looked at, evenly over its length, and their size: a megabyte of any file. Models of one shape differ
/// everywhere; two copies nowhere.
const PIECES: u64 = 64;
const PIECE: u64 = 16 << 10;

/// How sure it is that two entries are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Same {
    Yes,
    No,
    LookInside,
}

impl Listing {
    /// Which entries are the same model: for each entry the places in [`Listing::entries`] of its twins, itself left out.
    /// Where hashes do not tell, files of one size are compared by samples, which reads a megabyte of each.
    pub fn twins(&self) -> Vec<Vec<usize>> {
        let all = &self.entries;
        let mut samples: Vec<Option<Option<u64>>> = vec![None; all.len()];
        let mut twins = vec![Vec::new(); all.len()];
        for a in 0..all.len() {
            for b in a + 1..all.len() {
                let same = match compare(&all[a], &all[b]) {
                    Same::Yes => true,
                    Same::No => false,
                    Same::LookInside => {
                        let mut sample = |at: usize| *samples[at].get_or_insert_with(|| sample(&all[at].files));
                        let (a, b) = (sample(a), sample(b));
                        a.is_some() && a == b
                    }
                };
                if same {
                    twins[a].push(b);
                    twins[b].push(a);
                }
            }
        }
        twins
    }

    /// The twins of one entry.
    pub fn twins_of(&self, entry: &Entry) -> Vec<&Entry> {
        let same = |other: &&Entry| match compare(entry, other) {
            Same::Yes => true,
            Same::No => false,
            Same::LookInside => sample(&entry.files).is_some_and(|mine| sample(&other.files) == Some(mine)),
        };
        self.entries.iter().filter(|other| *other != entry).filter(same).collect()
    }
}

fn compare(a: &Entry, b: &Entry) -> Same {
    let (Some(one), Some(other)) = (a.path(), b.path()) else { return Same::No };
    if a.bytes != b.bytes || a.files.len() != b.files.len() {
        return Same::No;
    }
    if real(one) == real(other) {
        return Same::Yes;
    }
    match (&a.sha256, &b.sha256) {
        (Some(one), Some(other)) if one == other => Same::Yes,
        (Some(_), Some(_)) => Same::No,
        (Some(_) | None, _) => Same::LookInside,
    }
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// FNV-1a (Fowler, Noll, Vo) over the samples of all parts; `None` where they cannot be read.
fn sample(files: &[PathBuf]) -> Option<u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut piece = vec![0; PIECE as usize];
    for path in files {
        let (mut file, bytes) = (File::open(path).ok()?, size(path)?);
        for at in 0..PIECES {
            // From the first byte to the last piece.
            let start = bytes.saturating_sub(PIECE) * at / (PIECES - 1);
            file.seek(SeekFrom::Start(start)).ok()?;
            let mut filled = 0;
            while filled < piece.len() {
                match file.read(&mut piece[filled..]).ok()? {
                    0 => break,
                    read => filled += read,
                }
            }
            hash = piece[..filled].iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
        }
    }
    Some(hash)
}
