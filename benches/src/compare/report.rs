//! What a comparison found: a Markdown table, JSON, or rows of `record/models.csv`.

use std::io::{self, Write};
use std::path::Path;

use hob_benches::{commit, machine, today};
use serde_json::json;

use super::{Speeds, Test};

/// The form of the report.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Md,
    Csv,
    Json,
}

/// A comparison. The first runner is hob.
pub(super) struct Report<'a> {
    pub(super) model: &'a Path,
    pub(super) level: &'a str,
    pub(super) threads: &'a [usize],
    pub(super) tests: &'a [Test],
    /// Of the runners.
    pub(super) names: &'a [String],
    /// Of the runners.
    pub(super) speeds: &'a [Speeds],
}

/// A runner's speeds in one test on some threads.
struct Line<'a> {
    threads: usize,
    test: Test,
    name: &'a str,
    speeds: &'a [f64],
    /// hob's speeds by these, round by round; none for hob itself.
    ratios: Option<Vec<f64>>,
}

impl Report<'_> {
    pub(super) fn write(&self, form: Form, out: &mut dyn Write) -> io::Result<()> {
        match form {
            Form::Md => self.table(out)?,
            Form::Csv => self.rows(out)?,
            Form::Json => self.json(out)?,
        }
        out.flush()
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let of = |at: usize, test: usize, who: usize| {
            let (speeds, hob) = (&self.speeds[who][at][test], &self.speeds[0][at][test]);
            let ratios = (who > 0).then(|| hob.iter().zip(speeds).map(|(hob, peer)| hob / peer).collect());
            Line { threads: self.threads[at], test: self.tests[test], name: &self.names[who], speeds, ratios }
        };
        let tests = (0..self.threads.len()).flat_map(|at| (0..self.tests.len()).map(move |test| (at, test)));
        tests.flat_map(move |(at, test)| (0..self.names.len()).map(move |who| of(at, test, who)))
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = self.names.iter().map(|name| name.len()).max().unwrap_or(0);
        writeln!(out, "| threads |   test | {:<width$} |      t/s | hob/it |      spread |", "program")?;
        writeln!(out, "| ------: | -----: | {} | -------: | -----: | ----------: |", "-".repeat(width))?;
        for Line { threads, test, name, speeds, ratios } in self.lines() {
            let [_, speed, _] = spread(speeds);
            let (ratio, range) = ratios.map_or_else(Default::default, |ratios| {
                let [least, median, most] = spread(&ratios);
                (format!("{median:.2}"), format!("{least:.2} … {most:.2}"))
            });
            writeln!(out, "| {threads:>7} | {:>6} | {name:<width$} | {speed:>8.2} | {ratio:>6} | {range:>11} |", test.name())?;
        }
        writeln!(out, "\n{} on {}, hob's level {}, commit {}", self.model.display(), machine(), self.level, commit())
    }

    /// A row a peer; where there is none, hob's speed alone.
    fn rows(&self, out: &mut dyn Write) -> io::Result<()> {
        let model = self.model.file_stem().unwrap_or_default().to_string_lossy().replace([',', '"'], " ");
        let (before, rounds) = (format!("{},{},\"{}\"", today(), commit(), machine()), self.speeds[0][0][0].len());
        let mut hob = 0.0;
        for Line { threads, test, name, speeds, ratios } in self.lines() {
            let [_, speed, _] = spread(speeds);
            let what = format!("{threads},{},{model} {} ({rounds} interleaved rounds", self.level, test.name());
            if let Some(ratios) = ratios {
                let [least, _, most] = spread(&ratios);
                writeln!(out, "{before},{what}; {least:.2} to {most:.2} times the peer),{hob:.2},t/s,{name},{speed:.2}")?;
                continue;
            }
            hob = speed;
            if self.names.len() == 1 {
                writeln!(out, "{before},{what}),{hob:.2},t/s,,")?;
            }
        }
        Ok(())
    }

    fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        let line = |Line { threads, test, name, speeds, ratios }: Line| {
            let ((n_prompt, n_gen), [_, median_ts, _]) = (test.counts(), spread(speeds));
            let ratio = ratios.map(|ratios| {
                let [least, median, most] = spread(&ratios);
                json!({ "least": least, "median": median, "most": most })
            });
            json!({
                "program": name, "n_threads": threads, "test": test.name(), "n_prompt": n_prompt, "n_gen": n_gen,
                "median_ts": median_ts, "samples_ts": speeds, "hob_by_it": ratio,
            })
        };
        let all = json!({
            "model": self.model, "machine": machine(), "cpu_level": self.level, "build_commit": commit(), "date": today(),
            "results": self.lines().map(line).collect::<Vec<_>>(),
        });
        writeln!(out, "{all:#}")
    }
}

/// The least of `samples`, their median (of an even number, the mean of the middle two), and the greatest.
fn spread(samples: &[f64]) -> [f64; 3] {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return [f64::NAN; 3] };
    [sorted[0], (sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0, sorted[last]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form, runners: usize) -> String {
        let names = ["hob 1".to_owned(), "peer".to_owned()];
        let speeds = [vec![vec![vec![30.0, 40.0, 20.0]]], vec![vec![vec![10.0, 20.0, 20.0]]]];
        let (tests, mut out) = ([Test::Generation(8)], Vec::new());
        let (names, speeds) = (&names[..runners], &speeds[..runners]);
        Report { model: Path::new("a/m.gguf"), level: "avx2", threads: &[2], tests: &tests, names, speeds }.write(form, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_spread_is_least_median_and_most() {
        assert_eq!(spread(&[3.0, 1.0, 8.0]), [1.0, 3.0, 8.0]);
        assert_eq!(spread(&[4.0, 1.0, 8.0, 2.0]), [1.0, 3.0, 8.0]);
        assert_eq!(spread(&[5.0]), [5.0; 3]);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let table = written(Form::Md, 2);
        let lines: Vec<&str> = table.lines().skip(2).take(2).collect();
        assert_eq!(lines[0], "|       2 |    tg8 | hob 1 |    30.00 |        |             |");
        assert_eq!(lines[1], "|       2 |    tg8 | peer  |    20.00 |   2.00 | 1.00 … 3.00 |");
        let json: serde_json::Value = serde_json::from_str(&written(Form::Json, 2)).unwrap();
        assert_eq!(json["results"][0]["hob_by_it"], json!(null));
        assert_eq!(json["results"][1]["hob_by_it"], json!({ "least": 1.0, "median": 2.0, "most": 3.0 }));
        assert_eq!(json["results"][1]["samples_ts"], json!([10.0, 20.0, 20.0]));
    }

    #[test]
    fn a_row_of_the_record_has_hob_and_a_peer() {
        let row = written(Form::Csv, 2);
        assert!(row.ends_with(",2,avx2,m tg8 (3 interleaved rounds; 1.00 to 3.00 times the peer),30.00,t/s,peer,20.00\n"), "{row}");
        assert_eq!(row.lines().count(), 1);
        let row = written(Form::Csv, 1);
        assert!(row.ends_with(",2,avx2,m tg8 (3 interleaved rounds),30.00,t/s,,\n"), "{row}");
    }
}
