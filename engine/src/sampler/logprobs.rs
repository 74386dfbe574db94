//! Log-probabilities of a row of logits as the model gave it, before any step of sampling: `ln p = (l - h) - ln Σ exp(l - h)`, as
//! OpenAI's `logprobs` and `top_logprobs`.

use super::candidates::{ONE, check, gather_top, total, weigh};
use crate::error::{Error, Fault, Result};
use crate::tokenizer::Token;

/// How likely a token was, and which were likeliest.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The token.
    pub token: Token,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens with theirs, best first; the token itself need not be among them.
    pub top: Vec<(Token, f32)>,
}

/// The log-probability of `token` and the `top` likeliest ones, over the whole of `logits`.
///
/// # Errors
/// [`Error::Model`] where a logit is not a number or none is finite, [`Error::Input`] for a token that has none.
///
/// ```
/// let row = [0.0, 3f32.ln()];
/// let probs = hob::sampler::logprobs(&row, 0, 1)?;
/// assert!((probs.logprob.exp() - 0.25).abs() < 1e-6 && probs.top[0].0 == 1);
/// # Ok::<(), hob::Error>(())
/// ```
pub fn logprobs(logits: &[f32], token: Token, top: usize) -> Result<Logprobs> {
    let best = check(logits)?;
    let outside = || Error::Input(Fault::at("logprobs").expected(format!("a token below {}", logits.len())).found(token));
    let logit = *logits.get(token as usize).ok_or_else(outside)?;
    let mut weights = Vec::new();
    weigh(logits, best, &mut weights);
    let total = libm::log(total(&weights) as f64 / ONE);
    let log = |l: f32| (f64::from(l) - f64::from(best) - total) as f32;
    let mut list = Vec::new();
    gather_top(logits, top, &mut list);
    Ok(Logprobs { token, logprob: log(logit), top: list.iter().map(|c| (c.token, log(c.logit))).collect() })
}
