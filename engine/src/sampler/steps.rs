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
//! No logarithm of a probability is taken: `-ln p = ln W + (h - l)` and the entropy `ln W + m` with `m = Σ w·(h - l) / W`, so a token
//! is typical by how near `h - l` is to m.

use super::candidates::{Candidates, ONE, mass, sum_of, total};

/// Keeps what is at most `n` standard deviations below the best; infinite logits have no part in the deviation.
pub(super) fn top_n_sigma(c: &mut Candidates<'_>, n: f32) {
    let finite = |l: f32, term: f64| if l.is_finite() { term } else { 0.0 };
    let count = sum_of(c.logits(), |l| finite(l, 1.0));
    let mean = sum_of(c.logits(), |l| finite(l, l.into())) / count;
    let variance = sum_of(c.logits(), |l| finite(l, (f64::from(l) - mean) * (f64::from(l) - mean))) / count;
    let floor = (f64::from(c.highest()) - f64::from(n) * variance.sqrt()) as f32;
    c.keep(|l| l >= floor);
}

/// Keeps the `k` best.
pub(super) fn top_k(c: &mut Candidates<'_>, k: usize) {
    c.keep_first(k);
}

/// Keeps the most typical ones that hold more than `p` together.
pub(super) fn typical_p(c: &mut Candidates<'_>, p: f32) {
    let highest = c.highest();
    let (_, mean) = moments(c);
    let oddness = |l: f32| (highest - l - mean as f32).abs();
    c.keep_run(oddness, |total| (f64::from(p) * total as f64) as u64);
}

/// Keeps the best that hold `p` together.
pub(super) fn top_p(c: &mut Candidates<'_>, p: f32) {
    let highest = c.highest();
    c.weigh();
    c.keep_run(|l| highest - l, |total| ((f64::from(p) * total as f64).ceil() as u64).saturating_sub(1));
}

/// Keeps what is at least `p` times as probable as the best.
pub(super) fn min_p(c: &mut Candidates<'_>, p: f32) {
    let floor = c.highest() + libm::logf(p);
    c.keep(|l| l >= floor);
}

/// Takes away those that reach the threshold, all but the lowest of them.
pub(super) fn xtc(c: &mut Candidates<'_>, threshold: f32) {
    let wanted = f64::from(threshold) * total(c.weigh()) as f64 / ONE;
    c.drop_but_last(|w| w > 0.0 && f64::from(w) >= wanted);
}

/// Divides by the temperature; 0 keeps the best alone.
pub(super) fn temperature(c: &mut Candidates<'_>, t: f32) {
    if t == 0.0 {
        return c.keep_best();
    }
    c.cool(t);
}

/// Temperature that goes with the entropy, from `t - range` to `t + range`.
pub(super) fn dynatemp(c: &mut Candidates<'_>, t: f32, range: f32, exponent: f32) {
    if c.len() < 2 {
        return;
    }
    let (low, high) = (f64::from((t - range).max(0.0)), f64::from(t + range));
    let (total, depth) = moments(c);
    let entropy = (libm::log(total) + depth).max(0.0) / libm::log(c.len() as f64);
    temperature(c, (low + (high - low) * libm::pow(entropy, f64::from(exponent))) as f32);
}

/// W and m: the sum of the weights, and the mean of `h - l` over the probabilities.
fn moments(c: &mut Candidates<'_>) -> (f64, f64) {
    let highest = c.highest();
    let total = total(c.weigh()) as f64;
    // w·(h - l) is never above 1/e, so that it has a mass too. What is deeper than 99, as -∞ is, has no weight.
    let depth = |(w, l): (&f32, &f32)| mass(w * if highest - l < 99.0 { highest - l } else { 99.0 });
    let depths = c.weights().iter().zip(c.logits()).map(depth).sum::<u64>();
    (total / ONE, depths as f64 / total)
}
