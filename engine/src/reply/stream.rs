//! The walk over a reply's text, piece by piece: where it thinks, answers and calls.
//!
//! ```text
//! Start ──<think>──▶ Thinking ──</think>──▶ Start        Header ──<|message|>──▶ Message ──<|end|>──▶ Header       (harmony)
//!   └────────────────▶ Answer ──<tool_call>──▶ Call ──</tool_call>──▶ Start
//! ```
//!
//! A piece may end inside of a marker: the longest end of the text that a marker begins with is held back. So is whitespace,
//! which is dropped around markers and given where text follows; how the text falls into pieces does not show in the events.

use super::body;
use super::format::{self, Body, Calls, Close, Format, Shape};
use super::{Event, format::Span};
use crate::grammar::Opening;
use crate::template::ToolCall;
use serde_json::Value as Json;
use std::collections::VecDeque;

/// Whether the model was offered tools. Where it was not, what looks like a call is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Tools,
    Nothing,
}

/// What becomes of whitespace in front of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    Keep,
    Drop,
}

/// Whether more text may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Comes,
    Over,
}

/// What a stretch of text is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    Answer,
    Call(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Start,
    Thinking,
    Answer,
    /// `raw` begins with `open`; up to `from` no end was found.
    Call {
        raw: String,
        open: &'static str,
        from: usize,
        named: Option<String>,
    },
    Header,
    Message {
        kind: Kind,
        raw: String,
    },
}

/// Turns a reply's text into events. It knows nothing of tokens.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    format: Format,
    tools: Vec<Json>,
    offered: Offered,
    state: State,
    /// Text that is not decided upon.
    buffer: String,
    /// Whitespace that is given if text follows.
    blank: String,
    lead: Lead,
    out: VecDeque<Event>,
}

/// What is found first in a text.
enum Found {
    /// This marker, here.
    Marker(usize, &'static str),
    /// None; what is before this place is none's beginning.
    Nothing(usize),
}

impl Stream {
    /// For the reply to a prompt that ends with `tail`: it may have opened the thinking. `tools` are their schemas.
    pub(crate) fn new(format: Format, tail: &str, tools: &[Json], offered: Offered) -> Stream {
        let Span { open, .. } = format.thinking;
        let (state, lead) = match format.shape {
            Shape::Channels => (State::Header, Lead::Drop),
            Shape::Plain if tail.trim_end().ends_with(open.trim_end()) => (State::Thinking, Lead::Drop),
            Shape::Plain => (State::Start, Lead::Keep),
        };
        Stream { format, tools: tools.to_vec(), offered, state, buffer: String::new(), blank: String::new(), lead, out: VecDeque::new() }
    }

    /// How the reply begins.
    pub(crate) fn opening(&self) -> Opening {
        match self.state {
            State::Thinking => Opening::Thinking,
            State::Header => Opening::Header,
            State::Start | State::Answer | State::Call { .. } | State::Message { .. } => Opening::Answer,
        }
    }

    /// Whether what comes is thinking, as far as the text tells.
    pub(crate) fn is_thinking(&self) -> bool {
        matches!(self.state, State::Thinking | State::Message { kind: Kind::Thinking, .. })
    }

    /// What would end it: see [`Format::enough`].
    pub(crate) fn enough(&self) -> String {
        self.format.enough()
    }

    /// Takes a piece of the reply.
    pub(crate) fn push(&mut self, text: &str) {
        self.buffer.push_str(text);
        while self.step(More::Comes) {}
    }

    /// The reply is over: what was held back is decided.
    pub(crate) fn finish(&mut self) {
        while self.step(More::Over) {}
        let blank = std::mem::take(&mut self.blank);
        if self.state == State::Answer && !blank.is_empty() {
            self.out.push_back(Event::Answer(blank));
        }
    }

    /// The next event, as far as the text goes.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.out.pop_front()
    }

    /// One move; whether there may be another.
    fn step(&mut self, more: More) -> bool {
        match std::mem::replace(&mut self.state, State::Start) {
            State::Start => self.start(more),
            State::Thinking => self.think(more),
            State::Answer => self.answer(more),
            State::Call { raw, open, from, named } => self.call(raw, open, from, named, more),
            State::Header => self.header(more),
            State::Message { kind, raw } => self.message(kind, raw, more),
        }
    }

    fn calls(&self) -> Option<Calls> {
        match self.offered {
            Offered::Tools => self.format.calls,
            Offered::Nothing => None,
        }
    }

    /// Before anything is said: thinking may be opened, or the whole be a call.
    fn start(&mut self, more: More) -> bool {
        let open = self.format.thinking.open;
        let text = self.buffer.trim_start();
        if let Some(rest) = text.strip_prefix(open) {
            self.buffer = rest.to_owned();
            (self.state, self.lead) = (State::Thinking, Lead::Drop);
            self.blank.clear();
            return true;
        }
        if more == More::Comes && open.starts_with(text) {
            return false;
        }
        if text.is_empty() && self.lead == Lead::Drop {
            self.buffer.clear();
            return false;
        }
        self.state = match self.calls() {
            Some(calls) if calls.opens.contains(&"{") && text.starts_with('{') => {
                State::Call { raw: String::new(), open: "{", from: 0, named: None }
            }
            Some(_) | None => State::Answer,
        };
        !self.buffer.is_empty()
    }

    fn think(&mut self, more: More) -> bool {
        self.state = State::Thinking;
        match find(&self.buffer, &[self.format.thinking.close], more) {
            Found::Marker(at, marker) => {
                self.give(Kind::Thinking, at);
                self.buffer.drain(..marker.len());
                self.section(State::Start)
            }
            Found::Nothing(at) => self.give(Kind::Thinking, at),
        }
    }

    fn answer(&mut self, more: More) -> bool {
        self.state = State::Answer;
        let opens = self.calls().map_or(&[][..], |calls| calls.opens);
        let markers: Vec<_> = opens.iter().chain(self.format.drops).copied().filter(|marker| *marker != "{").collect();
        match find(&self.buffer, &markers, more) {
            Found::Marker(at, marker) => {
                self.give(Kind::Answer, at);
                if opens.contains(&marker) {
                    self.buffer.drain(..marker.len());
                    return self.section(State::Call { raw: marker.to_owned(), open: marker, from: marker.len(), named: None });
                }
                self.buffer.drain(..marker.len());
                self.section(State::Answer)
            }
            Found::Nothing(at) => self.give(Kind::Answer, at),
        }
    }

    /// A new section begins: whitespace around its marker is nobody's.
    fn section(&mut self, state: State) -> bool {
        self.blank.clear();
        self.lead = Lead::Drop;
        self.state = state;
        true
    }

    /// Gives the first `end` bytes of the buffer; no move follows from that.
    fn give(&mut self, kind: Kind, end: usize) -> bool {
        let text: String = self.buffer.drain(..end).collect();
        let text = match self.lead {
            Lead::Drop => text.trim_start(),
            Lead::Keep => text.as_str(),
        };
        if text.is_empty() {
            return false;
        }
        self.lead = Lead::Keep;
        let said = text.trim_end();
        if !said.is_empty() {
            let piece = std::mem::take(&mut self.blank) + said;
            self.out.push_back(match kind {
                Kind::Thinking => Event::Thinking(piece),
                Kind::Answer | Kind::Call(_) => Event::Answer(piece),
            });
        }
        self.blank.push_str(&text[said.len()..]);
        false
    }

    fn call(&mut self, mut raw: String, open: &'static str, mut from: usize, mut named: Option<String>, more: More) -> bool {
        let Some(calls) = self.format.calls else { return false };
        raw.push_str(&std::mem::take(&mut self.buffer));
        let start = if Calls::keeps(open) { 0 } else { open.len() };
        if open == "{" && !may_be_call(&raw) {
            self.buffer = raw;
            self.state = State::Answer;
            return true;
        }
        let (marker, taken) = match calls.close {
            Close::At(marker) => (marker, marker.len()),
            Close::Next if open == "{" => ("", 0),
            Close::Next => (open, 0),
        };
        let quoting = matches!(calls.body, Body::Json | Body::Named);
        while let Some(at) = raw.get(from..).filter(|_| !marker.is_empty()).and_then(|rest| rest.find(marker)).map(|at| at + from) {
            if quoting && body::inside_string(&raw[start..at]) {
                from = at + marker.len();
                continue;
            }
            // `</function>` closes what is a part of the body.
            let inner = raw[start..at].to_owned();
            self.announce(calls.body, &inner, &mut named);
            self.buffer = raw.split_off(at + taken);
            self.close(calls.body, &inner, raw, named);
            return self.section(State::Start);
        }
        // The marker may begin in what is here.
        from =
            (open.len()..=raw.len()).rev().find(|at| raw.is_char_boundary(*at) && raw.len() - at >= marker.len()).unwrap_or(from).max(from);
        if open != "{" {
            self.announce(calls.body, &raw[start..], &mut named);
        }
        if more == More::Over {
            let inner = raw[start..].to_owned();
            self.end_of_call(calls.body, &inner, raw, open, named);
            return false;
        }
        self.state = State::Call { raw, open, from, named };
        false
    }

    /// Says the name as soon as it is certain.
    fn announce(&mut self, body: Body, inner: &str, named: &mut Option<String>) {
        if named.is_none()
            && let Some(name) = body::name(body, inner)
        {
            self.out.push_back(Event::Calling(name.clone()));
            *named = Some(name);
        }
    }

    /// The reply ended inside of a call; or it is one without a closing marker.
    fn end_of_call(&mut self, body: Body, inner: &str, raw: String, open: &str, named: Option<String>) {
        let given = raw.contains("\"parameters\"") || raw.contains("\"arguments\"");
        let begun = raw.trim_start().starts_with("{\"name\"");
        if open == "{" && (!given || (!begun && body::calls(body, inner, &self.tools).is_err())) {
            // An answer that is an object.
            self.buffer = raw;
            self.state = State::Answer;
            self.give(Kind::Answer, self.buffer.len());
            return;
        }
        self.close(body, inner, raw, named);
        self.state = State::Start;
        self.lead = Lead::Drop;
    }

    fn close(&mut self, body: Body, inner: &str, raw: String, named: Option<String>) {
        match body::calls(body, inner, &self.tools) {
            Ok(calls) => calls.into_iter().enumerate().for_each(|(at, call)| {
                if at > 0 || named.as_ref() != Some(&call.name) {
                    self.out.push_back(Event::Calling(call.name.clone()));
                }
                self.out.push_back(Event::Call(call));
            }),
            Err(why) => self.out.push_back(Event::Malformed { raw, why }),
        }
    }

    /// Harmony: what comes before a message.
    fn header(&mut self, more: More) -> bool {
        self.state = State::Header;
        match find(&self.buffer, &[format::MESSAGE], more) {
            Found::Marker(at, marker) => {
                let header: String = self.buffer.drain(..at + marker.len()).collect();
                let kind = kind(&header[..at]);
                if let Kind::Call(name) = &kind {
                    self.out.push_back(Event::Calling(name.clone()));
                }
                self.section(State::Message { kind, raw: header })
            }
            Found::Nothing(_) => {
                let text = self.buffer.trim();
                match (may_be_header(text), more) {
                    (true, More::Comes) => return false,
                    // Nothing is lost with it: it says nothing.
                    (true, More::Over) if text.is_empty() || text.starts_with("<|") => {
                        self.buffer.clear();
                        return false;
                    }
                    (true | false, More::Comes | More::Over) => {}
                }
                // A model that does not keep to its format.
                let begun = [format::START, format::CHANNEL].into_iter().find_map(|marker| text.strip_prefix(marker));
                self.buffer = begun.map_or_else(|| self.buffer.clone(), str::to_owned);
                self.section(State::Message { kind: Kind::Answer, raw: String::new() })
            }
        }
    }

    fn message(&mut self, kind: Kind, mut raw: String, more: More) -> bool {
        let (at, marker) = match find(&self.buffer, &format::ENDS, more) {
            Found::Marker(at, marker) => (at, Some(marker)),
            Found::Nothing(at) => (at, None),
        };
        let ended = marker.is_some() || more == More::Over;
        match &kind {
            Kind::Thinking | Kind::Answer => {
                self.give(kind.clone(), at);
            }
            Kind::Call(name) => {
                let text: String = self.buffer.drain(..at).collect();
                raw.push_str(&text);
                if ended {
                    let inner = raw.split_once(format::MESSAGE).map_or("", |(_, inner)| inner);
                    self.out.push_back(match body::alone(inner) {
                        Ok(arguments) => Event::Call(ToolCall { id: String::new(), name: name.clone(), arguments }),
                        Err(why) => Event::Malformed { raw: raw.clone(), why },
                    });
                }
            }
        }
        match marker {
            Some(marker) => {
                if marker != format::CHANNEL && marker != format::START {
                    self.buffer.drain(..marker.len());
                }
                self.section(State::Header)
            }
            None if ended => {
                if kind == Kind::Answer && !self.blank.is_empty() {
                    self.out.push_back(Event::Answer(std::mem::take(&mut self.blank)));
                }
                self.state = State::Header;
                false
            }
            None => {
                self.state = State::Message { kind, raw };
                false
            }
        }
    }
}

/// What a message of harmony is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Thinking,
    Answer,
    Call,
}

/// What message a header of harmony announces.
pub(crate) fn message(header: &str) -> Message {
    match kind(header) {
        Kind::Thinking => Message::Thinking,
        Kind::Answer => Message::Answer,
        Kind::Call(_) => Message::Call,
    }
}

/// What a header of harmony announces.
fn kind(header: &str) -> Kind {
    let word = |rest: &str| rest.trim_start().split(|c: char| c.is_whitespace() || c == '<').next().unwrap_or_default().to_owned();
    if let Some((_, rest)) = header.split_once("to=") {
        let name = word(rest);
        return Kind::Call(name.strip_prefix("functions.").unwrap_or(&name).to_owned());
    }
    match header.split_once(format::CHANNEL) {
        Some((_, rest)) if word(rest) == "analysis" => Kind::Thinking,
        Some(_) | None => Kind::Answer,
    }
}

/// Whether a text may go on to be a header; no header is long.
fn may_be_header(text: &str) -> bool {
    let begins = |start: &str| text.starts_with(start) || start.starts_with(text);
    text.len() < 256 && [format::START, format::CHANNEL, "assistant", "to=", "analysis", "commentary", "final"].into_iter().any(begins)
}

/// Whether an object at the start of a reply may still be a call: its first key tells.
fn may_be_call(raw: &str) -> bool {
    let squeezed: String = raw.trim_start().chars().filter(|c| !c.is_whitespace()).take(16).collect();
    let begins = |key: &str| squeezed.starts_with(key) || key.starts_with(&squeezed);
    ["{\"name\":", "{\"type\":", "{\"function\":", "{\"parameters\":", "{\"id\":"].into_iter().any(begins)
}

/// The first of `markers` in `text`; of two at a place the longer.
fn find(text: &str, markers: &[&'static str], more: More) -> Found {
    let first = markers.iter().filter_map(|marker| text.find(marker).map(|at| (at, *marker)));
    if let Some((at, marker)) = first.min_by_key(|(at, marker)| (*at, std::cmp::Reverse(marker.len()))) {
        return Found::Marker(at, marker);
    }
    if more == More::Over {
        return Found::Nothing(text.len());
    }
    let longest = markers.iter().map(|marker| marker.len()).max().unwrap_or(0);
    let begins = |at: &usize| text.is_char_boundary(*at) && markers.iter().any(|marker| marker.starts_with(&text[*at..]));
    Found::Nothing((text.len().saturating_sub(longest)..text.len()).find(begins).unwrap_or(text.len()))
}
