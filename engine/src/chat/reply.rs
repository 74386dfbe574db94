//! The answer as it comes: rounds of text and calls, from the prompt to the end, where what was said becomes part of the conversation.

use super::conversation::Place;
use super::journal::Entry;
use super::room::Fitted;
use super::saved::Unfinished;
use super::{Begun, Chat};
use crate::error::{Error, Result};
use crate::generate::{Canceller, Course, EndReason, Session, Stats};
use crate::reply::{Event, Stream};
use crate::sampler::{Drawn, Logprobs};
use crate::template::{Message, Role, Thinking, ToolCall};
use crate::tokenizer::{Special, Token};
use std::collections::VecDeque;

/// Rounds of calls within one reply; a model that calls on and on is stopped.
pub(super) const MOST_ROUNDS: usize = 16;

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
    /// Tokens of the prompt.
    prompt: usize,
    /// What was sampled of it when the chat was last open.
    record: Vec<(Token, Drawn)>,
    stream: Stream,
    ready: VecDeque<Event>,
    turn: Turn,
    /// The answer's text, of all rounds.
    said: String,
    /// Where the conversation was before it was begun.
    place: Place,
    /// Rounds of calls that were run.
    rounds: usize,
    /// An error to be handed out after what is ready.
    failed: Option<Error>,
    course: Course,
    stage: Stage,
}

impl<'a> Reply<'a> {
    pub(super) fn new(chat: &'a mut Chat, course: Course, begun: Begun, place: Place) -> Reply<'a> {
        let Begun { unread, stream, rolled } = begun;
        let opening = stream.opening();
        Reply {
            chat,
            unread,
            prompt: 0,
            record: Vec::new(),
            stream,
            ready: rolled.into_iter().map(Event::Rolled).collect(),
            turn: Turn::default(),
            said: String::new(),
            place,
            rounds: 0,
            failed: None,
            course: course.opens(opening),
            stage: Stage::Prompt,
        }
    }

    /// Goes on with a reply that was cut off after these tokens and so many rounds.
    pub(super) fn going_on(mut self, record: Vec<(Token, Drawn)>, rounds: usize) -> Reply<'a> {
        (self.record, self.rounds) = (record, rounds);
        self
    }
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
        if self.stage == Stage::Prompt {
            self.stage = Stage::Tokens;
            let unread = std::mem::take(&mut self.unread);
            if let Err(error) = self.read(&unread) {
                return self.stopped(error);
            }
        }
        let (Some(session), Some(sampler)) = (&mut self.chat.session, &mut self.chat.sampler) else { return None };
        let piece = session.advance_text(sampler, &mut self.course);
        if piece.is_some() || !self.course.is_paused() {
            return piece;
        }
        match self.make_room() {
            Ok(()) => Some(Ok(String::new())),
            Err(error) => self.stopped(error),
        }
    }

    /// A cancel is an end like others.
    fn stopped(&mut self, error: Error) -> Option<Result<String>> {
        if !matches!(error, Error::Cancelled) {
            return Some(Err(error));
        }
        self.course.finish(EndReason::Cancelled);
        None
    }

    /// Reads the prompt, and what was sampled of the reply when the chat was last open.
    fn read(&mut self, unread: &[Token]) -> Result<()> {
        let (Some(session), Some(sampler)) = (&mut self.chat.session, &mut self.chat.sampler) else { return Ok(()) };
        session.feed(unread)?;
        sampler.forget();
        session.tokens().iter().for_each(|token| sampler.accept(*token));
        self.prompt = session.len();
        session.replay(&std::mem::take(&mut self.record), sampler, &mut self.course)
    }

    /// The context is full: old turns go, where that is wanted and there are any, and the reply goes on.
    fn make_room(&mut self) -> Result<()> {
        let session = self.chat.session.as_ref();
        let (before, said) = session.map_or((0, Vec::new()), |s| (s.len(), s.tokens()[self.prompt..].to_vec()));
        let Fitted { mut tokens, rolled, .. } = match self.chat.fitted(said.len()) {
            Ok(fitted) => fitted,
            Err(Error::Input(_)) => {
                self.course.finish(EndReason::ContextFull);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.prompt = tokens.len();
        tokens.extend(said);
        self.ready.extend(rolled.map(Event::Rolled));
        let unread = self.chat.keep(&tokens)?;
        let (Some(session), Some(sampler)) = (&mut self.chat.session, &mut self.chat.sampler) else { return Ok(()) };
        session.feed(&unread)?;
        sampler.forget();
        session.tokens().iter().for_each(|token| sampler.accept(*token));
        self.course.go_on(before - session.len());
        Ok(())
    }

    fn hear(&mut self, piece: &str) {
        self.stream.push(piece);
        let heard = self.ready.len();
        self.take();
        self.write(heard);
        self.limit_thinking();
    }

    /// Ends thinking whose budget is used up, of which all counts that came since the turn began.
    fn limit_thinking(&mut self) {
        let (Thinking::Budget(budget), Some(session)) = (self.chat.thinking, &self.chat.session) else { return };
        let used = self.chat.max_tokens.saturating_sub(self.course.left());
        if used < budget as usize || !self.stream.is_thinking() || self.course.is_forced() {
            return;
        }
        let enough = self.chat.model.tokenizer().encode(&self.stream.enough(), Special::Parse).unwrap_or_default();
        // The model may have begun with it, or this chat, before it was saved.
        let begun = (0..=enough.len()).rev().find(|n| session.tokens().ends_with(&enough[..*n])).unwrap_or(0);
        self.course.force(&enough[begun..]);
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
                Event::Calling(_) | Event::Result { .. } | Event::Rolled(_) | Event::End(_) => {}
            }
            self.ready.push_back(event);
        }
    }

    /// Writes the tokens of a piece to the file that the chat is saved in, with the text that came of them.
    fn write(&mut self, heard: usize) {
        let sampled = self.course.sampled();
        let Some(journal) = &mut self.chat.journal else { return };
        let (mut thinking, mut answer) = (String::new(), String::new());
        for event in self.ready.iter().skip(heard) {
            match event {
                Event::Thinking(text) => thinking.push_str(text),
                Event::Answer(text) | Event::Malformed { raw: text, .. } => answer.push_str(text),
                Event::Calling(_) | Event::Call(_) | Event::Result { .. } | Event::Rolled(_) | Event::End(_) => {}
            }
        }
        let last = sampled.len().saturating_sub(1);
        journal.write(sampled.into_iter().enumerate().map(|(at, (id, drawn))| {
            let text = |text: &mut String| if at == last { std::mem::take(text) } else { String::new() };
            Entry::Token { id, drawn, thinking: text(&mut thinking), answer: text(&mut answer) }
        }));
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
        let calls = turn.calls.clone();
        self.put(turn);
        for call in &calls {
            let result = self.chat.run(call);
            self.ready.push_back(result);
        }
        self.rounds += 1;
        match self.chat.begin().and_then(|begun| Ok((begun, self.chat.course()?))) {
            Ok((Begun { unread, stream, rolled }, course)) => {
                let course = course.opens(stream.opening());
                (self.unread, self.stream, self.course, self.stage) = (unread, stream, course, Stage::Prompt);
                self.ready.extend(rolled.map(Event::Rolled));
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
        let turn = std::mem::take(&mut self.turn);
        let silent = turn.said.is_empty() && turn.thought.is_empty() && turn.calls.is_empty();
        let ended = matches!(self.course.end(), Some(EndReason::EndOfTurn | EndReason::StopString));
        if silent && !ended && self.said.is_empty() {
            self.chat.conversation.back(std::mem::take(&mut self.place));
            self.chat.unfinished = self.chat.conversation.waits().then(Unfinished::default);
            self.chat.write_news();
            self.chat.write_drawn();
        } else {
            self.put(Turn { said: turn.said.clone(), thought: turn.thought.clone(), calls: turn.calls.clone() });
        }
        // They are still asked for.
        self.turn = turn;
    }

    /// A turn becomes a message.
    fn put(&mut self, turn: Turn) {
        let message = Message::new(Role::Assistant, turn.said).thinking(turn.thought).calls(turn.calls);
        let drawn = self.chat.sampler.as_ref().map(|sampler| sampler.drawn());
        self.chat.conversation.push(message, drawn);
        self.chat.write_news();
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        loop {
            match self.event()? {
                Ok(Event::Answer(text) | Event::Malformed { raw: text, .. }) => return Some(Ok(text)),
                Ok(Event::Thinking(_) | Event::Calling(_) | Event::Call(_) | Event::Result { .. } | Event::Rolled(_) | Event::End(_)) => {}
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
