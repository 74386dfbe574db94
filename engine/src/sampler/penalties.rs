//! Penalties on tokens that were said among the last n:
//!
//! ```text
//! l ← l > 0 ? l / repeat : l · repeat           Keskar et al., "CTRL", 2019, arXiv:1909.05858; the sign's case by llama.cpp
//! l ← l - count · frequency - presence          OpenAI's API
//! ```

use super::candidates::Candidates;
use crate::tokenizer::Token;
use std::collections::{HashMap, VecDeque};

/// The penalties and the tokens they fall on.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    pub(super) repeat: f32,
    pub(super) frequency: f32,
    pub(super) presence: f32,
    pub(super) last_n: usize,
    recent: VecDeque<Token>,
    counts: HashMap<Token, u32>,
}

impl Penalties {
    pub(super) fn new(repeat: f32, frequency: f32, presence: f32, last_n: usize) -> Penalties {
        Penalties { repeat, frequency, presence, last_n, recent: VecDeque::new(), counts: HashMap::new() }
    }

    /// Whether they change anything.
    pub(super) fn act(&self) -> bool {
        self.last_n > 0 && (self.repeat != 1.0 || self.presence != 0.0 || self.frequency != 0.0)
    }

    pub(super) fn accept(&mut self, token: Token) {
        if self.recent.len() == self.last_n
            && let Some(old) = self.recent.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
        self.recent.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    pub(super) fn forget(&mut self) {
        self.recent.clear();
        self.counts.clear();
    }

    /// Each token changes by itself, so the map's order does not matter.
    pub(super) fn apply(&self, c: &mut Candidates<'_>) {
        c.edit(self.counts.iter().map(|(&token, &count)| {
            let change = move |l: f32| {
                let l = if l > 0.0 { l / self.repeat } else { l * self.repeat };
                l - (count as f32 * self.frequency + self.presence)
            };
            (token, change)
        }));
    }
}
