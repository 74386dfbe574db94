//! Another way: what was said is taken back, said differently, or gone on with elsewhere. Nothing of it is lost: what is taken back stays
//! as a branch. The next answer finds in the cache all that the new way has in common with the old one.

use super::Chat;
use super::journal::{Entry, ModelNote};
use super::reply::Reply;
use super::saved::Unfinished;
use crate::error::{Error, Fault, Result};
use crate::model::Model;
use crate::template::{Message, Role};

impl Chat {
    /// Takes back the last question and all that came of it, and returns what it was. It stays as a branch.
    ///
    /// ```
    /// use hob::{Model, Sampling};
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    /// let mut chat = Model::open(path)?.chat().sampling(Sampling::new(42)).max_tokens(8);
    /// chat.say("Hello!")?.text()?;
    /// let first = chat.say("How are you?")?.text()?;
    /// chat.retry()?.text()?;                         // another answer to it
    /// chat.edit(2, "Who are you?")?.text()?;         // another question in its place
    /// assert_eq!(chat.undo().as_deref(), Some("Who are you?"));
    /// assert_eq!(chat.messages().len(), 2);
    /// chat.switch("main.1")?;                        // what retry took back
    /// assert_eq!(chat.messages().last().unwrap().content, first);
    /// # Ok::<(), hob::Error>(())
    /// ```
    pub fn undo(&mut self) -> Option<String> {
        let at = *self.conversation.asked_at().last()?;
        let question = self.conversation.questions().last().map(str::to_owned);
        self.settle_unfinished();
        self.conversation.cut(at);
        self.write_news();
        question
    }

    /// Answers the last question once more. The answer so far stays as a branch.
    ///
    /// # Errors
    /// [`Error::Input`] where nothing was asked; else as [`say`](Chat::say).
    pub fn retry(&mut self) -> Result<Reply<'_>> {
        let Some(at) = self.conversation.asked_at().last().copied() else {
            return Err(Error::Input(Fault::at("conversation").expected("a question to answer once more").found("none")));
        };
        self.settle_unfinished();
        let place = self.conversation.cut(at + 1);
        self.reply([], place)
    }

    /// Asks `text` in place of a question of the current branch, of which the first is 1, and goes on from there. What followed stays as a
    /// branch.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such question; else as [`say`](Chat::say).
    pub fn edit(&mut self, question: usize, text: &str) -> Result<Reply<'_>> {
        let asked = self.conversation.asked_at();
        let Some(at) = question.checked_sub(1).and_then(|n| asked.get(n)).copied() else {
            let fault = Fault::at("question").expected(format!("a number from 1 to {}", asked.len())).found(question);
            return Err(Error::Input(fault));
        };
        self.settle_unfinished();
        let place = self.conversation.cut(at);
        self.reply([Message::new(Role::User, text)], place)
    }

    /// Answers what stands last: a question that nobody has answered, or whose answer was cut off when the chat was last open. Such an answer
    /// goes on where it was, with the same bits; what was said of it comes first.
    ///
    /// # Errors
    /// [`Error::Input`] where nothing waits for an answer; else as [`say`](Chat::say).
    pub fn go_on(&mut self) -> Result<Reply<'_>> {
        if !self.waits() {
            return Err(Error::Input(Fault::at("conversation").expected("a question that waits for an answer").found("none")));
        }
        let Unfinished { tokens, .. } = self.unfinished.take().unwrap_or_default();
        let (place, rounds) = (self.conversation.place(), self.conversation.rounds());
        Ok(self.reply([], place)?.going_on(tokens, rounds))
    }

    /// Whether something waits for an answer: [`go_on`](Chat::go_on) gives it.
    pub fn waits(&self) -> bool {
        self.conversation.waits()
    }

    /// Goes on under a new name from here; the branch so far stays as it is.
    ///
    /// # Errors
    /// [`Error::Input`] where the name is taken, or is none.
    pub fn branch(&mut self, name: &str) -> Result<()> {
        self.settle_unfinished();
        let done = self.conversation.fork(name);
        self.write_news();
        done
    }

    /// Goes to another branch.
    ///
    /// # Errors
    /// [`Error::Input`] where there is none of this name.
    pub fn switch(&mut self, name: &str) -> Result<()> {
        self.settle_unfinished();
        let done = self.conversation.switch(name);
        self.write_news();
        done
    }

    /// Goes on with another model. What was said stays.
    pub fn set_model(&mut self, model: &Model) {
        self.settle_unfinished();
        self.drawn = self.sampler.take().map(|sampler| sampler.drawn()).or(self.drawn);
        (self.model, self.session, self.marks) = (model.clone(), None, None);
        let note = ModelNote::of(model);
        self.write([Entry::Model { model: note }]);
    }

    /// What was said of a reply that was cut off becomes a message; a question that nothing was said to stays.
    pub(super) fn settle_unfinished(&mut self) {
        if let Some(unfinished) = self.unfinished.take_if(|unfinished| !unfinished.tokens.is_empty()) {
            self.conversation.push(unfinished.message(), self.drawn);
            self.write_news();
        }
    }

    /// Something else is said instead of an answer to what waits: what was said of the answer stays, and where nothing was, the question goes.
    pub(super) fn give_up_unfinished(&mut self) {
        self.settle_unfinished();
        if self.unfinished.take().is_some()
            && let Some(at) = self.conversation.asked_at().last().copied()
        {
            self.conversation.cut(at);
            self.write_news();
        }
    }
}
