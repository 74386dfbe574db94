//! `strftime_now`: the date and time that a template writes into a prompt, in Python's `strftime` notation.
//!
//! Dates are proleptic Gregorian; days since 1970 are turned into one by the usual era arithmetic (Hinnant, "chrono-compatible
//! low-level date algorithms"). The time is UTC: the standard library does not know the local zone.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(i64);

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

impl Moment {
    /// Now.
    pub(super) fn now() -> Moment {
        Moment(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64))
    }

    /// `2026-01-02T03:04:05`, or the date alone.
    pub(super) fn parse(text: &str) -> Option<Moment> {
        let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
        let numbers = |text: &str, by: char| text.split(by).map(|n| n.split('.').next()?.parse::<i64>().ok()).collect::<Option<Vec<_>>>();
        let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
        let (&[year, month, day], [hour, minute, rest @ ..]) = (date.as_slice(), time.as_slice()) else { return None };
        if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        Some(Moment(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + rest.first().unwrap_or(&0)))
    }

    /// The moment in words, as `format` wants it; unknown letters are kept.
    pub(super) fn format(self, format: &str) -> String {
        let (day_number, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let (year, month, day) = date(day_number);
        let weekday = (day_number + 3).rem_euclid(7);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (weekday_name, month_name) = (DAYS[weekday as usize], MONTHS[(month - 1) as usize]);
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        let half = if hour < 12 { "AM" } else { "PM" };
        let of_year = day_number - days(year, 1, 1) + 1;
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(c) = letters.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let letter = letters.next();
            // `%-d` is `%d` without the leading zero.
            let (bare, letter) = if letter == Some('-') { (true, letters.next()) } else { (false, letter) };
            let mut two = |n: i64| if bare { write!(out, "{n}") } else { write!(out, "{n:02}") };
            let _ = match letter {
                Some('d') => two(day),
                Some('m') => two(month),
                Some('y') => two(year % 100),
                Some('H') => two(hour),
                Some('I') => two(twelve),
                Some('M') => two(minute),
                Some('S') => two(second),
                Some('Y') => write!(out, "{year:04}"),
                Some('e') => write!(out, "{day:2}"),
                Some('j') => write!(out, "{of_year:03}"),
                Some('B') => write!(out, "{month_name}"),
                Some('b' | 'h') => write!(out, "{}", &month_name[..3]),
                Some('A') => write!(out, "{weekday_name}"),
                Some('a') => write!(out, "{}", &weekday_name[..3]),
                Some('p') => write!(out, "{half}"),
                Some('F') => write!(out, "{year:04}-{month:02}-{day:02}"),
                Some('D' | 'x') => write!(out, "{month:02}/{day:02}/{:02}", year % 100),
                Some('T' | 'X') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
                Some('R') => write!(out, "{hour:02}:{minute:02}"),
                Some('c') => write!(out, "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year:04}", &weekday_name[..3], &month_name[..3]),
                Some('u') => write!(out, "{}", weekday + 1),
                Some('w') => write!(out, "{}", (weekday + 1) % 7),
                Some('s') => write!(out, "{}", self.0),
                Some('f') => write!(out, "000000"),
                Some('%') => write!(out, "%"),
                Some('z' | 'Z') | None => Ok(()),
                Some(other) => write!(out, "%{other}"),
            };
        }
        out
    }
}

/// Days from 1970-01-01 to this date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date that is this many days after 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_python_writes_them() {
        let cases = [
            ("2026-01-02T03:04:05", "%d %b %Y", "02 Jan 2026"),
            ("2026-01-02T03:04:05", "%Y-%m-%d %H:%M:%S|%A %B %-d, %j", "2026-01-02 03:04:05|Friday January 2, 002"),
            ("2024-02-29", "%F %a %p %I%%", "2024-02-29 Thu AM 12%"),
            ("1999-12-31T23:59:59.5", "%y/%m/%d %X %Q", "99/12/31 23:59:59 %Q"),
        ];
        for (moment, format, want) in cases {
            assert_eq!(Moment::parse(moment).unwrap().format(format), want);
        }
        assert_eq!(Moment(0).format("%c"), "Thu Jan  1 00:00:00 1970");
        for bad in ["", "yesterday", "2026-13-01", "99999-01-01"] {
            assert_eq!(Moment::parse(bad), None, "{bad}");
        }
        for day in (-100_000..100_000).step_by(37) {
            let (y, m, d) = date(day);
            assert_eq!(days(y, m, d), day);
        }
    }
}
