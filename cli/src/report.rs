//! Results of `hob bench`, under llama-bench's names: a Markdown table, CSV, or JSON, row by row as they come.

use std::io::{self, Write};
use std::time::Duration;

use hob::Device;
use hob::device::{Presence, devices};
use serde_json::{Map, Value, json};

use crate::table::{Markdown, Side};
use crate::units;

/// The form of the report.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Md,
    Csv,
    Json,
}

/// Tokens of a prompt that is short.
pub(crate) const SHORT: usize = 16;

/// What was measured: the model and the machine.
pub(crate) struct Subject {
    pub(crate) device: Device,
    pub(crate) file: String,
    pub(crate) kind: String,
    pub(crate) bytes: u64,
    pub(crate) params: u64,
    pub(crate) level: String,
    pub(crate) cpu: String,
    /// Tokens computed together where a test does not say.
    pub(crate) micro_batch: usize,
    /// How long opening it took.
    pub(crate) opened: Duration,
    /// How long it took from there to the first token after a prompt of [`SHORT`].
    pub(crate) first_token: Duration,
}

impl Subject {
    fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes as f64 / self.params.max(1) as f64
    }

    /// llama-bench's name of what computed.
    fn backend(&self) -> &'static str {
        match self.device {
            Device::Auto | Device::Cpu => "CPU",
            Device::Candle => "candle",
            Device::Cuda(_) => "CUDA",
            Device::Metal(_) => "Metal",
        }
    }

    /// The GPU's name, where one computed.
    fn gpu(&self) -> String {
        match self.device {
            Device::Auto | Device::Cpu | Device::Candle => String::new(),
            Device::Cuda(_) | Device::Metal(_) => devices().into_iter().find(|(d, _)| *d == self.device).map_or_else(String::new, name),
        }
    }
}

fn name((_, presence): (Device, Presence)) -> String {
    match presence {
        Presence::Ready { name, .. } => name,
        Presence::Absent(_) => String::new(),
    }
}

/// One test: `prompt` tokens read at once or `gen` tokens made one by one, after `depth` tokens of context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) prompt: usize,
    pub(crate) generate: usize,
    pub(crate) depth: usize,
    pub(crate) threads: usize,
    pub(crate) batch: usize,
    /// As many as the model's default where `None`.
    pub(crate) micro_batch: Option<usize>,
    pub(crate) type_k: &'static str,
    pub(crate) type_v: &'static str,
}

impl Test {
    /// `pp512`, `tg128`, `tg128 @ d4096`.
    pub(crate) fn name(&self) -> String {
        let mut name = match (self.prompt, self.generate) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, generate) => format!("tg{generate}"),
            (prompt, generate) => format!("pp{prompt}+tg{generate}"),
        };
        if self.depth > 0 {
            name += &format!(" @ d{}", self.depth);
        }
        name
    }
}

/// A test's times.
pub(crate) struct Outcome {
    pub(crate) test: Test,
    pub(crate) time: String,
    pub(crate) samples_ns: Vec<u64>,
    /// What it is held against, on a CPU.
    pub(crate) bound: Option<Bound>,
    /// Of the last logits.
    pub(crate) hash: u64,
    /// Bytes in memory at its end, where the system tells.
    pub(crate) resident: Option<u64>,
}

/// What each token of a test takes, and the most of it that the machine does in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// Bytes of weights.
    Read { each: u64, most: f64 },
    /// Products with weights.
    Multiply { each: u64, most: f64 },
}

impl Bound {
    /// What was done a second, and the most that could be, both in 10⁹.
    fn rates(&self, tokens_per_second: f64) -> (f64, f64) {
        let (Bound::Read { each, most } | Bound::Multiply { each, most }) = *self;
        (tokens_per_second * each as f64 / 1e9, most / 1e9)
    }

    fn unit(&self) -> &'static str {
        match self {
            Bound::Read { .. } => "GB/s",
            Bound::Multiply { .. } => "GMAC/s",
        }
    }
}

impl Outcome {
    /// Tokens per second of every repetition.
    fn samples_ts(&self) -> Vec<f64> {
        let tokens = (self.test.prompt + self.test.generate) as f64;
        self.samples_ns.iter().map(|ns| tokens * 1e9 / (*ns).max(1) as f64).collect()
    }
}

/// Mean and sample deviation (0 for a single sample).
pub(crate) fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n.max(1.0);
    let squares = samples.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
    (mean, if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// Writes outcomes in one form.
pub(crate) struct Report<'a> {
    out: &'a mut dyn Write,
    form: Form,
    subject: Subject,
    table: Markdown,
    extra: Vec<Column>,
    rows: usize,
    hash: bool,
    /// What the machine can do at most, as it came up in the tests.
    ceilings: Vec<String>,
    /// The most bytes in memory at a test's end.
    resident: Option<u64>,
}

/// A column that the table has only where its value is not the usual one for every test.
type Column = (&'static str, fn(&Test) -> String);

const EXTRA: [Column; 4] = [
    ("n_batch", |t| t.batch.to_string()),
    ("n_ubatch", |t| t.micro_batch.map_or(String::new(), |tokens| tokens.to_string())),
    ("type_k", |t| t.type_k.to_owned()),
    ("type_v", |t| t.type_v.to_owned()),
];

/// What needs no column: how hob runs unless told otherwise.
const USUAL: Test = Test { prompt: 0, generate: 0, depth: 0, threads: 0, batch: 2048, micro_batch: None, type_k: "f16", type_v: "f16" };

impl<'a> Report<'a> {
    /// Starts the report of `tests`.
    pub(crate) fn start(out: &'a mut dyn Write, form: Form, subject: Subject, tests: &[Test], hash: bool) -> io::Result<Report<'a>> {
        let extra: Vec<Column> = EXTRA.into_iter().filter(|(_, value)| tests.iter().any(|t| value(t) != value(&USUAL))).collect();
        let name_width = tests.iter().map(|t| t.name().len()).max().unwrap_or(0);
        let mut columns = vec![
            ("model", Side::Left, subject.kind.chars().count()),
            ("size", Side::Right, units::bytes(subject.bytes).len()),
            ("params", Side::Right, units::count(subject.params).len()),
            ("backend", Side::Left, 7),
            ("threads", Side::Right, 7),
        ];
        columns.extend(extra.iter().map(|(name, _)| (*name, Side::Right, name.len())));
        columns.extend([
            ("test", Side::Right, name_width),
            ("t/s", Side::Right, 16),
            ("speed", Side::Right, 13),
            ("of peak", Side::Right, 7),
        ]);
        if hash {
            columns.push(("logits", Side::Left, 16));
        }
        let table = Markdown::new(columns);
        match form {
            Form::Md => table.header(out)?,
            Form::Csv | Form::Json => {}
        }
        Ok(Report { out, form, subject, table, extra, rows: 0, hash, ceilings: Vec::new(), resident: None })
    }

    /// Adds an outcome.
    pub(crate) fn add(&mut self, outcome: &Outcome) -> io::Result<()> {
        match self.form {
            Form::Md => {
                let cells = self.cells(outcome);
                if let Some(bound) = outcome.bound {
                    let line = format!("{:.1} {} at most with -t {}", bound.rates(0.0).1, bound.unit(), outcome.test.threads);
                    if !self.ceilings.contains(&line) {
                        self.ceilings.push(line);
                    }
                }
                self.table.row(self.out, &cells)?;
            }
            Form::Csv => self.csv(outcome)?,
            Form::Json => {
                let object = serde_json::to_string_pretty(&Value::Object(self.object(outcome)))?.replace('\n', "\n  ");
                write!(self.out, "{}\n  {object}", if self.rows == 0 { "[" } else { "," })?;
            }
        }
        self.rows += 1;
        self.resident = self.resident.max(outcome.resident);
        self.out.flush()
    }

    /// Closes the report.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match self.form {
            Form::Md => self.footer()?,
            Form::Csv => {}
            Form::Json if self.rows == 0 => writeln!(self.out, "[]")?,
            Form::Json => writeln!(self.out, "\n]")?,
        }
        self.out.flush()
    }

    fn footer(&mut self) -> io::Result<()> {
        let Subject { level, opened, first_token, .. } = &self.subject;
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        writeln!(self.out, "\nbuild: hob {} ({level})", env!("CARGO_PKG_VERSION"))?;
        write!(self.out, "{:.2} bits/weight, opened in {:.1} ms", self.subject.bits_per_weight(), ms(opened))?;
        write!(self.out, ", first token of a {SHORT}-token prompt after {:.1} ms", ms(first_token))?;
        if let Some(bytes) = self.resident {
            write!(self.out, ", {} resident", units::bytes(bytes))?;
        }
        for line in &self.ceilings {
            write!(self.out, "\n{line}")?;
        }
        writeln!(self.out)
    }

    fn cells(&self, outcome: &Outcome) -> Vec<String> {
        let (mean, deviation) = mean_and_deviation(&outcome.samples_ts());
        let subject = &self.subject;
        let mut cells = vec![
            subject.kind.clone(),
            units::bytes(subject.bytes),
            units::count(subject.params),
            self.subject.backend().into(),
            outcome.test.threads.to_string(),
        ];
        cells.extend(self.extra.iter().map(|(_, value)| value(&outcome.test)));
        cells.extend([outcome.test.name(), format!("{mean:.2} ± {deviation:.2}")]);
        let (speed, share) = outcome.bound.map_or_else(Default::default, |bound| {
            let (rate, most) = bound.rates(mean);
            (format!("{rate:.1} {}", bound.unit()), format!("{:.0} %", 100.0 * rate / most))
        });
        cells.extend([speed, share]);
        if self.hash {
            cells.push(format!("{:016x}", outcome.hash));
        }
        cells
    }

    fn csv(&mut self, outcome: &Outcome) -> io::Result<()> {
        let object = self.object(outcome);
        let flat = object.iter().filter(|(_, value)| !value.is_array());
        let (keys, values): (Vec<&str>, Vec<String>) = flat
            .map(|(key, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                (key.as_str(), format!("\"{}\"", text.replace('"', "\"\"")))
            })
            .unzip();
        if self.rows == 0 {
            writeln!(self.out, "{}", keys.join(","))?;
        }
        writeln!(self.out, "{}", values.join(","))
    }

    /// An outcome under llama-bench's keys, and hob's own: `cpu_level` and those after `samples_ts`.
    fn object(&self, outcome: &Outcome) -> Map<String, Value> {
        let Outcome { test, time, samples_ns, bound, hash, resident } = outcome;
        let ts = outcome.samples_ts();
        let (avg_ts, stddev_ts) = mean_and_deviation(&ts);
        let (avg_ns, stddev_ns) = mean_and_deviation(&samples_ns.iter().map(|ns| *ns as f64).collect::<Vec<_>>());
        let value = json!({
            "build_commit": format!("hob {}", env!("CARGO_PKG_VERSION")),
            "build_number": 0,
            "cpu_info": self.subject.cpu,
            "cpu_level": self.subject.level,
            "gpu_info": self.subject.gpu(),
            "backends": self.subject.backend(),
            "model_filename": self.subject.file,
            "model_type": self.subject.kind,
            "model_size": self.subject.bytes,
            "model_n_params": self.subject.params,
            "n_batch": test.batch,
            "n_ubatch": test.micro_batch.unwrap_or(self.subject.micro_batch),
            "n_threads": test.threads,
            "type_k": test.type_k,
            "type_v": test.type_v,
            "n_gpu_layers": 0,
            "n_prompt": test.prompt,
            "n_gen": test.generate,
            "n_depth": test.depth,
            "test_time": time,
            "avg_ns": avg_ns.round() as u64,
            "stddev_ns": stddev_ns.round() as u64,
            "avg_ts": avg_ts,
            "stddev_ts": stddev_ts,
            "samples_ns": samples_ns,
            "samples_ts": ts,
            "bits_per_weight": self.subject.bits_per_weight(),
            "open_ns": u64::try_from(self.subject.opened.as_nanos()).unwrap_or(u64::MAX),
            "first_token_ns": u64::try_from(self.subject.first_token.as_nanos()).unwrap_or(u64::MAX),
            "resident_bytes": resident,
            "bound": bound.map(|bound| bound.unit()),
            "bound_rate": bound.map(|bound| bound.rates(avg_ts).0),
            "bound_peak": bound.map(|bound| bound.rates(avg_ts).1),
            "logits_hash": format!("{hash:016x}"),
        });
        match value {
            Value::Object(map) => map,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(prompt: usize, generate: usize, depth: usize) -> Test {
        Test { prompt, generate, depth, threads: 2, ..USUAL }
    }

    fn report(form: Form, outcomes: &[Outcome]) -> String {
        let subject = Subject {
            device: Device::Cpu,
            file: "m.gguf".into(),
            kind: "llama 1B Q4_K_M".into(),
            bytes: 799_862_784,
            params: 1_235_814_400,
            level: "avx2".into(),
            cpu: "a \"fast\" one".into(),
            micro_batch: 256,
            opened: Duration::from_micros(12_300),
            first_token: Duration::from_millis(250),
        };
        let mut out = Vec::new();
        let tests: Vec<Test> = outcomes.iter().map(|o| o.test.clone()).collect();
        let mut report = Report::start(&mut out, form, subject, &tests, true).unwrap();
        for outcome in outcomes {
            report.add(outcome).unwrap();
        }
        report.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn outcomes() -> Vec<Outcome> {
        let at =
            |test, samples_ns, bound| Outcome { test, time: "2026-01-31T23:59:59Z".into(), samples_ns, bound, hash: 0xabc, resident: None };
        let read = Bound::Read { each: 1_000_000_000, most: 40e9 };
        vec![at(test(512, 0, 0), vec![1_000_000_000, 2_000_000_000], None), at(test(0, 128, 4096), vec![6_400_000_000], Some(read))]
    }

    #[test]
    fn tests_have_llama_benchs_names() {
        for (t, name) in [(test(512, 0, 0), "pp512"), (test(0, 128, 0), "tg128"), (test(0, 128, 4096), "tg128 @ d4096")] {
            assert_eq!(t.name(), name);
        }
    }

    #[test]
    fn the_deviation_is_the_samples() {
        assert_eq!(mean_and_deviation(&[2.0, 4.0, 6.0]), (4.0, 2.0));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_and_deviation(&[]), (0.0, 0.0));
    }

    #[test]
    fn the_table_reads_as_llama_benchs() {
        let want = "\
| model           |       size | params | backend | threads |          test |              t/s |         speed | of peak | logits           |
| --------------- | ---------: | -----: | ------- | ------: | ------------: | ---------------: | ------------: | ------: | ---------------- |
| llama 1B Q4_K_M | 762.81 MiB | 1.24 B | CPU     |       2 |         pp512 |  384.00 ± 181.02 |               |         | 0000000000000abc |
| llama 1B Q4_K_M | 762.81 MiB | 1.24 B | CPU     |       2 | tg128 @ d4096 |     20.00 ± 0.00 |     20.0 GB/s |    50 % | 0000000000000abc |

build: hob 0.1.0 (avx2)
5.18 bits/weight, opened in 12.3 ms, first token of a 16-token prompt after 250.0 ms";
        let got = report(Form::Md, &outcomes());
        assert!(got.starts_with(&want.replace("0.1.0", env!("CARGO_PKG_VERSION"))), "{got}");
        assert!(got.ends_with("\n40.0 GB/s at most with -t 2\n"), "{got}");
        let mut odd = outcomes();
        odd[0].test.micro_batch = Some(64);
        assert!(report(Form::Md, &odd).starts_with("| model           |       size | params | backend | threads | n_ubatch |"));
    }

    #[test]
    fn json_is_an_array_of_objects_with_llama_benchs_keys() {
        let rows: Value = serde_json::from_str(&report(Form::Json, &outcomes())).unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 2);
        assert_eq!(rows[0]["samples_ts"], json!([512.0, 256.0]));
        assert_eq!(rows[0]["avg_ts"], json!(384.0));
        assert_eq!(rows[0]["avg_ns"], json!(1_500_000_000));
        assert_eq!((&rows[0]["bound"], &rows[1]["bound_rate"]), (&Value::Null, &json!(20.0)));
        assert_eq!((&rows[1]["n_prompt"], &rows[1]["n_gen"], &rows[1]["n_depth"]), (&json!(0), &json!(128), &json!(4096)));
        assert_eq!(serde_json::from_str::<Value>(&report(Form::Json, &[])).unwrap(), json!([]));
    }

    #[test]
    fn csv_has_one_header_and_quotes_its_cells() {
        let csv = report(Form::Csv, &outcomes());
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("build_commit,build_number,cpu_info,"));
        assert!(lines[0].ends_with("bound_peak,logits_hash"));
        assert!(lines[1].contains(r#""a ""fast"" one""#));
        assert!(lines[2].ends_with(r#""GB/s","20.0","40.0","0000000000000abc""#), "{}", lines[2]);
    }
}
