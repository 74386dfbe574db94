//! The tokens that may still be chosen. They begin as the row of logits itself. A step that leaves most of them writes -∞ over the
//! others; one that leaves few moves those to the front of the row:
//!
//! ```text
//! all     logits[0 … vocabulary)                        a candidate's place is its token
//! most    the same, -∞ in the place of what has gone
//! few     logits[0 … n)   tokens[0 … n)                 ascending by token
//! ```
//!
//! A candidate's weight is `exp(logit - highest)`, its probability the weight over the sum of all. Weights are added as [`mass`]es,
//! whole numbers, whose sums are exact: no cut and no draw depends on the order in which they are added. A draw goes along the tokens,
//! whatever has cut or ranked them.
//!
//! Nothing is put in order that need not be. Where the masses along a ranking exceed a mark, as at top-p's cut, is found in a table
//! of the masses over stretches of the ranking; only the candidates of one stretch are sorted ([`Candidates::reach`]).

use crate::error::{Error, Fault, Result};
use crate::tokenizer::Token;
use hob_kernels::{Level, ops};
use std::cmp::Ordering;
use std::sync::LazyLock;

/// A token that may be chosen, and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub token: Token,
    /// Its logit as the steps so far have left it.
    pub logit: f32,
}

/// Highest logit first, then lowest id. Logits are never NaN here.
pub(super) fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// What is kept from one row to the next, so that nothing is allocated.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers {
    pub(super) tokens: Vec<Token>,
    weights: Vec<f32>,
    sums: Vec<u64>,
    picked: Vec<Candidate>,
}

/// Candidates whose masses are summed together, before one looks which of them it is.
const BLOCK: usize = 64;

/// Stretches of a ranking in a table.
const STRETCHES: usize = 8192;

/// As many are sorted without another table.
const FEW: usize = 512;

/// As many first ones are gathered in one pass; the end of more is looked for in a table.
const GATHERED: usize = 1024;

/// The candidates of one row of logits.
pub(super) struct Candidates<'a> {
    row: &'a mut [f32],
    /// How much of the row, from its front, are logits.
    places: usize,
    /// Empty where a candidate's place is its token.
    tokens: &'a mut Vec<Token>,
    /// How many places belong to no candidate.
    gone: usize,
    /// The highest logit, where it is known.
    highest: Option<f32>,
    weights: &'a mut Vec<f32>,
    sums: &'a mut Vec<u64>,
    /// Some candidates, with their places for tokens.
    picked: &'a mut Vec<Candidate>,
}

impl<'a> Candidates<'a> {
    /// All of a row.
    ///
    /// # Errors
    /// [`Error::Model`] where a logit is not a number, or none is finite, or one is beyond every bound.
    pub(super) fn new(row: &'a mut [f32], buffers: &'a mut Buffers) -> Result<Candidates<'a>> {
        let highest = Some(check(row)?);
        let (places, Buffers { tokens, weights, sums, picked }) = (row.len(), buffers);
        tokens.clear();
        Ok(Candidates { row, places, tokens, gone: 0, highest, weights, sums, picked })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places - self.gone
    }

    /// How many there were at first.
    pub(super) fn vocabulary(&self) -> usize {
        self.row.len()
    }

    /// Their logits, ascending by token; where one has gone, -∞.
    pub(super) fn logits(&self) -> &[f32] {
        &self.row[..self.places]
    }

    /// Their logits, to be changed.
    pub(super) fn logits_mut(&mut self) -> &mut [f32] {
        self.highest = None;
        &mut self.row[..self.places]
    }

    /// The highest logit.
    pub(super) fn highest(&mut self) -> f32 {
        *self.highest.get_or_insert_with(|| highest(&self.row[..self.places]))
    }

    /// Their weights, place by place.
    pub(super) fn weigh(&mut self) -> &[f32] {
        let highest = self.highest();
        weigh(&self.row[..self.places], highest, self.weights);
        self.weights
    }

    /// The weights that were last made.
    pub(super) fn weights(&self) -> &[f32] {
        self.weights
    }

    /// The token of the candidate in this place.
    pub(super) fn token(&self, place: usize) -> Token {
        self.tokens.get(place).copied().unwrap_or(place as Token)
    }

    /// The place of a token's candidate, if there is one.
    fn place(&self, token: Token) -> Option<usize> {
        let place = if self.tokens.is_empty() { Some(token as usize) } else { self.tokens.binary_search(&token).ok() };
        place.filter(|place| *place < self.places)
    }

    /// A list of them, ascending by token, for [`take_list`](Candidates::take_list) to follow.
    pub(super) fn list(&mut self) -> Vec<Candidate> {
        let mut list = std::mem::take(self.picked);
        list.clear();
        let all = self.logits().iter().enumerate().map(|(place, &logit)| Candidate { token: self.token(place), logit });
        list.extend(all.filter(|c| self.gone == 0 || c.logit > f32::NEG_INFINITY));
        list
    }

    /// Those of a list instead, ascending by token, each once.
    pub(super) fn take_list(&mut self, list: Vec<Candidate>) {
        self.tokens.clear();
        self.tokens.extend(list.iter().map(|c| c.token));
        self.row.iter_mut().zip(&list).for_each(|(l, c)| *l = c.logit);
        (self.places, self.gone, self.highest) = (list.len(), 0, None);
        *self.picked = list;
    }

    /// Every logit less the highest, divided by the temperature.
    pub(super) fn cool(&mut self, t: f32) {
        let highest = self.highest();
        self.logits_mut().iter_mut().for_each(|l| *l = (*l - highest) / t);
        self.highest = Some(0.0);
    }

    /// Changes the logits of some tokens.
    pub(super) fn edit(&mut self, changes: impl Iterator<Item = (Token, impl Fn(f32) -> f32)>) {
        for (token, change) in changes {
            if let Some(place) = self.place(token) {
                // What a division by a small number makes stays finite.
                self.row[place] = change(self.row[place]).min(f32::MAX);
            }
        }
        self.highest = None;
    }

    /// Keeps those whose logit `stays`: where they are, if they are more than an eighth.
    pub(super) fn keep(&mut self, stays: impl Fn(f32) -> bool) {
        let highest = self.highest.filter(|h| stays(*h));
        let n = self.logits().iter().map(|l| u32::from(stays(*l))).sum::<u32>() as usize;
        if 8 * n > self.places {
            self.logits_mut().iter_mut().for_each(|l| *l = if stays(*l) { *l } else { f32::NEG_INFINITY });
            self.gone = self.places - n;
        } else {
            self.picked.clear();
            each(&self.row[..self.places], stays, |place, logit| self.picked.push(Candidate { token: place as Token, logit }));
            self.keep_picked();
        }
        self.highest = highest;
    }

    /// Keeps those in `picked`.
    fn keep_picked(&mut self) {
        let mut kept = std::mem::take(self.picked);
        kept.iter_mut().for_each(|c| c.token = self.token(c.token as usize));
        kept.sort_unstable_by_key(|c| c.token);
        self.take_list(kept);
    }

    /// The `k` first by rank, in that order, with their places for tokens.
    pub(super) fn first(&mut self, k: usize) -> &[Candidate] {
        gather_top(&self.row[..self.places], k, self.picked);
        self.picked
    }

    /// Keeps the `k` first by rank; of many, none that is -∞.
    pub(super) fn keep_first(&mut self, k: usize) {
        if k < self.len() && k > GATHERED {
            let highest = self.highest();
            self.weights.clear();
            self.weights.extend(self.row[..self.places].iter().map(|l| if *l > f32::NEG_INFINITY { 1.0 } else { 0.0 }));
            self.keep_run(|l| highest - l, |_| k as u64 * mass(1.0) - 1);
        } else if k < self.len() {
            self.first(k);
            self.keep_picked();
        }
    }

    /// The best, alone.
    pub(super) fn keep_best(&mut self) {
        let logit = self.highest();
        let mut best = None;
        each(self.logits(), |l| l == logit, |place, _| best = best.or(Some(place as Token)));
        self.picked.clear();
        self.picked.extend(best.map(|token| Candidate { token, logit }));
        self.keep_picked();
    }

    /// Keeps the shortest run of candidates, ascending by `key`, equal ones by rank, whose masses exceed `mark(all masses)`. The weights
    /// are those that were last made.
    pub(super) fn keep_run(&mut self, key: impl Fn(f32) -> f32, mark: impl Fn(u64) -> u64) {
        let Some(last) = self.reach(&key, mark) else { return };
        let bound = key(self.picked[last].logit);
        // Those that equal the last one, and come after it.
        for surplus in self.picked[last + 1..].iter().take_while(|c| key(c.logit) == bound) {
            self.row[surplus.token as usize] = f32::NEG_INFINITY;
        }
        self.keep(|l| key(l) <= bound);
    }

    /// Of those whose weight is `enough`, takes away all but the last by rank.
    pub(super) fn drop_but_last(&mut self, enough: impl Fn(f32) -> bool) {
        let least = |least: f32, w: f32| if enough(w) & (w < least) { w } else { least };
        let weight = lanes(self.weights, f32::INFINITY, least).into_iter().fold(f32::INFINITY, f32::min);
        let mut lowest = f32::INFINITY;
        each(self.weights, |w| w == weight, |place, _| lowest = lowest.min(self.row[place]));
        if lowest < f32::INFINITY {
            self.keep(|l| l <= lowest);
            self.picked.clear();
            each(&self.row[..self.places], |l| l == lowest, |place, logit| self.picked.push(Candidate { token: place as Token, logit }));
            self.picked.pop();
            self.picked.iter().for_each(|c| self.row[c.token as usize] = f32::NEG_INFINITY);
            self.gone += self.picked.len();
            self.highest = Some(lowest);
        }
    }

    /// One of them in proportion to their weights, by a number from 0 to 1: its place, and its probability.
    pub(super) fn draw(&mut self, unit: f64) -> (usize, f64) {
        self.weigh();
        self.sums.clear();
        self.sums.extend(self.weights.chunks(BLOCK).map(total));
        let total = self.sums.iter().sum::<u64>();
        let mark = ((unit * total as f64) as u64).min(total.saturating_sub(1));
        let (block, mut reached) = crossing(self.sums, mark);
        let first = BLOCK * block as usize;
        let beyond = |w: &f32| {
            reached += mass(*w);
            reached > mark
        };
        let place = first + self.weights.iter().skip(first).position(beyond).unwrap_or(0);
        (place, self.weights.get(place).map_or(0.0, |w| mass(*w) as f64 / total as f64))
    }

    /// The candidate at which the masses, ascending by `key`, equal ones by rank, exceed `mark(all masses)`: its index in `picked`, which
    /// then has the piece of that order around it.
    fn reach(&mut self, key: impl Fn(f32) -> f32, mark: impl Fn(u64) -> u64) -> Option<usize> {
        let (logits, weights, sums, picked) = (&self.row[..self.places], &*self.weights, &mut *self.sums, &mut *self.picked);
        // Deeper than 32 nothing has a mass.
        let mut scale = Scale { from: 0.0, steps: STRETCHES as f32 / 32.0 };
        sums.clear();
        sums.resize(STRETCHES, 0);
        for (logits, weights) in logits.chunks(BLOCK).zip(weights.chunks(BLOCK)) {
            let mut stretches = [0; BLOCK];
            stretches.iter_mut().zip(logits).for_each(|(s, l)| *s = scale.stretch(key(*l)));
            stretches.iter().zip(weights).for_each(|(s, w)| sums[*s as usize % STRETCHES] += mass(*w));
        }
        let total = sums.iter().sum::<u64>();
        let mark = mark(total).min(total.saturating_sub(1));
        let (stretch, mut reached) = crossing(sums, mark);
        picked.clear();
        each(logits, |l| scale.stretch(key(l)) == stretch, |place, logit| picked.push(Candidate { token: place as Token, logit }));
        let mass = |c: &Candidate| mass(weights[c.token as usize]);
        while picked.len() > FEW {
            let keys = || picked.iter().map(|c| key(c.logit));
            let (from, to) = (keys().fold(f32::INFINITY, f32::min), keys().fold(0.0, f32::max));
            scale = Scale { from, steps: STRETCHES as f32 / (to - from) };
            if !scale.steps.is_finite() {
                break; // they are all alike
            }
            sums.fill(0);
            picked.iter().for_each(|c| sums[scale.stretch(key(c.logit)) as usize] += mass(c));
            let (stretch, before) = crossing(sums, mark - reached);
            reached += before;
            picked.retain(|c| scale.stretch(key(c.logit)) == stretch);
        }
        picked.sort_unstable_by(|a, b| key(a.logit).total_cmp(&key(b.logit)).then(by_rank(a, b)));
        let beyond = |c: &Candidate| {
            reached += mass(c);
            reached > mark
        };
        picked.iter().position(beyond)
    }
}

/// Cuts keys into [`STRETCHES`]; the last one has all that is beyond.
#[derive(Clone, Copy)]
struct Scale {
    from: f32,
    steps: f32,
}

impl Scale {
    fn stretch(self, key: f32) -> u32 {
        const LAST: f32 = (STRETCHES - 1) as f32;
        let at = (key - self.from) * self.steps;
        let at = if at < LAST { at } else { LAST };
        // Adding 2^23 rounds to a whole number, which then stands in the low bits.
        (at + 8_388_608.0).to_bits() % STRETCHES as u32
    }
}

/// The sum that makes all of them so far exceed `mark`, and what comes before it.
fn crossing(sums: &[u64], mark: u64) -> (u32, u64) {
    let mut before = 0;
    for (sum, at) in sums.iter().zip(0..) {
        if before + sum > mark {
            return (at, before);
        }
        before += sum;
    }
    (0, 0)
}

/// Hands out those of the `values` that are `wanted`, with their places.
fn each(values: &[f32], wanted: impl Fn(f32) -> bool, mut found: impl FnMut(usize, f32)) {
    for (block, first) in values.chunks(16).zip((0..).step_by(16)) {
        // Most blocks have none: a vector's comparison tells.
        if block.iter().fold(false, |any, x| any | wanted(*x)) {
            block.iter().enumerate().filter(|(_, x)| wanted(**x)).for_each(|(i, x)| found(first + i, *x));
        }
    }
}

/// The highest logit of a row that can be sampled from.
///
/// # Errors
/// [`Error::Model`] where a logit is not a number, or none is finite, or one is beyond every bound.
pub(super) fn check(row: &[f32]) -> Result<f32> {
    if row.iter().fold(false, |odd, l| odd | l.is_nan()) {
        let help = "the file is damaged, or its weights overflow in this type";
        return Err(Error::Model(Fault::at("logits").expected("numbers").found("NaN").help(help)));
    }
    match highest(row) {
        highest if highest.is_finite() => Ok(highest),
        highest => Err(Error::Model(Fault::at("logits").expected("a finite number among them").found(highest))),
    }
}

/// 16 lanes, to which `step` adds the logits in turns.
fn lanes<T: Copy>(logits: &[f32], start: T, step: impl Fn(T, f32) -> T) -> [T; 16] {
    let mut lanes = [start; 16];
    let (blocks, rest) = logits.as_chunks::<16>();
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(lane, l)| *lane = step(*lane, *l));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, l)| *lane = step(*lane, *l));
    lanes
}

/// The highest of some logits.
fn highest(logits: &[f32]) -> f32 {
    let most = |a: f32, b: f32| if b > a { b } else { a };
    lanes(logits, f32::NEG_INFINITY, most).into_iter().fold(f32::NEG_INFINITY, most)
}

/// The sum of an f64 of each logit: 16 partial sums over i mod 16, added in order.
pub(super) fn sum_of(logits: &[f32], term: impl Fn(f32) -> f64) -> f64 {
    lanes(logits, 0.0, |sum, l| sum + term(l)).iter().sum()
}

/// Lists the `k` first by rank, in that order, with their places for tokens. A buffer of a few times k, thinned whenever it is full:
/// most logits cost part of a vector's comparison. A later one that equals the k-th so far ranks behind it, so it may be left out.
pub(super) fn gather_top(row: &[f32], k: usize, list: &mut Vec<Candidate>) {
    list.clear();
    let k = k.min(row.len());
    if k == 0 {
        return;
    }
    let room = (4 * k).max(256);
    let mut floor = f32::NEG_INFINITY;
    for (chunk, first) in row.chunks(64).zip((0u32..).step_by(64)) {
        let few = list.len() < k;
        if !few && !chunk.iter().fold(false, |any, l| any | (*l > floor)) {
            continue;
        }
        for (&logit, token) in chunk.iter().zip(first..) {
            if logit > floor || list.len() < k {
                list.push(Candidate { token, logit });
                if list.len() == room {
                    list.select_nth_unstable_by(k - 1, by_rank);
                    list.truncate(k);
                    floor = list[k - 1].logit;
                }
            }
        }
    }
    list.sort_unstable_by(by_rank);
    list.truncate(k);
}

/// The weights of some logits.
pub(super) fn weigh(logits: &[f32], highest: f32, weights: &mut Vec<f32>) {
    // Whichever level it is, the bits are the same.
    static LEVEL: LazyLock<Level> = LazyLock::new(|| Level::from_env().unwrap_or_else(|_| Level::best()));
    weights.resize(logits.len(), 0.0);
    // Of -∞, nothing has a weight.
    ops::weights(*LEVEL, logits, highest.max(f32::MIN), weights);
}

/// What a weight of 1 is as a mass.
pub(super) const ONE: f64 = (1u64 << 44) as f64;

/// A weight from 0 to 1 in whole parts of 2^-44, the nearest number of them: the sum of a million has room in 64 bits. A weight above
/// 2^-21 has no finer parts; what is lost of a smaller one is at most 2^-45.
pub(super) fn mass(weight: f32) -> u64 {
    // From 256 to 512 the mantissa of an f64 counts in parts of 2^-44.
    (f64::from(weight) + 256.0).to_bits() % (1 << 52)
}

/// The masses of some weights, in sum.
pub(super) fn total(weights: &[f32]) -> u64 {
    weights.iter().map(|w| mass(*w)).sum()
}
