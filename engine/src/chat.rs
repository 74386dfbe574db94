//! Chat: a conversation with a model. A [`Chat`] owns the messages, the template's rendering of them and the cache; a
//! [`Reply`] is the text of the answer as it comes.

use crate::error::Result;
use crate::generate::{Canceller, EndReason, Stats, later};
use crate::model::Model;
use crate::sampler::Sampling;
use crate::template::{Message, Role};

/// A conversation. [`say`](Chat::say) adds a message and gives the reply.
pub struct Chat {
    model: Model,
    sampling: Sampling,
    max_tokens: usize,
    messages: Vec<Message>,
    variables: serde_json::Map<String, serde_json::Value>,
    canceller: Canceller,
}

impl Chat {
    pub(crate) fn new(model: &Model) -> Chat {
        Chat {
            model: model.clone(),
            sampling: Sampling::default(),
            max_tokens: usize::MAX,
            messages: Vec::new(),
            variables: serde_json::Map::new(),
            canceller: Canceller::default(),
        }
    }

    /// Begins with a system message.
    pub fn system(mut self, text: impl Into<String>) -> Chat {
        self.set_system(Some(text.into()));
        self
    }

    /// How replies are sampled; what it leaves unset is filled from the file.
    pub fn sampling(mut self, sampling: Sampling) -> Chat {
        self.sampling = sampling;
        self
    }

    /// Ends every reply after `n` tokens.
    pub fn max_tokens(mut self, n: usize) -> Chat {
        self.max_tokens = n;
        self
    }

    /// Sets a variable that the template may look at, as `enable_thinking`.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Chat {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Changes or removes the system message. It holds from the next message on.
    pub fn set_system(&mut self, text: Option<String>) {
        self.messages.retain(|m| m.role != Role::System);
        if let Some(text) = text {
            self.messages.insert(0, Message::new(Role::System, text));
        }
    }

    /// Changes how replies are sampled.
    pub fn set_sampling(&mut self, sampling: Sampling) {
        self.sampling = sampling;
    }

    /// The conversation so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Forgets the conversation, all but the system message.
    pub fn clear(&mut self) {
        self.messages.retain(|m| m.role == Role::System);
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What stops the reply under way from another thread. It is the same for every reply of this chat.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// What the last reply cost.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Tokens that the conversation fills of the context.
    pub fn tokens(&self) -> usize {
        0
    }

    /// Says `text` and gives the reply, an iterator over its pieces. The prompt is read when the first piece is asked for.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) where the conversation does not fit into the context, [`Error::Template`](crate::Error::Template)
    /// where the template refuses it. The chat is then as it was before.
    pub fn say(&mut self, text: &str) -> Result<Reply<'_>> {
        let _ = (&self.sampling, self.max_tokens, &self.variables);
        self.canceller.clear();
        Err(later(text.len()))
    }
}

/// The answer as it comes: an iterator over pieces of text, each whole UTF-8. Dropping it stops it; what was said stays in
/// the conversation.
pub struct Reply<'a> {
    chat: &'a mut Chat,
    text: String,
    end: Option<EndReason>,
}

impl Reply<'_> {
    /// What it has cost so far.
    pub fn stats(&self) -> Stats {
        self.chat.stats()
    }

    /// What stops it from another thread.
    pub fn canceller(&self) -> Canceller {
        self.chat.canceller()
    }

    /// Why it ended; `None` while it has not.
    pub fn end(&self) -> Option<EndReason> {
        self.end
    }

    /// What has been said so far.
    pub fn said(&self) -> &str {
        &self.text
    }

    /// The whole reply at once.
    ///
    /// # Errors
    /// As the iterator.
    pub fn text(mut self) -> Result<String> {
        for piece in &mut self {
            piece?;
        }
        Ok(std::mem::take(&mut self.text))
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        Some(Err(later(0)))
    }
}
