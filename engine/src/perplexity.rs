//! Perplexity of a text: how surprised the model is by each next token, as llama.cpp's `llama-perplexity` measures it.
//!
//! ```text
//! tokens of the text:  |--- context ---|--- context ---|--- context ---| rest, unused
//! one chunk:           |BOS   half     | half, scored  |      position p, from context/2 on, is asked for token p + 1
//! perplexity = exp(mean of -ln softmax(logits[p])[token p + 1])
//! ```
//!
//! Every chunk starts with an empty cache, its first token replaced by BOS where the vocabulary adds one. The first half is
//! context only. So each chunk scores `context - 1 - context / 2` tokens. Log-probabilities are computed in f64.
//!
//! Source: llama.cpp, tools/perplexity (the measure without a stride); the numbers are comparable with the published ones.

use crate::error::{Error, Fault, Result};
use crate::generate::Session;
use crate::tokenizer::{Special, Tokenizer};

/// What is known after a chunk, and in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub value: f64,
    /// The standard error of `value`; 0 until two tokens are scored.
    pub error: f64,
    /// How many tokens have been scored.
    pub scored: usize,
    /// How many chunks are done.
    pub chunks: usize,
    /// How many chunks there are.
    pub of: usize,
}

/// How a text is cut and scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Tokens in a chunk.
    pub context: usize,
    /// The token that opens every chunk, where the vocabulary adds one.
    pub bos: Option<u32>,
    /// At most this many chunks are done.
    pub limit: Option<usize>,
}

/// What a chunk's logits are handed to: a position within the chunk, and the logits there, one for each token.
pub type Sink<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + 'a;

/// The text as llama.cpp reads it from a file: without one newline at its end.
pub fn text_of(file: &str) -> &str {
    file.strip_suffix('\n').unwrap_or(file)
}

/// Measures the perplexity of `tokens`, the whole text with BOS first where the vocabulary adds it.
///
/// `run` computes a chunk from an empty cache and hands the logits of its positions, in ascending order, to the sink; those
/// below [`Chunks::first_scored`] may be left out. `progress` is called after every chunk.
///
/// ```
/// use hob::perplexity::{Chunks, perplexity};
///
/// let chunks = Chunks { context: 4, bos: Some(1), limit: None };
/// let uniform = |chunk: &[u32], sink: &mut hob::perplexity::Sink| (0..chunk.len()).try_for_each(|at| sink(at, &[0.0; 10]));
/// let found = perplexity(&[1, 2, 3, 4, 5, 6, 7, 8], &chunks, uniform, |_| {})?;
/// assert!((found.value - 10.0).abs() < 1e-12);
/// assert_eq!((found.scored, found.chunks), (2, 2));
/// # Ok::<(), hob::Error>(())
/// ```
pub fn perplexity(
    tokens: &[u32],
    chunks: &Chunks,
    mut run: impl FnMut(&[u32], &mut Sink<'_>) -> Result<()>,
    mut progress: impl FnMut(&Perplexity),
) -> Result<Perplexity> {
    let of = chunks.count(tokens.len())?;
    let mut tally = Tally::default();
    let mut found = Perplexity { value: f64::NAN, error: 0.0, scored: 0, chunks: 0, of };
    for (done, chunk) in tokens.chunks_exact(chunks.context).take(of).enumerate() {
        // The targets are the text's own tokens; only what the model reads begins with BOS. The two never meet: token 0 of a
        // chunk is no target.
        let mut read = chunk.to_vec();
        if let Some(bos) = chunks.bos {
            read[0] = bos;
        }
        run(&read, &mut |position, logits| match chunk.get(position + 1) {
            Some(next) if position >= chunks.first_scored() => tally.score(logits, *next),
            _ => Ok(()),
        })?;
        let expected = (done + 1) * (chunks.context - 1 - chunks.first_scored());
        if tally.count != expected {
            let place = format!("perplexity, chunk {}", done + 1);
            return Err(Error::Model(Fault::at(place).expected(format!("{expected} scored tokens so far")).found(tally.count)));
        }
        found = tally.result(done + 1, of);
        progress(&found);
    }
    Ok(found)
}

/// Measures the perplexity of a text, as its file holds it, in chunks of `context` tokens. What the session held is lost.
pub fn of_text(
    session: &mut Session,
    tokenizer: &Tokenizer,
    text: &str,
    context: usize,
    progress: impl FnMut(&Perplexity),
) -> Result<Perplexity> {
    let bos = if tokenizer.adds_bos() { tokenizer.bos() } else { None };
    let mut tokens: Vec<u32> = bos.into_iter().collect();
    tokens.extend(tokenizer.encode(text_of(text), Special::Literal)?);
    let chunks = Chunks { context, bos, limit: None };
    let run = |chunk: &[u32], sink: &mut Sink<'_>| {
        let (read, scored) = chunk.split_at(chunks.first_scored());
        session.truncate(0)?;
        session.feed(read)?;
        let mut position = read.len();
        session.logits_of_all(scored, |logits| {
            position += 1;
            sink(position - 1, logits)
        })
    };
    perplexity(&tokens, &chunks, run, progress)
}

impl Chunks {
    /// The first position of a chunk whose prediction counts.
    pub fn first_scored(&self) -> usize {
        self.context / 2
    }

    /// How many chunks a text of so many tokens gives, up to the limit.
    pub fn count(&self, tokens: usize) -> Result<usize> {
        if self.context < 3 {
            return Err(Error::Input(Fault::at("perplexity").expected("a context of at least 3 tokens").found(self.context)));
        }
        // llama.cpp asks for two chunks' worth, so that one number is not taken from one chunk unawares.
        let least = self.context.saturating_mul(2);
        if tokens < least {
            return Err(Error::Input(
                Fault::at("perplexity")
                    .expected(format!("a text of at least {least} tokens (twice the context)"))
                    .found(format!("{tokens} tokens"))
                    .help("take a longer text or a smaller context (-c)"),
            ));
        }
        let all = tokens / self.context;
        match self.limit {
            Some(0) => Err(Error::Input(Fault::at("perplexity").expected("a limit of at least 1 chunk").found(0))),
            limit => Ok(limit.map_or(all, |most| all.min(most))),
        }
    }
}

/// Sums of the negative log-likelihood and its square.
#[derive(Default)]
struct Tally {
    sum: f64,
    squares: f64,
    count: usize,
}

impl Tally {
    fn score(&mut self, logits: &[f32], token: u32) -> Result<()> {
        let Some(&logit) = logits.get(token as usize) else {
            let expected = format!("token ids below {}, the size of the vocabulary", logits.len());
            return Err(Error::Input(Fault::at("perplexity").expected(expected).found(token)));
        };
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit - most).exp()).sum();
        let surprise = f64::from(most) + sum.ln() - f64::from(logit);
        if !surprise.is_finite() {
            return Err(Error::Model(Fault::at("perplexity").expected("finite logits").found(format!("a surprise of {surprise}"))));
        }
        self.sum += surprise;
        self.squares += surprise * surprise;
        self.count += 1;
        Ok(())
    }

    fn result(&self, chunks: usize, of: usize) -> Perplexity {
        let count = self.count as f64;
        let mean = self.sum / count;
        let variance = self.squares / count - mean * mean;
        let error = if self.count > 1 && variance > 0.0 { (variance / (count - 1.0)).sqrt() * mean.exp() } else { 0.0 };
        Perplexity { value: mean.exp(), error, scored: self.count, chunks, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(context: usize, bos: Option<u32>) -> Chunks {
        Chunks { context, bos, limit: None }
    }

    #[test]
    fn the_second_half_of_each_chunk_is_scored_against_the_text() {
        // A vocabulary of 4; the model gives the token after the one it reads a logit of ln 3, all others 0: p = 3/6 or 1/6.
        let text = [0u32, 1, 2, 3, 0, 3, 2, 3, 0, 1, 2];
        let (mut seen, mut steps) = (Vec::new(), Vec::new());
        let run = |chunk: &[u32], sink: &mut Sink<'_>| {
            seen.push(chunk.to_vec());
            chunk.iter().enumerate().try_for_each(|(at, token)| {
                let mut logits = [0f32; 4];
                logits[(*token as usize + 1) % 4] = 3f32.ln();
                sink(at, &logits)
            })
        };
        let found = perplexity(&text, &chunks(5, Some(3)), run, |step| steps.push(*step)).unwrap();
        assert_eq!(seen, [[3, 1, 2, 3, 0], [3, 2, 3, 0, 1]]);
        // Chunk 1: after 2 comes 3, after 3 comes 0 (1/2, 1/2); chunk 2: after 3 comes 0, after 0 comes 1.
        assert!((found.value - 2.0).abs() < 1e-6, "{found:?}");
        assert_eq!((found.scored, found.chunks, found.of, steps.len()), (4, 2, 2, 2));
        assert!(steps[1] == found && found.error < 1e-3);
    }

    #[test]
    fn mean_and_error_are_those_of_the_surprises() {
        // p = 1/2 and 1/4: surprises ln 2 and ln 4, mean 1.5 ln 2.
        let run =
            |_: &[u32], sink: &mut Sink<'_>| [(1, [0f32, 0.0]), (2, [0.0, 3f32.ln()])].iter().try_for_each(|(at, row)| sink(*at, row));
        let found = perplexity(&[0; 8], &Chunks { limit: Some(1), ..chunks(4, None) }, run, |_| {}).unwrap();
        assert_eq!(found.scored, 1, "position 1 is context, 3 has no target");
        assert!((found.value - 4.0).abs() < 1e-6 && found.error == 0.0);

        let mut tally = Tally::default();
        tally.score(&[0.0, 0.0], 1).unwrap();
        tally.score(&[0.0, 3f32.ln()], 0).unwrap();
        let found = tally.result(1, 1);
        let value = 2f64.powf(1.5);
        assert!((found.value - value).abs() < 1e-6);
        assert!((found.error - value * 0.5 * 2f64.ln()).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn what_cannot_be_measured_is_said() {
        let nothing = |_: &[u32], _: &mut Sink<'_>| Ok(());
        let text = |result: Result<Perplexity>| result.unwrap_err().to_string();
        let short = text(perplexity(&[0; 7], &chunks(4, None), nothing, |_| {}));
        assert!(short.contains("at least 8 tokens") && short.contains("found 7 tokens"), "{short}");
        assert!(text(perplexity(&[0; 7], &chunks(2, None), nothing, |_| {})).contains("at least 3 tokens"));
        assert!(text(perplexity(&[0; 8], &chunks(4, None), nothing, |_| {})).contains("expected 1 scored tokens so far, found 0"));
        let row = |logits: [f32; 2]| move |_: &[u32], sink: &mut Sink<'_>| sink(2, &logits);
        assert!(text(perplexity(&[9; 8], &chunks(4, None), row([0.0; 2]), |_| {})).contains("token ids below 2"));
        assert!(text(perplexity(&[0; 8], &chunks(4, None), row([f32::NAN, 0.0]), |_| {})).contains("finite logits"));
        assert_eq!((text_of("a\n\n"), text_of("a")), ("a\n", "a"));
    }
}
