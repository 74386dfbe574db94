//! Where in a reply the grammar holds, token by token, and the way back.
//!
//! ```text
//! Until ──</think>──▶ Answer ──────────▶ Body ──▶ end            thinking is free, but cannot end the reply
//!   ▲                  │ <think>  │ <tool_call>
//!   └──────────────────┘          └─▶ Free ──▶ end                a call is not the answer
//! Header ──<|message|>──▶ Body, Until or Free                     harmony
//! ```
//!
//! Before every token the stage is noted, so that tokens can be taken back (banned strings, drafts).

use super::Compiled;
use super::closing::Closer;
use super::engine::{Machine, Mask};
use crate::error::Result;
use crate::reply::{Format, Message, Shape, format, message};
use crate::tokenizer::{Special, Token, Tokenizer};
use std::sync::Arc;

/// So many tokens before the way to an end would be too long, it is looked at with every token.
const NEAR: usize = 32;
/// From so many tokens before the limit on it is looked at now and then how long that way is.
const IN_SIGHT: usize = 1024;
/// Bytes of white space that may stand between thinking and answer.
const BLANK: usize = 4;
/// Searches without a find after which none is made any more.
const TRIES: usize = 4;

/// From within a message of harmony to the answer.
const NEXT: &str = "<|end|><|start|>assistant<|channel|>final<|message|>";
/// What a header of harmony says of a call.
const CALLING: [&str; 2] = [" to=", "commentary"];

/// The headers that harmony's messages may have, as far as they are fixed; the answer's first.
fn headers(calls: bool) -> Vec<String> {
    let channel = |name: &str| [format::CHANNEL, name, format::MESSAGE].concat();
    let mut all = vec![format::FINAL.to_owned(), channel("analysis")];
    if calls {
        all.extend([[format::CHANNEL, "commentary to="].concat(), " to=".to_owned()]);
    }
    let after: Vec<String> = all.iter().map(|header| [format::START, "assistant", header].concat()).collect();
    all.extend(after);
    all.sort_by_key(|header| !header.ends_with(format::FINAL));
    all
}

/// How a reply begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// With the answer, or with what may come before it.
    Answer,
    /// In its thinking.
    Thinking,
    /// With a header (harmony).
    Header,
}

/// Where a reply is.
#[derive(Clone, Debug)]
enum Stage {
    /// In what ends with one of these; the last bytes so far.
    Until(Marks, Vec<u8>),
    /// In a header; its text so far.
    Header(Vec<u8>),
    /// The answer may begin, or so much white space, or one of these.
    Answer { blank: usize, leads: Leads },
    /// So far in what leads on to something else.
    Lead(usize, usize),
    /// In the answer.
    Body,
    /// In something that is not the answer.
    Free,
}

/// What ends a stretch that is not the answer.
#[derive(Clone, Copy, Debug)]
enum Marks {
    /// This.
    Close(&'static str),
    /// Whatever ends a message of harmony.
    Ends,
}

impl Marks {
    fn all(&self) -> &[&'static str] {
        match self {
            Marks::Close(marker) => std::slice::from_ref(marker),
            Marks::Ends => &format::ENDS,
        }
    }
}

/// What may stand in place of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    Calls,
    All,
}

/// A marker that leads on to something else than the answer.
#[derive(Clone, Debug)]
struct Lead {
    tokens: Vec<Token>,
    to: To,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Thinking,
    Call,
}

/// What was before a token.
struct Before {
    stage: Stage,
    /// Tokens that the machine had taken.
    taken: usize,
    /// Bytes of the answer.
    answer: usize,
}

/// The tokens that may come next.
enum Allowed {
    All,
    /// Those that do not end the reply, nor run from a marker into an answer.
    Inside(Vec<Token>),
    These(Mask),
}

/// A grammar's hold on one reply.
pub(crate) struct Guide {
    shape: Arc<Compiled>,
    tokenizer: Tokenizer,
    format: Option<Format>,
    leads: Vec<Lead>,
    /// Whether there are tools to call.
    calls: bool,
    machine: Machine,
    stage: Stage,
    trail: Vec<Before>,
    taken: usize,
    answer: Vec<u8>,
    allowed: Option<Allowed>,
    closing: Closing,
    /// White space tokens, where any are asked for.
    blanks: Option<Vec<(Token, usize)>>,
}

/// What is known of the way to an end.
#[derive(Default)]
struct Closing {
    closer: Option<Closer>,
    /// For how many tokens, and which.
    here: Option<(usize, Vec<Token>)>,
    near: bool,
    /// The number of tokens at which it is looked at next.
    next: usize,
    failed: usize,
}

impl Guide {
    /// For a text that is the grammar's from its first token on.
    pub(crate) fn new(shape: Arc<Compiled>, tokenizer: &Tokenizer) -> Guide {
        let machine = shape.fresh.clone();
        Guide {
            shape,
            tokenizer: tokenizer.clone(),
            format: None,
            leads: Vec::new(),
            calls: false,
            machine,
            stage: Stage::Body,
            trail: Vec::new(),
            taken: 0,
            answer: Vec::new(),
            allowed: None,
            closing: Closing::default(),
            blanks: None,
        }
    }

    /// For a reply in a format: it may think first where `thinks`, and call where `calls`.
    pub(crate) fn of_reply(mut self, format: Format, thinks: bool, calls: bool) -> Guide {
        let tokens = |text: &str| self.tokenizer.encode(text, Special::Parse).unwrap_or_default();
        let think = thinks.then(|| (tokens(format.thinking.open.trim_end()), To::Thinking));
        self.calls = calls;
        let opens = if calls { format.calls.map_or(&[][..], |calls| calls.opens) } else { &[] };
        let calls = opens.iter().filter(|open| **open != "{").map(|open| (tokens(open), To::Call));
        let leads = think.into_iter().chain(calls).filter(|(tokens, _)| !tokens.is_empty());
        self.leads = leads.map(|(tokens, to)| Lead { tokens, to }).collect();
        self.format = Some(format);
        self
    }

    /// How the reply begins is known.
    pub(crate) fn opens(&mut self, opening: Opening) {
        self.stage = match (opening, &self.format) {
            (Opening::Thinking, Some(format)) => Stage::Until(Marks::Close(format.thinking.close), Vec::new()),
            (Opening::Header, Some(_)) => Stage::Header(Vec::new()),
            (Opening::Answer, Some(_)) => Stage::Answer { blank: 0, leads: Leads::All },
            (Opening::Answer | Opening::Thinking | Opening::Header, None) => Stage::Body,
        };
        self.allowed = None;
    }

    /// Whether nothing can come any more but the end.
    pub(crate) fn is_done(&self) -> bool {
        match self.stage {
            Stage::Body => self.machine.is_done(),
            Stage::Until(..) | Stage::Header(_) | Stage::Answer { .. } | Stage::Lead(..) | Stage::Free => false,
        }
    }

    /// Whether what is there is a whole answer, or a call in place of it.
    pub(crate) fn is_whole(&mut self) -> bool {
        match self.stage {
            Stage::Body | Stage::Answer { .. } => self.machine.accepts().unwrap_or(false),
            Stage::Free => self.calls,
            Stage::Until(..) | Stage::Header(_) | Stage::Lead(..) => false,
        }
    }

    /// The only token that may come, where there is but one.
    pub(crate) fn only(&mut self) -> Result<Option<Token>> {
        Ok(match self.allowed()? {
            Allowed::These(mask) => mask.only(),
            Allowed::All | Allowed::Inside(_) => None,
        })
    }

    /// Rules out what may not come.
    pub(crate) fn mask(&mut self, row: &mut [f32]) -> Result<()> {
        match self.allowed()? {
            Allowed::All => {}
            Allowed::Inside(others) => {
                for token in others {
                    if let Some(logit) = row.get_mut(*token as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            Allowed::These(mask) => mask.apply(row),
        }
        Ok(())
    }

    fn allowed(&mut self) -> Result<&Allowed> {
        let allowed = match self.allowed.take() {
            Some(allowed) => allowed,
            None => match self.stage.clone() {
                Stage::Body => Allowed::These(self.machine.mask()?),
                Stage::Answer { blank, leads } => Allowed::These(self.opening(blank, leads)?),
                Stage::Lead(lead, at) => {
                    let mut mask = self.shape.vocabulary.none();
                    mask.allow(self.leads[lead].tokens[at]);
                    Allowed::These(mask)
                }
                Stage::Until(markers, tail) => Allowed::Inside(self.forbidden_inside(markers.all(), &tail)),
                Stage::Header(text) => self.of_header(&text),
                Stage::Free => Allowed::All,
            },
        };
        Ok(self.allowed.insert(allowed))
    }

    /// What the answer may begin with, and what may stand before it.
    fn opening(&mut self, blank: usize, leads: Leads) -> Result<Mask> {
        let mut mask = self.machine.mask()?;
        for lead in self.leads(leads) {
            mask.allow(self.leads[lead].tokens[0]);
        }
        if blank > 0 {
            let blanks = self.blanks.get_or_insert_with(|| {
                let all = (0..self.tokenizer.vocab_size() as Token).map(|token| (token, self.shape.vocabulary.bytes(token)));
                let white = all.filter(|(_, bytes)| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_whitespace));
                white.map(|(token, bytes)| (token, bytes.len())).filter(|(_, len)| *len <= BLANK).collect()
            });
            blanks.iter().filter(|(_, len)| *len <= blank).for_each(|(token, _)| mask.allow(*token));
        }
        Ok(mask)
    }

    fn leads(&self, which: Leads) -> Vec<usize> {
        let fits = |lead: &Lead| match which {
            Leads::Calls => lead.to == To::Call,
            Leads::All => true,
        };
        (0..self.leads.len()).filter(|lead| fits(&self.leads[*lead])).collect()
    }

    /// What must not come inside of thinking: ends, and tokens that run on from its last marker into the answer, which no grammar sees.
    fn forbidden_inside(&self, markers: &[&'static str], tail: &[u8]) -> Vec<Token> {
        let mut forbidden = self.tokenizer.ends().to_vec();
        for marker in markers.iter().map(|marker| marker.as_bytes()) {
            let begun = (1..marker.len()).rev().find(|n| tail.ends_with(&marker[..*n]));
            if let Some(rest) = begun.map(|n| &marker[n..]) {
                let runs_on = |token: &Token| {
                    let after = self.shape.vocabulary.bytes(*token).strip_prefix(rest);
                    after.is_some_and(|after| !after.iter().all(u8::is_ascii_whitespace))
                };
                forbidden.extend((0..self.tokenizer.vocab_size() as Token).filter(runs_on));
            }
        }
        forbidden
    }

    /// What goes on from a header of harmony: to thinking, to the answer, or to a call, whose words are free.
    fn of_header(&self, text: &[u8]) -> Allowed {
        if self.calls && CALLING.iter().any(|call| text.windows(call.len()).any(|w| w == call.as_bytes())) {
            return Allowed::Inside(self.tokenizer.ends().to_vec());
        }
        let headers = headers(self.calls);
        let rest: Vec<&[u8]> = headers.iter().filter_map(|header| header.as_bytes().strip_prefix(text)).collect();
        let mut mask = self.shape.vocabulary.none();
        for token in 0..self.tokenizer.vocab_size() as Token {
            let bytes = self.shape.vocabulary.spelling(token);
            if !bytes.is_empty() && rest.iter().any(|rest| rest.starts_with(bytes)) {
                mask.allow(token);
            }
        }
        Allowed::These(mask)
    }

    /// Takes a token.
    pub(crate) fn accept(&mut self, token: Token) -> Result<()> {
        let stage = self.stage.clone();
        let before = Before { stage: stage.clone(), taken: self.taken, answer: self.answer.len() };
        let next = match stage {
            Stage::Body => {
                self.take(token)?;
                Stage::Body
            }
            Stage::Answer { blank, leads } => self.begin(token, blank, leads)?,
            Stage::Lead(lead, at) => self.lead_on(lead, at + 1),
            Stage::Until(markers, tail) => self.go_on(token, markers, tail),
            Stage::Header(text) => self.header(token, text),
            Stage::Free => Stage::Free,
        };
        self.stage = next;
        self.trail.push(before);
        self.allowed = None;
        Ok(())
    }

    fn take(&mut self, token: Token) -> Result<()> {
        self.machine.take(token)?;
        self.taken += 1;
        self.answer.extend_from_slice(self.shape.vocabulary.bytes(token));
        Ok(())
    }

    /// The first token of the answer, or of something before it.
    fn begin(&mut self, token: Token, blank: usize, leads: Leads) -> Result<Stage> {
        if self.machine.mask()?.has(token) {
            self.take(token)?;
            return Ok(Stage::Body);
        }
        if let Some(lead) = self.leads(leads).into_iter().find(|lead| self.leads[*lead].tokens[0] == token) {
            return Ok(self.lead_on(lead, 1));
        }
        let white = self.shape.vocabulary.bytes(token).len().max(1);
        Ok(Stage::Answer { blank: blank.saturating_sub(white), leads })
    }

    fn lead_on(&self, lead: usize, at: usize) -> Stage {
        let Lead { tokens, to } = &self.leads[lead];
        match (at < tokens.len(), to, &self.format) {
            (true, ..) => Stage::Lead(lead, at),
            (false, To::Thinking, Some(format)) => Stage::Until(Marks::Close(format.thinking.close), Vec::new()),
            (false, To::Thinking | To::Call, _) => Stage::Free,
        }
    }

    /// On in what ends with a marker.
    fn go_on(&self, token: Token, marks: Marks, mut tail: Vec<u8>) -> Stage {
        tail.extend_from_slice(&self.tokenizer.token_bytes(token));
        let stands = |marker: &&&str| tail.windows(marker.len()).any(|w| w == marker.as_bytes());
        match (marks.all().iter().find(stands), marks) {
            // These begin the next header.
            (Some(&(format::CHANNEL | format::START)), Marks::Ends) => Stage::Header(tail),
            (Some(_), Marks::Ends) => Stage::Header(Vec::new()),
            (Some(_), Marks::Close(_)) => Stage::Answer { blank: BLANK, leads: Leads::Calls },
            (None, _) => {
                let longest = marks.all().iter().map(|marker| marker.len()).max().unwrap_or(1);
                tail.drain(..tail.len().saturating_sub(longest - 1));
                Stage::Until(marks, tail)
            }
        }
    }

    /// On in a header of harmony.
    fn header(&self, token: Token, mut text: Vec<u8>) -> Stage {
        text.extend_from_slice(&self.tokenizer.token_bytes(token));
        let said = String::from_utf8_lossy(&text);
        match said.find(format::MESSAGE).map(|at| message(&said[..at])) {
            Some(Message::Thinking) => Stage::Until(Marks::Ends, Vec::new()),
            Some(Message::Answer) => Stage::Body,
            Some(Message::Call) => Stage::Free,
            None => Stage::Header(text),
        }
    }

    /// Takes the last `n` tokens back.
    pub(crate) fn take_back(&mut self, n: usize) -> Result<()> {
        self.closing.here = None;
        self.retract(n)
    }

    fn retract(&mut self, n: usize) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let from = self.trail.len().saturating_sub(n);
        let Some(before) = self.trail.drain(from..).next() else { return Ok(()) };
        self.machine.take_back(self.taken - before.taken)?;
        (self.stage, self.taken) = (before.stage, before.taken);
        self.answer.truncate(before.answer);
        self.allowed = None;
        Ok(())
    }

    /// Whether the token that was sampled leaves room for an end, there being room for `room` tokens with it. Where it does not, these
    /// are said in its place, and nothing more.
    pub(crate) fn closes(&mut self, token: Token, room: usize) -> Result<Option<Vec<Token>>> {
        if self.closing.failed >= TRIES || room > IN_SIGHT || self.tokenizer.is_end(token) {
            return Ok(None);
        }
        if !self.closing.near {
            if self.trail.len() < self.closing.next {
                return Ok(None);
            }
            let way = self.way_out(room)?.map_or(room, |way| way.len());
            let slack = room.saturating_sub(way + NEAR);
            self.closing.next = self.trail.len() + (slack / 8).max(1);
            self.closing.near = slack == 0;
            if slack > 0 {
                return Ok(None);
            }
        }
        let Some(here) = self.way_out(room)?.filter(|way| way.len() <= room) else { return Ok(None) };
        self.accept(token)?;
        let then = if self.is_done() { Some(Vec::new()) } else { self.way_out(room - 1)? };
        let fits = then.is_some_and(|way| way.len() < room);
        self.retract(1)?;
        Ok(if fits { None } else { Some(here) })
    }

    /// Whether a header has turned to thinking already.
    fn leads_to_thinking(&self, text: &[u8]) -> bool {
        !headers(false).iter().filter(|header| header.ends_with(format::FINAL)).any(|header| header.as_bytes().starts_with(text))
    }

    /// The tokens that would end the reply from here, where they are known.
    fn way_out(&mut self, room: usize) -> Result<Option<Vec<Token>>> {
        if let Some((at, way)) = self.closing.here.take().filter(|(at, _)| *at == self.trail.len()) {
            return Ok(Some(self.closing.here.insert((at, way)).1.clone()));
        }
        let channels = self.format.as_ref().is_some_and(|format| format.shape == Shape::Channels);
        let lead = match (&self.stage, &self.format) {
            (Stage::Body | Stage::Answer { .. }, _) => String::new(),
            (Stage::Header(text), _) => match headers(false).iter().find_map(|header| header.as_bytes().strip_prefix(text.as_slice())) {
                Some(rest) => String::from_utf8_lossy(rest).into_owned() + if self.leads_to_thinking(text) { NEXT } else { "" },
                None => return Ok(None),
            },
            (Stage::Until(..), Some(_)) if channels => NEXT.to_owned(),
            (Stage::Until(marks, _), _) => marks.all().first().copied().unwrap_or_default().to_owned(),
            (Stage::Lead(..) | Stage::Free, _) => return Ok(None),
        };
        let mut closer = match self.closing.closer.take() {
            Some(closer) => closer,
            None => match self.shape.over_bytes() {
                Some(machine) => Closer::new(machine),
                None => {
                    self.closing.failed = TRIES;
                    return Ok(None);
                }
            },
        };
        let found = closer.close(&self.answer, (8 * room).min(4096));
        self.closing.closer = Some(closer);
        let Some(bytes) = found? else {
            self.closing.failed += 1;
            return Ok(None);
        };
        let mut way = self.tokenizer.encode(&lead, Special::Parse)?;
        way.extend(self.shape.vocabulary.tokens(&bytes));
        self.closing.here = Some((self.trail.len(), way.clone()));
        Ok(Some(way))
    }
}
