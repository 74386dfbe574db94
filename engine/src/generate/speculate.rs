//! Lossless speculation: tokens that are likely to come are computed together with the last one, and kept as far as they do come.
//!
//! ```text
//! tokens   … t7 t8                    the last, t8, is to be computed; d1 d2 d3 are drafted
//! step     t8 d1 d2 d3                one ragged batch, every row with logits
//! rows     r8 r9 r10 r11              the sampler takes t9 from r8. t9 = d1: r9 is what t10 is taken from, and nothing is computed
//! cache    … t8 d1 d2 d3              t9 ≠ d1: cut back to t8
//! ```
//!
//! Logits have the same bits whatever the batch, and the sampler sees the same rows in the same order as without: so does the text come out,
//! greedy or sampled, held to a grammar, with stop and banned strings. Drafts come from the session's own tokens (prompt lookup: what came
//! after the last tokens when they stood there before; Saxena 2023, <https://github.com/apoorvumang/prompt-lookup-decoding>) or from a smaller
//! model of the same vocabulary (Leviathan et al. 2022, arXiv:2211.17192; here what is verified is the sampler's own choice).
//!
//! **Never slower**, or hardly: [`Gate`] measures what a step of each width takes and how often drafts are right, which it learns also from
//! drafts that it does not have computed, and drafts as many as pay: with a the share that is right, `(1 + a + … + a^k) / time(k+1)` must beat
//! `1 / time(1)`.

use super::Session;
use crate::batch::{Entry, Logits};
use crate::error::Result;
use crate::model::Speculation;
use crate::tokenizer::Token;
use std::collections::VecDeque;
use std::time::Instant;

/// Most tokens drafted at a time.
const MOST: usize = 15;
/// Numbers of them that are tried.
const SIZES: [usize; 6] = [1, 2, 3, 5, 7, MOST];
/// The longest stretch that is looked for among the tokens, and the shortest that counts.
const LONGEST: usize = 12;
const SHORTEST: usize = 2;
/// How sure a draft is at first, by the stretch that found it: up to 3 tokens, up to 7, more; and a model's.
const SURE: [f64; 4] = [0.4, 0.6, 0.8, 0.7];
/// A model drafts on trial every so many tokens where it does not pay.
const TRIAL: usize = 64;
/// By how much it must pay.
const MARGIN: f64 = 1.05;

/// Where drafts come from, and what has become of them.
pub(super) struct Speculator {
    source: Source,
    pub(super) gate: Gate,
    ahead: Option<Ahead>,
    /// What was drafted and has not come yet.
    told: VecDeque<Token>,
}

enum Source {
    Off,
    Lookup,
    Draft(Box<Session>),
}

/// What is computed already.
struct Ahead {
    drafts: Vec<Token>,
    /// Logits after the last token that is certain, and after each draft.
    rows: Vec<f32>,
    /// Drafts that came true.
    used: usize,
}

impl Speculator {
    pub(super) fn off() -> Speculator {
        Speculator { source: Source::Off, gate: Gate::default(), ahead: None, told: VecDeque::new() }
    }

    pub(super) fn new(speculation: &Speculation) -> Result<Speculator> {
        let source = match speculation {
            Speculation::Off => Source::Off,
            Speculation::Lookup => Source::Lookup,
            Speculation::Draft(model) => Source::Draft(Box::new(model.session()?)),
        };
        Ok(Speculator { source, ..Speculator::off() })
    }

    fn is_off(&self) -> bool {
        matches!(self.source, Source::Off)
    }
}

/// Whether drafts pay, and how many.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// Seconds that a step of so many tokens takes; 0 where it is not known.
    times: [f64; MOST + 2],
    /// The share of drafts that is right, by how they were found.
    right: [f64; 4],
    found: usize,
    /// Seconds to draft a token.
    drafting: f64,
    since: usize,
    /// So many always, whatever it costs.
    pub(super) always: Option<usize>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { times: [0.0; MOST + 2], right: SURE, found: 0, drafting: 0.0, since: TRIAL, always: None }
    }
}

impl Gate {
    /// A step of `n` tokens took so long.
    fn took(&mut self, n: usize, seconds: f64) {
        if let Some(time) = self.times.get_mut(n) {
            *time = if *time == 0.0 { seconds } else { 0.8 * *time + 0.2 * seconds };
        }
    }

    /// What is expected of a step of `n` tokens: as measured, or a little more than the next narrower one.
    fn time(&self, n: usize) -> f64 {
        let known = (1..=n).rev().find(|m| self.times[*m] > 0.0);
        known.map_or(0.0, |m| self.times[m] * (1.0 + 0.06 * (n - m) as f64))
    }

    /// A draft was right, or was not.
    fn learn(&mut self, right: bool) {
        let share = &mut self.right[self.found];
        *share += 0.08 * (f64::from(u8::from(right)) - *share);
    }

    /// How many of `there` drafts pay.
    fn choose(&mut self, found: usize, there: usize) -> usize {
        if let Some(always) = self.always {
            return always.min(there);
        }
        // What was slow once is tried again some day.
        self.times[2..].iter_mut().for_each(|time| *time *= 0.9995);
        if self.times[1] == 0.0 {
            return 0;
        }
        let (share, mut best) = (self.right[found].clamp(0.0, 0.999), (0, MARGIN / self.times[1]));
        for k in SIZES.into_iter().map(|k| k.min(there)).filter(|k| *k > 0) {
            let tokens = (1.0 - share.powi(k as i32 + 1)) / (1.0 - share);
            let rate = tokens / (self.time(k + 1) + self.drafting * k as f64);
            if rate > best.1 {
                best = (k, rate);
            }
        }
        best.0
    }
}

/// What came after the last tokens when they last stood there, and how many of them did. What reaches the end goes round again.
fn look_up(tokens: &[Token], most: usize) -> Option<(usize, Vec<Token>)> {
    let end = tokens.len();
    let last = *tokens.last()?;
    let (mut best, mut at) = (SHORTEST - 1, 0);
    for i in (1..end).rev().filter(|i| tokens[i - 1] == last) {
        let same = tokens[..i].iter().rev().zip(tokens.iter().rev()).take(LONGEST).take_while(|(a, b)| a == b).count();
        if same > best {
            (best, at) = (same, i);
        }
        if best == LONGEST {
            break;
        }
    }
    let mut drafts: Vec<Token> = Vec::with_capacity(most);
    for i in 0..if at > 0 { most } else { 0 } {
        drafts.push(tokens.get(at + i).copied().unwrap_or_else(|| drafts[at + i - end]));
    }
    (at > 0).then_some((best, drafts))
}

impl Session {
    /// The logits after the last token, where they were computed on trial.
    pub(super) fn row_ahead(&self) -> Option<&[f32]> {
        let ahead = self.speculator.ahead.as_ref()?;
        let vocabulary = ahead.rows.len() / (ahead.drafts.len() + 1);
        Some(&ahead.rows[ahead.used * vocabulary..][..vocabulary])
    }

    /// Takes them.
    pub(super) fn take_ahead(&mut self) -> bool {
        let mut logits = std::mem::take(&mut self.logits);
        let row = self.row_ahead().map(|row| {
            logits.clear();
            logits.extend_from_slice(row);
        });
        self.logits = logits;
        row.is_some()
    }

    /// Computes the last token, and drafts with it where they pay, `room` being how many may come at most; false where none do.
    pub(super) fn compute_ahead(&mut self, room: usize) -> Result<bool> {
        if self.speculator.is_off() || self.tokens.len() != self.cache.len() + 1 {
            return Ok(false);
        }
        let most = room.saturating_sub(1).min(self.capacity() - self.tokens.len()).min(MOST);
        let drafts = self.drafts(most)?;
        let begun = Instant::now();
        if drafts.is_empty() {
            self.step(1, Logits::Skip)?;
        } else {
            self.step_with(&drafts)?;
        }
        self.stats.steps += 1;
        self.stats.drafted += drafts.len();
        self.speculator.gate.took(1 + drafts.len(), begun.elapsed().as_secs_f64());
        Ok(true)
    }

    /// The drafts that are to be computed. Those that are not teach the gate all the same.
    fn drafts(&mut self, most: usize) -> Result<Vec<Token>> {
        let Speculator { source, gate, told, .. } = &mut self.speculator;
        told.clear();
        match source {
            Source::Off => Ok(Vec::new()),
            Source::Lookup => {
                let Some((same, drafts)) = look_up(&self.tokens, most) else { return Ok(Vec::new()) };
                gate.found = usize::from(same > 3) + usize::from(same > 7);
                told.extend(&drafts);
                let k = gate.choose(gate.found, drafts.len());
                Ok(drafts[..k].to_vec())
            }
            Source::Draft(draft) => {
                gate.found = 3;
                gate.since += 1;
                let room = draft.capacity().saturating_sub(self.tokens.len());
                let k = gate.choose(gate.found, most.min(room).min(7));
                let trial = if k == 0 && gate.since >= TRIAL { most.min(room).min(3) } else { 0 };
                if k + trial == 0 {
                    return Ok(Vec::new());
                }
                gate.since = 0;
                let begun = Instant::now();
                let drafts = draft.draft(&self.tokens, k + trial)?;
                gate.drafting = begun.elapsed().as_secs_f64() / (k + trial) as f64;
                told.extend(&drafts);
                Ok(if k > 0 { drafts } else { Vec::new() })
            }
        }
    }

    /// As the draft: `n` tokens that it takes to come after these.
    fn draft(&mut self, tokens: &[Token], n: usize) -> Result<Vec<Token>> {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.truncate(common.min(tokens.len() - 1))?;
        self.feed(&tokens[self.tokens.len()..])?;
        let mut drafts = Vec::with_capacity(n);
        loop {
            let best =
                self.logits().iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, l)| if *l > best.1 { (i, *l) } else { best });
            drafts.push(best.0 as Token);
            if drafts.len() == n {
                return Ok(drafts);
            }
            self.feed(&[best.0 as Token])?;
        }
    }

    /// Computes the last token and these after it.
    fn step_with(&mut self, drafts: &[Token]) -> Result<()> {
        let start = self.cache.len();
        let tokens = self.tokens[start..].iter().chain(drafts).zip(start as u32..);
        let batch: Vec<Entry> = tokens.map(|(&token, position)| Entry { token, sequence: 0, position, logits: Logits::Want }).collect();
        let mut rows = Vec::new();
        self.logits.clear();
        if let Err(error) = self.model.run().step(&batch, &mut [&mut self.cache], &self.stop, &mut rows) {
            if self.cache.sound().is_err() {
                self.cut(self.cache.len())?;
            }
            return Err(error);
        }
        self.speculator.ahead = Some(Ahead { drafts: drafts.to_vec(), rows, used: 0 });
        self.take_ahead();
        Ok(())
    }

    /// A token has come, and is the last: what was computed for another in its place is forgotten.
    pub(super) fn followed(&mut self, token: Token) -> Result<()> {
        let Speculator { gate, told, ahead, .. } = &mut self.speculator;
        if let Some(draft) = told.pop_front() {
            gate.learn(draft == token);
            if draft != token {
                told.clear();
            }
        }
        let Some(mut ahead) = ahead.take() else { return Ok(()) };
        if ahead.drafts.get(ahead.used) == Some(&token) {
            ahead.used += 1;
            self.stats.accepted += 1;
            self.speculator.ahead = Some(ahead);
            return Ok(());
        }
        self.logits.clear();
        if ahead.used == ahead.drafts.len() { Ok(()) } else { self.back_to(self.tokens.len() - 1) }
    }

    /// Forgets what is computed beyond the last token. Its logits stay.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let computed = self.take_ahead();
        let Some(ahead) = self.speculator.ahead.take().filter(|_| computed) else { return Ok(()) };
        if ahead.used == ahead.drafts.len() { Ok(()) } else { self.back_to(self.tokens.len()) }
    }

    fn back_to(&mut self, len: usize) -> Result<()> {
        if self.cache.truncate(len).is_ok() {
            return Ok(());
        }
        // A cache that cannot go back so far would be computed again each time.
        self.speculator.source = Source::Off;
        self.cut(len)
    }
}

#[cfg(test)]
mod tests;
