//! Amounts as people read them: bytes in binary units, parameters in powers of a thousand, times as a clock shows them.

use std::time::{SystemTime, UNIX_EPOCH};

/// `762.81 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (value, unit) = scaled(n as f64, 1024.0, &units);
    if unit == "B" { format!("{n} B") } else { format!("{value:.2} {unit}") }
}

/// `1.24 B` for parameters, `260.03 K`.
pub(crate) fn count(n: u64) -> String {
    let (value, unit) = scaled(n as f64, 1000.0, &["", "K", "M", "B", "T"]);
    if unit.is_empty() { n.to_string() } else { format!("{value:.2} {unit}") }
}

/// `1 file`, `12 files`.
pub(crate) fn several(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn scaled<'a>(mut value: f64, base: f64, units: &[&'a str]) -> (f64, &'a str) {
    let mut at = 0;
    while value >= base && at + 1 < units.len() {
        value /= base;
        at += 1;
    }
    (value, units[at])
}

/// Now, as `2026-01-31T23:59:59Z`.
pub(crate) fn now() -> String {
    timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// The day, as `2026-01-31`.
pub(crate) fn date(then: SystemTime) -> String {
    let mut day = timestamp(then.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()));
    day.truncate(10);
    day
}

/// Seconds since 1970 as `2026-01-31T23:59:59Z` (days to a date after Howard Hinnant's "chrono-compatible algorithms").
pub(crate) fn timestamp(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        for (n, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (799_862_784, "762.81 MiB"), (5 << 30, "5.00 GiB")] {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [(0, "0"), (999, "999"), (260_032, "260.03 K"), (1_235_814_400, "1.24 B")] {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn seconds_become_a_date() {
        let known = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_772_323_200, "2026-03-01T00:00:00Z"),
        ];
        for (seconds, text) in known {
            assert_eq!(timestamp(seconds), text);
        }
    }
}
