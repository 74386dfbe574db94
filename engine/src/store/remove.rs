//! Deleting a model: what goes, what stays and why, said before anything is done.
//!
//! A link of the cache of Hugging Face goes with its blob only where no other snapshot points to that blob; a blob of ollama's only
//! where no other manifest lists it. Files that are links lose the link, not what they lead to.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Entry, Keeper, Listing, file_name, hugging_face, inside, ollama, size};
use crate::error::{Error, Fault, Result};

/// What removing a model would do. Nothing is done before [`Removal::carry_out`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Files and links that go.
    pub files: Vec<PathBuf>,
    /// What that frees.
    pub bytes: u64,
    /// What stays though it is part of the model, and why.
    pub kept: Vec<(PathBuf, String)>,
}

impl Removal {
    /// What removing `entry` would do.
    ///
    /// # Errors
    /// [`Error::Io`] where a store cannot be read: then nothing can be said of what still uses a file.
    pub fn of(entry: &Entry) -> Result<Removal> {
        match entry.store.keeper {
            Keeper::HuggingFace => cached(entry),
            Keeper::Ollama => layered(entry),
            Keeper::LmStudio | Keeper::LlamaCpp | Keeper::Folder => Ok(plain(entry)),
        }
    }

    /// Does it, and gives the bytes that were freed. Folders that are empty then go too, up to the store's.
    ///
    /// # Errors
    /// [`Error::Io`] for the first file that cannot be deleted; what came before it is gone.
    pub fn carry_out(&self, entry: &Entry) -> Result<u64> {
        for path in &self.files {
            match fs::remove_file(path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(Error::Io { path: path.clone(), source }),
                Ok(()) | Err(_) => {}
            }
            // A folder with something in it refuses, and stays.
            let above = path.ancestors().skip(1).take_while(|folder| *folder != entry.store.root && folder.starts_with(&entry.store.root));
            for folder in above {
                if fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
        if entry.store.keeper == Keeper::HuggingFace {
            // A repository without a file is not kept for the name of its branch.
            let repository = entry.files.first().and_then(|file| file.ancestors().find(|folder| file_name(folder).starts_with("models--")));
            if let Some(folder) = repository.filter(|folder| !folder.join("snapshots").exists() && !folder.join("blobs").exists()) {
                let _ = fs::remove_dir_all(folder.join("refs")).and_then(|()| fs::remove_dir(folder));
            }
        }
        Ok(self.bytes)
    }

    fn add(&mut self, path: PathBuf) {
        // A link frees nothing.
        if fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_file()) {
            self.bytes += size(&path).unwrap_or(0);
        }
        self.files.push(path);
    }
}

fn plain(entry: &Entry) -> Removal {
    let mut removal = Removal::default();
    for file in &entry.files {
        if let Ok(target) = fs::read_link(file) {
            removal.kept.push((target, "the file in the folder is a link to it".to_owned()));
        }
        removal.add(file.clone());
        // What llama.cpp notes beside a file.
        let beside = PathBuf::from(format!("{}.etag", file.display()));
        if entry.store.keeper == Keeper::LlamaCpp && beside.is_file() {
            removal.add(beside);
        }
    }
    removal
}

fn cached(entry: &Entry) -> Result<Removal> {
    let mut removal = Removal::default();
    let Some(first) = entry.files.first() else { return Ok(removal) };
    let repository = first.ancestors().find(|folder| file_name(folder).starts_with("models--"));
    let Some(repository) = repository.filter(|folder| folder.starts_with(&entry.store.root)) else {
        return Err(Error::Input(Fault::at(first.display().to_string()).expected("a file of the cache").found("one outside of it")));
    };
    let mut links = Vec::new();
    hugging_face::links(&repository.join("snapshots"), &mut links).map_err(|source| Error::Io { path: repository.to_owned(), source })?;
    for file in &entry.files {
        let blob = fs::read_link(file).ok().map(|target| file.parent().unwrap_or(file).join(target));
        let blob = blob.map(|blob| blob.canonicalize().unwrap_or(blob));
        // The same file in an older snapshot is the same model.
        let below = below_commit(repository, file);
        let mut others = Vec::new();
        for (link, target) in &links {
            let same_blob = blob.as_ref().is_some_and(|blob| blob == target);
            if link == file || !same_blob {
                continue;
            }
            if below_commit(repository, link) == below { removal.add(link.clone()) } else { others.push(link.clone()) }
        }
        removal.add(file.clone());
        let Some(blob) = blob.filter(|blob| blob.exists()) else { continue };
        let inside = repository.join("blobs").canonicalize().is_ok_and(|blobs| blob.parent() == Some(blobs.as_path()));
        match others.first() {
            Some(other) => removal.kept.push((blob, format!("{} is the same file", other.display()))),
            None if !inside => removal.kept.push((blob, "it lies outside of the cache".to_owned())),
            None => removal.add(blob),
        }
    }
    Ok(removal)
}

/// The path of a file in its snapshot.
fn below_commit(repository: &Path, file: &Path) -> Option<PathBuf> {
    Some(file.strip_prefix(repository.join("snapshots")).ok()?.iter().skip(1).collect())
}

fn layered(entry: &Entry) -> Result<Removal> {
    let mut removal = Removal::default();
    let root = &entry.store.root;
    let mut listing = Listing::default();
    let manifests = manifests(&root.join("manifests"), 3, &mut listing);
    if let Some(remark) = listing.remarks.first() {
        let fault = Fault::at(root.display().to_string()).found(remark);
        return Err(Error::Input(fault.help("what cannot be read may still use the model: ollama rm removes it safely")));
    }
    let own = root.join("manifests").join(manifest_path(entry.name()));
    let mut used: Vec<String> = Vec::new();
    for manifest in manifests.iter().filter(|manifest| **manifest != own) {
        match ollama::blobs(manifest) {
            Ok(blobs) => used.extend(blobs),
            Err(why) => {
                // What a manifest that cannot be read uses is not known, so nothing but the name goes.
                let why = format!("another of ollama's models cannot be read ({why})");
                removal.kept.extend(entry.files.iter().map(|file| (file.clone(), why.clone())));
                removal.add(own);
                return Ok(removal);
            }
        }
    }
    let mine = ollama::blobs(&own).unwrap_or_default();
    removal.add(own);
    for hash in mine {
        let blob = root.join("blobs").join(format!("sha256-{hash}"));
        if !blob.exists() {
            continue;
        }
        if used.contains(&hash) { removal.kept.push((blob, "another of ollama's models uses it".to_owned())) } else { removal.add(blob) }
    }
    Ok(removal)
}

/// `qwen3:4b` as `registry.ollama.ai/library/qwen3/4b`.
fn manifest_path(name: &str) -> PathBuf {
    let (path, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
    let parts: Vec<&str> = path.split('/').collect();
    let before: &[&str] = match parts.len() {
        1 => &["registry.ollama.ai", "library"],
        2 => &["registry.ollama.ai"],
        _ => &[],
    };
    before.iter().chain(&parts).copied().chain([tag]).collect()
}

/// All files at the depth where manifests are: HOST/USER/MODEL/TAG.
fn manifests(folder: &Path, depth: usize, listing: &mut Listing) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in inside(folder, listing) {
        match (path.is_dir(), depth) {
            (false, 0) if !file_name(&path).starts_with('.') => all.push(path),
            (true, 1..) => all.extend(manifests(&path, depth - 1, listing)),
            (false | true, _) => {}
        }
    }
    all
}
