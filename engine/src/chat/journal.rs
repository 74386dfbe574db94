//! A saved chat: JSON lines, one for everything that happens, written and flushed as it happens.
//!
//! ```text
//! {"event":"begin","version":1,"created":1767225599}                 seconds since 1970
//! {"event":"model","name":"Qwen3 4B","path":"/models/q.gguf","hash":"9c1e…"}
//! {"event":"system","text":"Be brief."}                              null: none any more
//! {"event":"thinking","how":"low"}                                   what --think takes
//! {"event":"variables","set":{"mood":"good"}}                        for the chat template
//! {"event":"sampling","options":{"seed":42,"temperature":0.7}}       what is not there has its default
//! {"event":"message","id":0,"parent":null,"role":"user","content":"Why is the sky blue?"}
//! {"event":"token","id":785,"random":2,"answer":"The"}               a reply as it comes: token, random numbers used up, text
//! {"event":"message","id":1,"parent":0,"role":"assistant","content":"The …","thinking":"…","calls":[…],"drawn":{…}}
//! {"event":"message","id":2,"parent":1,"role":"tool","content":"4","answers":["call00001","double"]}
//! {"event":"branch","name":"main.1","tip":1}                         a name for the way that ends with message 1: made, or moved
//! {"event":"on","name":"main"}                                       the branch that the chat is on; it grows with each message
//! {"event":"forget","name":"main.1"}                                 a branch's name
//! {"event":"roll","first":4}                                         older messages are read no more, for want of room
//! {"event":"drawn","random":96}                                      random numbers used up, where no message says so
//! {"event":"clear"}                                                  nothing was said
//! ```
//!
//! A message follows its `parent`; the first branch is `main`. The `token` lines of a reply count until a message or a change of branch
//! follows, which says what became of it. So a chat that was cut off in the middle of a reply has all but, at most, the line
//! under way, and goes on with the same bits: a seed, how many random numbers were used up, and what mirostat and adaptive-p have
//! learnt (`learnt`: three numbers as the bits of an f64) are the whole state of sampling, and logits are bit-identical anyway.
//!
//! Each line is one `write` to a file that is not buffered, so it outlives the process; a thread beside asks the system to
//! bring it to the disk (`fdatasync`), as often as it can without anyone waiting for it.

use crate::error::{Error, Fault, Result};
use crate::sampler::Drawn;
use crate::template::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version of the format that is written.
pub(super) const VERSION: u32 = 1;
/// A disk is asked to write no more often than this.
const PAUSE: Duration = Duration::from_millis(20);

/// A line of a saved chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Entry {
    Begin {
        version: u32,
        created: u64,
    },
    Model {
        #[serde(flatten)]
        model: ModelNote,
    },
    System {
        text: Option<String>,
    },
    Thinking {
        how: String,
    },
    Variables {
        set: Map<String, Json>,
    },
    Sampling {
        options: Map<String, Json>,
    },
    Message {
        id: usize,
        parent: Option<usize>,
        #[serde(flatten)]
        message: Box<Message>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drawn: Option<Drawn>,
    },
    Token {
        id: u32,
        #[serde(flatten)]
        drawn: Drawn,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        thinking: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        answer: String,
    },
    Branch {
        name: String,
        tip: Option<usize>,
    },
    On {
        name: String,
    },
    Forget {
        name: String,
    },
    Roll {
        first: usize,
    },
    Drawn {
        #[serde(flatten)]
        drawn: Drawn,
    },
    Clear {},
}

/// Which model a chat was held with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelNote {
    /// What its file calls it.
    #[serde(default)]
    pub name: String,
    /// Its file; none for a model in memory.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// What tells it from others.
    #[serde(default)]
    pub hash: String,
}

/// A file that a chat is written to as it goes.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Arc<File>,
    /// Tells the thread that syncs; `None` where there is none.
    written: Option<SyncSender<()>>,
    syncs: Option<JoinHandle<()>>,
    /// Nothing is written any more.
    failed: Option<Error>,
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Journal {
    /// A new file, for its owner's eyes alone.
    ///
    /// # Errors
    /// [`Error::Io`] where it is there already or cannot be made.
    pub(super) fn create(path: &Path) -> Result<Journal> {
        let mut options = OpenOptions::new();
        options.create_new(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let journal = Journal::open(path, &options)?;
        // That there is such a file is to reach the disk too. Where a folder cannot be synced, it does when the system likes.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(journal)
    }

    /// A file that there is, to go on at its end.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened, [`Error::Input`] where it is in use.
    pub(super) fn append(path: &Path) -> Result<Journal> {
        Journal::open(path, OpenOptions::new().read(true).append(true))
    }

    fn open(path: &Path, options: &OpenOptions) -> Result<Journal> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = options.open(path).map_err(io)?;
        // Two writers would mix their lines. A file system that knows no locks does without.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let fault = Fault::at(path.display().to_string()).found("a chat that is open elsewhere");
            return Err(Error::Input(fault.help("close it there first")));
        }
        let file = Arc::new(file);
        let (written, wakes) = sync_channel(1);
        let syncing = Arc::clone(&file);
        let sync = move || {
            while let Ok(()) = wakes.recv() {
                // Where a disk cannot, the next write says what is wrong.
                let _ = syncing.sync_data();
                std::thread::sleep(PAUSE);
            }
        };
        // A machine that cannot start a thread leaves it to the system when a line reaches the disk.
        let syncs = std::thread::Builder::new().name("chat to disk".into()).spawn(sync).ok();
        Ok(Journal { path: path.to_owned(), file, written: syncs.is_some().then_some(written), syncs, failed: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file another name.
    ///
    /// # Errors
    /// [`Error::Io`] where there is a file of that name, or it cannot be moved.
    pub(super) fn move_to(&mut self, path: &Path) -> Result<()> {
        let taken = path.symlink_metadata().is_ok().then(|| std::io::ErrorKind::AlreadyExists.into());
        let moved = taken.map_or_else(|| std::fs::rename(&self.path, path), Err);
        moved.map_err(|source| Error::Io { path: path.to_owned(), source })?;
        self.path = path.to_owned();
        Ok(())
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Ends an unfinished line, so that the next begins at its own.
    pub(super) fn end_line(&mut self) {
        self.put(b"\n");
    }

    /// Writes entries. After an error nothing more is written.
    pub(super) fn write(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            match serde_json::to_vec(&entry) {
                Ok(mut line) => {
                    line.push(b'\n');
                    self.put(&line);
                }
                Err(why) => self.failed = Some(Error::Io { path: self.path.clone(), source: why.into() }),
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if let Err(source) = (&*self.file).write_all(bytes) {
            self.failed = Some(Error::Io { path: self.path.clone(), source });
        }
        if let Some(written) = &self.written {
            // Where it is told already, it will see this line too.
            let _ = written.try_send(());
        }
    }

    /// Why nothing is written any more.
    pub(super) fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    pub(super) fn take_error(&mut self) -> Option<Error> {
        self.failed.take()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.written = None;
        if let Some(thread) = self.syncs.take() {
            let _ = thread.join();
        }
        let _ = self.file.sync_data();
    }
}
