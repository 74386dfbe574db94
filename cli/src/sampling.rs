//! How the next token is chosen, on the command line: flags under llama.cpp's names. What is not given comes from the file, and else
//! from the library.

use clap::Args;
use hob::tokenizer::Token;
use hob::{Mirostat, Sampling, Step};

use crate::values::{not_negative, number, positive, probability};

/// Flags of sampling, and of the texts that a reply ends with or must not say.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingFlags {
    /// Same seed, same text [default: a new one each time]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// 0 takes the likeliest token each time [default: 0.8]
    #[arg(long, visible_alias = "temperature", value_name = "T", value_parser = not_negative)]
    pub(crate) temp: Option<f32>,
    /// Let the temperature go so far up and down with the entropy [default: 0]
    #[arg(long, value_name = "R", value_parser = not_negative)]
    dynatemp_range: Option<f32>,
    /// The power of the entropy that it goes with [default: 1]
    #[arg(long, value_name = "E", value_parser = not_negative)]
    dynatemp_exp: Option<f32>,
    /// Keep the K likeliest tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Keep the likeliest tokens that together reach this probability; 1 keeps all [default: 0.95]
    #[arg(long, value_name = "P", value_parser = probability)]
    pub(crate) top_p: Option<f32>,
    /// Keep tokens at least this likely against the likeliest; 0 keeps all [default: 0.05]
    #[arg(long, value_name = "P", value_parser = probability)]
    pub(crate) min_p: Option<f32>,
    /// Keep the most typical tokens that together exceed this probability; 1 keeps all [default: 1]
    #[arg(long, visible_alias = "typical-p", value_name = "P", value_parser = probability)]
    typical: Option<f32>,
    /// Keep tokens at most N standard deviations below the likeliest; -1 keeps all [default: -1]
    #[arg(long, visible_alias = "top-nsigma", value_name = "N", allow_negative_numbers = true, value_parser = any)]
    top_n_sigma: Option<f32>,
    /// XTC: how often the likeliest tokens go [default: 0]
    #[arg(long, value_name = "P", value_parser = probability)]
    xtc_probability: Option<f32>,
    /// XTC: how likely a token must be to go; the least likely of them stays [default: 0.1]
    #[arg(long, value_name = "P", value_parser = probability)]
    xtc_threshold: Option<f32>,
    /// Make recent tokens less likely; 1 does nothing [default: 1]
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) repeat_penalty: Option<f32>,
    /// How many tokens are recent; -1 is the whole context [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    repeat_last_n: Option<usize>,
    /// Taken from the logits of recent tokens [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = any)]
    presence_penalty: Option<f32>,
    /// Taken from the logits of recent tokens for every time they occur [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = any)]
    frequency_penalty: Option<f32>,
    /// DRY: penalty for going on with a repetition of the allowed length; 0 is off [default: 0]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    dry_multiplier: Option<f32>,
    /// DRY: what it grows by with every token more [default: 1.75]
    #[arg(long, value_name = "X", value_parser = positive)]
    dry_base: Option<f32>,
    /// DRY: shorter repetitions cost nothing [default: 2]
    #[arg(long, value_name = "N")]
    dry_allowed_length: Option<usize>,
    /// DRY: how many tokens it looks back at; -1 is the whole context [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    dry_penalty_last_n: Option<usize>,
    /// DRY: a text that repetitions do not reach across; again for more, `none` for none [default: line end : " *]
    #[arg(long, value_name = "TEXT")]
    dry_sequence_breaker: Vec<String>,
    /// Hold the surprise at a target instead of cutting: 0 off, 1 mirostat, 2 mirostat 2.0 [default: 0]
    #[arg(long, value_name = "N", value_parser = mirostat)]
    mirostat: Option<Mirostat>,
    /// Mirostat: how fast it learns, eta [default: 0.1]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    mirostat_lr: Option<f32>,
    /// Mirostat: the target in bits, tau [default: 5]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    mirostat_ent: Option<f32>,
    /// Adaptive-p: choose near this probability; below 0 is off [default: -1]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = any)]
    adaptive_target: Option<f32>,
    /// Adaptive-p: how much of the past it keeps, up to 0.99 [default: 0.9]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    adaptive_decay: Option<f32>,
    /// The steps in their order [default: penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(long, value_name = "NAMES", value_delimiter = ';', conflicts_with = "sampler_seq", value_parser = step)]
    samplers: Vec<Step>,
    /// The same in letters [default: edskypmxt]
    #[arg(long, visible_alias = "sampling-seq", value_name = "LETTERS", value_parser = letters)]
    sampler_seq: Option<Letters>,
    /// Add to the logit of a token, as 15043+1 or 15043-1; again for more
    #[arg(long, value_name = "ID±X", value_parser = bias)]
    logit_bias: Vec<(Token, f32)>,
    /// End where this text comes, without it; again for more
    #[arg(short = 'r', long = "stop", visible_alias = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// Never say this text: go back to where it began and say something else; again for more
    #[arg(long, visible_alias = "banned-string", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) ban: Vec<String>,
}

/// An order of steps, in letters.
#[derive(Clone, Debug)]
struct Letters(Vec<Step>);

impl SamplingFlags {
    /// What the flags ask for; the rest stays unset.
    pub(crate) fn sampling(&self) -> Sampling {
        let breakers = match self.dry_sequence_breaker.as_slice() {
            [] => None,
            [none] if none == "none" => Some(Vec::new()),
            texts => Some(texts.iter().map(|text| text.replace("\\n", "\n")).collect()),
        };
        let steps = match (&self.sampler_seq, self.samplers.is_empty()) {
            (Some(Letters(steps)), _) => Some(steps.clone()),
            (None, false) => Some(self.samplers.clone()),
            (None, true) => None,
        };
        Sampling {
            seed: self.seed,
            temperature: self.temp,
            dynatemp_range: self.dynatemp_range,
            dynatemp_exponent: self.dynatemp_exp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical,
            top_n_sigma: self.top_n_sigma,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_penalty_last_n: self.dry_penalty_last_n,
            dry_sequence_breakers: breakers,
            mirostat: self.mirostat,
            mirostat_tau: self.mirostat_ent,
            mirostat_eta: self.mirostat_lr,
            adaptive_target: self.adaptive_target,
            adaptive_decay: self.adaptive_decay,
            logit_bias: self.logit_bias.clone(),
            steps,
            custom: Vec::new(),
        }
    }

    /// What the file sets and the flags leave alone, as a sentence.
    pub(crate) fn notice(&self, file: &Sampling) -> Option<String> {
        fn taken<T: ToString>(name: &str, flag: Option<T>, file: Option<T>) -> Option<String> {
            let value = if flag.is_some() { None } else { file };
            value.map(|value| format!("{name} {}", value.to_string()))
        }
        fn named<T>(name: &str, flag: Option<T>, file: Option<T>, say: impl Fn(T) -> String) -> Option<String> {
            taken(name, flag.map(&say), file.map(&say))
        }
        let flags = self.sampling();
        let window = |n: usize| if n == usize::MAX { "all".to_owned() } else { n.to_string() };
        let order = |steps: Vec<Step>| steps.into_iter().map(Step::name).collect::<Vec<_>>().join(";");
        let version = |mirostat| match mirostat {
            Mirostat::Off => "0".to_owned(),
            Mirostat::V1 => "1".to_owned(),
            Mirostat::V2 => "2".to_owned(),
        };
        let settings = [
            taken("temperature", flags.temperature, file.temperature),
            taken("top-k", flags.top_k, file.top_k),
            taken("top-p", flags.top_p, file.top_p),
            taken("min-p", flags.min_p, file.min_p),
            taken("xtc-probability", flags.xtc_probability, file.xtc_probability),
            taken("xtc-threshold", flags.xtc_threshold, file.xtc_threshold),
            taken("repeat-penalty", flags.repeat_penalty, file.repeat_penalty),
            named("repeat-last-n", flags.repeat_last_n, file.repeat_last_n, window),
            named("mirostat", flags.mirostat, file.mirostat, version),
            taken("mirostat-ent", flags.mirostat_tau, file.mirostat_tau),
            taken("mirostat-lr", flags.mirostat_eta, file.mirostat_eta),
            named("samplers", flags.steps, file.steps.clone(), order),
        ];
        let settings: Vec<String> = settings.into_iter().flatten().collect();
        if settings.is_empty() { None } else { Some(format!("sampling as the file recommends: {}", settings.join(", "))) }
    }
}

fn any(text: &str) -> Result<f32, String> {
    number(text, "a number", |_| true)
}

/// A number of tokens, of which -1 is all.
fn count(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(usize::MAX),
        Ok(n) => usize::try_from(n).map_err(|_| "a number from 0, or -1, is needed".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn mirostat(text: &str) -> Result<Mirostat, String> {
    match text {
        "0" => Ok(Mirostat::Off),
        "1" => Ok(Mirostat::V1),
        "2" => Ok(Mirostat::V2),
        _ => Err("0, 1 or 2 is needed".into()),
    }
}

fn step(name: &str) -> Result<Step, String> {
    name.parse::<Step>().map_err(|error| error.to_string())
}

fn letters(text: &str) -> Result<Letters, String> {
    let one = |letter| Step::from_letter(letter).ok_or_else(|| format!("no step has the letter {letter}; they are edskypmxt"));
    text.chars().map(one).collect::<Result<_, _>>().map(Letters)
}

fn bias(text: &str) -> Result<(Token, f32), String> {
    let wanted = || "a token and a bias are needed, as 15043+1 or 15043-1".to_owned();
    let (token, bias) = text.find(['+', '-']).map(|at| text.split_at(at)).ok_or_else(wanted)?;
    match (token.parse(), bias.parse::<f32>()) {
        (Ok(token), Ok(bias)) if !bias.is_nan() => Ok((token, bias)),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_sets_is_said_unless_a_flag_overrides_it() {
        let flags = |temp| SamplingFlags { temp, ..SamplingFlags::default() };
        let file = Sampling::default().temperature(0.6).top_k(20);
        assert_eq!(flags(None).notice(&file).as_deref(), Some("sampling as the file recommends: temperature 0.6, top-k 20"));
        assert_eq!(flags(Some(0.0)).notice(&file).as_deref(), Some("sampling as the file recommends: top-k 20"));
        assert_eq!(flags(None).notice(&Sampling::default()), None);
    }

    #[test]
    fn words_become_values() {
        assert_eq!((count("-1"), count("7")), (Ok(usize::MAX), Ok(7)));
        assert!(count("-2").is_err() && mirostat("3").is_err() && letters("ke!").is_err() && step("top_x").is_err());
        assert_eq!(letters("edskypmxt").unwrap().0, Step::DEFAULT);
        assert_eq!(step("top-k"), Ok(Step::TopK));
        assert_eq!((bias("15+1"), bias("15-inf")), (Ok((15, 1.0)), Ok((15, f32::NEG_INFINITY))));
        assert!(bias("15").is_err() && bias("+1").is_err());
    }
}
