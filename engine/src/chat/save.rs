//! Chats that are written to a file as they go, and taken up again.

use super::Chat;
use super::journal::{Entry, Journal, ModelNote, VERSION, now};
use super::saved::Saved;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::Model;
use crate::sampler::Drawn;
use serde_json::{Map, Value as Json};
use std::path::Path;

/// Tensors of which a few bytes tell a model from others of its shape, and how many bytes.
const LOOKED_AT: (usize, usize) = (32, 4096);

impl Chat {
    /// Writes the chat to a new file, and from here on everything as it happens: see [`Saved`]. Where it has a file already, that is moved.
    ///
    /// # Errors
    /// [`Error::Io`] where a file is there already or cannot be written.
    pub fn save_to(&mut self, path: impl AsRef<Path>) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            return journal.move_to(path.as_ref());
        }
        let mut journal = Journal::create(path.as_ref())?;
        self.conversation.news();
        journal.write([Entry::Begin { version: VERSION, created: now() }, Entry::Model { model: ModelNote::of(&self.model) }]);
        self.journal = Some(journal);
        if self.thinking != crate::Thinking::Auto {
            self.write_thinking();
        }
        if !self.variables.is_empty() {
            self.write_variables();
        }
        let entries = self.conversation.entries();
        self.write(entries);
        if self.sampler.is_some() {
            self.write_sampling();
        }
        match self.journal.as_mut().and_then(Journal::take_error) {
            None => Ok(()),
            Some(error) => {
                self.journal = None;
                Err(error)
            }
        }
    }

    /// The file that the chat is written to.
    pub fn saved_to(&self) -> Option<&Path> {
        self.journal.as_ref().map(Journal::path)
    }

    /// Why the chat is not written to its file any more: a full disk, say. The chat itself goes on.
    pub fn save_error(&self) -> Option<&Error> {
        self.journal.as_ref().and_then(Journal::failed)
    }

    /// Writes no more. What was written stays.
    pub fn stop_saving(&mut self) {
        self.journal = None;
    }

    /// Takes up a saved chat: its messages and branches, system message, thinking, variables, and sampling with its random numbers. Where
    /// it was [opened](Saved::open), it is written to as it goes. With the model it was held with, it goes on with the same bits as
    /// if it had never been closed; steps of sampling of one's own, tools and limits must be given again.
    ///
    /// [`go_on`](Chat::go_on) goes on with a reply that was cut off. With another model, what was said of it stays as it is.
    pub fn resume(mut self, saved: Saved) -> Chat {
        let note = ModelNote::of(&self.model);
        let same = saved.model.as_ref().is_some_and(|model| model.hash == note.hash);
        let vocabulary = self.model.tokenizer().vocab_size();
        let readable = saved.unfinished.tokens.iter().all(|(token, _)| (*token as usize) < vocabulary);
        self.drawn = saved.drawn.map(|drawn| Drawn { seed: saved.sampling.seed, ..drawn });
        (self.sampling, self.sampler) = (saved.sampling, None);
        (self.thinking, self.variables) = (saved.thinking, saved.variables);
        (self.conversation, self.journal) = (saved.conversation, saved.journal);
        self.called = self.conversation.calls();
        self.unfinished = self.conversation.waits().then_some(saved.unfinished);
        if !same {
            self.write([Entry::Model { model: note }]);
        }
        if !same || !readable {
            self.settle_unfinished();
        }
        self
    }

    /// Writes entries to the file that the chat is saved in.
    pub(super) fn write(&mut self, entries: impl IntoIterator<Item = Entry>) {
        if let Some(journal) = &mut self.journal {
            journal.write(entries);
        }
    }

    /// Writes what happened to the conversation.
    pub(super) fn write_news(&mut self) {
        let news = self.conversation.news();
        self.write(news);
    }

    pub(super) fn write_thinking(&mut self) {
        let how = self.thinking.to_string();
        self.write([Entry::Thinking { how }]);
    }

    pub(super) fn write_variables(&mut self) {
        let set = self.variables.clone();
        self.write([Entry::Variables { set }]);
    }

    /// Writes how the sampler was made, and where it is.
    pub(super) fn write_sampling(&mut self) {
        let Some(sampler) = &self.sampler else { return };
        let mut sampling = self.sampling.clone();
        sampling.seed = Some(sampler.seed());
        // By way of the text, where an f32 is as short as it is written.
        let options = serde_json::to_string(&sampling).and_then(|text| serde_json::from_str::<Map<String, Json>>(&text));
        let mut options = options.unwrap_or_default();
        options.retain(|_, value| !value.is_null());
        if sampling.logit_bias.is_empty() {
            options.remove("logit_bias");
        }
        self.write([Entry::Sampling { options }]);
        self.write_drawn();
    }

    /// Writes how far the random numbers have come.
    pub(super) fn write_drawn(&mut self) {
        if let Some(drawn) = self.sampler.as_ref().map(|sampler| sampler.drawn()).filter(|drawn| drawn.random > 0) {
            self.write([Entry::Drawn { drawn }]);
        }
    }
}

impl ModelNote {
    /// What tells a model from others. The hash is of the names, types and places of its tensors and of a little of their bytes.
    pub fn of(model: &Model) -> ModelNote {
        let gguf = model.gguf();
        let name = gguf.metadata().str("general.name").ok().flatten().unwrap_or_default().to_owned();
        ModelNote { name, path: gguf.path().map(Path::to_owned), hash: fingerprint(gguf) }
    }
}

/// FNV-1a of what a file says of its tensors and of a little of their bytes: a second of hashing gigabytes would not tell more.
fn fingerprint(gguf: &Gguf) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| bytes.iter().for_each(|byte| hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let (tensors, most) = LOOKED_AT;
    let every = gguf.tensors().len().div_ceil(tensors).max(1);
    for (at, tensor) in gguf.tensors().enumerate() {
        eat(tensor.name.as_bytes());
        eat(tensor.kind.name().as_bytes());
        tensor.dims.iter().for_each(|n| eat(&n.to_le_bytes()));
        if at % every == 0 {
            let bytes = gguf.bytes(tensor);
            eat(&bytes[..bytes.len().min(most)]);
        }
    }
    format!("{hash:016x}")
}
