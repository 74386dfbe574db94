//! What becomes of a conversation that outgrows the context: a choice, and never a silence.
//!
//! ```text
//! Stop   │ system │ q1 a1 │ q2 a2 │ q3 …    the reply ends with EndReason::ContextFull; a question that does not fit is an error
//! Roll   │ system │ q2 a2 │ q3 … │  room    the oldest turns go, as many as it takes to leave a quarter free: Event::Rolled
//! ```
//!
//! Whole turns go, and the chat template renders the rest anew, so what the model reads is a conversation like any other. Where
//! the context fills up in the middle of a reply, the same is done there: the prompt is rendered anew, what the model has written
//! so far is put behind it token by token, and the reply goes on. What goes stays in the conversation.

use super::Chat;
use crate::error::{Error, Fault, Result};
use crate::reply::Rolled;
use crate::template::{Message, Role};
use crate::tokenizer::Token;

/// What becomes of a conversation that outgrows the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Full {
    /// Replies end where the context is full, and a question that does not fit is refused.
    #[default]
    Stop,
    /// The oldest turns go; the system message and the newest stay.
    Roll,
}

impl std::str::FromStr for Full {
    type Err = String;

    fn from_str(text: &str) -> Result<Full, String> {
        match text {
            "stop" => Ok(Full::Stop),
            "roll" => Ok(Full::Roll),
            _ => Err("stop or roll is needed".into()),
        }
    }
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Full::Stop => "stop",
            Full::Roll => "roll",
        })
    }
}

/// How full the context is, and of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens that fit.
    pub capacity: usize,
    /// What the system message takes.
    pub system: usize,
    /// What the tools take.
    pub tools: usize,
    /// What questions, answers and the template around them take.
    pub turns: usize,
    /// What the model thought, as far as its template shows it again.
    pub thinking: usize,
    /// Bytes of the cache when full.
    pub cache_bytes: u64,
}

impl Usage {
    /// All that is taken.
    pub fn used(&self) -> usize {
        self.system + self.tools + self.turns + self.thinking
    }

    /// What is free.
    pub fn free(&self) -> usize {
        self.capacity.saturating_sub(self.used())
    }
}

/// A prompt that fits.
pub(super) struct Fitted {
    pub(super) tokens: Vec<Token>,
    pub(super) text: String,
    pub(super) rolled: Option<Rolled>,
}

impl Chat {
    /// What becomes of the conversation when it outgrows the context (default: [`Full::Stop`]).
    ///
    /// ```
    /// use hob::{Model, chat::Full, Event};
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    /// let model = Model::options().context(96).open(path)?;
    /// let mut chat = model.chat().full(Full::Roll).max_tokens(16);
    /// for question in ["One?", "Two?", "Three?", "Four?"] {
    ///     for event in chat.say(question)?.events() {
    ///         if let Event::Rolled(rolled) = event? {
    ///             println!("{rolled}");
    ///         }
    ///     }
    /// }
    /// assert!(chat.conversation().begins_at() > 0);
    /// # Ok::<(), hob::Error>(())
    /// ```
    pub fn full(mut self, full: Full) -> Chat {
        self.full = full;
        self
    }

    /// Changes what becomes of the conversation when it outgrows the context.
    pub fn set_full(&mut self, full: Full) {
        self.full = full;
    }

    /// What the conversation so far takes of the context: rendered and counted, which takes a moment for a long one.
    ///
    /// # Errors
    /// [`Error::Template`] where the template refuses the conversation, [`Error::Memory`] where there is no room for a cache.
    pub fn usage(&self) -> Result<Usage> {
        let capacity = self.model.context();
        let cache_bytes = match &self.session {
            Some(session) => session.cache_bytes(),
            // Made to be asked: its memory is touched only when it is filled.
            None => self.model.run().cache(self.model.cache_options())?.bytes(),
        };
        let messages = self.conversation.read_from(self.conversation.begins_at());
        let tools = self.schemas()?;
        // A template may want a question before it renders anything.
        let empty = messages.iter().all(|m| m.role == Role::System);
        let one = Message::new(Role::User, "");
        let count = |messages: &[Message], tools: &[serde_json::Value]| -> Result<usize> {
            let mut messages = messages.to_vec();
            messages.extend(empty.then(|| one.clone()));
            Ok(self.encode(&messages, tools)?.0.len())
        };
        let all = count(&messages, &tools)?;
        let less = |messages: Vec<Message>| count(&messages, &tools).map_or(0, |tokens| all.saturating_sub(tokens));
        let system = less(messages.iter().filter(|m| m.role != Role::System).cloned().collect());
        let thoughtless = |m: &Message| Message { thinking: String::new(), ..m.clone() };
        let thinking = less(messages.iter().map(thoughtless).collect());
        let tools = if tools.is_empty() { 0 } else { count(&messages, &[]).map_or(0, |tokens| all.saturating_sub(tokens)) };
        let turns = if empty { 0 } else { all.saturating_sub(system + thinking + tools) };
        Ok(Usage { capacity, system, tools, turns, thinking, cache_bytes })
    }

    /// The prompt for the conversation as it is, made to fit with `said` tokens of the reply behind it.
    pub(super) fn fitted(&mut self, said: usize) -> Result<Fitted> {
        let tools = self.schemas()?;
        let start = self.conversation.begins_at();
        let (tokens, text) = self.encode(&self.conversation.read_from(start), &tools)?;
        let context = self.model.context();
        if tokens.len() + said < context {
            return Ok(Fitted { tokens, text, rolled: None });
        }
        let before = tokens.len();
        let too_long = |tokens: usize, help: &str| {
            let fault = Fault::at("conversation").expected(format!("fewer tokens than the context's {context}"));
            Err(Error::Input(fault.found(tokens + said).help(help)))
        };
        match self.full {
            Full::Stop => too_long(before, "say less, clear the conversation, let old turns go, or open the model with a larger context"),
            Full::Roll => {
                let (start, tokens, text) = self.shorter(start, said)?.unwrap_or((start, tokens, text));
                if tokens.len() + said >= context {
                    return too_long(tokens.len(), "that is the newest turn alone: say less, or open the model with a larger context");
                }
                let rolled = self.let_go(start, before - tokens.len().min(before));
                Ok(Fitted { tokens, text, rolled: Some(rolled) })
            }
        }
    }

    /// The first turn after `start` to begin with such that a quarter of the context is free, else the last one; and the prompt that it
    /// gives. `None` where there is but one turn.
    fn shorter(&self, start: usize, said: usize) -> Result<Option<(usize, Vec<Token>, String)>> {
        let tools = self.schemas()?;
        let goal = self.model.context() - self.model.context() / 4;
        let turns: Vec<usize> = self.conversation.asked_at().into_iter().filter(|at| *at > start).collect();
        let render = |start: usize| -> Result<(usize, Vec<Token>, String)> {
            let (tokens, text) = self.encode(&self.conversation.read_from(start), &tools)?;
            Ok((start, tokens, text))
        };
        // The later the start, the shorter the prompt.
        let (mut low, mut high, mut best) = (0, turns.len(), None);
        while low < high {
            let middle = (low + high) / 2;
            let found = render(turns[middle])?;
            if found.1.len() + said <= goal {
                (high, best) = (middle, Some(found));
            } else {
                low = middle + 1;
            }
        }
        match (best, turns.last()) {
            (None, Some(last)) => render(*last).map(Some),
            (best, _) => Ok(best),
        }
    }

    /// Takes note that the model reads from message `start` on.
    fn let_go(&mut self, start: usize, tokens: usize) -> Rolled {
        let asked = self.conversation.asked_at();
        let number = |at: usize| 1 + asked.iter().filter(|asked| **asked < at).count();
        let turns = number(self.conversation.begins_at())..number(start);
        self.conversation.roll(start);
        self.write_news();
        Rolled { turns, tokens }
    }
}
