//! Chat: a conversation with a model. A [`Chat`] owns the messages, the sampler and the cache; a [`Reply`] is the text of the
//! answer as it comes.
//!
//! Every turn the whole conversation is rendered and tokenised anew, as templates may change what came before (drop old
//! thinking, say), and the cache keeps the longest prefix that is still right. Bit-identical logits make that lossless.

use crate::error::{Error, Fault, Result};
use crate::generate::{Canceller, Course, EndReason, Session, Stats};
use crate::model::Model;
use crate::sampler::{Sampler, Sampling};
use crate::template::{Message, Role};
use crate::tokenizer::{Detokenizer, Token};
use serde_json::{Map, Value as Json};

/// A conversation. [`say`](Chat::say) adds a message and gives the reply.
///
/// ```
/// use hob::{Model, Sampling};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
/// let model = Model::open(path)?;
/// let mut chat = model.chat().system("Be brief.").sampling(Sampling::new(42)).max_tokens(8);
/// let answer = chat.say("Hello!")?.text()?;
/// assert_eq!(chat.messages().last().unwrap().content, answer);
/// println!("{}", chat.stats());
/// # Ok::<(), hob::Error>(())
/// ```
pub struct Chat {
    model: Model,
    sampling: Sampling,
    max_tokens: usize,
    messages: Vec<Message>,
    variables: Map<String, Json>,
    canceller: Canceller,
    /// Made with the first message.
    session: Option<Session>,
    /// One for the whole conversation: a seed gives one stream of random numbers, not the same one every turn.
    sampler: Option<Sampler>,
}

impl Chat {
    pub(crate) fn new(model: &Model) -> Chat {
        Chat {
            model: model.clone(),
            sampling: Sampling::default(),
            max_tokens: usize::MAX,
            messages: Vec::new(),
            variables: Map::new(),
            canceller: Canceller::default(),
            session: None,
            sampler: None,
        }
    }

    /// Begins with a system message.
    pub fn system(mut self, text: impl Into<String>) -> Chat {
        self.set_system(Some(text.into()));
        self
    }

    /// How replies are sampled; what it leaves unset is filled from the file.
    pub fn sampling(mut self, sampling: Sampling) -> Chat {
        self.set_sampling(sampling);
        self
    }

    /// Ends every reply after `n` tokens.
    pub fn max_tokens(mut self, n: usize) -> Chat {
        self.max_tokens = n;
        self
    }

    /// Sets a variable that the template may look at, as `enable_thinking`.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Json>) -> Chat {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Begins with these messages, said before.
    pub fn history(mut self, messages: impl IntoIterator<Item = Message>) -> Chat {
        self.messages.extend(messages);
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
        self.sampler = None;
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

    /// What stops the reply under way from another thread, while the prompt is read too. It is the same for every reply of this
    /// chat.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// What the last reply cost.
    pub fn stats(&self) -> Stats {
        self.session.as_ref().map(Session::stats).unwrap_or_default()
    }

    /// Tokens that the conversation fills of the context.
    pub fn tokens(&self) -> usize {
        if self.messages.iter().all(|m| m.role == Role::System) { 0 } else { self.session.as_ref().map_or(0, Session::len) }
    }

    /// Says `text` and gives the reply, an iterator over its pieces. The prompt is read when the first piece is asked for.
    ///
    /// # Errors
    /// [`Error::Input`] where the conversation does not fit into the context, [`Error::Template`] where the template refuses it,
    /// [`Error::Memory`] where there is no room for the cache. The conversation is then as it was before.
    pub fn say(&mut self, text: &str) -> Result<Reply<'_>> {
        self.messages.push(Message::new(Role::User, text));
        match self.begin() {
            Ok(unread) => {
                let text = self.model.tokenizer().stream().continuing();
                Ok(Reply {
                    course: Course::new(self.max_tokens),
                    chat: self,
                    unread,
                    detokenizer: text,
                    said: String::new(),
                    stage: Stage::Prompt,
                })
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// Readies the session and the sampler; returns the tokens of the prompt that the cache does not hold.
    fn begin(&mut self) -> Result<Vec<Token>> {
        let prompt = self.model.encode_chat(&self.messages, &self.variables)?;
        let context = self.model.context();
        if prompt.len() >= context {
            let fault = Fault::at("conversation").expected(format!("fewer tokens than the context's {context}"));
            let help = "say less, clear the conversation, or open the model with a larger context";
            return Err(Error::Input(fault.found(prompt.len()).help(help)));
        }
        if self.sampler.is_none() {
            self.sampler = Some(Sampler::new(&self.sampling.over(self.model.sampling()))?);
        }
        let session = match &mut self.session {
            Some(session) => session,
            empty @ None => empty.insert(Session::new(&self.model, self.canceller.clone())?),
        };
        // At least the last token is computed, for its logits.
        let common = session.tokens().iter().zip(&prompt).take_while(|(a, b)| a == b).count().min(prompt.len().saturating_sub(1));
        if session.truncate(common).is_err() {
            session.clear()?;
        }
        let kept = session.len();
        session.reset_stats();
        session.count_reused(session.computed());
        self.canceller.clear();
        Ok(prompt[kept..].to_vec())
    }
}

/// How far a reply has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The prompt is to be read.
    Prompt,
    /// Tokens come.
    Tokens,
    /// Its end is settled: what was said is in the conversation.
    Settled,
}

/// The answer as it comes: an iterator over pieces of text, each whole UTF-8. Dropping it stops it; what was said stays in
/// the conversation. Where it ends before anything is said, by a cancel or an error, the question is taken back with it.
pub struct Reply<'a> {
    chat: &'a mut Chat,
    unread: Vec<Token>,
    detokenizer: Detokenizer,
    said: String,
    course: Course,
    stage: Stage,
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

    /// Why it ended; `None` while it has not, or where it ended with an error.
    pub fn end(&self) -> Option<EndReason> {
        self.course.end
    }

    /// What has been said so far.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// The whole reply at once.
    ///
    /// # Errors
    /// As the iterator.
    pub fn text(mut self) -> Result<String> {
        for piece in &mut self {
            piece?;
        }
        Ok(self.said.clone())
    }

    /// Puts what was said into the conversation.
    fn settle(&mut self) {
        if self.stage == Stage::Settled {
            return;
        }
        self.stage = Stage::Settled;
        let answered = !self.said.is_empty() || self.course.end == Some(EndReason::EndOfTurn);
        if answered {
            self.chat.messages.push(Message::new(Role::Assistant, self.said.clone()));
        } else {
            self.chat.messages.pop();
        }
    }

    /// The end: what the detokenizer still holds, then nothing.
    fn finish(&mut self) -> Option<Result<String>> {
        let rest = self.detokenizer.finish();
        self.said.push_str(&rest);
        self.settle();
        if rest.is_empty() { None } else { Some(Ok(rest)) }
    }

    fn fail(&mut self, error: Error) -> Option<Result<String>> {
        let rest = self.detokenizer.finish();
        self.said.push_str(&rest);
        self.settle();
        Some(Err(error))
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        if self.stage == Stage::Settled {
            return None;
        }
        let (Some(session), Some(sampler)) = (&mut self.chat.session, &mut self.chat.sampler) else { return None };
        if self.stage == Stage::Prompt {
            self.stage = Stage::Tokens;
            match session.feed(&std::mem::take(&mut self.unread)) {
                Ok(()) => {
                    sampler.forget();
                    session.tokens().iter().for_each(|token| sampler.accept(*token));
                }
                Err(Error::Cancelled) => {
                    self.course.end = Some(EndReason::Cancelled);
                    return self.finish();
                }
                Err(error) => return self.fail(error),
            }
        }
        loop {
            match session.advance(sampler, &mut self.course) {
                Some(Ok(token)) => {
                    let piece = self.detokenizer.push(token);
                    if !piece.is_empty() {
                        self.said.push_str(&piece);
                        return Some(Ok(piece));
                    }
                }
                Some(Err(error)) => return self.fail(error),
                None => return self.finish(),
            }
        }
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests;
