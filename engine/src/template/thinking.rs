//! Thinking, on or off or how much: one option, mapped onto the variables that templates read.
//!
//! ```text
//! enable_thinking            Qwen 3, GLM, SmolLM3, Gemma 4 …    true, false
//! thinking                   DeepSeek, Granite, Kimi            true, false
//! reasoning_effort           gpt-oss, DeepSeek V4, Hunyuan      "low", "medium", "high"; for some "no_think"
//! thinking_effort            Kimi K3                            "low", "high"
//! thinking_budget            Seed-OSS                           tokens
//! ```
//!
//! A template is asked which variables it reads; what it does not read it cannot heed, and that is said. A budget is kept even so: where
//! it is used up, the marker that ends thinking is written in the model's place.

use serde_json::{Map, Value as Json};
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// How much a model is to think before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Thinking {
    /// As the template does by itself.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// As much as it likes.
    On,
    /// So much.
    Effort(Effort),
    /// So many tokens, after which the answer is begun for it.
    Budget(u32),
}

/// How hard a model is to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effort {
    /// A little.
    Low,
    /// Between the two.
    Medium,
    /// A lot.
    High,
}

impl Effort {
    /// The word that templates use.
    pub fn name(self) -> &'static str {
        match self {
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
        }
    }
}

impl fmt::Display for Thinking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thinking::Auto => f.write_str("auto"),
            Thinking::Off => f.write_str("off"),
            Thinking::On => f.write_str("on"),
            Thinking::Effort(effort) => f.write_str(effort.name()),
            Thinking::Budget(tokens) => write!(f, "{tokens}"),
        }
    }
}

impl FromStr for Thinking {
    type Err = String;

    /// `auto`, `on`, `off`, `low`, `medium`, `high` or a number of tokens.
    fn from_str(text: &str) -> Result<Thinking, String> {
        match text {
            "auto" => Ok(Thinking::Auto),
            "on" => Ok(Thinking::On),
            "off" => Ok(Thinking::Off),
            "low" => Ok(Thinking::Effort(Effort::Low)),
            "medium" => Ok(Thinking::Effort(Effort::Medium)),
            "high" => Ok(Thinking::Effort(Effort::High)),
            other => {
                other.parse().map(Thinking::Budget).map_err(|_| "auto, on, off, low, medium, high or a number of tokens is needed".into())
            }
        }
    }
}

/// What was asked of a template that it does not heed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// What was asked.
    pub asked: String,
    /// Why nothing, or not all, comes of it.
    pub why: &'static str,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.asked, self.why)
    }
}

const NO_SWITCH: &str = "this model's chat template has no switch for thinking";
const NO_AMOUNT: &str = "this model's chat template knows thinking only on and off";
const NO_OFF: &str = "this model's chat template cannot turn thinking off, and is asked for the least";

/// The variables that make a template heed `asked`, and what it does not.
pub(super) fn variables(asked: Thinking, reads: &HashSet<String>, source: &str) -> (Map<String, Json>, Option<Ignored>) {
    let mut set = Map::new();
    let mut give = |names: &[&str], value: Json| {
        let before = set.len();
        names.iter().filter(|name| reads.contains(**name)).for_each(|name| drop(set.insert((*name).to_owned(), value.clone())));
        set.len() > before
    };
    let quoted = |word: &str| source.contains(&format!("'{word}'")) || source.contains(&format!("\"{word}\""));
    let (switches, efforts) = (["enable_thinking", "thinking"], ["reasoning_effort", "thinking_effort"]);
    let why = match asked {
        Thinking::Auto => None,
        Thinking::Off | Thinking::Budget(0) => {
            let switched = give(&switches, false.into()) | give(&["thinking_budget"], 0.into());
            match ["no_think", "none"].into_iter().find(|word| quoted(word)) {
                _ if switched => None,
                Some(word) if give(&efforts, word.into()) => None,
                Some(_) | None if give(&efforts, "low".into()) => Some(NO_OFF),
                Some(_) | None => Some(NO_SWITCH),
            }
        }
        Thinking::On => {
            let switched = give(&switches, true.into());
            let reads_more = give(&["thinking_budget"], (-1).into()) | (quoted("no_think") && give(&efforts, "high".into()));
            let has_effort = efforts.iter().any(|name| reads.contains(*name));
            if switched || reads_more || has_effort { None } else { Some(NO_SWITCH) }
        }
        Thinking::Effort(effort) => {
            let switched = give(&switches, true.into());
            match give(&efforts, effort.name().into()) {
                true => None,
                false if switched => Some(NO_AMOUNT),
                false => Some(NO_SWITCH),
            }
        }
        Thinking::Budget(tokens) => {
            // Whether the template knows of it or not, a reply that thinks for longer is cut short.
            let heeded = give(&switches, true.into()) | give(&["thinking_budget"], tokens.into());
            let thinks = heeded || efforts.iter().any(|name| reads.contains(*name)) || source.contains("</think>");
            if thinks { None } else { Some(NO_SWITCH) }
        }
    };
    (set, why.map(|why| Ignored { asked: format!("thinking {asked}"), why }))
}
