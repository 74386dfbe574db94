//! What one asks of sampling: [`Sampling`], and the order of its steps, under llama.cpp's names.

use super::Candidate;
use crate::error::{Error, Fault, Result};
use crate::gguf::Metadata;
use crate::tokenizer::Token;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A step of sampling. The default order is that of [`Step::DEFAULT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Repeat, frequency and presence penalties.
    Penalties,
    /// DRY.
    Dry,
    /// Top-n-sigma.
    TopNSigma,
    /// Top-k.
    TopK,
    /// Locally typical.
    TypicalP,
    /// Top-p.
    TopP,
    /// Min-p.
    MinP,
    /// XTC.
    Xtc,
    /// Temperature and dynatemp.
    Temperature,
    /// The steps of one's own. They come first where the order does not name them.
    Custom,
}

impl Step {
    /// llama.cpp's order.
    pub const DEFAULT: [Step; 9] =
        [Step::Penalties, Step::Dry, Step::TopNSigma, Step::TopK, Step::TypicalP, Step::TopP, Step::MinP, Step::Xtc, Step::Temperature];

    /// llama.cpp's name, which [`FromStr`] takes too.
    pub fn name(self) -> &'static str {
        match self {
            Step::Penalties => "penalties",
            Step::Dry => "dry",
            Step::TopNSigma => "top_n_sigma",
            Step::TopK => "top_k",
            Step::TypicalP => "typ_p",
            Step::TopP => "top_p",
            Step::MinP => "min_p",
            Step::Xtc => "xtc",
            Step::Temperature => "temperature",
            Step::Custom => "custom",
        }
    }

    /// llama.cpp's letter.
    pub fn letter(self) -> char {
        match self {
            Step::Penalties => 'e',
            Step::Dry => 'd',
            Step::TopNSigma => 's',
            Step::TopK => 'k',
            Step::TypicalP => 'y',
            Step::TopP => 'p',
            Step::MinP => 'm',
            Step::Xtc => 'x',
            Step::Temperature => 't',
            Step::Custom => 'c',
        }
    }

    /// The step with this letter.
    pub fn from_letter(letter: char) -> Option<Step> {
        Step::DEFAULT.into_iter().chain([Step::Custom]).find(|step| step.letter() == letter)
    }
}

impl FromStr for Step {
    type Err = Error;

    fn from_str(name: &str) -> Result<Step> {
        let plain = match name.trim().replace('-', "_").as_str() {
            "typical" | "typical_p" => "typ_p".to_owned(),
            "nucleus" => "top_p".to_owned(),
            "temp" => "temperature".to_owned(),
            other => other.to_owned(),
        };
        let mut all = Step::DEFAULT.into_iter().chain([Step::Custom]);
        all.find(|step| step.name() == plain).ok_or_else(|| {
            let names = Step::DEFAULT.map(Step::name).join(", ");
            let help = match plain.as_str() {
                "adaptive_p" => "adaptive-p always comes last; its target turns it on",
                _ => "",
            };
            Error::Input(Fault::at("sampling step").expected(format!("one of {names}")).found(format!("`{name}`")).help(help))
        })
    }
}

/// Whether the surprise of what is said is held at a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mirostat {
    /// It is not.
    #[default]
    Off,
    /// By an estimate of Zipf's exponent.
    V1,
    /// By the surprise itself.
    V2,
}

type Change = dyn Fn(&mut Vec<Candidate>) + Send + Sync;

/// A step of one's own. Clones are the same step.
#[derive(Clone)]
pub struct Custom(Arc<Change>);

impl Custom {
    pub(super) fn apply(&self, candidates: &mut Vec<Candidate>) {
        (self.0)(candidates);
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom(…)")
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Custom) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// How to choose the next token. What is left unset is filled from the model file (`general.sampling.*`), then from the defaults,
/// llama.cpp's: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, all else off.
///
/// ```
/// use hob::Sampling;
/// let calm = Sampling::new(42).temperature(0.7).top_p(0.9);
/// let exact = Sampling::greedy();
/// // A step of one's own: nothing but the even ids.
/// let even = Sampling::new(1).custom(|candidates| candidates.retain(|c| c.token % 2 == 0));
/// # assert_eq!(calm.seed, Some(42));
/// # assert_eq!(exact.temperature, Some(0.0));
/// # assert_eq!(hob::Sampler::new(&even)?.sample(&mut [1.0, 9.0, 0.0, 9.0])? % 2, 0);
/// # Ok::<(), hob::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Seed of the draw; unset: a different one each time ([`Sampler::seed`](super::Sampler::seed) tells it).
    pub seed: Option<u64>,
    /// Flatter above 1, sharper below; 0 takes the most probable token (default 0.8).
    pub temperature: Option<f32>,
    /// The temperature goes so far up and down with the entropy; 0 leaves it (default 0).
    pub dynatemp_range: Option<f32>,
    /// The power of the entropy that it goes with (default 1).
    pub dynatemp_exponent: Option<f32>,
    /// Keep this many tokens; 0 keeps all (default 40).
    pub top_k: Option<usize>,
    /// Keep the most probable tokens until their probabilities reach this; 1 keeps all (default 0.95).
    pub top_p: Option<f32>,
    /// Keep the tokens at least this many times as probable as the first; 0 keeps all (default 0.05).
    pub min_p: Option<f32>,
    /// Keep the most typical tokens until their probabilities exceed this; 1 keeps all (default 1).
    pub typical_p: Option<f32>,
    /// Keep the tokens at most so many standard deviations below the best; 0 or less keeps all (default -1).
    pub top_n_sigma: Option<f32>,
    /// The chance that XTC takes away the best (default 0).
    pub xtc_probability: Option<f32>,
    /// How probable a token must be for XTC to take it; above 0.5 none can go (default 0.1).
    pub xtc_threshold: Option<f32>,
    /// Divides the logits of recent tokens; 1 leaves them (default 1).
    pub repeat_penalty: Option<f32>,
    /// How many tokens count as recent (default 64).
    pub repeat_last_n: Option<usize>,
    /// Taken once from the logits of recent tokens (default 0).
    pub presence_penalty: Option<f32>,
    /// Taken from the logits of recent tokens once for every time they stand there (default 0).
    pub frequency_penalty: Option<f32>,
    /// DRY's penalty for a repetition of the allowed length; 0 is off (default 0).
    pub dry_multiplier: Option<f32>,
    /// It grows by this with every token more (default 1.75).
    pub dry_base: Option<f32>,
    /// Shorter repetitions cost nothing (default 2).
    pub dry_allowed_length: Option<usize>,
    /// How many tokens back DRY looks (default 64).
    pub dry_penalty_last_n: Option<usize>,
    /// Texts that a repetition does not reach across (default: line end, `:`, `"`, `*`).
    pub dry_sequence_breakers: Option<Vec<String>>,
    /// Whether mirostat takes the place of all steps that cut (default off).
    pub mirostat: Option<Mirostat>,
    /// Mirostat's target, in bits of surprise (default 5).
    pub mirostat_tau: Option<f32>,
    /// How fast it learns (default 0.1).
    pub mirostat_eta: Option<f32>,
    /// The probability that adaptive-p chooses near; below 0 is off (default -1).
    pub adaptive_target: Option<f32>,
    /// How much of the past adaptive-p keeps with every token (default 0.9).
    pub adaptive_decay: Option<f32>,
    /// Added to the logits of these tokens before the first step; minus infinity bans one.
    #[serde(deserialize_with = "biases")]
    pub logit_bias: Vec<(Token, f32)>,
    /// The steps in their order; one that is not named does nothing (default [`Step::DEFAULT`]).
    pub steps: Option<Vec<Step>>,
    /// Steps of one's own, made where [`Step::Custom`] stands. They are not serialised.
    #[serde(skip)]
    pub custom: Vec<Custom>,
}

/// JSON has no infinity: a bias that it wrote as null bans its token.
fn biases<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<(Token, f32)>, D::Error> {
    let pairs = Vec::<(Token, Option<f32>)>::deserialize(from)?;
    Ok(pairs.into_iter().map(|(token, bias)| (token, bias.unwrap_or(f32::NEG_INFINITY))).collect())
}

/// Setters that take what the field holds.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)*) => {
        $($(#[$doc])* pub fn $name(mut self, $name: $kind) -> Sampling {
            self.$name = Some($name);
            self
        })*
    };
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

    /// What a file recommends: its `general.sampling.*`, the rest unset. Steps that hob has no name for are left out of its order.
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
        let steps = metadata.str(&key("sequence"))?.map(|names| names.split(';').filter_map(|name| name.parse().ok()).collect());
        Ok(Sampling {
            temperature: metadata.f32(&key("temp"))?.map(|t| t.max(0.0)),
            top_k: count("top_k", 0)?,
            top_p: metadata.f32(&key("top_p"))?,
            min_p: metadata.f32(&key("min_p"))?,
            xtc_probability: metadata.f32(&key("xtc_probability"))?,
            xtc_threshold: metadata.f32(&key("xtc_threshold"))?,
            repeat_penalty: metadata.f32(&key("penalty_repeat"))?,
            repeat_last_n: count("penalty_last_n", usize::MAX)?,
            mirostat: metadata.i64(&key("mirostat"))?.map(|version| match version {
                1 => Mirostat::V1,
                2 => Mirostat::V2,
                _ => Mirostat::Off,
            }),
            mirostat_tau: metadata.f32(&key("mirostat_tau"))?,
            mirostat_eta: metadata.f32(&key("mirostat_eta"))?,
            steps: steps.filter(|steps: &Vec<Step>| !steps.is_empty()),
            ..Sampling::default()
        })
    }

    setters! {
        /// Sets the seed.
        seed: u64,
        /// Sets the temperature; 0 takes the most probable token.
        temperature: f32,
        /// Lets the temperature go so far up and down with the entropy.
        dynatemp_range: f32,
        /// Sets the power of the entropy that the temperature goes with.
        dynatemp_exponent: f32,
        /// Keeps so many of the most probable tokens; 0 keeps all.
        top_k: usize,
        /// Keeps the most probable tokens until their probabilities reach this.
        top_p: f32,
        /// Keeps the tokens at least this many times as probable as the first.
        min_p: f32,
        /// Keeps the most typical tokens until their probabilities exceed this.
        typical_p: f32,
        /// Keeps the tokens at most so many standard deviations below the best.
        top_n_sigma: f32,
        /// Sets the chance that XTC takes away the best.
        xtc_probability: f32,
        /// Sets how probable a token must be for XTC to take it.
        xtc_threshold: f32,
        /// Divides the logits of recent tokens.
        repeat_penalty: f32,
        /// Sets how many tokens the penalties look back at.
        repeat_last_n: usize,
        /// Is taken once from the logits of recent tokens.
        presence_penalty: f32,
        /// Is taken from the logits of recent tokens for every time they stand there.
        frequency_penalty: f32,
        /// Sets DRY's penalty for a repetition of the allowed length.
        dry_multiplier: f32,
        /// Sets what it grows by with every token more.
        dry_base: f32,
        /// Sets the length from which a repetition costs something.
        dry_allowed_length: usize,
        /// Sets how many tokens DRY looks back at.
        dry_penalty_last_n: usize,
        /// Sets the texts that a repetition does not reach across.
        dry_sequence_breakers: Vec<String>,
        /// Puts mirostat in the place of all steps that cut.
        mirostat: Mirostat,
        /// Sets mirostat's target.
        mirostat_tau: f32,
        /// Sets how fast mirostat learns.
        mirostat_eta: f32,
        /// Sets the probability that adaptive-p chooses near.
        adaptive_target: f32,
        /// Sets how much of the past adaptive-p keeps.
        adaptive_decay: f32,
        /// Sets the order of the steps; one that is not named does nothing.
        steps: Vec<Step>,
    }

    /// Adds `bias` to the logit of `token`; minus infinity bans it.
    pub fn bias(mut self, token: Token, bias: f32) -> Sampling {
        self.logit_bias.push((token, bias));
        self
    }

    /// Adds a step of one's own, made where the order has [`Step::Custom`], or else first. It may change logits and take candidates
    /// away; they come ascending by id, the whole vocabulary before the first cut.
    pub fn custom(mut self, step: impl Fn(&mut Vec<Candidate>) + Send + Sync + 'static) -> Sampling {
        self.custom.push(Custom(Arc::new(step)));
        self
    }

    /// These options, with what they leave unset taken from `base`.
    pub fn over(&self, base: &Sampling) -> Sampling {
        Sampling {
            seed: self.seed.or(base.seed),
            temperature: self.temperature.or(base.temperature),
            dynatemp_range: self.dynatemp_range.or(base.dynatemp_range),
            dynatemp_exponent: self.dynatemp_exponent.or(base.dynatemp_exponent),
            top_k: self.top_k.or(base.top_k),
            top_p: self.top_p.or(base.top_p),
            min_p: self.min_p.or(base.min_p),
            typical_p: self.typical_p.or(base.typical_p),
            top_n_sigma: self.top_n_sigma.or(base.top_n_sigma),
            xtc_probability: self.xtc_probability.or(base.xtc_probability),
            xtc_threshold: self.xtc_threshold.or(base.xtc_threshold),
            repeat_penalty: self.repeat_penalty.or(base.repeat_penalty),
            repeat_last_n: self.repeat_last_n.or(base.repeat_last_n),
            presence_penalty: self.presence_penalty.or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(base.frequency_penalty),
            dry_multiplier: self.dry_multiplier.or(base.dry_multiplier),
            dry_base: self.dry_base.or(base.dry_base),
            dry_allowed_length: self.dry_allowed_length.or(base.dry_allowed_length),
            dry_penalty_last_n: self.dry_penalty_last_n.or(base.dry_penalty_last_n),
            dry_sequence_breakers: self.dry_sequence_breakers.clone().or_else(|| base.dry_sequence_breakers.clone()),
            mirostat: self.mirostat.or(base.mirostat),
            mirostat_tau: self.mirostat_tau.or(base.mirostat_tau),
            mirostat_eta: self.mirostat_eta.or(base.mirostat_eta),
            adaptive_target: self.adaptive_target.or(base.adaptive_target),
            adaptive_decay: self.adaptive_decay.or(base.adaptive_decay),
            logit_bias: base.logit_bias.iter().chain(&self.logit_bias).copied().collect(),
            steps: self.steps.clone().or_else(|| base.steps.clone()),
            custom: base.custom.iter().chain(&self.custom).cloned().collect(),
        }
    }
}
