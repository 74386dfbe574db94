//! What a saved chat holds: read line by line, and what cannot be read is left out and said.

use super::conversation::Conversation;
use super::journal::{Entry, Journal, ModelNote, VERSION};
use crate::error::{Error, Fault, Result};
use crate::sampler::{Drawn, Sampling};
use crate::template::{Message, Role, Thinking};
use serde_json::{Map, Value as Json};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// A reply that was cut off, as far as it had come.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Unfinished {
    pub(super) tokens: Vec<(u32, Drawn)>,
    thinking: String,
    answer: String,
}

impl Unfinished {
    /// What was said, as a message.
    pub(super) fn message(&self) -> Message {
        Message::new(Role::Assistant, self.answer.clone()).thinking(self.thinking.clone())
    }
}

/// A chat from a file. [`Chat::resume`](super::Chat::resume) goes on with it.
///
/// ```
/// use hob::{Model, Sampling, chat::Saved};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
/// # let file = std::env::temp_dir().join(format!("hob-doc-{}.jsonl", std::process::id()));
/// let model = Model::open(path)?;
/// let mut chat = model.chat().sampling(Sampling::new(42)).max_tokens(8);
/// chat.save_to(&file)?;                              // from here on everything is written as it happens
/// let answer = chat.say("Hello!")?.text()?;
/// drop(chat);
///
/// let mut chat = model.chat().resume(Saved::open(&file)?).max_tokens(8);
/// assert_eq!(chat.messages().last().unwrap().content, answer);
/// chat.say("And now?")?.text()?;                     // the same as if it had never been closed
/// # drop(chat);
/// # std::fs::remove_file(&file).unwrap();
/// # Ok::<(), hob::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Saved {
    pub(super) conversation: Conversation,
    pub(super) created: u64,
    pub(super) model: Option<ModelNote>,
    pub(super) thinking: Thinking,
    pub(super) variables: Map<String, Json>,
    pub(super) sampling: Sampling,
    pub(super) drawn: Option<Drawn>,
    pub(super) unfinished: Unfinished,
    pub(super) notes: Vec<String>,
    pub(super) journal: Option<Journal>,
}

impl Saved {
    /// Reads a file to look at.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Input`] where it is no saved chat.
    pub fn read(path: impl AsRef<Path>) -> Result<Saved> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Saved::parse(&bytes, path)
    }

    /// Reads a file to go on with, where nobody else does.
    ///
    /// # Errors
    /// As [`read`](Saved::read); and [`Error::Input`] where the chat is open elsewhere.
    pub fn open(path: impl AsRef<Path>) -> Result<Saved> {
        let path = path.as_ref();
        let mut journal = Journal::append(path)?;
        let mut bytes = Vec::new();
        journal.file().read_to_end(&mut bytes).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let mut saved = Saved::parse(&bytes, path)?;
        if !bytes.ends_with(b"\n") {
            journal.end_line();
        }
        saved.journal = Some(journal);
        Ok(saved)
    }

    /// Its messages and branches.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// The model it was held with last.
    pub fn model(&self) -> Option<&ModelNote> {
        self.model.as_ref()
    }

    /// When it was begun, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// How replies were sampled.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Lines that could not be read, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a reply was cut off.
    pub fn is_unfinished(&self) -> bool {
        self.conversation.waits()
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Saved> {
        let mut saved = Saved::default();
        let mut ids = HashMap::new();
        let mut lines =
            bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace)).peekable();
        let place = path.display().to_string();
        let mut begun = false;
        while let Some((at, line)) = lines.next() {
            let entry = read_line(line);
            if !begun {
                match entry {
                    Ok(Entry::Begin { version: 1..=VERSION, created }) => saved.created = created,
                    Ok(Entry::Begin { version, .. }) => {
                        let fault = Fault::at(place).expected(format!("a chat of version {VERSION} or older")).found(version);
                        return Err(Error::Input(fault.help("a newer hob wrote it")));
                    }
                    Ok(_) | Err(_) => return Err(Error::Input(Fault::at(place).expected("a saved chat").found("another file"))),
                }
                begun = true;
                continue;
            }
            let taken = entry.and_then(|entry| saved.take(entry, &mut ids));
            if let Err(why) = taken {
                let last = lines.peek().is_none();
                let note = if last {
                    format!("the last line was cut off, and is left out ({why})")
                } else {
                    format!("line {} is left out: {why}", at + 1)
                };
                saved.notes.push(note);
            }
        }
        // A file that nothing was written to yet, as after a power cut, is an empty chat.
        Ok(saved)
    }

    fn take(&mut self, mut entry: Entry, ids: &mut HashMap<usize, usize>) -> std::result::Result<(), String> {
        let known = |id: &mut usize| ids.get(id).map(|own| *id = *own).ok_or_else(|| format!("there is no message {id}"));
        let mut lacks = Ok(());
        match &mut entry {
            Entry::Begin { .. } => return Err("a chat begins once".into()),
            Entry::Model { model } => self.model = Some(model.clone()),
            Entry::Thinking { how } => self.thinking = how.parse()?,
            Entry::Variables { set } => self.variables.clone_from(set),
            Entry::Sampling { options } => {
                self.sampling = serde_json::from_value(Json::Object(std::mem::take(options))).map_err(|e| e.to_string())?;
                self.drawn = None;
            }
            // Also written in the middle of a reply that was cut off, when the chat is taken up again.
            Entry::Drawn { drawn } => self.drawn = Some(*drawn),
            Entry::Token { id, drawn, thinking, answer } => {
                self.unfinished.tokens.push((*id, *drawn));
                self.unfinished.thinking.push_str(thinking);
                self.unfinished.answer.push_str(answer);
            }
            Entry::Message { id, parent, drawn, .. } => {
                // Where the line of the message before it is lost, it follows the last that there is.
                if let Some(before) = parent
                    && let Err(why) = known(before)
                {
                    *parent = self.conversation.last();
                    lacks = Err(format!("{why}; what follows it is kept"));
                }
                let next = self.conversation.len();
                ids.insert(*id, next);
                *id = next;
                self.drawn = drawn.or(self.drawn);
                self.unfinished = Unfinished::default();
            }
            Entry::Branch { tip, .. } => {
                tip.iter_mut().try_for_each(known)?;
                self.unfinished = Unfinished::default();
            }
            Entry::On { .. } | Entry::Clear {} => self.unfinished = Unfinished::default(),
            Entry::Roll { first } => known(first)?,
            Entry::System { .. } | Entry::Forget { .. } => {}
        }
        self.conversation.apply(&entry)?;
        lacks
    }
}

fn read_line(line: &[u8]) -> std::result::Result<Entry, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}
