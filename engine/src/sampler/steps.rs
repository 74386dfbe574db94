//! The steps that cut or reshape the candidates, each a function. With l a logit, h the highest, w = exp(l - h) the weight,
//! W = Σw, p = w / W:
//!
//! | step | keeps, or makes | from |
//! |---|---|---|
//! | top-n-sigma | l ≥ h - n·σ, σ the standard deviation of the logits | Tang et al., "Top-nσ: Not All Logits Are You Need", 2024, arXiv:2411.07641 |
//! | top-k | the k highest | Fan et al., "Hierarchical Neural Story Generation", 2018, arXiv:1805.04833 |
//! | typical-p | those with `-ln p` nearest to the entropy, until their p exceed P together | Meister et al., "Locally Typical Sampling", 2022, arXiv:2202.00666 |
//! | top-p | the highest, until their p reach P together | Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019, arXiv:1904.09751 |
//! | min-p | w ≥ P | Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024, arXiv:2407.01082 |
//! | XTC | with a chance of C: of those with p ≥ T all but the lowest go | p-e-w, "Exclude Top Choices", 2024, oobabooga/text-generation-webui#6335 |
//! | temperature | l ← (l - h) / t | Ackley, Hinton, Sejnowski, "A Learning Algorithm for Boltzmann Machines", 1985 |
//! | dynatemp | t = max(0, T - R) + (T + R - max(0, T - R)) · (H / ln n)^E, H the entropy of the n candidates | kalomaze, 2023, ggml-org/llama.cpp#4972 |
//!
//! No logarithm of a probability is taken: `-ln p = ln W - (l - h)` and the entropy `ln W - m` with `m = Σ w·(l - h) / W`, so a token
//! is typical by how near `l - h` is to m.

use super::candidates::{Candidates, by_rank, sum_of};

/// Keeps what is at most `n` standard deviations below the best.
pub(super) fn top_n_sigma(c: &mut Candidates<'_>, n: f32) {
    let (_, sigma) = c.spread();
    c.keep((f64::from(c.highest()) - f64::from(n) * sigma) as f32);
}

/// Keeps the `k` best.
pub(super) fn top_k(c: &mut Candidates<'_>, k: usize) {
    if k < c.len() {
        c.keep_first(k);
    }
}

/// Keeps the most typical ones that hold more than `p` together.
pub(super) fn typical_p(c: &mut Candidates<'_>, p: f32) {
    let highest = c.highest();
    let (total, mean) = moments(c, highest);
    let oddness = |logit: f32| (f64::from(logit - highest) - mean).abs();
    let wanted = f64::from(p) * total;
    c.keep_run(highest, |a, b| oddness(a.logit).total_cmp(&oddness(b.logit)).then(by_rank(a, b)), |reached| reached > wanted);
}

/// Keeps the best that hold `p` together. Where min-p comes next with `then`, what it will take need not be put in order either: both
/// cut the end off the same ranking.
pub(super) fn top_p(c: &mut Candidates<'_>, p: f32, then: f32) {
    let highest = c.highest();
    let total = c.total(highest);
    let (n, rest) = (c.len() as f64, (1.0 - f64::from(p)) * total);
    // What weighs less than half of the n-th part of the rest is no part of p, all of it together: it need not be put in order.
    let light = libm::log(0.5 * rest / n) as f32;
    c.keep(highest + light.max(libm::logf(then)));
    let wanted = f64::from(p) * total;
    c.keep_run(highest, by_rank, |reached| reached >= wanted);
}

/// Keeps what is at least `p` times as probable as the best.
pub(super) fn min_p(c: &mut Candidates<'_>, p: f32) {
    c.keep(c.highest() + libm::logf(p));
}

/// Takes away those that reach the threshold, all but the lowest of them.
pub(super) fn xtc(c: &mut Candidates<'_>, threshold: f32) {
    let highest = c.highest();
    c.list();
    let wanted = f64::from(threshold) * c.total(highest);
    let top = c.weights().iter().zip(c.listed()).filter(|(w, _)| f64::from(**w) >= wanted);
    let lowest = top.map(|(_, x)| *x).max_by(by_rank);
    if let Some(lowest) = lowest {
        // The weight grows with the logit: whatever stands before it reaches the threshold too.
        c.list().retain(|x| by_rank(x, &lowest).is_ge());
    }
}

/// Divides by the temperature; 0 keeps the best alone.
pub(super) fn temperature(c: &mut Candidates<'_>, t: f32) {
    if t == 0.0 {
        return c.keep_best();
    }
    let highest = c.highest();
    c.scale(|l| (l - highest) / t);
}

/// Temperature that goes with the entropy, from `t - range` to `t + range`.
pub(super) fn dynatemp(c: &mut Candidates<'_>, t: f32, range: f32, exponent: f32) {
    if c.len() < 2 {
        return;
    }
    let (low, high) = (f64::from((t - range).max(0.0)), f64::from(t + range));
    let highest = c.highest();
    let (total, mean) = moments(c, highest);
    let entropy = (libm::log(total) - mean).max(0.0) / libm::log(c.len() as f64);
    temperature(c, (low + (high - low) * libm::pow(entropy, f64::from(exponent))) as f32);
}

/// W and m: the sum of the weights, and the mean of `l - h` over the probabilities.
fn moments(c: &mut Candidates<'_>, highest: f32) -> (f64, f64) {
    c.list();
    let total = c.total(highest);
    let depth = |(&w, x): (&f32, &super::Candidate)| if w > 0.0 { f64::from(w) * f64::from(x.logit - highest) } else { 0.0 };
    (total, sum_of(c.weights().iter().zip(c.listed()).map(depth)) / total)
}
