//! What all measurements share: numbers to compute with, the settings, and the words for the machine they were made on.
//!
//! The measurements themselves are in `benches/`, what they gave in `record/`; how to run them says the README beside.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use hob_kernels::{Format, Pool, default_threads};

/// A setting from the environment, or what it is without one.
pub fn setting(name: &str, without: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(without)
}

/// Threads to measure with: `HOB_BENCH_THREADS`, or as many as hob would take.
pub fn pool() -> Pool {
    Pool::new(setting("HOB_BENCH_THREADS", default_threads()))
}

/// `n` numbers between -1 and 1 without a pattern, the same on every machine.
pub fn noise(n: usize) -> Vec<f32> {
    let mixed = |i: u64| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..n as u64)
        .map(|i| ((mixed(i) ^ mixed(i) >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        .collect()
}

/// `n` arbitrary tokens of a vocabulary, the same every time: a linear congruence (Knuth's MMIX constants).
pub fn tokens(n: usize, vocabulary: usize) -> Vec<u32> {
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(next(&1), next).map(|state| ((state >> 33) % vocabulary.max(1) as u64) as u32).take(n).collect()
}

/// `rows` rows of `cols` weights of a format. Some rows are quantized from noise (random bits where
/// hob does not make the format) and then repeated: making gigabytes anew takes minutes.
///
/// # Panics
/// If `cols` is no multiple of the format's block.
pub fn weights(format: Format, rows: usize, cols: usize) -> Vec<u8> {
    let Some(row_bytes) = format.row_bytes(cols) else { panic!("{cols} weights are no whole blocks of {}", format.name()) };
    let distinct = rows.min(67);
    let mut bytes = vec![0; distinct * row_bytes];
    if format.can_quantize() {
        hob_kernels::format::quantize(format, &noise(distinct * cols), None, &mut bytes);
    } else {
        // Any bytes are such weights; without bit 6 no half is infinite.
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = ((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 & 0xbf;
        }
    }
    bytes.iter().copied().cycle().take(rows * row_bytes).collect()
}

/// Asserts that two results have the same bits.
///
/// # Panics
/// If they have not.
pub fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert_eq!(f.to_bits(), e.to_bits(), "{what}: number {i} is {f}, naive has {e}");
    }
}

/// The processor's name for itself, with the number of its threads.
pub fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let named = |text: String| text.lines().find_map(|l| Some(l.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    let linux = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(named);
    let name = linux.or_else(|| output("sysctl", &["-n", "machdep.cpu.brand_string"]));
    format!("{} ({threads} threads)", name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

/// The short name of the commit at hand, with a `+` where files have been changed since.
pub fn commit() -> String {
    // Of this repository, from wherever it runs.
    let git = |arguments: &[&str]| output("git", &[&["-C", env!("CARGO_MANIFEST_DIR")], arguments].concat());
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    if changed { commit + "+" } else { commit }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Today in UTC, as [`date`] writes it.
pub fn today() -> String {
    date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// A day as `2026-11-22`, from the seconds since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub fn date(seconds: u64) -> String {
    // Years are counted from the 1st of March of year 0: then the leap day is the last of its year.
    let days = (seconds / 86400) as i64 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + i64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (seconds, expected) in
            [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (1_709_251_199, "2024-02-29"), (1_795_305_600, "2026-11-22")]
        {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn weights_are_whole_rows_and_noise_is_noise() {
        assert_eq!(weights(Format::Q4_K, 100, 512).len(), 100 * 288);
        let x = noise(4096);
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / 4096.0;
        assert!(mean.abs() < 0.05 && x.iter().any(|x| *x > 0.9) && x.iter().any(|x| *x < -0.9), "{mean}");
    }
}
