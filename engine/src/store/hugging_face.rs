//! The cache of Hugging Face: every file of a snapshot is a link to a blob whose name is the SHA-256 of its bytes.
//!
//! ```text
//! models--USER--REPO/  blobs/SHA256  refs/main = COMMIT  snapshots/COMMIT/folder/file.gguf → ../../../blobs/SHA256
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::{Entry, Listing, State, Store, file_name, folder, inside, name, names, size};

pub(super) fn list(store: &Store, listing: &mut Listing) {
    for folder in inside(&store.root, listing) {
        let name = file_name(&folder);
        let Some(id) = name.strip_prefix("models--") else { continue };
        // A user's name has no `--`, a repository's may.
        let id = id.replacen("--", "/", 1);
        repository(store, &folder, &id, listing);
    }
}

/// A file of a snapshot.
struct Pointer {
    commit: String,
    /// In the repository, with `/`.
    path: String,
    at: PathBuf,
    /// The blob it leads to, or itself where it is no link.
    real: PathBuf,
}

fn repository(store: &Store, folder: &Path, id: &str, listing: &mut Listing) {
    let main = fs::read_to_string(folder.join("refs").join("main")).unwrap_or_default();
    let mut commits = inside(&folder.join("snapshots"), listing);
    // What `main` stands at first, then the latest: the same file is named after the first that has it.
    commits.sort_by_key(|commit| {
        let time = fs::metadata(commit).and_then(|facts| facts.modified()).ok();
        (file_name(commit) != main.trim(), std::cmp::Reverse(time))
    });
    let mut pointers: Vec<Pointer> = Vec::new();
    for commit in &commits {
        below(commit, commit, 4, &mut pointers, listing);
    }
    let unfinished = inside(&folder.join("blobs"), listing).into_iter().filter(|blob| file_name(blob).ends_with(".incomplete"));
    let bytes: u64 = unfinished.filter_map(|blob| size(&blob)).sum();
    if bytes > 0 {
        listing.remark(format!(
            "{id}: {:.1} MiB of an unfinished download; `hob pull {id}` goes on with it",
            bytes as f64 / f64::from(1 << 20)
        ));
    }
    let mut seen: Vec<(String, PathBuf)> = Vec::new();
    let mut models: Vec<(String, String, Vec<Pointer>)> = Vec::new();
    for pointer in pointers {
        let key = (pointer.path.clone(), pointer.real.clone());
        if seen.contains(&key) {
            continue; // the same bytes in an older snapshot
        }
        seen.push(key);
        let stem = match name::stem(&pointer.path) {
            (stem, Some(_)) => stem.to_owned(),
            (_, None) => pointer.path.clone(),
        };
        match models.iter_mut().find(|(commit, other, _)| *commit == pointer.commit && *other == stem) {
            Some((_, _, parts)) => parts.push(pointer),
            None => models.push((pointer.commit.clone(), stem, vec![pointer])),
        }
    }
    let mut taken: Vec<String> = Vec::new();
    for (commit, stem, parts) in models {
        // A file that an older snapshot has otherwise is told by its commit.
        let old = taken.contains(&stem);
        taken.push(stem.clone());
        let entry = entry(store, folder, id, &stem, old.then_some(&commit), &parts);
        listing.entries.push(entry);
    }
}

/// All GGUF files of a snapshot.
fn below(commit: &Path, folder: &Path, depth: usize, pointers: &mut Vec<Pointer>, listing: &mut Listing) {
    for at in inside(folder, listing) {
        let kind = fs::symlink_metadata(&at).map(|facts| facts.file_type());
        if kind.as_ref().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                below(commit, &at, depth - 1, pointers, listing);
            }
            continue;
        }
        if !at.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
            continue;
        }
        let path = at.strip_prefix(commit).unwrap_or(&at).iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        let real = at.canonicalize().or_else(|_| fs::read_link(&at)).unwrap_or_else(|_| at.clone());
        pointers.push(Pointer { commit: file_name(commit), path, at, real });
    }
}

fn entry(store: &Store, folder: &Path, id: &str, stem: &str, old: Option<&String>, parts: &[Pointer]) -> Entry {
    let files: Vec<PathBuf> = parts.iter().map(|part| part.at.clone()).collect();
    let mut called = names(Some(id), stem);
    if let Some(commit) = old {
        let short: String = commit.chars().take(8).collect();
        called = called.iter().map(|name| format!("{name}@{short}")).collect();
    }
    let blobs = folder.join("blobs").canonicalize().unwrap_or_else(|_| folder.join("blobs"));
    let sha256 = parts.first().filter(|part| part.real.parent() == Some(blobs.as_path())).map(|part| file_name(&part.real));
    let gone = parts.iter().find(|part| size(&part.at).is_none());
    let state = match gone {
        Some(part) => {
            State::Broken(format!("its blob {} is gone; `hob pull {}` brings it again", short(&file_name(&part.real)), called[0]))
        }
        None => folder::lacking(&files).map_or(State::Whole, |why| State::Broken(format!("{why}; `hob pull {}` brings it", called[0]))),
    };
    Entry {
        store: store.clone(),
        quantization: name::quantization(stem).map(str::to_owned),
        repository: Some(id.to_owned()),
        names: called,
        bytes: files.iter().filter_map(|file| size(file)).sum(),
        files,
        sha256: sha256.filter(|hash| hash.len() == 64),
        state,
    }
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// All links of a repository's snapshots, with what they lead to.
pub(super) fn links(folder: &Path, links: &mut Vec<(PathBuf, PathBuf)>) -> std::io::Result<()> {
    for at in fs::read_dir(folder)? {
        let at = at?;
        if at.file_type()?.is_dir() {
            self::links(&at.path(), links)?;
        } else if let Ok(target) = at.path().canonicalize() {
            links.push((at.path(), target));
        }
    }
    Ok(())
}
