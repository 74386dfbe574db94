//! The last step: which of the candidates it is.
//!
//! * A draw in proportion to the weights.
//! * Mirostat keeps the surprise `-log₂ p` of what is said near τ: candidates too surprising go, and after each token
//!   `μ ← μ - η·(surprise - τ)`, from μ = 2τ on. Version 2 cuts where the surprise exceeds μ. Version 1 estimates Zipf's exponent
//!   `s = Σ t·b / Σ t²` from the 100 best (`t = ln((i+1)/i)`, `b = ln(p_i/p_{i+1})`) and keeps `k = (ε·2^μ / (1 - N^-ε))^(1/s)`, ε = s - 1.
//!   Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity", 2020, arXiv:2007.14966.
//! * Adaptive-p draws near a probability T, and corrects itself: with `a = 2T - mean` (the mean over what was chosen, the past weighing
//!   less by the decay δ with each token; T at first), `d = |p - a| / 0.3` and `l ← 5 - 10·d² / (1 + d)`.
//!   MrJackSpade and ddh0, "adaptive-p", 2025, ggml-org/llama.cpp#17927.
//!
//! What is learnt from a token is learnt when it is accepted: a token that is sampled and not said teaches nothing.

use super::candidates::{Candidates, ONE, total};
use crate::tokenizer::Token;
use std::f64::consts::LN_2;

/// How the token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Choice {
    Draw,
    Mirostat1 { tau: f32, eta: f32 },
    Mirostat2 { tau: f32, eta: f32 },
    Adaptive { target: f32, decay: f32 },
}

/// What mirostat and adaptive-p have learnt from the tokens said.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub(crate) struct Learnt {
    /// Mirostat's bound.
    pub(super) mu: f64,
    /// Adaptive-p: probabilities of what was chosen, and how much they weigh in all.
    pub(super) sum: f64,
    pub(super) weight: f64,
}

impl Learnt {
    /// To the last bit.
    pub(super) fn bits(self) -> [u64; 3] {
        [self.mu, self.sum, self.weight].map(f64::to_bits)
    }

    pub(super) fn of_bits(bits: [u64; 3]) -> Learnt {
        let [mu, sum, weight] = bits.map(f64::from_bits);
        Learnt { mu, sum, weight }
    }
}

/// Mirostat 1 looks at this many to estimate the exponent.
const ESTIMATE: usize = 100;

impl Choice {
    /// What is taken for learnt before the first token: a bound twice the target, and a past that was on target.
    pub(super) fn beginning(self) -> Learnt {
        match self {
            Choice::Draw => Learnt::default(),
            Choice::Mirostat1 { tau, .. } | Choice::Mirostat2 { tau, .. } => Learnt { mu: 2.0 * f64::from(tau), ..Learnt::default() },
            Choice::Adaptive { target, decay } => {
                let weight = 1.0 / (1.0 - f64::from(decay));
                Learnt { sum: f64::from(target) * weight, weight, mu: 0.0 }
            }
        }
    }

    /// Chooses, and says what will be learnt where the token is accepted.
    pub(super) fn choose(self, c: &mut Candidates<'_>, learnt: Learnt, unit: f64, spare: &mut Vec<f32>) -> (Token, Learnt) {
        match self {
            Choice::Draw => {
                let (at, _) = c.draw(unit);
                (c.token(at), learnt)
            }
            Choice::Mirostat1 { tau, eta } => {
                let k = zipf(c.vocabulary(), c.first(ESTIMATE), learnt.mu);
                c.keep_first(k);
                surprise(c, learnt, unit, tau, eta)
            }
            Choice::Mirostat2 { tau, eta } => {
                let highest = c.highest();
                let bound = f64::from(highest) + libm::log(total(c.weigh()) as f64 / ONE) - learnt.mu * LN_2;
                let floor = (bound as f32).min(highest);
                c.keep(|l| l >= floor);
                surprise(c, learnt, unit, tau, eta)
            }
            Choice::Adaptive { target, decay } => {
                let aim = if learnt.weight > 0.0 { 2.0 * f64::from(target) - learnt.sum / learnt.weight } else { f64::from(target) };
                aim_at(c, aim.clamp(0.0, 1.0) as f32, spare);
                let (at, _) = c.draw(unit);
                let (p, decay) = (f64::from(spare[at]), f64::from(decay));
                let learnt = Learnt { sum: p + decay * learnt.sum, weight: 1.0 + decay * learnt.weight, ..learnt };
                (c.token(at), learnt)
            }
        }
    }
}

/// How many candidates mirostat 1 keeps.
fn zipf(vocabulary: usize, best: &[super::Candidate], mu: f64) -> usize {
    let (mut tb, mut tt) = (0.0, 0.0);
    for (i, pair) in best.windows(2).enumerate().take_while(|(_, pair)| pair[1].logit > f32::NEG_INFINITY) {
        let t = libm::log((i + 2) as f64 / (i + 1) as f64);
        tb += t * f64::from(pair[0].logit - pair[1].logit);
        tt += t * t;
    }
    let s = tb / tt;
    let epsilon = s - 1.0;
    let k = libm::pow(epsilon * libm::exp2(mu) / (1.0 - libm::pow(vocabulary as f64, -epsilon)), 1.0 / s);
    // Infinite: all. Not a number, as of a single candidate: one.
    (k as usize).max(1)
}

fn surprise(c: &mut Candidates<'_>, learnt: Learnt, unit: f64, tau: f32, eta: f32) -> (Token, Learnt) {
    let (at, p) = c.draw(unit);
    let mu = learnt.mu - f64::from(eta) * (-libm::log2(p) - f64::from(tau));
    (c.token(at), Learnt { mu, ..learnt })
}

/// Adaptive-p's change of the logits; the probabilities before it go to `before`.
fn aim_at(c: &mut Candidates<'_>, aim: f32, before: &mut Vec<f32>) {
    let weights = c.weigh();
    let total = (total(weights) as f64 / ONE) as f32;
    before.clear();
    before.extend(weights.iter().map(|w| w / total));
    for (l, p) in c.logits_mut().iter_mut().zip(before) {
        let d = (*p - aim).abs() / 0.3;
        let aimed = 5.0 - 10.0 * d * d / (1.0 + d);
        *l = if *l > f32::NEG_INFINITY { aimed } else { *l };
    }
}
