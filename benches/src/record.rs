//! `record`: what criterion last measured, as rows of `record/kernels.csv`.
//!
//! Criterion leaves `GROUP/FUNCTION/LEVEL/new/{benchmark,estimates}.json`: what was measured, and the median time in nanoseconds.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use hob_benches::{commit, machine, setting, today};
use hob_kernels::default_threads;
use serde_json::Value;

/// A measurement: level, what, value, unit.
type Row = (String, String, f64, &'static str);

/// Flags of `record`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where criterion keeps its measurements
    #[arg(default_value = "target/criterion")]
    folder: PathBuf,
}

/// Runs `record`.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let mut found = Vec::new();
    search(&args.folder, &mut found)?;
    found.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    let (day, commit, machine) = (today(), commit(), machine());
    let threads = setting("HOB_BENCH_THREADS", default_threads());
    for (level, what, value, unit) in found {
        writeln!(out, "{day},{commit},\"{machine}\",{threads},{level},{what},{value:.4},{unit},,")?;
    }
    Ok(())
}

/// Every measurement below `folder`.
fn search(folder: &Path, found: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(folder).map_err(|e| format!("{}: {e}; run `cargo bench -p hob-benches` first", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "new") {
            search(&path, found)?;
        } else if path.is_dir() {
            found.extend(row(&json(&path.join("benchmark.json"))?, &json(&path.join("estimates.json"))?));
        }
    }
    Ok(())
}

fn json(path: &Path) -> Result<Value, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Things a second, in billions: bytes or whatever the measurement counts; without a throughput, microseconds.
fn row(benchmark: &Value, estimates: &Value) -> Option<Row> {
    let nanoseconds = estimates["median"]["point_estimate"].as_f64()?;
    let level = benchmark["value_str"].as_str().unwrap_or("-");
    let parts = ["group_id", "function_id"].map(|key| benchmark[key].as_str().unwrap_or(""));
    let throughput = &benchmark["throughput"];
    let (value, unit) = match (throughput["Bytes"].as_f64(), throughput["Elements"].as_f64()) {
        (Some(bytes), _) => (bytes / nanoseconds, "GB/s"),
        (None, Some(elements)) => (elements / nanoseconds, "G/s"),
        (None, None) => (nanoseconds / 1000.0, "us"),
    };
    Some((level.to_owned(), parts.join(" ").trim().to_owned(), value, unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_measurement_is_a_row() {
        let estimates = json!({"median": {"point_estimate": 2000.0}});
        let benchmark =
            |throughput| json!({"group_id": "gemv Q4_K", "function_id": "64x4096", "value_str": "avx2", "throughput": throughput});
        let expected = |value, unit| Some(("avx2".to_owned(), "gemv Q4_K 64x4096".to_owned(), value, unit));
        assert_eq!(row(&benchmark(json!({"Bytes": 4000})), &estimates), expected(2.0, "GB/s"));
        assert_eq!(row(&benchmark(json!({"Elements": 1000})), &estimates), expected(0.5, "G/s"));
        assert_eq!(row(&benchmark(Value::Null), &estimates), expected(2.0, "us"));
        assert_eq!(row(&benchmark(Value::Null), &json!({})), None);
    }
}
