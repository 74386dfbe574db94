//! Sampling: from a row of logits to the next token.
//!
//! [`Sampling`] is what one asks for, [`Sampler`] is the state that does it. The steps are llama.cpp's, in its default order; the order
//! is a list that one may change ([`Sampling::steps`]), and [`Sampling::custom`] adds steps of one's own:
//!
//! ```text
//! logits ── bias ── penalties ── dry ── top-n-sigma ── top-k ── typical-p ── top-p ── min-p ── xtc ── temperature ── choice
//!                   └ penalties.rs ┘    └────────────────────────── steps.rs ─────────────────────────────────────┘   choice.rs
//! ```
//!
//! The choice is a draw, mirostat (with it the steps that cut are left out) or adaptive-p. A step that would do nothing is never made;
//! the file of each says its formula and its source. [`logprobs`] looks at the logits before all this.
//!
//! Equal logits stand in the order of their ids everywhere, and a draw goes along the ids, whatever the steps before it were. The generator
//! is ChaCha12, and probabilities are summed exactly (`candidates.rs`): the same seed gives the same tokens on every machine.

mod candidates;
mod choice;
mod dry;
mod logprobs;
mod options;
mod penalties;
mod steps;

pub use candidates::Candidate;
pub(crate) use choice::Learnt;
pub use logprobs::{Logprobs, logprobs};
pub use options::{Custom, Mirostat, Sampling, Step};

use crate::error::{Error, Fault, Result};
use crate::tokenizer::{Token, Tokenizer};
use candidates::{Buffers, Candidates};
use choice::Choice;
use dry::Dry;
use penalties::Penalties;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, Hasher, RandomState};

/// The state of sampling: the random numbers, what was said, what was learnt from it, and buffers. See the module for what it computes.
#[derive(Clone, Debug)]
pub struct Sampler {
    seed: u64,
    rng: ChaCha12Rng,
    numbers: Numbers,
    /// Those that do something.
    steps: Vec<Step>,
    penalties: Penalties,
    dry: Dry,
    custom: Vec<Custom>,
    bias: Vec<(Token, f32)>,
    choice: Choice,
    learnt: Learnt,
    /// The token sampled last, and what there is to learn from it.
    pending: Option<(Token, Learnt)>,
    buffers: Buffers,
    spare: Vec<f32>,
}

/// What sampling has to remember to go on elsewhere, beside the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drawn {
    /// The seed, where it is known.
    #[serde(skip)]
    pub(crate) seed: Option<u64>,
    /// Random numbers used up, in words of 32 bits.
    pub(crate) random: u64,
    /// What mirostat or adaptive-p has learnt, as the bits of three f64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) learnt: Option<[u64; 3]>,
}

/// The numbers of the steps that have no state.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    temperature: f32,
    range: f32,
    exponent: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    typical_p: f32,
    sigma: f32,
    xtc_probability: f32,
    xtc_threshold: f32,
}

/// An option's value, which must be within bounds.
fn within(name: &str, value: Option<f32>, default: f32, range: std::ops::RangeInclusive<f32>) -> Result<f32> {
    let value = value.unwrap_or(default);
    let wanted = || format!("a number from {} to {}", range.start(), range.end());
    if range.contains(&value) { Ok(value) } else { Err(Error::Input(Fault::at(name).expected(wanted()).found(value))) }
}

impl Numbers {
    fn new(s: &Sampling) -> Result<Numbers> {
        Ok(Numbers {
            temperature: within("temperature", s.temperature, 0.8, 0.0..=1e6)?,
            range: within("dynatemp_range", s.dynatemp_range, 0.0, 0.0..=1e6)?,
            exponent: within("dynatemp_exponent", s.dynatemp_exponent, 1.0, 0.0..=1e3)?,
            top_k: s.top_k.unwrap_or(40),
            top_p: within("top_p", s.top_p, 0.95, 0.0..=1.0)?,
            min_p: within("min_p", s.min_p, 0.05, 0.0..=1.0)?,
            typical_p: within("typical_p", s.typical_p, 1.0, 0.0..=1.0)?,
            sigma: within("top_n_sigma", s.top_n_sigma, -1.0, -1e3..=1e3)?,
            xtc_probability: within("xtc_probability", s.xtc_probability, 0.0, 0.0..=1.0)?,
            xtc_threshold: within("xtc_threshold", s.xtc_threshold, 0.1, 0.0..=1.0)?,
        })
    }
}

/// DRY's breakers, unless others are asked for.
const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

fn dry(s: &Sampling) -> Result<(Dry, bool)> {
    let multiplier = within("dry_multiplier", s.dry_multiplier, 0.0, 0.0..=1e3)?;
    let base = within("dry_base", s.dry_base, 1.75, 1.0..=1e3)?;
    let (allowed, last_n) = (s.dry_allowed_length.unwrap_or(2), s.dry_penalty_last_n.unwrap_or(64));
    let breakers = s.dry_sequence_breakers.clone().unwrap_or_else(|| BREAKERS.map(str::to_owned).to_vec());
    if breakers.iter().any(String::is_empty) {
        return Err(Error::Input(Fault::at("dry_sequence_breakers").expected("texts").found("an empty one")));
    }
    Ok((Dry::new(multiplier, base, allowed, last_n, breakers), multiplier > 0.0 && last_n > 0))
}

fn choice(s: &Sampling) -> Result<Choice> {
    let tau = within("mirostat_tau", s.mirostat_tau, 5.0, 0.0..=1e3)?;
    let eta = within("mirostat_eta", s.mirostat_eta, 0.1, 0.0..=1e3)?;
    let target = within("adaptive_target", s.adaptive_target, -1.0, -1.0..=1.0)?;
    let decay = within("adaptive_decay", s.adaptive_decay, 0.9, 0.0..=0.99)?;
    match s.mirostat.unwrap_or_default() {
        Mirostat::Off if target >= 0.0 => Ok(Choice::Adaptive { target, decay }),
        Mirostat::Off => Ok(Choice::Draw),
        Mirostat::V1 | Mirostat::V2 if target >= 0.0 => {
            Err(Error::Input(Fault::at("adaptive_target").expected("none, as mirostat is on").found(target)))
        }
        Mirostat::V1 => Ok(Choice::Mirostat1 { tau, eta }),
        Mirostat::V2 => Ok(Choice::Mirostat2 { tau, eta }),
    }
}

impl Sampler {
    /// A sampler for `sampling`; what that leaves unset has the defaults.
    ///
    /// # Errors
    /// [`Error::Input`] for a value outside its range.
    pub fn new(sampling: &Sampling) -> Result<Sampler> {
        let seed = sampling.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let penalties = Penalties::new(
            within("repeat_penalty", sampling.repeat_penalty, 1.0, 1e-3..=1e3)?,
            within("frequency_penalty", sampling.frequency_penalty, 0.0, -1e3..=1e3)?,
            within("presence_penalty", sampling.presence_penalty, 0.0, -1e3..=1e3)?,
            sampling.repeat_last_n.unwrap_or(64),
        );
        let (dry, repeats) = dry(sampling)?;
        let choice = choice(sampling)?;
        let mut sampler = Sampler {
            seed,
            rng: ChaCha12Rng::from_seed(key),
            numbers: Numbers::new(sampling)?,
            steps: Vec::new(),
            penalties,
            dry,
            custom: sampling.custom.clone(),
            bias: sampling.logit_bias.clone(),
            choice,
            learnt: choice.beginning(),
            pending: None,
            buffers: Buffers::default(),
            spare: Vec::new(),
        };
        let mut order = sampling.steps.clone().unwrap_or_else(|| Step::DEFAULT.to_vec());
        if !order.contains(&Step::Custom) {
            order.insert(0, Step::Custom);
        }
        order.retain(|step| sampler.acts(*step, repeats));
        if sampler.is_greedy()
            && let Some(last) = order.iter().position(|step| *step == Step::Temperature)
        {
            // Cuts that keep the best change nothing just before it is taken.
            let cuts = |step: &&Step| matches!(step, Step::TopNSigma | Step::TopK | Step::TopP | Step::MinP);
            let idle = order[..last].iter().rev().take_while(cuts).count();
            order.drain(last - idle..last);
        }
        sampler.steps = order;
        Ok(sampler)
    }

    /// Whether a step does anything at all.
    fn acts(&self, step: Step, repeats: bool) -> bool {
        let n = &self.numbers;
        let cuts = match self.choice {
            Choice::Draw | Choice::Adaptive { .. } => true,
            Choice::Mirostat1 { .. } | Choice::Mirostat2 { .. } => false,
        };
        match step {
            Step::Penalties => self.penalties.act(),
            Step::Dry => repeats,
            Step::TopNSigma => cuts && n.sigma > 0.0,
            Step::TopK => cuts && n.top_k > 0,
            Step::TypicalP => cuts && n.typical_p < 1.0,
            Step::TopP => cuts && n.top_p < 1.0,
            Step::MinP => cuts && n.min_p > 0.0,
            Step::Xtc => cuts && n.xtc_probability > 0.0 && n.xtc_threshold <= 0.5,
            Step::Temperature => n.temperature != 1.0 || n.range > 0.0,
            Step::Custom => !self.custom.is_empty(),
        }
    }

    /// Whether the temperature leaves nothing to chance.
    fn is_greedy(&self) -> bool {
        self.numbers.temperature == 0.0 && self.numbers.range == 0.0
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The steps that do something, in their order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Finds DRY's sequence breakers in a vocabulary. Sessions and chats do it by themselves.
    pub fn vocabulary(&mut self, tokenizer: &Tokenizer) {
        if self.steps.contains(&Step::Dry) {
            self.dry.vocabulary(tokenizer);
        }
    }

    /// Tells the steps that look back that `token` was said.
    pub fn accept(&mut self, token: Token) {
        if self.steps.contains(&Step::Penalties) {
            self.penalties.accept(token);
        }
        if self.steps.contains(&Step::Dry) {
            self.dry.accept(token);
        }
        if let Some((_, learnt)) = self.pending.take().filter(|(sampled, _)| *sampled == token) {
            self.learnt = learnt;
        }
    }

    /// Tells the steps that look back that nothing was said yet. The random numbers, and what mirostat and adaptive-p have learnt, go on.
    pub fn forget(&mut self) {
        self.penalties.forget();
        self.dry.forget();
        self.pending = None;
    }

    /// Whether there are steps of one's own, which may look at any logit.
    pub(crate) fn has_custom(&self) -> bool {
        !self.custom.is_empty()
    }

    /// How far the random numbers have come, and what was learnt.
    pub(crate) fn drawn(&self) -> Drawn {
        let learnt = (self.learnt != self.choice.beginning()).then(|| self.learnt.bits());
        Drawn { seed: Some(self.seed), random: self.rng.get_word_pos() as u64, learnt }
    }

    /// Goes on where a sampler of the same seed was.
    pub(crate) fn go_on(&mut self, drawn: Drawn) {
        self.rng.set_word_pos(drawn.random.into());
        self.learnt = drawn.learnt.map_or(self.choice.beginning(), Learnt::of_bits);
        self.pending = None;
    }

    /// What was learnt from the tokens accepted so far.
    pub(crate) fn learnt(&self) -> Learnt {
        self.learnt
    }

    /// Goes back to what was learnt by an earlier token.
    pub(crate) fn relearn(&mut self, learnt: Learnt) {
        self.learnt = learnt;
    }

    /// Chooses the next token from the logits of the whole vocabulary, which it changes. The choice is not
    /// [`accept`](Sampler::accept)ed by itself.
    ///
    /// # Errors
    /// [`Error::Model`] where a logit is not a number or none is finite, [`Error::Input`] where a bias names no token, or a step of one's
    /// own leaves no candidate.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Token> {
        let vocabulary = logits.len();
        for &(token, bias) in &self.bias {
            let wanted = || Error::Input(Fault::at("logit bias").expected(format!("a token below {vocabulary}")).found(token));
            *logits.get_mut(token as usize).ok_or_else(wanted)? += bias;
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        let mut candidates = Candidates::new(logits, &mut buffers)?;
        let mut done = Ok(());
        for i in 0..self.steps.len() {
            done = done.and_then(|()| self.make(self.steps[i], &mut candidates));
        }
        let token = done.map(|()| {
            let settled = self.is_greedy() && candidates.len() == 1;
            let unit = if settled { 0.0 } else { self.unit() };
            let (token, learnt) = self.choice.choose(&mut candidates, self.learnt, unit, &mut self.spare);
            self.pending = Some((token, learnt));
            token
        });
        self.buffers = buffers;
        token
    }

    /// A random number from 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Makes a step.
    fn make(&mut self, step: Step, c: &mut Candidates<'_>) -> Result<()> {
        let n = self.numbers;
        match step {
            Step::Penalties => self.penalties.apply(c),
            Step::Dry => self.dry.apply(c)?,
            Step::TopNSigma => steps::top_n_sigma(c, n.sigma),
            Step::TopK => steps::top_k(c, n.top_k),
            Step::TypicalP => steps::typical_p(c, n.typical_p),
            Step::TopP => steps::top_p(c, n.top_p),
            Step::MinP => steps::min_p(c, n.min_p),
            Step::Xtc => {
                if c.len() > 1 && self.unit() < f64::from(n.xtc_probability) {
                    steps::xtc(c, n.xtc_threshold);
                }
            }
            Step::Temperature if n.range > 0.0 => steps::dynatemp(c, n.temperature, n.range, n.exponent),
            Step::Temperature => steps::temperature(c, n.temperature),
            Step::Custom => self.custom(c)?,
        }
        Ok(())
    }

    /// The steps of one's own, and whether what they leave can be sampled from.
    fn custom(&self, c: &mut Candidates<'_>) -> Result<()> {
        let vocabulary = c.vocabulary();
        let mut list = c.list();
        self.custom.iter().for_each(|step| step.apply(&mut list));
        list.sort_unstable_by_key(|c| c.token);
        let fault = |found: &str| Err(Error::Input(Fault::at("custom step").expected("candidates with logits").found(found)));
        if list.iter().any(|c| c.logit.is_nan() || c.logit == f32::INFINITY) {
            return fault("one that is not a finite number");
        }
        if !list.iter().any(|c| c.logit.is_finite()) {
            return fault("none");
        }
        if list.last().is_some_and(|c| c.token as usize >= vocabulary) {
            return fault("a token outside the vocabulary");
        }
        if list.windows(2).any(|pair| pair[0].token == pair[1].token) {
            return fault("a token twice");
        }
        c.take_list(list);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
