//! Folders of GGUF files: LM Studio's, llama.cpp's old cache, and one's own.
//!
//! ```text
//! LM Studio   models/USER/REPO/FILE.gguf
//! llama.cpp   USER_REPO_FILE.gguf, and manifest=USER=REPO=TAG.json, which tells the three apart
//! ```

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Entry, Keeper, Listing, State, Store, file_name, inside, name, names, size};

/// Folders in folders that are looked into.
const DEPTH: usize = 8;

pub(super) fn list(store: &Store, listing: &mut Listing) {
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    walk(&store.root, DEPTH, &mut seen, &mut files, listing);
    let manifests = if store.keeper == Keeper::LlamaCpp { manifests(&store.root, listing) } else { Vec::new() };
    for (stem, parts) in models(files) {
        let entry = entry(store, &stem, parts, &manifests);
        listing.entries.push(entry);
    }
}

/// All GGUF files below a folder, links that lead nowhere too.
fn walk(folder: &Path, depth: usize, seen: &mut HashSet<PathBuf>, files: &mut Vec<PathBuf>, listing: &mut Listing) {
    // A link may lead back to where we came from.
    if depth == 0 || !seen.insert(folder.canonicalize().unwrap_or_else(|_| folder.to_owned())) {
        return;
    }
    for path in inside(folder, listing) {
        let hidden = file_name(&path).starts_with('.');
        if hidden {
            continue;
        }
        match fs::metadata(&path) {
            Ok(facts) if facts.is_dir() => walk(&path, depth - 1, seen, files, listing),
            Ok(_) | Err(_) if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) => files.push(path),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Files as models: the parts of one together, by the path that they share.
fn models(files: Vec<PathBuf>) -> Vec<(String, Vec<PathBuf>)> {
    let mut models: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for file in files {
        let text = file.to_string_lossy().into_owned();
        let (stem, part) = name::stem(&text);
        match models.iter_mut().find(|(other, _)| part.is_some() && other == stem) {
            Some((_, parts)) => parts.push(file),
            None => models.push((if part.is_some() { stem.to_owned() } else { text }, vec![file])),
        }
    }
    models
}

fn entry(store: &Store, stem: &str, parts: Vec<PathBuf>, manifests: &[(String, String)]) -> Entry {
    let whole = Path::new(stem);
    let below = whole.strip_prefix(&store.root).unwrap_or(whole);
    let path: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let file = path.last().cloned().unwrap_or_default();
    let (repository, file) = match (store.keeper, path.as_slice()) {
        (Keeper::LmStudio, [user, repo, rest @ ..]) if !rest.is_empty() => (Some(format!("{user}/{repo}")), rest.join("/")),
        (Keeper::LlamaCpp, _) => match manifests.iter().find_map(|(prefix, id)| Some((id, file.strip_prefix(prefix.as_str())?))) {
            Some((id, rest)) => (Some(id.clone()), rest.to_owned()),
            None => (None, file),
        },
        _ => (None, file),
    };
    let mut called = names(repository.as_deref(), &file);
    called.push(file_name(whole));
    called.dedup();
    let state = match lacking(&parts) {
        None => State::Whole,
        Some(why) => State::Broken(why),
    };
    Entry {
        store: store.clone(),
        names: called,
        quantization: name::quantization(&file).map(str::to_owned),
        repository,
        bytes: parts.iter().filter_map(|part| size(part)).sum(),
        files: parts,
        sha256: None,
        state,
    }
}

/// Why the files do not make a model.
pub(super) fn lacking(parts: &[PathBuf]) -> Option<String> {
    if let Some(part) = parts.iter().find(|part| size(part).is_none()) {
        let target = fs::read_link(part).map_or_else(|_| "nothing".to_owned(), |target| target.display().to_string());
        return Some(format!("{} is a link to {target}, which is not there", file_name(part)));
    }
    if let Some(part) = parts.iter().find(|part| size(part) == Some(0)) {
        return Some(format!("{} is empty", file_name(part)));
    }
    let texts: Vec<String> = parts.iter().map(|part| file_name(part)).collect();
    let numbers: Vec<(u32, u32)> = texts.iter().filter_map(|text| name::stem(text).1).collect();
    let count = numbers.first()?.1;
    let lacking = (1..=count).find(|number| !numbers.iter().any(|(other, _)| other == number))?;
    Some(format!("part {lacking} of {count} is missing"))
}

/// What the manifests of llama.cpp tell: the beginning of the names of a repository's files, and the repository.
fn manifests(root: &Path, listing: &mut Listing) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in inside(root, listing) {
        let file = file_name(&path);
        let Some(rest) = file.strip_prefix("manifest=").and_then(|rest| rest.strip_suffix(".json")) else { continue };
        if let [user, repo, _tag] = rest.split('=').collect::<Vec<_>>()[..] {
            found.push((format!("{user}_{repo}_"), format!("{user}/{repo}")));
        }
    }
    // The longest beginning first: `a_b_c_` before `a_b_`.
    found.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    found.dedup();
    found
}
