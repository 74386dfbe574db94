//! The CPU levels as values: what this machine has, which is best, and the `HOB_LEVEL` override.
//!
//! A [`Level`] can only be had from detection, so holding one is the proof that its instructions exist here. Tests and
//! benches iterate over [`Level::available`].

use std::fmt;

/// Every level hob knows, on any machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Scalar,
    Avx2,
    AvxVnni,
    Avx512,
    Neon,
    NeonDot,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Scalar, "scalar"),
    (Kind::Avx2, "avx2"),
    (Kind::AvxVnni, "avxvnni"),
    (Kind::Avx512, "avx512"),
    (Kind::Neon, "neon"),
    (Kind::NeonDot, "neondot"),
];

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(Kind);

/// Why a level asked for by name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelError {
    /// No level has this name.
    Unknown(String),
    /// The level exists, this machine lacks it.
    NotAvailable(String),
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here: Vec<_> = Level::available().map(Level::name).collect();
        match self {
            LevelError::Unknown(name) => write!(f, "no CPU level is called `{name}`; this machine has {}", here.join(", ")),
            LevelError::NotAvailable(name) => write!(f, "CPU level `{name}` is not available on this machine; it has {}", here.join(", ")),
        }
    }
}

impl std::error::Error for LevelError {}

impl Level {
    /// The levels of this machine, plainest first.
    pub fn available() -> impl Iterator<Item = Level> {
        KINDS.iter().filter(|(kind, _)| detect(*kind)).map(|(kind, _)| Level(*kind))
    }

    /// The fastest level of this machine.
    pub fn best() -> Level {
        Level::available().last().unwrap_or(Level(Kind::Scalar))
    }

    /// The level called `name`, if this machine has it.
    ///
    /// # Errors
    /// [`LevelError::Unknown`] for a name that is not a level, [`LevelError::NotAvailable`] where the machine lacks it.
    pub fn named(name: &str) -> Result<Level, LevelError> {
        match KINDS.iter().find(|(_, n)| *n == name) {
            None => Err(LevelError::Unknown(name.to_owned())),
            Some((kind, _)) if detect(*kind) => Ok(Level(*kind)),
            Some(_) => Err(LevelError::NotAvailable(name.to_owned())),
        }
    }

    /// The level that `HOB_LEVEL` names, or the best one where it is unset or empty.
    ///
    /// # Errors
    /// As [`Level::named`].
    pub fn from_env() -> Result<Level, LevelError> {
        match std::env::var("HOB_LEVEL") {
            Ok(name) if !name.is_empty() => Level::named(&name),
            Ok(_) | Err(_) => Ok(Level::best()),
        }
    }

    /// `scalar`, `avx2`, `avxvnni`, `avx512`, `neon` or `neondot`.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self.0).map_or("", |(_, name)| name)
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn detect(kind: Kind) -> bool {
    let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    match kind {
        Kind::Scalar => true,
        Kind::Avx2 => avx2(),
        Kind::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
        Kind::Avx512 => {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
        }
        Kind::Neon | Kind::NeonDot => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn detect(kind: Kind) -> bool {
    match kind {
        Kind::Scalar => true,
        Kind::Neon => std::arch::is_aarch64_feature_detected!("neon"),
        Kind::NeonDot => std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod"),
        Kind::Avx2 | Kind::AvxVnni | Kind::Avx512 => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect(kind: Kind) -> bool {
    kind == Kind::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_level_is_found_by_its_name() {
        for level in Level::available() {
            assert_eq!(Level::named(level.name()), Ok(level));
        }
        assert!(Level::available().any(|l| l == Level::best()));
    }

    #[test]
    fn a_level_that_is_missing_here_says_not_available() {
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        let error = Level::named(foreign).unwrap_err();
        assert_eq!(error, LevelError::NotAvailable(foreign.into()));
        assert!(error.to_string().contains("not available"));
        assert_eq!(Level::named("mmx"), Err(LevelError::Unknown("mmx".into())));
    }
}
