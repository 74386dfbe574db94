//! A hub in a few lines, for tests: the API, `resolve` with a redirect to a store of files on another port, ranges, entity tags, and
//! whatever is to go wrong. One thread a connection; nothing outside of this machine.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::store::name::unescaped;

/// The commit that everything stands at.
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Something that goes wrong with one answer.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The body ends after so many bytes, though more were announced.
    Cut(usize),
    /// The connection is closed without an answer.
    Close,
    /// What is no HTTP.
    Garbage,
    /// A status, with headers and no file.
    Status(u16, &'static str),
    /// The whole file, whatever range was asked for.
    NoRanges,
    /// A range that begins elsewhere.
    WrongRange,
    /// One byte of the body is another one.
    Flipped(usize),
    /// More bytes than the file has.
    TooMuch,
    /// Another file under the same name.
    Replaced,
    /// Nothing more after so many bytes, and the connection stays open.
    Stall(usize),
}

/// A file of the repository.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
}

/// What a client asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Whether it was the hub, and not the store of files.
    pub(super) hub: bool,
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) token: Option<String>,
}

#[derive(Default)]
struct Shared {
    files: Vec<Stored>,
    /// For the next answers of the hub's API, and for those of `resolve`, at the hub or the store behind it.
    api: VecDeque<Fault>,
    resolve: VecDeque<Fault>,
    store: VecDeque<Fault>,
    asked: Vec<Asked>,
    /// What is added to the answers of `resolve`.
    renamed: bool,
}

/// A hub with one repository, `ada/Loom-GGUF`.
#[derive(Clone)]
pub(super) struct Server {
    shared: Arc<Mutex<Shared>>,
    pub(super) endpoint: String,
    store: String,
}

impl Server {
    pub(super) fn start(files: &[(&str, Vec<u8>)]) -> Server {
        let files = files.iter().map(|(path, bytes)| Stored { path: (*path).to_owned(), bytes: bytes.clone() }).collect();
        let listener = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, store) = (listener(), listener());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        let server =
            Server { endpoint: address(&hub), store: address(&store), shared: Arc::new(Mutex::new(Shared { files, ..Shared::default() })) };
        for (listener, is_hub) in [(hub, true), (store, false)] {
            let server = server.clone();
            std::thread::spawn(move || {
                for connection in listener.incoming().flatten() {
                    let server = server.clone();
                    std::thread::spawn(move || drop(server.serve(connection, is_hub)));
                }
            });
        }
        server
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn fail_api(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().api.extend(faults);
    }

    pub(super) fn fail_resolve(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().resolve.extend(faults);
    }

    pub(super) fn fail_store(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().store.extend(faults);
    }

    pub(super) fn set(&self, path: &str, bytes: Vec<u8>) {
        let mut shared = self.lock();
        shared.files.retain(|file| file.path != path);
        shared.files.push(Stored { path: path.to_owned(), bytes });
    }

    pub(super) fn rename(&self) {
        self.lock().renamed = true;
    }

    /// What was asked since the last time.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.lock().asked)
    }

    pub(super) fn is_quiet(&self) -> bool {
        let shared = self.lock();
        shared.api.is_empty() && shared.resolve.is_empty() && shared.store.is_empty()
    }

    fn serve(&self, mut connection: TcpStream, hub: bool) -> std::io::Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        loop {
            let Some((path, headers)) = request(&mut reader)? else { return Ok(()) };
            let said = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
            let range = said("range");
            self.lock().asked.push(Asked { hub, path: path.clone(), range: range.clone(), token: said("authorization") });
            let alive = if hub { self.hub(&mut connection, &path, range)? } else { self.file(&mut connection, &path, range)? };
            if !alive {
                return connection.shutdown(Shutdown::Both);
            }
        }
    }

    fn hub(&self, out: &mut TcpStream, path: &str, range: Option<String>) -> std::io::Result<bool> {
        let bare = path.split('?').next().unwrap_or_default().to_owned();
        if bare == "/api/models/ada/Loom-GGUF/revision/main" {
            let fault = self.lock().api.pop_front();
            return self.api(out, fault);
        }
        if let Some(rest) = bare.strip_prefix("/direct/") {
            return self.file(out, &format!("/{rest}"), range);
        }
        let file = bare.strip_prefix(&format!("/ada/Loom-GGUF/resolve/{COMMIT}/")).map(str::to_owned);
        let Some(found) = file.as_ref().and_then(|file| self.lock().files.iter().find(|f| f.path == *file).cloned()) else {
            return answer(out, 404, "X-Error-Code: RepoNotFound\r\nX-Error-Message: Repository not found\r\n", b"");
        };
        let (fault, renamed) = {
            let mut shared = self.lock();
            (shared.resolve.pop_front(), std::mem::take(&mut shared.renamed))
        };
        if renamed {
            return answer(out, 307, &format!("Location: {path}\r\n"), b"");
        }
        let etag = match &fault {
            Some(Fault::Replaced) => sha256(b"another"),
            Some(_) | None => sha256(&found.bytes),
        };
        match fault {
            Some(Fault::Status(status, headers)) => answer(out, status, headers, b""),
            Some(Fault::Close) => Ok(false),
            Some(Fault::Garbage) => out.write_all(b"\x16\x03\x01 no HTTP\r\n\r\n").map(|()| false),
            _ => {
                let headers = format!(
                    "Location: {}/{}?X-Amz-Signature=secret\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Size: {}\r\nX-Linked-ETag: \"{etag}\"\r\nETag: \"{etag}\"\r\nAccept-Ranges: bytes\r\n",
                    self.store,
                    found.path,
                    found.bytes.len(),
                );
                answer(out, 302, &headers, b"Found. Redirecting")
            }
        }
    }

    fn api(&self, out: &mut TcpStream, fault: Option<Fault>) -> std::io::Result<bool> {
        match fault {
            Some(Fault::Status(status, headers)) => return answer(out, status, headers, b"{\"error\":\"no\"}"),
            Some(Fault::Close) => return Ok(false),
            Some(_) | None => {}
        }
        let siblings: Vec<serde_json::Value> = self
            .lock()
            .files
            .iter()
            .map(|file| {
                let sha256 = sha256(&file.bytes);
                serde_json::json!({
                    "rfilename": file.path, "size": file.bytes.len(), "blobId": &sha256[..40],
                    "lfs": { "sha256": sha256, "size": file.bytes.len(), "pointerSize": 135 },
                })
            })
            .collect();
        let all = serde_json::json!({ "id": "ada/Loom-GGUF", "sha": COMMIT, "gated": false, "siblings": siblings });
        answer(out, 200, "Content-Type: application/json\r\n", all.to_string().as_bytes())
    }

    /// A file, with ranges.
    fn file(&self, out: &mut TcpStream, path: &str, range: Option<String>) -> std::io::Result<bool> {
        let path = unescaped(path.split('?').next().unwrap_or_default().trim_start_matches('/'));
        let (found, fault) = {
            let mut shared = self.lock();
            (shared.files.iter().find(|file| file.path == path).cloned(), shared.store.pop_front())
        };
        let Some(found) = found else { return answer(out, 404, "", b"") };
        let all = found.bytes.len();
        let mut range = range.and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<usize>().ok()?, to.parse::<usize>().map_or(all, |to| (to + 1).min(all))))
        });
        match fault {
            Some(Fault::Close) => return Ok(false),
            Some(Fault::Garbage) => return out.write_all(b"\0\0\0\0 no HTTP\r\n\r\n").map(|()| false),
            Some(Fault::Status(status, headers)) => return answer(out, status, headers, b""),
            Some(Fault::NoRanges) => range = None,
            Some(Fault::WrongRange) => range = range.map(|(from, to)| (from.saturating_sub(1 + from / 2), to)),
            _ => {}
        }
        if range.is_some_and(|(from, _)| from >= all && all > 0) {
            return answer(out, 416, &format!("Content-Range: bytes */{all}\r\n"), b"");
        }
        let (from, to) = range.unwrap_or((0, all));
        let mut body = found.bytes[from.min(all)..to].to_vec();
        let mut headers = format!("ETag: \"{}\"\r\nAccept-Ranges: bytes\r\n", sha256(&found.bytes));
        let status = if range.is_some() { 206 } else { 200 };
        if status == 206 {
            headers += &format!("Content-Range: bytes {from}-{}/{all}\r\n", to.saturating_sub(1));
        }
        match fault {
            Some(Fault::Flipped(at)) if !body.is_empty() => {
                let at = at % body.len();
                body[at] ^= 0x55;
            }
            Some(Fault::TooMuch) if status == 206 => body.extend([7; 1000]),
            Some(Fault::Cut(at) | Fault::Stall(at)) if !body.is_empty() => {
                let at = at % body.len();
                head(out, status, &headers, body.len())?;
                out.write_all(&body[..at])?;
                if matches!(fault, Some(Fault::Stall(_))) {
                    std::thread::sleep(std::time::Duration::from_millis(600));
                }
                return Ok(false);
            }
            _ => {}
        }
        answer(out, status, &headers, &body)
    }
}

fn head(out: &mut TcpStream, status: u16, headers: &str, length: usize) -> std::io::Result<()> {
    out.write_all(format!("HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: {length}\r\n\r\n").as_bytes())
}

fn answer(out: &mut TcpStream, status: u16, headers: &str, body: &[u8]) -> std::io::Result<bool> {
    head(out, status, headers, body.len())?;
    out.write_all(body)?;
    Ok(true)
}

/// A path, and headers by name and value.
pub(super) type Request = (String, Vec<(String, String)>);

/// The path of a request and its headers, in lower case; `None` at the end of a connection.
pub(super) fn request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.by_ref().take(1 << 16).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line);
    }
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let headers = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
    Ok(Some((path, headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect())))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
