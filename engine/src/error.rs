//! The one error of hob: what went wrong, where, what was expected, what was found, and what to do.

use std::fmt;
use std::path::PathBuf;

/// What hob's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. The variant says whose fault it is; the text says the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder in question.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not sound: truncated, contradictory, or not a GGUF file at all.
    #[error("{0}")]
    Gguf(Fault),
    /// The file is sound, but hob cannot run what it asks for.
    #[error("{0}")]
    Unsupported(Fault),
    /// The model in the file is incomplete or its shapes do not fit together.
    #[error("{0}")]
    Model(Fault),
    /// The caller asked for something impossible.
    #[error("{0}")]
    Input(Fault),
    /// There is not enough memory.
    #[error("{0}")]
    Memory(Fault),
    /// A device to compute on is not there, or failed.
    #[error("{0}")]
    Device(Fault),
    /// A server, or the way to it, failed, or gave something other than what was asked for.
    #[error("{1}")]
    Network(Trouble, Fault),
    /// The chat template failed, or refused the conversation.
    #[error("{0}")]
    Template(Fault),
    /// A canceller stopped the work.
    #[error("cancelled")]
    Cancelled,
}

/// What went wrong on the way from a server to a file, for a program that wants to tell; the fault says it to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trouble {
    /// The network is not to be used (`HF_HUB_OFFLINE`).
    Offline,
    /// No connection, or none that holds: no such host, no route, a proxy or a certificate in the way.
    Unreachable,
    /// The server wants to know who asks, or does not believe it (401).
    Unauthorized,
    /// The server knows who asks, and does not give it to them (403): a gated repository, most often.
    Forbidden,
    /// There is no such repository, revision or file (404).
    Missing,
    /// Asked too often (429).
    Throttled,
    /// The server failed (5xx), again and again.
    Server,
    /// The server does not keep to the protocol: ranges that were not asked for, lengths that change.
    Protocol,
    /// The bytes that came are not those that were announced, twice in a row.
    Corrupt,
    /// The file on the server was replaced while it was being downloaded.
    Changed,
    /// The disk has no room for it.
    DiskFull,
}

/// The anatomy of an error: `place: expected E, found F; help`. Empty parts are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// What it is about, with its place: a file, a tensor, a metadata key, an option.
    pub place: String,
    /// What should have been there.
    pub expected: String,
    /// What was there.
    pub found: String,
    /// What the reader can do.
    pub help: String,
}

impl Fault {
    /// A fault at `place`.
    pub fn at(place: impl Into<String>) -> Fault {
        Fault { place: place.into(), ..Fault::default() }
    }

    /// Says what should have been there.
    pub fn expected(mut self, expected: impl fmt::Display) -> Fault {
        self.expected = expected.to_string();
        self
    }

    /// Says what was there.
    pub fn found(mut self, found: impl fmt::Display) -> Fault {
        self.found = found.to_string();
        self
    }

    /// Says what can be done.
    pub fn help(mut self, help: impl fmt::Display) -> Fault {
        self.help = help.to_string();
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        match (self.expected.as_str(), self.found.as_str()) {
            ("", "") => {}
            ("", found) => write!(f, ": {found}")?,
            (expected, "") => write!(f, ": expected {expected}")?,
            (expected, found) => write!(f, ": expected {expected}, found {found}")?,
        }
        match self.help.as_str() {
            "" => Ok(()),
            help => write!(f, "; {help}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_as_one_sentence() {
        let whole = Fault::at("blk.7.attn_q.weight").expected("[2048, 4096]").found("[2048, 2048]").help("head_count 32 x key_length 128");
        assert_eq!(whole.to_string(), "blk.7.attn_q.weight: expected [2048, 4096], found [2048, 2048]; head_count 32 x key_length 128");
        assert_eq!(Fault::at("model.gguf").found("file is empty").to_string(), "model.gguf: file is empty");
    }
}
