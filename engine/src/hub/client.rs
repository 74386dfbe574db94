//! Requests, over HTTP/1.1: one address, its redirects, and what to do about an answer that is no good.
//!
//! ```text
//! GET huggingface.co/user/repo/resolve/COMMIT/file     Authorization: Bearer …   Range: bytes=N-
//!   307 → a path of the same host (a repository that was renamed)                asked again, with the token
//!   302 → the store of the files, signed for an hour                             asked again, without it
//!         x-repo-commit, x-linked-size, x-linked-etag = "SHA-256 of the file"
//!   206   Content-Range: bytes N-M/SIZE                                          the bytes
//! ```
//! A signed address grows old, so every try begins at the hub. Source: huggingface_hub's `file_download.py` and `_http.py`, and RFC 9110.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, header};

use super::{Event, Tell, tls};
use crate::error::{Error, Fault, Result, Trouble};

/// Hops that are followed; the hub takes one or two.
const HOPS: usize = 8;

/// How long to wait for a server, and how often to ask again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Tries in a row that bring nothing, before hob gives up.
    pub(super) tries: u32,
    /// The wait after the first of them; each is twice as long as the one before.
    pub(super) first: Duration,
    /// The longest wait that a server may ask for.
    pub(super) most: Duration,
    /// Silence on a connection that counts as its end.
    pub(super) silence: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { tries: 5, first: Duration::from_secs(1), most: Duration::from_secs(300), silence: Duration::from_secs(30) }
    }
}

/// Who is asked, and how.
pub(super) struct Client {
    agent: ureq::Agent,
    /// The hub: scheme and host, without a slash at the end.
    pub(super) endpoint: String,
    token: Option<String>,
    offline: Option<String>,
    pub(super) patience: Patience,
}

/// What a client is made from.
pub(super) struct Setup<'a> {
    pub(super) endpoint: &'a str,
    pub(super) token: Option<String>,
    /// What says that the network is not to be used.
    pub(super) offline: Option<String>,
    pub(super) proxy: Option<ureq::Proxy>,
    pub(super) trusted: Option<&'a [u8]>,
    pub(super) patience: Patience,
}

/// One request.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) address: &'a str,
    /// From this byte on, up to and without that.
    pub(super) range: Option<(u64, Option<u64>)>,
    /// The range only if the file is still this one, else all of it (`If-Range`).
    pub(super) same: Option<&'a str>,
}

/// What a server said.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// What the hops on the way said of the file.
    pub(super) linked: Linked,
    pub(super) body: ureq::BodyReader<'static>,
}

/// The hub's own headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) etag: Option<String>,
    pub(super) size: Option<u64>,
}

/// A try that brought nothing.
pub(super) enum Stumble {
    /// Another may do better, after what the server asks for.
    Again { trouble: Trouble, fault: Fault, after: Option<Duration> },
    /// No other will.
    Final(Error),
}

impl Stumble {
    pub(super) fn again(trouble: Trouble, address: &str, found: impl std::fmt::Display) -> Stumble {
        Stumble::Again { trouble, fault: Fault::at(host_and_file(address)).found(found), after: None }
    }
}

impl From<Error> for Stumble {
    fn from(error: Error) -> Stumble {
        Stumble::Final(error)
    }
}

impl Client {
    pub(super) fn new(setup: Setup<'_>) -> Result<Client> {
        let tls = tls::config(setup.trusted)?;
        let patience = setup.patience;
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .proxy(setup.proxy)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("hob/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(patience.silence.min(Duration::from_secs(15))))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .build();
        let endpoint = setup.endpoint.trim_end_matches('/').to_owned();
        Ok(Client { agent: config.into(), endpoint, token: setup.token, offline: setup.offline, patience })
    }

    /// Whether a token is sent to the hub.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(super) fn is_offline(&self) -> bool {
        self.offline.is_some()
    }

    /// Asks until there is an answer of 200, 206 or 416.
    pub(super) fn get(&self, ask: Ask<'_>, tell: Tell<'_>) -> Result<Answer> {
        let mut tries = Tries::new(self.patience);
        loop {
            match self.once(ask) {
                Ok(answer) => return Ok(answer),
                Err(stumble) => tries.after(stumble, tell)?,
            }
        }
    }

    /// Asks once, following redirects.
    pub(super) fn once(&self, ask: Ask<'_>) -> Result<Answer, Stumble> {
        if let Some(said) = &self.offline {
            let fault = Fault::at(host_and_file(ask.address)).found(format!("{said} says that the network is not to be used"));
            return Err(Error::Network(Trouble::Offline, fault.help(format!("unset {said}, or name a file that is here"))).into());
        }
        let (mut address, mut linked) = (ask.address.to_owned(), Linked::default());
        for _ in 0..HOPS {
            let answer = self.hop(&address, ask)?;
            linked.read(answer.headers(), answer.status().is_redirection());
            let status = answer.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return self.judge(&address, ask.address, linked, answer);
            }
            let location = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let Some(next) = location.and_then(|to| joined(&address, to)) else {
                let fault = Fault::at(host_and_file(&address)).expected("an address to go on to").found(location.unwrap_or("none"));
                return Err(Error::Network(Trouble::Protocol, fault).into());
            };
            if address.starts_with("https://") && !next.starts_with("https://") {
                let fault = Fault::at(host_and_file(&address)).expected("an encrypted address to go on to").found(host_and_file(&next));
                return Err(Error::Network(Trouble::Protocol, fault.help("a proxy or a login page may be in the way")).into());
            }
            address = next;
        }
        let fault = Fault::at(host_and_file(ask.address)).found(format!("more than {HOPS} redirects"));
        Err(Error::Network(Trouble::Protocol, fault).into())
    }

    fn hop(&self, address: &str, ask: Ask<'_>) -> Result<ureq::http::Response<ureq::Body>, Stumble> {
        if address.starts_with("https://") {
            tls::available(address)?;
        }
        let mut request = self.agent.get(address).header(header::ACCEPT_ENCODING, "identity");
        // The token is for the hub alone: whoever a redirect leads to has an address that is signed.
        if let Some(token) = self.token.as_ref().filter(|_| origin(address) == origin(&self.endpoint)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some((from, to)) = ask.range {
            let to = to.map_or_else(String::new, |to| (to - 1).to_string());
            request = request.header(header::RANGE, format!("bytes={from}-{to}"));
            if let Some(same) = ask.same {
                request = request.header(header::IF_RANGE, same);
            }
        }
        request.call().map_err(|error| failed(address, error))
    }

    /// An answer that is no redirect: good, to be tried again, or final.
    fn judge(&self, address: &str, asked: &str, linked: Linked, answer: ureq::http::Response<ureq::Body>) -> Result<Answer, Stumble> {
        let status = answer.status();
        let (parts, body) = answer.into_parts();
        let said = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let place = host_and_file(address);
        let reason = said("x-error-message").map_or_else(|| status.to_string(), |why| format!("{status}: {why}"));
        let fault = Fault::at(place).found(&reason);
        let last = |trouble, help: String| Err(Stumble::Final(Error::Network(trouble, fault.clone().help(help))));
        let again = |trouble| Stumble::Again { trouble, fault: fault.clone(), after: wait(&parts.headers) };
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(Answer { status: status.as_u16(), headers: parts.headers, linked, body: body.into_reader() })
            }
            // An address that was signed and has grown old, or a store that hiccups: the hub gives a new one.
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED if origin(address) != origin(asked) => {
                Err(again(if status == StatusCode::NOT_FOUND { Trouble::Missing } else { Trouble::Forbidden }))
            }
            StatusCode::UNAUTHORIZED if origin(address) == origin(&self.endpoint) => last(
                Trouble::Unauthorized,
                if self.has_token() {
                    format!("the token is not accepted: make a new one at {}/settings/tokens and set HF_TOKEN", self.endpoint)
                } else {
                    "check the name; a gated or private repository needs HF_TOKEN, or `hf auth login`".into()
                },
            ),
            StatusCode::UNAUTHORIZED => last(Trouble::Unauthorized, "hob sends its token to the hub alone".into()),
            StatusCode::FORBIDDEN => last(
                Trouble::Forbidden,
                if self.has_token() {
                    "open the repository's page, accept its terms with the token's account, and see that the token may read gated repositories".into()
                } else {
                    "the repository asks for an account: accept its terms on its page, then set HF_TOKEN".into()
                },
            ),
            StatusCode::NOT_FOUND | StatusCode::GONE => last(
                Trouble::Missing,
                match said("x-error-code") {
                    Some("RevisionNotFound") => "no such branch, tag or commit: leave out `@…`".into(),
                    Some("EntryNotFound") => "the repository has no such file: check its name, or leave it out".into(),
                    Some(_) | None => "check the spelling of user/repo".into(),
                },
            ),
            StatusCode::TOO_MANY_REQUESTS => Err(again(Trouble::Throttled)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => Err(again(Trouble::Server)),
            _ if status.is_server_error() => Err(again(Trouble::Server)),
            _ => last(Trouble::Protocol, "this is not what a file server answers: check the address".into()),
        }
    }
}

impl Linked {
    /// Takes what a hop says; the first one to say it is the hub.
    fn read(&mut self, headers: &HeaderMap, redirects: bool) {
        let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if self.etag.is_none() {
            self.etag = said("x-linked-etag").or_else(|| said("etag").filter(|_| !redirects)).map(plain_etag);
        }
        if self.size.is_none() {
            self.size = said("x-linked-size").and_then(|size| size.parse().ok());
        }
    }
}

/// An entity tag without its dress: `W/"abc"` is `abc`.
fn plain_etag(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// What a server asks to wait for, in `Retry-After`, or in the hub's `RateLimit: "api";r=0;t=SECONDS`.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let limit = || said("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    let seconds = said("retry-after").or_else(limit)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Tries in a row.
pub(super) struct Tries {
    patience: Patience,
    done: u32,
}

impl Tries {
    pub(super) fn new(patience: Patience) -> Tries {
        Tries { patience, done: 0 }
    }

    /// Something came: what went wrong before does not count any more.
    pub(super) fn progress(&mut self) {
        self.done = 0;
    }

    /// Waits before the next try, or gives up.
    pub(super) fn after(&mut self, stumble: Stumble, tell: Tell<'_>) -> Result<()> {
        let (trouble, fault, after) = match stumble {
            Stumble::Final(error) => return Err(error),
            Stumble::Again { trouble, fault, after } => (trouble, fault, after),
        };
        self.done += 1;
        let own = self.patience.first * 2u32.saturating_pow(self.done.saturating_sub(1).min(10));
        let pause = after.unwrap_or(own);
        if self.done >= self.patience.tries || pause > self.patience.most {
            let help = match trouble {
                _ if pause > self.patience.most => {
                    format!("the server asks to wait {} minutes: try again then", pause.as_secs().div_ceil(60))
                }
                Trouble::Throttled => "too many requests: try again later, or set HF_TOKEN".into(),
                Trouble::Unreachable => "check the network and the proxy, then run the same again: it goes on where it stopped".into(),
                _ => "try again later: it goes on where it stopped".into(),
            };
            return Err(Error::Network(trouble, fault.help(help)));
        }
        tracing::debug!(why = %fault, ?pause, "again");
        let why = fault.to_string();
        let mut left = pause;
        loop {
            super::say(tell, Event::Waiting { why: &why, left })?;
            if left.is_zero() {
                return Ok(());
            }
            let nap = left.min(Duration::from_millis(200));
            std::thread::sleep(nap);
            left -= nap;
        }
    }
}

/// A request that got no answer.
fn failed(address: &str, error: ureq::Error) -> Stumble {
    let place = host_and_file(address);
    let last = |found: String, help: &str| Stumble::Final(Error::Network(Trouble::Unreachable, Fault::at(&place).found(found).help(help)));
    let untrusted = |why: String| {
        let help = "a clock that is wrong, or a proxy that opens connections: SSL_CERT_FILE names the certificates to trust";
        last(format!("no encrypted connection: {why}"), help)
    };
    match error {
        ureq::Error::Rustls(error) => untrusted(error.to_string()),
        // rustls's own, where it comes up through a read: a certificate that nobody here trusts.
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData && address.starts_with("https://") => {
            untrusted(error.to_string())
        }
        ureq::Error::BadUri(why) => last(format!("no address: {why}"), "check the address, or HF_ENDPOINT"),
        ureq::Error::Http(why) => last(format!("no address: {why}"), "check the address, or HF_ENDPOINT"),
        ureq::Error::InvalidProxyUrl => last("the proxy's address is wrong".into(), "check ALL_PROXY, HTTPS_PROXY and HTTP_PROXY"),
        ureq::Error::ConnectProxyFailed(why) => last(format!("the proxy refuses: {why}"), "check ALL_PROXY, HTTPS_PROXY and NO_PROXY"),
        ureq::Error::HostNotFound => Stumble::again(Trouble::Unreachable, address, "no such host is known"),
        ureq::Error::Timeout(what) => Stumble::again(Trouble::Unreachable, address, format!("no answer in time ({what})")),
        other => Stumble::again(Trouble::Unreachable, address, other),
    }
}

/// An answer to a question that asked for no range.
pub(super) fn whole_answer(answer: Answer, address: &str) -> Result<Answer, Stumble> {
    match answer.status {
        200 => Ok(answer),
        other => Err(Stumble::again(Trouble::Protocol, address, format!("status {other} to a question for all of it"))),
    }
}

/// Reads at most `most` bytes of a text that ought to be short.
pub(super) fn text(answer: Answer, address: &str, most: u64) -> Result<String, Stumble> {
    let mut text = Vec::new();
    let read = answer.body.take(most).read_to_end(&mut text);
    read.map_err(|error| Stumble::again(Trouble::Unreachable, address, error))?;
    String::from_utf8(text).map_err(|_| {
        let fault = Fault::at(host_and_file(address)).expected("text").found("bytes that are none");
        Error::Network(Trouble::Protocol, fault).into()
    })
}

/// `https://host:port` of an address.
fn origin(address: &str) -> &str {
    let start = address.find("://").map_or(0, |at| at + 3);
    let end = address[start..].find(['/', '?', '#']).map_or(address.len(), |at| start + at);
    &address[..end]
}

/// An address as people should see it: no scheme, no query, which may be signed.
pub(super) fn host_and_file(address: &str) -> String {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    bare.split(['?', '#']).next().unwrap_or(bare).to_owned()
}

/// Where `location` leads from `base`; `None` where it is no web address.
fn joined(base: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return Some(location.to_owned());
    }
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{}://{rest}", base.split("://").next()?));
    }
    if location.starts_with('/') {
        return Some(format!("{}{location}", origin(base)));
    }
    if location.is_empty() || location.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) {
        return None; // another scheme
    }
    let path = base.split(['?', '#']).next().unwrap_or(base);
    let folder = path.rfind('/').filter(|at| *at >= origin(base).len()).map_or(path, |at| &path[..at]);
    Some(format!("{folder}/{location}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_on() {
        let base = "https://hub.org/a/b/file.gguf?x=/1";
        let cases = [
            ("https://cdn.org/x", Some("https://cdn.org/x")),
            ("//cdn.org/x", Some("https://cdn.org/x")),
            ("/c/d", Some("https://hub.org/c/d")),
            ("other.gguf", Some("https://hub.org/a/b/other.gguf")),
            ("", None),
            ("javascript:alert(1)", None),
        ];
        for (location, want) in cases {
            assert_eq!(joined(base, location).as_deref(), want, "{location}");
        }
        assert_eq!((origin(base), host_and_file(base).as_str()), ("https://hub.org", "hub.org/a/b/file.gguf"));
        assert_eq!(joined("https://hub.org", "x").as_deref(), Some("https://hub.org/x"));
    }

    #[test]
    fn servers_say_how_long_to_wait() {
        let headers =
            |name: &'static str, value: &str| [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect::<HeaderMap>();
        assert_eq!(wait(&headers("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(wait(&headers("ratelimit", "\"api\";r=0;t=55")), Some(Duration::from_secs(55)));
        assert_eq!(wait(&headers("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")), None);
        assert_eq!(plain_etag("W/\"abc\""), "abc");
    }
}
