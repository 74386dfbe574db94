//! `/set`: how replies are made, under the names of the flags. The flags themselves read the values.

use clap::Parser;
use hob::Sampling;
use hob::chat::Full;
use serde_json::{Map, Value as Json};

use crate::nearest::{either, nearest};
use crate::sampling::SamplingFlags;
use crate::terminal::printable;

/// Names of flags, the fields of [`Sampling`] that they set, and what these are where nothing is said.
const NUMBERS: &[(&str, &str, &str)] = &[
    ("seed", "seed", "a new one each time"),
    ("temp", "temperature", "0.8"),
    ("top-k", "top_k", "40"),
    ("top-p", "top_p", "0.95"),
    ("min-p", "min_p", "0.05"),
    ("repeat-penalty", "repeat_penalty", "1"),
    ("repeat-last-n", "repeat_last_n", "64"),
    ("presence-penalty", "presence_penalty", "0"),
    ("frequency-penalty", "frequency_penalty", "0"),
    ("typical", "typical_p", "1"),
    ("top-n-sigma", "top_n_sigma", "-1"),
    ("dynatemp-range", "dynatemp_range", "0"),
    ("dynatemp-exp", "dynatemp_exponent", "1"),
    ("xtc-probability", "xtc_probability", "0"),
    ("xtc-threshold", "xtc_threshold", "0.1"),
    ("dry-multiplier", "dry_multiplier", "0"),
    ("dry-base", "dry_base", "1.75"),
    ("dry-allowed-length", "dry_allowed_length", "2"),
    ("dry-penalty-last-n", "dry_penalty_last_n", "64"),
    ("dry-sequence-breaker", "dry_sequence_breakers", "line end : \" *"),
    ("mirostat", "mirostat", "0"),
    ("mirostat-lr", "mirostat_eta", "0.1"),
    ("mirostat-ent", "mirostat_tau", "5"),
    ("adaptive-target", "adaptive_target", "-1"),
    ("adaptive-decay", "adaptive_decay", "0.9"),
    ("samplers", "steps", "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"),
    ("logit-bias", "logit_bias", "none"),
];
/// Those that a list always shows.
const SHOWN: usize = 6;
/// What is no number of the sampler's.
const OTHERS: [&str; 4] = ["predict", "full", "stop", "ban"];

/// What a chat can be set to, beside how it samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) predict: Option<usize>,
    pub(super) full: Full,
    pub(super) stop: Vec<String>,
    pub(super) ban: Vec<String>,
}

/// A line of `/set`, read by the flags.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[arg(short = 'n', long, value_parser = crate::values::at_least_one)]
    predict: Option<usize>,
    #[arg(long)]
    full: Option<Full>,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// All names.
pub(super) fn names() -> Vec<&'static str> {
    NUMBERS.iter().map(|(name, ..)| *name).chain(OTHERS).collect()
}

/// The name of a setting as people may write it.
fn name_of(word: &str) -> Result<&'static str, String> {
    let word = word.trim_start_matches('-').replace('_', "-");
    let word = match word.as_str() {
        "temperature" => "temp",
        "n" => "predict",
        "typical-p" | "typ-p" => "typical",
        other => other,
    };
    names().into_iter().find(|name| *name == word).ok_or_else(|| {
        let near = nearest(word, names());
        let meant = if near.is_empty() { "/set lists them".to_owned() } else { format!("did you mean {}?", either(&near)) };
        format!("nothing to set is called {}: {meant}", printable(word))
    })
}

/// Sets what `line` says, as `temp 0.7`; `default` is what it was before anyone said anything.
pub(super) fn set(line: &str, sampling: &mut Sampling, limits: &mut Limits) -> Result<String, String> {
    let (word, value) = line.split_once([' ', '=']).unwrap_or((line, ""));
    let (name, value) = (name_of(word)?, value.trim());
    if value == "default" {
        *sampling = without(sampling, name);
        match name {
            "predict" => limits.predict = None,
            "full" => limits.full = Full::default(),
            "stop" => limits.stop.clear(),
            "ban" => limits.ban.clear(),
            _ => {}
        }
    } else if !value.is_empty() {
        let read = Line::try_parse_from([format!("--{name}={value}")]).map_err(|error| short(&error))?;
        let wanted = read.sampling.sampling().over(sampling);
        // Checked now, and not with the next reply.
        hob::Sampler::new(&wanted).map_err(|error| error.to_string())?;
        *sampling = wanted;
        limits.predict = read.predict.or(limits.predict);
        limits.full = read.full.unwrap_or(limits.full);
        limits.stop.extend(read.sampling.stop);
        limits.ban.extend(read.sampling.ban);
    }
    Ok(name.to_owned())
}

/// What clap says, in one line.
fn short(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    line.replace("--", "")
}

fn fields(sampling: &Sampling) -> Map<String, Json> {
    // By way of the text, where an f32 is as short as it is written.
    serde_json::to_string(sampling).and_then(|text| serde_json::from_str(&text)).unwrap_or_default()
}

fn without(sampling: &Sampling, name: &str) -> Sampling {
    let field = NUMBERS.iter().find(|(number, ..)| *number == name).map_or("", |(_, field, _)| field);
    let mut all = fields(sampling);
    all.remove(field);
    let custom = sampling.custom.clone();
    serde_json::from_value::<Sampling>(Json::Object(all)).map_or_else(|_| sampling.clone(), |s| Sampling { custom, ..s })
}

/// A value as its flag takes it.
fn told(value: &Json) -> Option<String> {
    match value {
        Json::Null => None,
        Json::Array(items) if items.is_empty() => None,
        Json::Array(items) => Some(items.iter().filter_map(told).collect::<Vec<_>>().join(";")),
        Json::Number(n) if n.as_u64() == Some(usize::MAX as u64) => Some("-1".into()),
        Json::String(text) => Some(match text.as_str() {
            "off" => "0".into(),
            "v1" => "1".into(),
            "v2" => "2".into(),
            other => other.replace('\n', "\\n"),
        }),
        Json::Bool(_) | Json::Number(_) | Json::Object(_) => Some(value.to_string()),
    }
}

/// One setting and where it comes from: said here, by the file, or by default.
pub(super) fn show(name: &str, sampling: &Sampling, file: &Sampling, limits: &Limits) -> String {
    let list = |texts: &[String]| if texts.is_empty() { "none".to_owned() } else { format!("{texts:?}") };
    match name {
        "predict" => limits.predict.map_or_else(|| "predict: until the model ends".into(), |n| format!("predict {n}")),
        "full" => format!("full {} (of a full context: stop, or roll and let the oldest turns go)", limits.full),
        "stop" => format!("stop {}", list(&limits.stop)),
        "ban" => format!("ban {}", list(&limits.ban)),
        name => {
            let (_, field, default) = NUMBERS.iter().find(|(number, ..)| *number == name).copied().unwrap_or((name, "", ""));
            let value = |of: &Sampling| fields(of).get(field).and_then(told);
            match (value(sampling), value(file)) {
                (Some(own), _) => format!("{name} {own}"),
                (None, Some(files)) => format!("{name} {files} (the file's)"),
                (None, None) => format!("{name} {default} (default)"),
            }
        }
    }
}

/// The settings that are not at their defaults, the commonest, and the names of the others.
pub(super) fn all(sampling: &Sampling, file: &Sampling, limits: &Limits) -> String {
    let shown = |name: &str| show(name, sampling, file, limits);
    let mut lines: Vec<String> = NUMBERS[..SHOWN].iter().map(|(name, ..)| shown(name)).collect();
    let (quiet, loud): (Vec<String>, Vec<String>) =
        NUMBERS[SHOWN..].iter().map(|(name, ..)| shown(name)).partition(|line| line.ends_with("(default)"));
    lines.extend(loud);
    lines.extend(OTHERS.map(shown));
    lines.push("/set NAME VALUE changes one, /set NAME default takes it back. Others:".into());
    let mut line = String::new();
    for name in quiet.iter().filter_map(|line| line.split(' ').next()) {
        if line.len() + name.len() > 76 {
            lines.push(std::mem::take(&mut line));
        }
        line = format!("{line}  {name}");
    }
    lines.push(line);
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_flags_read_them() {
        let (mut sampling, mut limits) = (Sampling::new(1), Limits::default());
        for (line, want) in [
            ("temp 0.7", "temp 0.7"),
            ("temperature=0.25", "temp 0.25"),
            ("top_k 5", "top-k 5"),
            ("--repeat-last-n -1", "repeat-last-n -1"),
            ("mirostat 2", "mirostat 2"),
            ("samplers top_k;temperature", "samplers top_k;temperature"),
            ("seed 7", "seed 7"),
            ("n 20", "predict 20"),
            ("full roll", "full roll (of a full context: stop, or roll and let the oldest turns go)"),
            ("stop </s> ", "stop [\"</s>\"]"),
            ("min-p", "min-p 0.05 (default)"),
            ("mirostat default", "mirostat 0 (default)"),
        ] {
            let name = set(line, &mut sampling, &mut limits).unwrap_or_else(|why| panic!("{line}: {why}"));
            assert_eq!(show(&name, &sampling, &Sampling::default(), &limits), want);
        }
        assert_eq!((sampling.seed, sampling.temperature, sampling.mirostat), (Some(7), Some(0.25), None));
        let before = (sampling.clone(), limits.clone());
        for (line, why) in [
            ("temp hot", "a number from 0"),
            ("tmep 1", "did you mean temp?"),
            ("weather fine", "/set lists them"),
            ("full up", "stop or roll"),
        ] {
            let said = set(line, &mut sampling, &mut limits).unwrap_err();
            assert!(said.contains(why) && !said.contains('\n'), "{said}");
        }
        assert_eq!((sampling, limits), before);
    }

    #[test]
    fn the_list_fits_a_screen_and_names_all() {
        let file = Sampling { top_k: Some(20), ..Sampling::default() };
        let list = all(&Sampling::new(3).temperature(0.5), &file, &Limits::default());
        assert!(names().iter().all(|name| list.contains(name)), "{list}");
        assert!(list.contains("top-k 20 (the file's)") && list.contains("temp 0.5\n") && list.contains("seed 3\n"), "{list}");
        assert!(list.lines().count() < 24 && list.lines().all(|line| line.chars().count() <= 80), "{list}");
    }

    #[test]
    fn every_name_is_a_flag_and_a_field() {
        let all = fields(&Sampling::default());
        for (name, field, _) in NUMBERS {
            assert!(all.contains_key(*field), "{field}");
            // Unknown flags are told apart from values that are missing.
            let missing = Line::try_parse_from([format!("--{name}")]).err().map(|error| error.kind());
            assert_ne!(missing, Some(clap::error::ErrorKind::UnknownArgument), "{name}");
        }
        assert_eq!(all.len(), NUMBERS.len());
    }
}
