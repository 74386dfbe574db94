//! Chat: a conversation with a model. A [`Chat`] owns the messages, the sampler and the cache; a [`Reply`] is the text of the
//! answer as it comes.
//!
//! Every turn the whole conversation is rendered and tokenised anew, as templates may change what came before (drop old
//! thinking, say), and the cache keeps the longest prefix that is still right. Bit-identical logits make that lossless.

use crate::error::{Error, Fault, Result};
use crate::generate::{Canceller, Course, EndReason, Session, Stats};
use crate::grammar::Grammar;
use crate::model::Model;
use crate::reply::{Event, Format, Offered, Stream};
use crate::sampler::{Logprobs, Sampler, Sampling};
use crate::template::{Message, Role, Thinking, ToolCall};
use crate::tokenizer::{Detokenizer, Token};
use serde_json::{Map, Value as Json};
use std::collections::VecDeque;
use std::sync::Arc;
use tools::Tool;

mod ask;
mod places;
mod tools;

/// Rounds of calls within one reply; a model that calls on and on is stopped.
const MOST_ROUNDS: usize = 16;

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
    messages: Vec<Message>,
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
            messages: Vec::new(),
            variables: Map::new(),
            thinking: Thinking::Auto,
            tools: Vec::new(),
            called: 0,
            marks: None,
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
        self
    }

    /// How much the model is to think, as far as its template heeds it: [`ignored`](Chat::ignored) says what it does not.
    pub fn thinking(mut self, thinking: Thinking) -> Chat {
        self.thinking = thinking;
        self
    }

    /// Changes how much the model is to think.
    pub fn set_thinking(&mut self, thinking: Thinking) {
        self.thinking = thinking;
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
        self.respond([Message::new(Role::User, text)])
    }

    /// Adds messages, as the results of tools that the caller runs ([`Message::result`]), and gives the reply.
    ///
    /// # Errors
    /// As [`say`](Chat::say).
    pub fn respond(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<Reply<'_>> {
        let course = self.course()?;
        let begun = self.messages.len();
        self.messages.extend(messages);
        self.session.iter_mut().for_each(Session::reset_stats);
        match self.begin() {
            Ok((unread, stream)) => {
                self.canceller.clear();
                Ok(Reply {
                    course: course.opens(stream.opening()),
                    chat: self,
                    unread,
                    stream,
                    ready: VecDeque::new(),
                    turn: Turn::default(),
                    said: String::new(),
                    begun,
                    rounds: 0,
                    failed: None,
                    stage: Stage::Prompt,
                })
            }
            Err(error) => {
                self.messages.truncate(begun);
                Err(error)
            }
        }
    }

    /// The course of a reply.
    fn course(&mut self) -> Result<Course> {
        let text = self.detokenizer();
        let course = Course::new(self.max_tokens).of_text(text, &self.stops, &self.bans, self.top).guided(self.guide()?);
        course.check()?;
        Ok(course)
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

    /// Readies the session and the sampler; returns the tokens of the prompt that the cache does not hold, and what will read the reply.
    fn begin(&mut self) -> Result<(Vec<Token>, Stream)> {
        let tools = self.schemas()?;
        let (mut variables, _) = self.model.template().heeds(self.thinking);
        variables.extend(self.variables.clone());
        let (prompt, text) = self.model.encode_prompt(&self.messages, &tools, &variables)?;
        let offered = if tools.is_empty() && !variables.contains_key("tools") { Offered::Nothing } else { Offered::Tools };
        let stream = Stream::new(Format::of(self.model.template().source()), &text, &tools, offered);
        let context = self.model.context();
        if prompt.len() >= context {
            let fault = Fault::at("conversation").expected(format!("fewer tokens than the context's {context}"));
            let help = "say less, clear the conversation, or open the model with a larger context";
            return Err(Error::Input(fault.found(prompt.len()).help(help)));
        }
        if self.sampler.is_none() {
            let mut sampler = Sampler::new(&self.sampling.over(self.model.sampling()))?;
            sampler.vocabulary(self.model.tokenizer());
            self.sampler = Some(sampler);
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
        session.count_reused(session.computed());
        if session.needs_marks() {
            session.expect_cuts(places::partings(&self.model, &self.messages, &prompt, &tools, &variables));
        }
        Ok((prompt[kept..].to_vec(), stream))
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

/// What the model has made of its turn.
#[derive(Default)]
struct Turn {
    said: String,
    thought: String,
    calls: Vec<ToolCall>,
}

/// The answer as it comes: an iterator over pieces of its text, each whole UTF-8; what the model thinks and calls is not among them,
/// but in [`events`](Reply::events). Dropping it stops it; what was said stays in the conversation. Where it ends before anything is
/// said, by a cancel or an error, the question is taken back with it.
pub struct Reply<'a> {
    chat: &'a mut Chat,
    unread: Vec<Token>,
    stream: Stream,
    ready: VecDeque<Event>,
    turn: Turn,
    /// The answer's text, of all rounds.
    said: String,
    /// Messages before it was begun.
    begun: usize,
    /// Rounds of calls that were run.
    rounds: usize,
    /// An error to be handed out after what is ready.
    failed: Option<Error>,
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
        self.course.end()
    }

    /// Whether the answer is whole: as its [`grammar`](Chat::grammar) wants it, or without one, not cut by a limit.
    pub fn is_whole(&self) -> bool {
        self.course.is_whole()
    }

    /// The log-probabilities of the tokens so far, where [`Chat::logprobs`] asked for them.
    pub fn logprobs(&self) -> &[Logprobs] {
        self.course.logprobs()
    }

    /// What has been said so far.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// What the model has thought so far, since its last call.
    pub fn thought(&self) -> &str {
        &self.turn.thought
    }

    /// What the model has called and nobody has run.
    pub fn calls(&self) -> &[ToolCall] {
        &self.turn.calls
    }

    /// The reply as data: thinking, answer, calls, their results, and its end.
    ///
    /// ```
    /// use hob::{Event, Model};
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    /// let mut chat = Model::open(path)?.chat().max_tokens(8);
    /// for event in chat.say("Hello!")?.events() {
    ///     match event? {
    ///         Event::Thinking(text) => eprint!("{text}"),
    ///         Event::Answer(text) => print!("{text}"),
    ///         Event::End(reason) => println!("[{reason}]"),
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// # Ok::<(), hob::Error>(())
    /// ```
    pub fn events(&mut self) -> impl Iterator<Item = Result<Event>> {
        std::iter::from_fn(|| self.event())
    }

    /// The whole answer at once.
    ///
    /// # Errors
    /// As the iterator.
    pub fn text(mut self) -> Result<String> {
        for piece in &mut self {
            piece?;
        }
        Ok(self.said.clone())
    }

    /// The next event.
    fn event(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.stage == Stage::Settled {
                return self.failed.take().map(Err);
            }
            match self.piece() {
                Some(Ok(piece)) => self.hear(&piece),
                Some(Err(error)) => self.fail(error),
                None => self.over(),
            }
        }
    }

    /// The next piece of what the model writes, markers included.
    fn piece(&mut self) -> Option<Result<String>> {
        let (Some(session), Some(sampler)) = (&mut self.chat.session, &mut self.chat.sampler) else { return None };
        if self.stage == Stage::Prompt {
            self.stage = Stage::Tokens;
            match session.feed(&std::mem::take(&mut self.unread)) {
                Ok(()) => {
                    sampler.forget();
                    session.tokens().iter().for_each(|token| sampler.accept(*token));
                }
                Err(Error::Cancelled) => {
                    self.course.finish(EndReason::Cancelled);
                    return None;
                }
                Err(error) => return Some(Err(error)),
            }
        }
        session.advance_text(sampler, &mut self.course)
    }

    fn hear(&mut self, piece: &str) {
        self.stream.push(piece);
        self.take();
    }

    /// Takes note of the events that are there.
    fn take(&mut self) {
        while let Some(mut event) = self.stream.next() {
            match &mut event {
                Event::Thinking(text) => self.turn.thought.push_str(text),
                Event::Malformed { raw, .. } => {
                    self.turn.said.push_str(raw);
                    self.said.push_str(raw);
                }
                Event::Answer(text) => {
                    let parted = self.turn.said.is_empty() && !self.said.is_empty();
                    self.turn.said.push_str(text);
                    if parted && self.rounds > 0 {
                        text.insert_str(0, "\n\n");
                    }
                    self.said.push_str(text);
                }
                Event::Call(call) => {
                    self.chat.called += 1;
                    if call.id.is_empty() {
                        // Nine letters and digits: Mistral's templates want no other.
                        call.id = format!("call{:05}", self.chat.called % 100_000);
                    }
                    self.turn.calls.push(call.clone());
                }
                Event::Calling(_) | Event::Result { .. } | Event::End(_) => {}
            }
            self.ready.push_back(event);
        }
    }

    /// No more comes: what is held back is decided.
    fn flush(&mut self) {
        let rest = self.course.rest();
        self.stream.push(&rest);
        self.stream.finish();
        self.take();
    }

    /// The model has ended its turn, or was ended. Where it called tools that are run here, they are, and it goes on.
    fn over(&mut self) {
        self.flush();
        let runs = self.course.end() == Some(EndReason::EndOfTurn) && self.rounds < MOST_ROUNDS && self.chat.runs(&self.turn.calls);
        if !runs {
            self.settle();
            self.ready.extend(self.course.end().map(Event::End));
            return;
        }
        let turn = std::mem::take(&mut self.turn);
        self.chat.messages.push(Message::new(Role::Assistant, turn.said).thinking(turn.thought).calls(turn.calls.clone()));
        for call in &turn.calls {
            let result = self.chat.run(call);
            self.ready.push_back(result);
        }
        self.rounds += 1;
        match self.chat.begin().and_then(|begun| Ok((begun, self.chat.course()?))) {
            Ok(((unread, stream), course)) => {
                let course = course.opens(stream.opening());
                (self.unread, self.stream, self.course, self.stage) = (unread, stream, course, Stage::Prompt);
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: Error) {
        self.flush();
        self.settle();
        self.failed = Some(error);
    }

    /// Puts what was said into the conversation.
    fn settle(&mut self) {
        if self.stage == Stage::Settled {
            return;
        }
        self.stage = Stage::Settled;
        self.chat.session.iter_mut().for_each(Session::keep);
        let turn = &self.turn;
        let silent = turn.said.is_empty() && turn.thought.is_empty() && turn.calls.is_empty();
        let ended = matches!(self.course.end(), Some(EndReason::EndOfTurn | EndReason::StopString));
        if silent && !ended && self.said.is_empty() {
            self.chat.messages.truncate(self.begun);
            return;
        }
        let message = Message::new(Role::Assistant, turn.said.clone()).thinking(turn.thought.clone()).calls(turn.calls.clone());
        self.chat.messages.push(message);
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        loop {
            match self.event()? {
                Ok(Event::Answer(text) | Event::Malformed { raw: text, .. }) => return Some(Ok(text)),
                Ok(Event::Thinking(_) | Event::Calling(_) | Event::Call(_) | Event::Result { .. } | Event::End(_)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if self.stage != Stage::Settled {
            self.flush();
        }
        self.settle();
    }
}

#[cfg(test)]
mod tests;
