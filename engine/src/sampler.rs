//! Sampling: from a row of logits to the next token.
//!
//! [`Sampling`] is what one asks for, [`Sampler`] is the state that does it. The steps run in llama.cpp's default order:
//!
//! ```text
//! logits ── bias ── penalties ── top-k ── top-p ── min-p ── temperature ── draw
//! ```
//!
//! * bias: `l += b` for the tokens named.
//! * penalties, over the last `n` tokens: `l > 0 ? l / r : l · r`, then `l -= count · frequency + presence`.
//! * top-k: the k highest logits. top-p: the shortest run of them whose probabilities reach p. min-p: those at least p times
//!   as probable as the first. All three before the temperature, so they do not move with it.
//! * temperature: `l / t`; 0 takes the highest logit and draws nothing.
//!
//! Equal logits stand in the order of their ids everywhere. The generator is ChaCha12, the exponential is our own and plain
//! (no fused or vendor arithmetic), sums run in a stated order: the same seed gives the same tokens on every machine.

use crate::error::{Error, Fault, Result};
use crate::gguf::Metadata;
use crate::tokenizer::Token;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};

/// How to choose the next token. What is left unset is filled from the model file (`general.sampling.*`), then from hob's
/// defaults: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, no penalties.
///
/// ```
/// use hob::Sampling;
/// let calm = Sampling::new(42).temperature(0.7).top_p(0.9);
/// let exact = Sampling::greedy();
/// # assert_eq!(calm.seed, Some(42));
/// # assert_eq!(exact.temperature, Some(0.0));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Seed of the draw; unset: a different one each time ([`Sampler::seed`] tells it).
    pub seed: Option<u64>,
    /// Flatter above 1, sharper below; 0 takes the most probable token (default 0.8).
    pub temperature: Option<f32>,
    /// Keep this many tokens; 0 keeps all (default 40).
    pub top_k: Option<usize>,
    /// Keep the most probable tokens until their probabilities reach this; 1 keeps all (default 0.95).
    pub top_p: Option<f32>,
    /// Keep the tokens at least this many times as probable as the first; 0 keeps all (default 0.05).
    pub min_p: Option<f32>,
    /// Divides the logits of recent tokens; 1 leaves them (default 1).
    pub repeat_penalty: Option<f32>,
    /// How many tokens count as recent (default 64).
    pub repeat_last_n: Option<usize>,
    /// Taken once from the logits of recent tokens (default 0).
    pub presence_penalty: Option<f32>,
    /// Taken from the logits of recent tokens once for every time they stand there (default 0).
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of these tokens; minus infinity bans one.
    pub logit_bias: Vec<(Token, f32)>,
}

impl Sampling {
    /// The defaults, with a seed.
    pub fn new(seed: u64) -> Sampling {
        Sampling { seed: Some(seed), ..Sampling::default() }
    }

    /// The most probable token, always.
    pub fn greedy() -> Sampling {
        Sampling { temperature: Some(0.0), ..Sampling::default() }
    }

    /// What a file recommends: its `general.sampling.*`, the rest unset.
    ///
    /// # Errors
    /// [`Error::Gguf`] for a key of the wrong type.
    pub fn from_gguf(metadata: &Metadata) -> Result<Sampling> {
        let key = |name: &str| format!("general.sampling.{name}");
        // Zero or less means all of them, or the whole context.
        let count = |name: &str, all: usize| {
            let n = metadata.i64(&key(name))?;
            Ok::<_, Error>(n.map(|n| if n < 0 { all } else { n as usize }))
        };
        Ok(Sampling {
            temperature: metadata.f32(&key("temp"))?.map(|t| t.max(0.0)),
            top_k: count("top_k", 0)?,
            top_p: metadata.f32(&key("top_p"))?,
            min_p: metadata.f32(&key("min_p"))?,
            repeat_penalty: metadata.f32(&key("penalty_repeat"))?,
            repeat_last_n: count("penalty_last_n", usize::MAX)?,
            ..Sampling::default()
        })
    }

    /// Sets the seed.
    pub fn seed(mut self, seed: u64) -> Sampling {
        self.seed = Some(seed);
        self
    }

    /// Sets the temperature; 0 takes the most probable token.
    pub fn temperature(mut self, temperature: f32) -> Sampling {
        self.temperature = Some(temperature);
        self
    }

    /// Keeps the `k` most probable tokens; 0 keeps all.
    pub fn top_k(mut self, k: usize) -> Sampling {
        self.top_k = Some(k);
        self
    }

    /// Keeps the most probable tokens until their probabilities reach `p`.
    pub fn top_p(mut self, p: f32) -> Sampling {
        self.top_p = Some(p);
        self
    }

    /// Keeps the tokens at least `p` times as probable as the first.
    pub fn min_p(mut self, p: f32) -> Sampling {
        self.min_p = Some(p);
        self
    }

    /// Divides the logits of recent tokens by `penalty`.
    pub fn repeat_penalty(mut self, penalty: f32) -> Sampling {
        self.repeat_penalty = Some(penalty);
        self
    }

    /// How many tokens the penalties look back at.
    pub fn repeat_last_n(mut self, n: usize) -> Sampling {
        self.repeat_last_n = Some(n);
        self
    }

    /// Takes `penalty` once from the logits of recent tokens.
    pub fn presence_penalty(mut self, penalty: f32) -> Sampling {
        self.presence_penalty = Some(penalty);
        self
    }

    /// Takes `penalty` from the logits of recent tokens for every time they stand there.
    pub fn frequency_penalty(mut self, penalty: f32) -> Sampling {
        self.frequency_penalty = Some(penalty);
        self
    }

    /// Adds `bias` to the logit of `token`; minus infinity bans it.
    pub fn bias(mut self, token: Token, bias: f32) -> Sampling {
        self.logit_bias.push((token, bias));
        self
    }

    /// These options, with what they leave unset taken from `base`.
    pub fn over(&self, base: &Sampling) -> Sampling {
        Sampling {
            seed: self.seed.or(base.seed),
            temperature: self.temperature.or(base.temperature),
            top_k: self.top_k.or(base.top_k),
            top_p: self.top_p.or(base.top_p),
            min_p: self.min_p.or(base.min_p),
            repeat_penalty: self.repeat_penalty.or(base.repeat_penalty),
            repeat_last_n: self.repeat_last_n.or(base.repeat_last_n),
            presence_penalty: self.presence_penalty.or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(base.frequency_penalty),
            logit_bias: base.logit_bias.iter().chain(&self.logit_bias).copied().collect(),
        }
    }
}

/// A candidate: its logit (before the draw, its weight) and its id.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    token: Token,
}

/// Highest logit first, then lowest id. Logits are never NaN here.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The state of sampling: the random numbers, the recent tokens, and a buffer. See the module for what it computes.
#[derive(Clone, Debug)]
pub struct Sampler {
    seed: u64,
    rng: ChaCha12Rng,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repeat: f32,
    presence: f32,
    frequency: f32,
    bias: Vec<(Token, f32)>,
    last_n: usize,
    recent: VecDeque<Token>,
    counts: HashMap<Token, u32>,
    candidates: Vec<Candidate>,
    weights: Vec<f32>,
}

impl Sampler {
    /// A sampler for `sampling`; what that leaves unset has hob's defaults.
    ///
    /// # Errors
    /// [`Error::Input`] for a value outside its range.
    pub fn new(sampling: &Sampling) -> Result<Sampler> {
        let seed = sampling.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let within = |name: &str, value: Option<f32>, default: f32, range: std::ops::RangeInclusive<f32>| {
            let value = value.unwrap_or(default);
            let wanted = || format!("a number from {} to {}", range.start(), range.end());
            if range.contains(&value) { Ok(value) } else { Err(Error::Input(Fault::at(name).expected(wanted()).found(value))) }
        };
        Ok(Sampler {
            seed,
            rng: ChaCha12Rng::from_seed(key),
            temperature: within("temperature", sampling.temperature, 0.8, 0.0..=1e6)?,
            top_k: sampling.top_k.unwrap_or(40),
            top_p: within("top_p", sampling.top_p, 0.95, 0.0..=1.0)?,
            min_p: within("min_p", sampling.min_p, 0.05, 0.0..=1.0)?,
            repeat: within("repeat_penalty", sampling.repeat_penalty, 1.0, 1e-3..=1e3)?,
            presence: within("presence_penalty", sampling.presence_penalty, 0.0, -1e3..=1e3)?,
            frequency: within("frequency_penalty", sampling.frequency_penalty, 0.0, -1e3..=1e3)?,
            bias: sampling.logit_bias.clone(),
            last_n: sampling.repeat_last_n.unwrap_or(64),
            recent: VecDeque::new(),
            counts: HashMap::new(),
            candidates: Vec::new(),
            weights: Vec::new(),
        })
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Tells the penalties that `token` was said.
    pub fn accept(&mut self, token: Token) {
        if self.last_n == 0 || !self.penalizes() {
            return;
        }
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

    /// Tells the penalties that nothing was said yet. The random numbers go on where they are.
    pub fn forget(&mut self) {
        self.recent.clear();
        self.counts.clear();
    }

    /// Chooses the next token from the logits of the whole vocabulary, which it changes. The choice is not
    /// [`accept`](Sampler::accept)ed by itself.
    ///
    /// # Errors
    /// [`Error::Model`] where a logit is not a number or none is finite, [`Error::Input`] where a bias names no token.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Token> {
        self.adjust(logits)?;
        if logits.iter().fold(false, |bad, l| bad | l.is_nan()) {
            let help = "the file is damaged, or its weights overflow in this type";
            return Err(Error::Model(Fault::at("logits").expected("numbers").found("NaN").help(help)));
        }
        let first = argmax(logits)?;
        if self.temperature == 0.0 {
            return Ok(first);
        }
        let highest = logits[first as usize];
        let total = self.gather(logits, highest);
        self.cut_top_p(highest, total);
        self.cut_min_p(highest);
        Ok(self.draw(highest))
    }

    fn penalizes(&self) -> bool {
        self.repeat != 1.0 || self.presence != 0.0 || self.frequency != 0.0
    }

    /// Bias and penalties. Each changes only its own token, so the map's order does not matter.
    fn adjust(&self, logits: &mut [f32]) -> Result<()> {
        let vocabulary = logits.len();
        for &(token, bias) in &self.bias {
            let wanted = || Error::Input(Fault::at("logit bias").expected(format!("a token below {vocabulary}")).found(token));
            *logits.get_mut(token as usize).ok_or_else(wanted)? += bias;
        }
        for (&token, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / self.repeat } else { *logit * self.repeat };
                *logit -= count as f32 * self.frequency + self.presence;
            }
        }
        Ok(())
    }

    /// Fills `candidates`: the top k in order; or where k keeps all, those that min-p will keep, in the order of ids. Both
    /// cuts to come take away the end of the same ranking, so it does not matter which is made first. Returns the sum of
    /// the weights that top-p goes by: of the top k, or of everything.
    fn gather(&mut self, logits: &[f32], highest: f32) -> f64 {
        let k = if self.top_k == 0 { logits.len() } else { self.top_k.min(logits.len()) };
        self.candidates.clear();
        self.weights.clear();
        if k < logits.len() {
            self.gather_top(logits, k);
            self.weights.extend(self.candidates.iter().map(|c| exp(c.logit - highest)));
        } else {
            let floor = highest + self.reach();
            let all = logits.iter().zip(0u32..).map(|(&logit, token)| Candidate { logit, token });
            self.candidates.extend(all.filter(|c| c.logit >= floor));
            if self.top_p < 1.0 {
                self.weights.extend(logits.iter().map(|l| exp(l - highest)));
            }
        }
        sum(&self.weights)
    }

    /// A buffer of a few times k, thinned whenever it is full: most logits cost part of a vector's comparison. A later one
    /// that equals the k-th so far has a higher id, so it may be left out.
    fn gather_top(&mut self, logits: &[f32], k: usize) {
        let room = (4 * k).max(256);
        let mut floor = f32::NEG_INFINITY;
        for (chunk, first) in logits.chunks(64).zip((0u32..).step_by(64)) {
            let few = self.candidates.len() < k;
            if !few && !chunk.iter().fold(false, |any, l| any | (*l > floor)) {
                continue;
            }
            for (&logit, token) in chunk.iter().zip(first..) {
                if logit > floor || self.candidates.len() < k {
                    self.candidates.push(Candidate { logit, token });
                    if self.candidates.len() == room {
                        self.candidates.select_nth_unstable_by(k - 1, by_rank);
                        self.candidates.truncate(k);
                        floor = self.candidates[k - 1].logit;
                    }
                }
            }
        }
        self.candidates.sort_unstable_by(by_rank);
        self.candidates.truncate(k);
    }

    /// How far below the highest logit min-p reaches.
    fn reach(&self) -> f32 {
        if self.min_p > 0.0 { libm::logf(self.min_p) } else { f32::NEG_INFINITY }
    }

    /// Keeps the shortest run of candidates, best first, that holds `top_p` of `total`; they end up in order.
    fn cut_top_p(&mut self, highest: f32, total: f64) {
        let all = self.candidates.len();
        if self.top_p >= 1.0 {
            return;
        }
        let wanted = f64::from(self.top_p) * total;
        let (mut sorted, mut reached) = (0, 0.0f64);
        while sorted < all {
            // The next few are brought to the front and put in order; many more of them each time.
            let next = all.min(sorted + (8 * sorted).max(256));
            if next < all {
                self.candidates[sorted..].select_nth_unstable_by(next - sorted, by_rank);
            }
            self.candidates[sorted..next].sort_unstable_by(by_rank);
            for i in sorted..next {
                reached += f64::from(exp(self.candidates[i].logit - highest));
                if reached >= wanted {
                    self.candidates.truncate(i + 1);
                    return;
                }
            }
            sorted = next;
        }
    }

    /// Keeps what is at least `min_p` times as probable as the best.
    fn cut_min_p(&mut self, highest: f32) {
        let floor = highest + self.reach();
        self.candidates.retain(|c| c.logit >= floor);
    }

    /// Temperature, and one draw over the candidates in their order.
    fn draw(&mut self, highest: f32) -> Token {
        let temperature = self.temperature;
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|c| exp((c.logit - highest) / temperature)));
        let unit = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mark = unit * self.weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        let mut reached = 0.0f64;
        let mut chosen = 0;
        for (candidate, &weight) in self.candidates.iter().zip(&self.weights) {
            reached += f64::from(weight);
            if weight > 0.0 {
                chosen = candidate.token;
                if reached > mark {
                    break;
                }
            }
        }
        chosen
    }
}

/// The id of the highest logit, the lowest of them where several are equal.
fn argmax(logits: &[f32]) -> Result<Token> {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in logits.chunks(16) {
        for (lane, &l) in lanes.iter_mut().zip(chunk) {
            *lane = if l > *lane { l } else { *lane };
        }
    }
    let highest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    match logits.iter().position(|&l| l == highest) {
        Some(i) if highest.is_finite() => Ok(i as Token),
        Some(_) | None => Err(Error::Model(Fault::at("logits").expected("a finite number among them").found(highest))),
    }
}

/// Sum in f64: 16 partial sums over i mod 16, added in order.
fn sum(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    for chunk in x.chunks(16) {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x);
        }
    }
    lanes.iter().sum()
}

/// e^x for x ≤ 0, to about 2 units in the last place; 0 from -87 down. Plain multiplications and additions, so that no machine
/// can differ: x = n·ln 2 + r, a polynomial in r, and n added to the exponent.
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to a whole number
    let x = if x > -87.0 { x.min(0.0) } else { -87.5 };
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let y = p * (r * r) + r + 1.0;
    let scale = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x > -87.0 { y * scale } else { 0.0 }
}

#[cfg(test)]
mod tests;
