//! How a command ends when it does not end well, and what the shell and the reader see of it.

use std::io;
use std::process::ExitCode;

use hob::{Error, Fault};

use crate::terminal::{Ink, ink, note, printable};

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library refused.
    Engine(Error),
    /// The command line asks for something that makes no sense; the help says what would.
    Usage { what: String, help: String },
    /// The reader of stdout has gone, or cannot take what it is given.
    Output(io::Error),
    /// Ctrl-C.
    Interrupted,
}

impl Failure {
    pub(crate) fn usage(what: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure::Usage { what: what.into(), help: help.into() }
    }

    /// The system's refusal to read or write `path`.
    pub(crate) fn io(path: impl Into<std::path::PathBuf>, source: io::Error) -> Failure {
        Failure::Engine(Error::Io { path: path.into(), source })
    }

    /// Tells the reader, and gives the exit status: 0 where the reader of a pipe left, 1 for an error, 2 for wrong usage, 130
    /// for Ctrl-C, as shells count it.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Failure::Engine(error) => {
                let (what, help) = describe(error);
                tell(&what, &help);
                ExitCode::FAILURE
            }
            Failure::Usage { what, help } => {
                tell(what, help);
                ExitCode::from(2)
            }
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Failure::Output(error) => {
                tell(&format!("standard output: {error}"), "");
                ExitCode::FAILURE
            }
            Failure::Interrupted => ExitCode::from(130),
        }
    }
}

/// Prints `error: …` and, where there is one, a line of help.
pub(crate) fn tell(what: &str, help: &str) {
    note(&format!("{} {}", ink(Ink::Error, "error:"), printable(what)));
    if !help.is_empty() {
        note(&format!("{} {}", ink(Ink::Help, " help:"), printable(help)));
    }
}

/// An error of the library as a sentence and what to do about it.
pub(crate) fn describe(error: &Error) -> (String, String) {
    match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            (error.to_string(), "check the path; a model is a .gguf file".into())
        }
        Error::Gguf(fault)
        | Error::Unsupported(fault)
        | Error::Model(fault)
        | Error::Input(fault)
        | Error::Memory(fault)
        | Error::Device(fault)
        | Error::Network(_, fault)
        | Error::Template(fault) => (Fault { help: String::new(), ..fault.clone() }.to_string(), fault.help.clone()),
        other => (other.to_string(), String::new()),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Cancelled => Failure::Interrupted,
            other => Failure::Engine(other),
        }
    }
}

/// A bare `io::Error` in a command is always stdout's: files are opened and written through [`Failure::io`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}
