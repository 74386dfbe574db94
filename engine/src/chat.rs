//! Chat: a conversation with a model. A [`Chat`] owns the messages, the sampler and the cache; a [`Reply`] is the text of the
//! answer as it comes.
//!
//! ```text
//! chat.rs           what a chat is asked for, and how a turn begins
//! reply.rs          the answer as it comes
//! conversation.rs   messages and branches          edit.rs      undo, retry, edit, branch, another model
//! room.rs           when the context is full       tools.rs     what the model may call
//! save.rs           chats that are saved           saved.rs     and read again, in the format of journal.rs
//! ```
//!
//! Every turn the whole conversation is rendered and tokenised anew, as templates may change what came before (drop old
//! thinking, say), and the cache keeps the longest prefix that is still right. Bit-identical logits make that lossless. So an
//! edit, another branch or a chat of yesterday need nothing of their own: what the cache holds of them is used.

use crate::error::Result;
use crate::generate::{Canceller, Course, Session, Stats};
use crate::grammar::Grammar;
use crate::model::Model;
pub use crate::reply::Rolled;
use crate::reply::{Format, Offered, Stream};
use crate::sampler::{Drawn, Sampler, Sampling};
use crate::template::{Message, Role, Thinking};
use crate::tokenizer::{Detokenizer, Token};
use journal::Journal;
use room::Fitted;
use saved::Unfinished;
use serde_json::{Map, Value as Json};
use std::sync::Arc;
use tools::Tool;

mod ask;
mod conversation;
mod edit;
mod journal;
mod places;
mod reply;
mod room;
mod save;
mod saved;
mod tools;

pub use conversation::{BranchInfo, Conversation};
pub use journal::ModelNote;
pub use reply::Reply;
pub use room::{Full, Usage};
pub use saved::Saved;

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
    stops: Vec<String>,
    bans: Vec<String>,
    grammar: Option<Grammar>,
    /// How many of the likeliest tokens are asked for.
    top: Option<usize>,
    conversation: Conversation,
    full: Full,
    variables: Map<String, Json>,
    thinking: Thinking,
    tools: Vec<Tool>,
    /// Calls so far: their number makes an id.
    called: usize,
    /// Control tokens whose text marks a part of a reply.
    marks: Option<Arc<[Token]>>,
    canceller: Canceller,
    /// Made with the first message.
    session: Option<Session>,
    /// One for the whole conversation: a seed gives one stream of random numbers, not the same one every turn.
    sampler: Option<Sampler>,
    /// Where a sampler that is to be made goes on.
    drawn: Option<Drawn>,
    journal: Option<Journal>,
    /// A reply that was cut off when the chat was last open.
    unfinished: Option<Unfinished>,
}

impl Model {
    /// A new conversation. Its cache is allocated with the first message.
    pub fn chat(&self) -> Chat {
        Chat::new(self)
    }
}

impl Chat {
    pub(crate) fn new(model: &Model) -> Chat {
        Chat {
            model: model.clone(),
            sampling: Sampling::default(),
            max_tokens: usize::MAX,
            stops: Vec::new(),
            bans: Vec::new(),
            grammar: None,
            top: None,
            conversation: Conversation::default(),
            full: Full::default(),
            variables: Map::new(),
            thinking: Thinking::Auto,
            tools: Vec::new(),
            called: 0,
            marks: None,
            canceller: Canceller::default(),
            session: None,
            sampler: None,
            drawn: None,
            journal: None,
            unfinished: None,
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
        self.set_max_tokens(n);
        self
    }

    /// Ends every reply where it says `text`, which is cut off.
    pub fn stop(mut self, text: impl Into<String>) -> Chat {
        self.stops.push(text.into());
        self
    }

    /// No reply says `text`: what begins it is taken back and something else said.
    pub fn ban(mut self, text: impl Into<String>) -> Chat {
        self.bans.push(text.into());
        self
    }

    /// Asks for the log-probability of every token of a reply, and of the `top` likeliest in its place: [`Reply::logprobs`].
    pub fn logprobs(mut self, top: usize) -> Chat {
        self.top = Some(top);
        self
    }

    /// Sets a variable that the template may look at, as `enable_thinking`.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Json>) -> Chat {
        self.variables.insert(name.into(), value.into());
        self.write_variables();
        self
    }

    /// How much the model is to think, as far as its template heeds it: [`ignored`](Chat::ignored) says what it does not.
    pub fn thinking(mut self, thinking: Thinking) -> Chat {
        self.set_thinking(thinking);
        self
    }

    /// Changes how much the model is to think.
    pub fn set_thinking(&mut self, thinking: Thinking) {
        if self.thinking != thinking {
            self.thinking = thinking;
            self.write_thinking();
        }
    }

    /// Begins with these messages, said before. A system message in front is the chat's own.
    pub fn history(mut self, messages: impl IntoIterator<Item = Message>) -> Chat {
        for message in messages {
            if message.role == Role::System && self.conversation.is_empty() {
                self.conversation.set_system(Some(message.content));
            } else {
                self.conversation.push(message, None);
            }
        }
        self.called = self.conversation.calls();
        self.write_news();
        self
    }

    /// Changes or removes the system message. It holds from the next message on.
    pub fn set_system(&mut self, text: Option<String>) {
        self.conversation.set_system(text);
        self.write_news();
    }

    /// Changes how replies are sampled. Where the seed stays as it is, or is left open, the random numbers go on.
    pub fn set_sampling(&mut self, sampling: Sampling) {
        let drawn = self.sampler.take().map(|sampler| sampler.drawn()).or(self.drawn);
        self.drawn = drawn.filter(|drawn| sampling.seed.is_none_or(|seed| drawn.seed == Some(seed)));
        self.sampling = sampling;
    }

    /// How replies are sampled, as far as it was asked for.
    pub fn sampling_asked(&self) -> &Sampling {
        &self.sampling
    }

    /// How much the model was asked to think.
    pub fn thinking_asked(&self) -> Thinking {
        self.thinking
    }

    /// Changes after how many tokens a reply ends.
    pub fn set_max_tokens(&mut self, n: usize) {
        self.max_tokens = n;
    }

    /// Changes the texts that end a reply.
    pub fn set_stops(&mut self, texts: impl IntoIterator<Item = String>) {
        self.stops = texts.into_iter().collect();
    }

    /// Changes the texts that no reply says.
    pub fn set_bans(&mut self, texts: impl IntoIterator<Item = String>) {
        self.bans = texts.into_iter().collect();
    }

    /// The conversation so far, on the current branch.
    pub fn messages(&self) -> &[Message] {
        self.conversation.messages()
    }

    /// The conversation with all its branches.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Forgets the conversation, all but the system message.
    pub fn clear(&mut self) {
        self.unfinished = None;
        self.conversation.clear();
        self.write_news();
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

    /// Tokens that the conversation fills of the context, as of the last reply.
    pub fn tokens(&self) -> usize {
        if self.conversation.is_empty() { 0 } else { self.session.as_ref().map_or(0, Session::len) }
    }

    /// Says `text` and gives the reply, an iterator over its pieces. The prompt is read when the first piece is asked for.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) where the conversation does not fit into the context,
    /// [`Error::Template`](crate::Error::Template) where the template refuses it, [`Error::Memory`](crate::Error::Memory) where there
    /// is no room for the cache. The conversation is then as it was before.
    pub fn say(&mut self, text: &str) -> Result<Reply<'_>> {
        self.respond([Message::new(Role::User, text)])
    }

    /// Adds messages, as the results of tools that the caller runs ([`Message::result`]), and gives the reply.
    ///
    /// # Errors
    /// As [`say`](Chat::say).
    pub fn respond(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<Reply<'_>> {
        self.give_up_unfinished();
        let place = self.conversation.place();
        self.reply(messages, place)
    }

    /// Adds messages and gives the reply. Where nothing comes of it, the conversation goes back to `place`.
    fn reply(&mut self, messages: impl IntoIterator<Item = Message>, place: conversation::Place) -> Result<Reply<'_>> {
        messages.into_iter().for_each(|message| self.conversation.push(message, None));
        self.write_news();
        self.session.iter_mut().for_each(Session::reset_stats);
        match self.course().and_then(|course| Ok((course, self.begin()?))) {
            Ok((course, begun)) => {
                self.canceller.clear();
                Ok(Reply::new(self, course, begun, place))
            }
            Err(error) => {
                self.conversation.back(place);
                self.write_news();
                Err(error)
            }
        }
    }

    /// The course of a reply.
    fn course(&mut self) -> Result<Course> {
        let text = self.detokenizer();
        let course = Course::new(self.max_tokens).of_text(text, &self.stops, &self.bans, self.top).guided(self.guide()?);
        course.check()?;
        let course = if self.journal.is_some() { course.recorded() } else { course };
        Ok(match self.full {
            Full::Stop => course,
            Full::Roll => course.pausing(),
        })
    }

    /// A detokenizer that lets through what marks the parts of a reply.
    fn detokenizer(&mut self) -> Detokenizer {
        let format = Format::of(self.model.template().source());
        let tokenizer = self.model.tokenizer();
        let marks = self.marks.get_or_insert_with(|| {
            let known = |id: &Token| tokenizer.token_text(*id).is_some_and(|text| !text.is_empty() && format.knows(text));
            (0..tokenizer.vocab_size() as Token).filter(known).collect()
        });
        tokenizer.stream().continuing().show(Arc::clone(marks))
    }

    /// The variables that the template is given.
    fn variables(&self) -> Map<String, Json> {
        let (mut variables, _) = self.model.template().heeds(self.thinking);
        variables.extend(self.variables.clone());
        variables
    }

    /// Messages as the model reads them.
    fn encode(&self, messages: &[Message], tools: &[Json]) -> Result<(Vec<Token>, String)> {
        self.model.encode_prompt(messages, tools, &self.variables())
    }

    /// Readies the session and the sampler for an answer to what was said.
    fn begin(&mut self) -> Result<Begun> {
        let tools = self.schemas()?;
        let Fitted { tokens: prompt, text, rolled } = self.fitted(0)?;
        let offered = if tools.is_empty() && !self.variables().contains_key("tools") { Offered::Nothing } else { Offered::Tools };
        let stream = Stream::new(Format::of(self.model.template().source()), &text, &tools, offered);
        self.ready_sampler()?;
        let unread = self.keep(&prompt)?;
        self.mark_cuts(&prompt, &tools);
        Ok(Begun { unread, stream, rolled })
    }

    /// Cuts the session back to what it shares with a prompt, and returns the rest of that.
    fn keep(&mut self, prompt: &[Token]) -> Result<Vec<Token>> {
        let session = match &mut self.session {
            Some(session) => session,
            empty @ None => empty.insert(Session::new(&self.model, self.canceller.clone())?),
        };
        // At least the last token is computed, for its logits.
        let common = session.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count().min(prompt.len().saturating_sub(1));
        if session.truncate(common).is_err() {
            session.clear()?;
        }
        let kept = session.len();
        session.count_reused(session.computed());
        Ok(prompt[kept..].to_vec())
    }

    /// Tells a session that cannot be cut back everywhere where a later prompt may part from this one.
    fn mark_cuts(&mut self, prompt: &[Token], tools: &[Json]) {
        if !self.session.as_ref().is_some_and(Session::needs_marks) {
            return;
        }
        let messages = self.conversation.read_from(self.conversation.begins_at());
        let places = places::partings(&self.model, &messages, prompt, tools, &self.variables());
        if let Some(session) = &mut self.session {
            session.expect_cuts(places);
        }
    }

    /// Makes the sampler where there is none, going on where the last one was.
    fn ready_sampler(&mut self) -> Result<()> {
        if self.sampler.is_some() {
            return Ok(());
        }
        let mut sampling = self.sampling.over(self.model.sampling());
        sampling.seed = sampling.seed.or(self.drawn.and_then(|drawn| drawn.seed));
        let mut sampler = Sampler::new(&sampling)?;
        sampler.vocabulary(self.model.tokenizer());
        if let Some(drawn) = self.drawn.take() {
            sampler.go_on(drawn);
        }
        self.sampler = Some(sampler);
        self.write_sampling();
        Ok(())
    }
}

/// A turn that is ready to be read and answered.
struct Begun {
    /// Tokens of the prompt that the cache does not hold.
    unread: Vec<Token>,
    /// What will read the reply.
    stream: Stream,
    rolled: Option<Rolled>,
}

#[cfg(test)]
mod tests;
