//! The tokens that may still be chosen. They begin as the row of logits itself and become a list with the first step that cuts:
//!
//! ```text
//! Row     logits[0 … vocabulary)          a candidate is an index: the steps before the first cut touch few of them, or scan
//! ById    (token, logit) …                ascending by id
//! ByRank  (token, logit) …                highest logit first, equal ones by id
//! ```
//!
//! A candidate's weight is `exp(logit - highest)`, its probability the weight over the sum of all. Sums are in f64, in 16 partial
//! sums over i mod 16 that are added in order; `exp` is our own: plain multiplications and additions, so that no machine can differ.

use crate::error::{Error, Fault, Result};
use crate::tokenizer::Token;
use std::cmp::Ordering;

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

/// Where the candidates are, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Row,
    ById,
    ByRank,
}

/// What is kept from one row to the next, so that nothing is allocated.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers {
    pub(super) list: Vec<Candidate>,
    pub(super) weights: Vec<f32>,
    pub(super) heads: Vec<f64>,
}

/// Candidates whose weights are made together; the sum before them is kept, so that what is drawn is looked for in one block.
const BLOCK: usize = 64;

/// The candidates of one row of logits.
pub(super) struct Candidates<'a> {
    row: &'a mut [f32],
    form: Form,
    list: &'a mut Vec<Candidate>,
    weights: &'a mut Vec<f32>,
    heads: &'a mut Vec<f64>,
}

impl<'a> Candidates<'a> {
    /// All of a row that has been [`check`]ed.
    pub(super) fn new(row: &'a mut [f32], buffers: &'a mut Buffers) -> Candidates<'a> {
        buffers.list.clear();
        let Buffers { list, weights, heads } = buffers;
        Candidates { row, form: Form::Row, list, weights, heads }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self.form {
            Form::Row => self.row.len(),
            Form::ById | Form::ByRank => self.list.len(),
        }
    }

    /// How many there were at first.
    pub(super) fn vocabulary(&self) -> usize {
        self.row.len()
    }

    /// The highest logit.
    pub(super) fn highest(&self) -> f32 {
        match self.form {
            Form::Row => highest(self.row, |l| *l),
            Form::ByRank => self.list.first().map_or(f32::NEG_INFINITY, |c| c.logit),
            Form::ById => highest(self.list, |c| c.logit),
        }
    }

    /// Mean and standard deviation (of the population) of the finite logits.
    pub(super) fn spread(&self) -> (f64, f64) {
        match self.form {
            Form::Row => spread(self.row.iter().copied()),
            Form::ById | Form::ByRank => spread(self.list.iter().map(|c| c.logit)),
        }
    }

    /// Fills the weights, in the candidates' order, and returns their sum.
    pub(super) fn total(&mut self, highest: f32) -> f64 {
        self.weights.clear();
        match self.form {
            Form::Row => self.weights.extend(self.row.iter().map(|l| exp(l - highest))),
            Form::ById | Form::ByRank => self.weights.extend(self.list.iter().map(|c| exp(c.logit - highest))),
        }
        sum(self.weights)
    }

    /// The weights that [`total`](Candidates::total) filled.
    pub(super) fn weights(&self) -> &[f32] {
        self.weights
    }

    /// The list, which is made where there is none yet.
    pub(super) fn list(&mut self) -> &mut Vec<Candidate> {
        if self.form == Form::Row {
            self.form = Form::ById;
            self.list.extend(self.row.iter().zip(0u32..).map(|(&logit, token)| Candidate { token, logit }));
        }
        self.list
    }

    /// The list as it is; empty where there is none yet.
    pub(super) fn listed(&self) -> &[Candidate] {
        self.list
    }

    /// Takes note of the order that the list was brought into.
    pub(super) fn ordered(&mut self, form: Form) {
        self.form = form;
    }

    /// Brings the list into the order of rank.
    pub(super) fn rank(&mut self) {
        if self.form != Form::ByRank {
            self.list().sort_unstable_by(by_rank);
            self.form = Form::ByRank;
        }
    }

    /// Changes the logits of some tokens.
    pub(super) fn edit(&mut self, changes: impl Iterator<Item = (Token, impl Fn(f32) -> f32)>) {
        for (token, change) in changes {
            let logit = match self.form {
                Form::Row => self.row.get_mut(token as usize),
                Form::ById | Form::ByRank => self.list.iter_mut().find(|c| c.token == token).map(|c| &mut c.logit),
            };
            if let Some(logit) = logit {
                *logit = change(*logit);
            }
        }
        if self.form == Form::ByRank {
            self.list.sort_unstable_by(by_rank);
        }
    }

    /// Every logit anew, in an order that stays: `change` grows with the logit.
    pub(super) fn scale(&mut self, change: impl Fn(f32) -> f32) {
        match self.form {
            Form::Row => self.row.iter_mut().for_each(|l| *l = change(*l)),
            Form::ById | Form::ByRank => self.list.iter_mut().for_each(|c| c.logit = change(c.logit)),
        }
    }

    /// Keeps those whose logit is not below `floor`.
    pub(super) fn keep(&mut self, floor: f32) {
        match self.form {
            Form::Row => {
                self.form = Form::ById;
                for (chunk, first) in self.row.chunks(16).zip((0u32..).step_by(16)) {
                    // Most have none: a vector's comparison tells.
                    if chunk.iter().fold(false, |any, l| any | (*l >= floor)) {
                        let all = chunk.iter().zip(first..).map(|(&logit, token)| Candidate { token, logit });
                        self.list.extend(all.filter(|c| c.logit >= floor));
                    }
                }
            }
            Form::ById | Form::ByRank => self.list.retain(|c| c.logit >= floor),
        }
    }

    /// Keeps the `k` first by rank, in that order.
    pub(super) fn keep_first(&mut self, k: usize) {
        match self.form {
            Form::Row => {
                self.list.clear();
                gather_top(self.row, k, self.list);
                self.form = Form::ByRank;
            }
            Form::ById => {
                if k > 0 && k < self.list.len() {
                    self.list.select_nth_unstable_by(k - 1, by_rank);
                    self.list.truncate(k);
                }
                self.list.sort_unstable_by(by_rank);
                self.form = Form::ByRank;
            }
            Form::ByRank => self.list.truncate(k),
        }
    }

    /// The `k` first by rank, without the others being let go yet. A [`keep_first`](Candidates::keep_first) must follow.
    pub(super) fn first(&mut self, k: usize) -> &[Candidate] {
        match self.form {
            Form::Row => {
                self.list.clear();
                gather_top(self.row, k, self.list);
            }
            Form::ById | Form::ByRank => self.rank(),
        }
        &self.list[..k.min(self.list.len())]
    }

    /// Keeps the shortest run of candidates, in the order of `cmp`, whose weights in sum are `enough`; all where they never are. They
    /// stand in the order of rank afterwards.
    pub(super) fn keep_run(&mut self, highest: f32, cmp: impl Fn(&Candidate, &Candidate) -> Ordering, enough: impl Fn(f64) -> bool) {
        let list = self.list();
        let all = list.len();
        let (mut sorted, mut reached) = (0, 0.0f64);
        'run: while sorted < all {
            // The next few are brought to the front and put in order; many more of them each time.
            let next = all.min(sorted + (8 * sorted).max(256));
            if next < all {
                list[sorted..].select_nth_unstable_by(next - sorted, &cmp);
            }
            list[sorted..next].sort_unstable_by(&cmp);
            for i in sorted..next {
                reached += f64::from(exp(list[i].logit - highest));
                if enough(reached) {
                    list.truncate(i + 1);
                    break 'run;
                }
            }
            sorted = next;
        }
        list.sort_unstable_by(by_rank);
        self.form = Form::ByRank;
    }

    /// The best, alone.
    pub(super) fn keep_best(&mut self) {
        let highest = self.highest();
        let best = match self.form {
            Form::Row => self.row.iter().position(|l| *l == highest).map(|i| Candidate { token: i as Token, logit: highest }),
            Form::ById | Form::ByRank => self.list.iter().copied().min_by(by_rank),
        };
        self.list.clear();
        self.list.extend(best);
        self.form = Form::ByRank;
    }

    /// One of them in proportion to their weights, by a number from 0 to 1: its place, and its probability.
    pub(super) fn draw(&mut self, unit: f64) -> (usize, f64) {
        let total = match self.form {
            Form::Row => climb(self.row, |l| *l, self.weights, self.heads),
            Form::ById | Form::ByRank => climb(self.list, |c| c.logit, self.weights, self.heads),
        };
        let mark = unit * total;
        let block = self.heads.partition_point(|head| *head <= mark).saturating_sub(1);
        let mut reached = self.heads.get(block).copied().unwrap_or(0.0);
        let beyond = |weight: &f32| {
            reached += f64::from(*weight);
            *weight > 0.0 && reached > mark
        };
        let found = self.weights.iter().skip(BLOCK * block).position(beyond).map(|at| BLOCK * block + at);
        // Rounding may put the mark at the very end.
        let chosen = found.or_else(|| self.weights.iter().rposition(|weight| *weight > 0.0)).unwrap_or(0);
        (chosen, self.weights.get(chosen).map_or(0.0, |&w| f64::from(w) / total))
    }

    /// The token of the candidate in this place.
    pub(super) fn token(&self, at: usize) -> Token {
        match self.form {
            Form::Row => at as Token,
            Form::ById | Form::ByRank => self.list.get(at).map_or(0, |c| c.token),
        }
    }
}

/// Fills the weights and returns their sum, added one by one; in `heads`, the sum before each block of them. The highest logit is looked
/// for: adaptive-p leaves a list whose order is another.
fn climb<T>(all: &[T], logit: impl Fn(&T) -> f32, weights: &mut Vec<f32>, heads: &mut Vec<f64>) -> f64 {
    let highest = highest(all, &logit);
    weights.resize(all.len(), 0.0);
    heads.clear();
    let mut reached = 0.0;
    for (weights, all) in weights.chunks_mut(BLOCK).zip(all.chunks(BLOCK)) {
        heads.push(reached);
        for (w, x) in weights.iter_mut().zip(all) {
            *w = exp(logit(x) - highest);
        }
        for w in weights {
            reached += f64::from(*w);
        }
    }
    reached
}

/// That a row can be sampled from.
///
/// # Errors
/// [`Error::Model`] where a logit is not a number, or none is finite, or one is beyond every bound.
pub(super) fn check(row: &[f32]) -> Result<()> {
    let (mut most, mut odd) = ([f32::NEG_INFINITY; 16], [0u32; 16]);
    for chunk in row.chunks(16) {
        for ((most, odd), &l) in most.iter_mut().zip(&mut odd).zip(chunk) {
            *most = if l > *most { l } else { *most };
            *odd |= u32::from(l.is_nan());
        }
    }
    if odd != [0; 16] {
        let help = "the file is damaged, or its weights overflow in this type";
        return Err(Error::Model(Fault::at("logits").expected("numbers").found("NaN").help(help)));
    }
    match highest(&most, |l| *l) {
        highest if highest.is_finite() => Ok(()),
        highest => Err(Error::Model(Fault::at("logits").expected("a finite number among them").found(highest))),
    }
}

/// The highest logit of some.
pub(super) fn highest<T>(all: &[T], logit: impl Fn(&T) -> f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in all.chunks(16) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            let l = logit(x);
            *lane = if l > *lane { l } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Adds the `k` first by rank to an empty list, in that order. A buffer of a few times k, thinned whenever it is full: most logits
/// cost part of a vector's comparison. A later one that equals the k-th so far has a higher id, so it may be left out.
pub(super) fn gather_top(row: &[f32], k: usize, list: &mut Vec<Candidate>) {
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

/// Mean and standard deviation of the finite ones.
fn spread(logits: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
    let finite = logits.filter(|l| l.is_finite()).map(f64::from);
    let n = (finite.clone().count() as f64).max(1.0);
    let mean = sum_of(finite.clone()) / n;
    (mean, (sum_of(finite.map(|l| (l - mean) * (l - mean))) / n).sqrt())
}

/// Sum: 16 partial sums over i mod 16, added in order.
pub(super) fn sum(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    for chunk in x.chunks(16) {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x);
        }
    }
    lanes.iter().sum()
}

/// The same of any numbers.
pub(super) fn sum_of(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut lanes = [0.0f64; 16];
    for (i, x) in numbers.enumerate() {
        lanes[i % 16] += x;
    }
    lanes.iter().sum()
}

/// e^x for x ≤ 0, to about 2 units in the last place; 0 from -87 down: x = n·ln 2 + r, a polynomial in r, and n added to the
/// exponent.
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to a whole number
    let x = if x > -87.0 { x } else { -87.5 };
    let x = if x > 0.0 { 0.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let y = p * (r * r) + r + 1.0;
    // n stands in the low bits of what was rounded: a conversion to an integer would look for its bounds, which costs as much again.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x > -87.0 { y * scale } else { 0.0 }
}
