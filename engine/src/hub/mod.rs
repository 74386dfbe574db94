//! Models from the network: Hugging Face's hub, or any address. A cargo feature, `hub`; the default build knows no network.
//!
//! Files go into the cache of Hugging Face, laid out as all programs do that use it (`layout.rs`), so what one has downloaded another finds.
//! A download that breaks goes on where it stopped, also after a kill; what has come is held against the hub's SHA-256 before it gets
//! its name; two downloads of one file at once wait for each other. `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`,
//! `HF_HUB_OFFLINE`, `HTTPS_PROXY` and their kin mean what they mean elsewhere. No async runtime, no C compiler (`tls.rs`).
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use hob::hub::{Event, Hub};
//!
//! # fn main() -> hob::Result<()> {
//! let hub = Hub::from_env()?;
//! let remote = hub.find(&"bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M".parse()?)?;
//! println!("{} bytes from {}, {} of them here", remote.bytes(), remote.place(), hub.present(&remote));
//! let path = hub.pull(&remote, &mut |event| {
//!     if let Event::Bytes { done, total } = event {
//!         eprint!("\r{} %", 100 * done / total.max(1));
//!     }
//!     ControlFlow::Continue(()) // Break stops it; the next pull goes on
//! })?;
//! let model = hob::Model::open(path)?;
//! # Ok(())
//! # }
//! ```
//!
//! What a model is can be known before it is here: [`Hub::head`] reads its header by a range.

mod client;
mod fetch;
mod head;
mod layout;
mod remote;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Client, Patience, Setup};
use fetch::{Count, Job};
use layout::{Layout, Links};

use crate::error::{Error, Fault, Result, Trouble};
use crate::store::name::Reference;
use crate::store::places;

pub use remote::{Remote, RemoteFile};

/// The hub of all the world.
pub const ENDPOINT: &str = "https://huggingface.co";

/// Room that is left on a disk, whatever is downloaded.
const SPARE: u64 = 64 << 20;

/// What a download is at. What it tells may be answered with [`ControlFlow::Break`], which stops it with [`Error::Cancelled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file begins.
    File {
        /// Its name.
        name: &'a str,
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// Bytes have come.
    Bytes {
        /// Of all files, those that are here.
        done: u64,
        /// The size of all files.
        total: u64,
    },
    /// What an earlier download left is being checked.
    Checking {
        /// Of all files, bytes that are checked.
        done: u64,
        /// The size of all files.
        total: u64,
    },
    /// The next try is in a while.
    Waiting {
        /// What went wrong.
        why: &'a str,
        /// How long it is yet.
        left: Duration,
    },
    /// Another program downloads this very file; told again and again until it ends.
    Locked,
}

/// Whom a download tells what it is at.
pub type Tell<'a> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>;

fn say(tell: Tell<'_>, event: Event<'_>) -> Result<()> {
    match tell(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// Says what a hub is, and where its files go.
#[derive(Clone, Debug)]
pub struct HubOptions {
    endpoint: String,
    token: Option<String>,
    offline: Option<String>,
    cache: Option<PathBuf>,
    folder: Option<PathBuf>,
    links: Links,
    proxy: bool,
    trusted: Option<Vec<u8>>,
    patience: Patience,
}

impl HubOptions {
    /// Another server than [`ENDPOINT`]: a mirror, or a company's own.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> HubOptions {
        self.endpoint = endpoint.into();
        self
    }

    /// Who asks. The token goes to the endpoint alone.
    pub fn token(mut self, token: Option<String>) -> HubOptions {
        self.token = token;
        self
    }

    /// Where repositories' files go, instead of the cache of Hugging Face.
    pub fn cache(mut self, cache: impl Into<PathBuf>) -> HubOptions {
        self.cache = Some(cache.into());
        self
    }

    /// Where files from other addresses go; without it, they are refused.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> HubOptions {
        self.folder = Some(folder.into());
        self
    }

    /// Refuses to use the network; `why` is what says so, such as a variable's name.
    pub fn offline(mut self, why: impl Into<String>) -> HubOptions {
        self.offline = Some(why.into());
        self
    }

    /// The certificates to trust, in PEM form, instead of the system's.
    pub fn trusted(mut self, pem: Vec<u8>) -> HubOptions {
        self.trusted = Some(pem);
        self
    }

    /// How long a connection may be silent, 30 s otherwise.
    pub fn silence(mut self, silence: Duration) -> HubOptions {
        self.patience.silence = silence;
        self
    }

    /// Takes these settings.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no place for files, or certificates that were named cannot be read.
    pub fn build(self) -> Result<Hub> {
        let Some(cache) = self.cache else {
            let fault = Fault::at("the cache of Hugging Face").expected("a place").found("none");
            return Err(Error::Input(fault.help("set HF_HUB_CACHE or HF_HOME, or HOME")));
        };
        let endpoint = self.endpoint.trim_end_matches('/');
        // As ureq reads it: ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, in either case, and NO_PROXY.
        let plain = ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"].iter().any(|name| std::env::var_os(name).is_some());
        let proxy = if self.proxy && (plain || endpoint.starts_with("https://")) { ureq::Proxy::try_from_env() } else { None };
        let client = Client::new(Setup {
            endpoint,
            token: self.token,
            offline: self.offline,
            proxy,
            trusted: self.trusted.as_deref(),
            patience: self.patience,
        })?;
        Ok(Hub {
            client,
            cache,
            folder: self.folder,
            links: self.links,
            free: |path| fs4::available_space(path),
            #[cfg(test)]
            room: u64::MAX.into(),
        })
    }
}

/// A hub that models come from, and the place on this machine that they go to.
pub struct Hub {
    client: Client,
    cache: PathBuf,
    folder: Option<PathBuf>,
    links: Links,
    /// Bytes that a disk has left.
    free: fn(&Path) -> io::Result<u64>,
    #[cfg(test)]
    room: std::sync::atomic::AtomicU64,
}

impl Hub {
    /// The hub of this environment: `HF_ENDPOINT`, `HF_TOKEN` (or the file that `hf auth login` writes), `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_HUB_OFFLINE` (or `HOB_OFFLINE`), `HF_HUB_DOWNLOAD_TIMEOUT`, `HF_HUB_DISABLE_SYMLINKS`, the proxies and the certificates.
    ///
    /// # Errors
    /// As [`HubOptions::build`].
    pub fn from_env() -> Result<Hub> {
        Hub::options().build()
    }

    /// The same, for a start: what the environment says.
    pub fn options() -> HubOptions {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let set = |name: &str| variable(name).is_some_and(|value| places::is_true(&value));
        let mut patience = Patience::default();
        if let Some(seconds) = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.parse().ok()) {
            patience.silence = Duration::from_secs(seconds);
        }
        HubOptions {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()),
            token: places::token(),
            offline: places::offline().map(str::to_owned),
            cache: places::hugging_face(),
            folder: None,
            links: if set("HF_HUB_DISABLE_SYMLINKS") { Links::None } else { Links::Symbolic },
            proxy: true,
            trusted: None,
            patience,
        }
    }

    /// Whether and why the network is not to be used.
    pub fn is_offline(&self) -> bool {
        self.client.is_offline()
    }

    /// Where repositories' files go.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Looks a name up: one question.
    ///
    /// # Errors
    /// [`Error::Network`] by its [`Trouble`]; [`Error::Input`] where the repository has not what is asked for, with what it has.
    pub fn find(&self, reference: &Reference) -> Result<Remote> {
        self.find_telling(reference, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Hub::find`], with somebody who is told of waits, and may end them.
    ///
    /// # Errors
    /// As [`Hub::find`]; [`Error::Cancelled`].
    pub fn find_telling(&self, reference: &Reference, tell: Tell<'_>) -> Result<Remote> {
        remote::find(&self.client, reference, tell)
    }

    /// How many bytes of it are here already, those of unfinished downloads too.
    pub fn present(&self, remote: &Remote) -> u64 {
        remote.files.iter().filter_map(|file| self.spot(remote, file).ok()).map(|spot| spot.present()).sum()
    }

    /// Where its first file lies, if all are here.
    pub fn local(&self, remote: &Remote) -> Option<PathBuf> {
        let spots: Vec<Spot> = remote.files.iter().map(|file| self.spot(remote, file)).collect::<Result<_>>().ok()?;
        let whole = spots.iter().zip(&remote.files).all(|(spot, file)| spot.is_whole(file.bytes));
        spots.into_iter().next().filter(|_| whole).map(|spot| spot.pointer)
    }

    /// Brings what is not here yet, and gives the path of the first file, which opens the model.
    ///
    /// # Errors
    /// [`Error::Network`] by its [`Trouble`], [`Error::Io`], or [`Error::Cancelled`]. Whatever it is, no file under its final name is
    /// ever wrong, and what has come is kept for the next time, unless it was found wrong.
    pub fn pull(&self, remote: &Remote, tell: Tell<'_>) -> Result<PathBuf> {
        let total = remote.bytes();
        let spots: Vec<Spot> = remote.files.iter().map(|file| self.spot(remote, file)).collect::<Result<_>>()?;
        self.check_room(total.saturating_sub(spots.iter().map(Spot::present).sum()), &spots)?;
        let (mut before, of) = (0, remote.files.len());
        for (at, (file, spot)) in remote.files.iter().zip(&spots).enumerate() {
            say(tell, Event::File { name: &file.path, number: at + 1, of })?;
            if !spot.is_whole(file.bytes) {
                let job = Job {
                    address: &file.address,
                    bytes: file.bytes,
                    sha256: file.sha256.as_deref(),
                    // What stands at a commit does not change; what lies at an address may.
                    etag: file.etag.as_deref().filter(|_| remote.repository.is_none()),
                    place: &spot.blob,
                    partial: &spot.partial,
                    lock: &spot.lock,
                };
                let mut count = Count {
                    before,
                    total,
                    tell,
                    #[cfg(test)]
                    room: &self.room,
                };
                let age = fetch::fetch(&self.client, &job, &mut count)?;
                if let Some((layout, etag)) = &spot.layout {
                    layout.point(&remote.commit, &file.path, etag, age, self.links)?;
                }
            }
            before += file.bytes;
            say(tell, Event::Bytes { done: before, total })?;
        }
        if let Some((layout, _)) = spots.first().and_then(|spot| spot.layout.as_ref()) {
            layout.note(&remote.revision, &remote.commit)?;
        }
        match spots.into_iter().next() {
            Some(first) => Ok(first.pointer),
            None => Err(Error::Input(Fault::at(&remote.name).expected("files").found("none"))),
        }
    }

    fn check_room(&self, needed: u64, spots: &[Spot]) -> Result<()> {
        let Some(spot) = spots.first().filter(|_| needed > 0) else { return Ok(()) };
        // The folder may be yet to be made; the nearest that is there is on the same disk.
        let Some(folder) = spot.blob.ancestors().skip(1).find(|folder| folder.exists()) else { return Ok(()) };
        let Ok(free) = (self.free)(folder) else { return Ok(()) };
        if free >= needed.saturating_add(SPARE) {
            return Ok(());
        }
        let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64);
        let fault = Fault::at(folder.display().to_string()).expected(format!("{} free", gib(needed + SPARE))).found(gib(free));
        let help = "make room (hob ls, hob rm), or set HF_HUB_CACHE to a place on a larger disk";
        Err(Error::Network(Trouble::DiskFull, fault.help(help)))
    }

    fn spot(&self, remote: &Remote, file: &RemoteFile) -> Result<Spot> {
        match &remote.repository {
            Some(repository) => {
                let layout = Layout::new(&self.cache, repository);
                // Small files that git keeps are named by git's hash, as huggingface_hub does.
                let etag = file.sha256.clone().or_else(|| file.etag.clone()).unwrap_or_else(|| format!("{:016x}", tag(&file.address, "")));
                let blob = layout.blob(&etag);
                let partial = layout.blob(&format!("{etag}.hob.incomplete"));
                let pointer = layout.pointer(&remote.commit, &file.path);
                Ok(Spot { blob, partial, lock: layout.lock(&etag), pointer, layout: Some((layout, etag)) })
            }
            None => {
                let Some(folder) = &self.folder else {
                    let fault = Fault::at(client::host_and_file(&file.address)).expected("a folder to put it in").found("none");
                    return Err(Error::Input(fault.help("set HOB_MODELS")));
                };
                let blob = folder.join(&file.path);
                // Another version of the file is another download.
                let id = tag(&file.address, &format!("{}{}", file.etag.as_deref().unwrap_or_default(), file.bytes));
                let partial = folder.join(format!(".{}.{id:016x}.incomplete", file.path));
                let lock = folder.join(".locks").join(format!("{}.lock", file.path));
                Ok(Spot { pointer: blob.clone(), blob, partial, lock, layout: None })
            }
        }
    }
}

/// Where one file lies, or will.
struct Spot {
    blob: PathBuf,
    partial: PathBuf,
    lock: PathBuf,
    pointer: PathBuf,
    layout: Option<(Layout, String)>,
}

impl Spot {
    fn present(&self) -> u64 {
        [&self.pointer, &self.blob, &self.partial].iter().find_map(|path| Some(std::fs::metadata(path).ok()?.len())).unwrap_or(0)
    }

    fn is_whole(&self, bytes: u64) -> bool {
        std::fs::metadata(&self.pointer).is_ok_and(|facts| facts.len() == bytes)
    }
}

/// FNV-1a (Fowler, Noll, Vo): tells addresses apart, no more.
fn tag(address: &str, rest: &str) -> u64 {
    let bytes = address.bytes().chain(rest.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
