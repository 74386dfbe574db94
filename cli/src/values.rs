//! What flags take for values, read from their text.

use hob::cache::KvType;

/// The type of a cache's numbers, by name.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KvName {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8,
    #[value(name = "q4_0")]
    Q4,
}

impl From<KvName> for KvType {
    fn from(name: KvName) -> KvType {
        match name {
            KvName::F32 => KvType::F32,
            KvName::F16 => KvType::F16,
            KvName::Bf16 => KvType::Bf16,
            KvName::Q8 => KvType::Q8_0,
            KvName::Q4 => KvType::Q4_0,
        }
    }
}

impl KvName {
    pub(crate) fn name(self) -> &'static str {
        KvType::from(self).name()
    }
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".into()),
        Ok(n) => Ok(n),
        Err(error) => Err(format!("{error}")),
    }
}

pub(crate) fn number(text: &str, wanted: &str, fits: impl Fn(f32) -> bool) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite() && fits(*x)).ok_or_else(|| format!("{wanted} is needed"))
}

pub(crate) fn not_negative(text: &str) -> Result<f32, String> {
    number(text, "a number from 0", |x| x >= 0.0)
}

pub(crate) fn positive(text: &str) -> Result<f32, String> {
    number(text, "a number above 0", |x| x > 0.0)
}

pub(crate) fn probability(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_are_refused() {
        for (parse, good, bad) in [
            (probability as fn(&str) -> Result<f32, String>, ["0", "0.95", "1"], ["1.5", "-0.1", "nan"]),
            (not_negative, ["0", "0.7", "100"], ["-1", "inf", "warm"]),
            (positive, ["0.1", "1", "2"], ["0", "-1", ""]),
        ] {
            assert!(good.iter().all(|text| parse(text).is_ok()));
            assert!(bad.iter().all(|text| parse(text).is_err()));
        }
        assert!(at_least_one("0").is_err() && at_least_one("x").is_err() && at_least_one("8") == Ok(8));
    }
}
