//! What a repository has: its files, with sizes and hashes, at one commit.
//!
//! ```text
//! GET /api/models/USER/REPO/revision/main?blobs=true
//!   {"sha": COMMIT, "siblings": [{"rfilename": "a.gguf", "size": 123, "lfs": {"sha256": …, "size": 123}}, …]}
//! ```
//! Source: the hub's API (`HfApi.model_info(files_metadata=True)` of huggingface_hub).

use serde_json::Value;

use super::client::{Ask, Client, Tries, host_and_file, text, whole_answer};
use super::fetch::is_sha256;
use super::layout::harmless;
use super::{Tell, fetch};
use crate::error::{Error, Fault, Result, Trouble};
use crate::store::name::{Reference, Repository, base, choose, quantization, stem, unescaped};

/// The longest answer of the API that is read; a repository of a thousand files has half a megabyte.
const ANSWER: u64 = 32 << 20;

/// Parts of a model at an address that are asked for; the largest models have some sixty.
const PARTS: u32 = 999;

/// A model on a server: what [`Hub::find`](super::Hub::find) found, and [`Hub::pull`](super::Hub::pull) brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// What it is called: `user/repo:Q4_K_M`, or an address.
    pub name: String,
    /// `user/repo`; `None` for a file at an address.
    pub repository: Option<String>,
    /// Branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that it stands at; empty for a file at an address.
    pub commit: String,
    /// As the file's name says it.
    pub quantization: Option<String>,
    /// All parts, in order.
    pub files: Vec<RemoteFile>,
}

/// A file on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// In the repository: `folder/name.gguf`; for an address its last part.
    pub path: String,
    /// Where it is asked for.
    pub address: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash, in lower-case hexadecimal, where the server tells it: the hub does, of every large file.
    pub sha256: Option<String>,
    /// Its entity tag where there is no hash.
    pub etag: Option<String>,
}

impl Remote {
    /// The size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whom it is asked of, such as `huggingface.co/user/repo`.
    pub fn place(&self) -> String {
        let file = self.files.first().map_or("", |file| file.address.as_str());
        let place = host_and_file(file);
        match &self.repository {
            Some(repository) => place.find(repository).map_or_else(|| place.clone(), |at| place[..at + repository.len()].to_owned()),
            None => place,
        }
    }
}

/// Looks a name up.
pub(super) fn find(client: &Client, reference: &Reference, tell: Tell<'_>) -> Result<Remote> {
    match reference {
        Reference::Repository(repository) => in_repository(client, repository, tell),
        Reference::Address(address) => {
            // The address of a file of a repository, on the server that stands for the hub.
            let path = address.strip_prefix(&client.endpoint).filter(|path| path.contains("/resolve/") || path.contains("/blob/"));
            match path.map(|path| format!("{}{path}", super::ENDPOINT).parse()) {
                Some(Ok(Reference::Repository(repository))) => in_repository(client, &repository, tell),
                Some(Ok(Reference::Address(_)) | Err(_)) | None => at_address(client, address, tell),
            }
        }
    }
}

fn in_repository(client: &Client, wanted: &Repository, tell: Tell<'_>) -> Result<Remote> {
    let endpoint = &client.endpoint;
    let revision = wanted.revision.replace('/', "%2F");
    let address = format!("{endpoint}/api/models/{}/revision/{revision}?blobs=true", wanted.id);
    let answer = asked(client, &address, tell)?;
    let place = host_and_file(&format!("{endpoint}/{}", wanted.id));
    let strange = |expected: &str| {
        let fault = Fault::at(&place).expected(expected).found("something else").help("HF_ENDPOINT may name a server that is no hub");
        Error::Network(Trouble::Protocol, fault)
    };
    let answer: Value = serde_json::from_str(&answer).map_err(|_| strange("the hub's description of the repository, in JSON"))?;
    let commit = harmless(&place, "the commit", answer["sha"].as_str().ok_or_else(|| strange("a commit (`sha`)"))?)?;
    let siblings = answer["siblings"].as_array().ok_or_else(|| strange("a list of files (`siblings`)"))?;
    let paths: Vec<&str> = siblings.iter().map(|file| file["rfilename"].as_str().unwrap_or_default()).collect();
    let chosen = match &wanted.file {
        Some(file) => match paths.iter().position(|path| path == file) {
            // A part stands for all parts of its model.
            Some(at) => parts_of(&wanted.id, &paths, at)?,
            None => {
                let fault = Fault::at(format!("{place}/{file}")).found("no such file in the repository");
                return Err(Error::Network(Trouble::Missing, fault.help(format!("hob pull {} takes its Q4_K_M", wanted.id))));
            }
        },
        None => choose(&wanted.id, &paths, wanted.quantization.as_deref())?,
    };
    let mut files = Vec::with_capacity(chosen.len());
    for at in chosen {
        let (path, said) = (harmless(&place, "the name of a file", paths[at])?, &siblings[at]);
        let bytes = said["lfs"]["size"].as_u64().or_else(|| said["size"].as_u64()).ok_or_else(|| strange("the sizes of its files"))?;
        let sha256 =
            said["lfs"]["sha256"].as_str().or_else(|| said["lfs"]["oid"].as_str()).map(|sha256| sha256.trim_start_matches("sha256:"));
        let etag = said["blobId"].as_str().map(|id| harmless(&place, "the id of a blob", id)).transpose()?;
        files.push(RemoteFile {
            path: path.to_owned(),
            address: format!("{endpoint}/{}/resolve/{commit}/{}", wanted.id, escaped(path)),
            bytes,
            sha256: sha256.filter(|sha256| is_sha256(sha256)).map(str::to_owned),
            etag: etag.map(str::to_owned),
        });
    }
    let found = files.first().and_then(|file| quantization(&file.path)).map(str::to_owned);
    let name = Repository { quantization: found.clone().or(wanted.quantization.clone()), ..wanted.clone() };
    Ok(Remote {
        name: name.to_string(),
        repository: Some(wanted.id.clone()),
        revision: wanted.revision.clone(),
        commit: commit.to_owned(),
        quantization: found,
        files,
    })
}

/// All parts of the model that a file belongs to.
fn parts_of(place: &str, paths: &[&str], at: usize) -> Result<Vec<usize>> {
    let (whole, part) = stem(paths[at]);
    if part.is_none() {
        return Ok(vec![at]);
    }
    let all: Vec<usize> = (0..paths.len()).filter(|other| stem(paths[*other]).0 == whole).collect();
    let parts: Vec<&str> = all.iter().map(|at| paths[*at]).collect();
    Ok(choose(place, &parts, None)?.into_iter().map(|at| all[at]).collect())
}

/// A file at an address: one byte of it says how large it is, and whether it can be had in pieces.
fn at_address(client: &Client, address: &str, tell: Tell<'_>) -> Result<Remote> {
    let path = host_and_file(address);
    let name = unescaped(base(&path));
    if !name.to_ascii_lowercase().ends_with(".gguf") || !path.contains('/') {
        let fault = Fault::at(path).expected("the address of a .gguf file").found(format!("`{name}`"));
        return Err(Error::Input(fault.help("for a repository of Hugging Face say user/repo")));
    }
    let name = harmless(&path, "the name of the file", &name)?.to_owned();
    // Of a split model, any part stands for all.
    let (whole, part) = stem(&name);
    let names: Vec<String> = match part {
        Some((_, count)) => (1..=count.min(PARTS)).map(|number| format!("{whole}-{number:05}-of-{count:05}.gguf")).collect(),
        None => vec![name.clone()],
    };
    let mut files = Vec::with_capacity(names.len());
    for path in names {
        let address = address.replacen(base(&host_and_file(address)), &escaped(&path), 1);
        files.push(probe(client, address, path, tell)?);
    }
    Ok(Remote {
        name: address.to_owned(),
        repository: None,
        revision: String::new(),
        commit: String::new(),
        quantization: quantization(&name).map(str::to_owned),
        files,
    })
}

/// What one byte of a file tells of all of it.
fn probe(client: &Client, address: String, path: String, tell: Tell<'_>) -> Result<RemoteFile> {
    let answer = client.get(Ask { address: &address, range: Some((0, Some(1))), same: None }, tell)?;
    let Some(bytes) = fetch::whole_size(&answer) else {
        let fault = Fault::at(host_and_file(&address)).expected("a size (Content-Length, or Content-Range)").found("none");
        return Err(Error::Network(Trouble::Protocol, fault.help("download it with another program, and give hob its path")));
    };
    let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok()).filter(|etag| !etag.starts_with("W/"));
    Ok(RemoteFile { path, address, bytes, sha256: None, etag: etag.map(str::to_owned) })
}

/// A text, asked for until it is there whole.
fn asked(client: &Client, address: &str, tell: Tell<'_>) -> Result<String> {
    let mut tries = Tries::new(client.patience);
    loop {
        let ask = Ask { address, range: None, same: None };
        let read = client.once(ask).and_then(|answer| whole_answer(answer, address));
        match read.and_then(|answer| text(answer, address, ANSWER)) {
            Ok(text) => return Ok(text),
            Err(stumble) => tries.after(stumble, tell)?,
        }
    }
}

/// A path with what addresses cannot bear written as `%20` and so on.
fn escaped(path: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(byte);
    path.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
