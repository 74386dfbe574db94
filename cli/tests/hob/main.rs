//! The built program as its users meet it: what it prints where, and how it exits.

mod chat;
mod errors;
mod generation;
mod guide;
mod help;
mod listings;
#[cfg(feature = "hub")]
mod models;
mod plans;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A tiny model with random weights, a tokenizer and a chat template.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/data/tiny.gguf");

/// What a finished run left.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Done {
    fn new(output: Output) -> Done {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The output of a run that must have gone well.
    #[track_caller]
    fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.fine()).expect("output is JSON")
    }
}

/// What would lead to the reader's own models, or to the network by another way.
const FOREIGN: [&str; 22] = [
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HOB_OFFLINE",
    "HOB_MODELS",
    "OLLAMA_MODELS",
    "LLAMA_CACHE",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "LOCALAPPDATA",
    "ALL_PROXY",
    "all_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "HF_TOKEN_PATH",
    "HF_HUB_DISABLE_SYMLINKS",
];

/// hob, away from the reader's own history, level, colours and models.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
    command.args(args).env("XDG_STATE_HOME", scratch("state")).env("HOB_CACHE", scratch("cache")).env("HOB_DATA", scratch("data"));
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.env("HOME", scratch("home"));
    command
}

fn hob(args: &[&str]) -> Done {
    Done::new(command(args).output().expect("hob runs"))
}

/// hob, fed with `input`.
fn hob_reads(args: &[&str], input: &str) -> Done {
    let mut child = command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("hob runs");
    // A program that refuses early does not read; that is for the caller to judge.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    Done::new(child.wait_with_output().expect("hob ends"))
}

/// A file of this test run.
fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    folder.join(format!("{}-{name}", std::process::id()))
}
