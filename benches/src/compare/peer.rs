//! A peer's turns: a process each, which answers in llama-bench's JSON, `[{"n_prompt": 512, "n_gen": 0, "avg_ts": 101.5, …}, …]`.
//!
//! candle-transformers is asked so too, by way of this program: in one process candle has as many threads as it began with.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Runner, Test};

/// A peer, and how to ask it.
pub(super) struct Peer {
    name: &'static str,
    /// As it said itself, in its first answer.
    version: String,
    /// What is said beside its name: a setting.
    setting: String,
    /// The program and all arguments but the model, the tests and the threads.
    command: Vec<String>,
    model: PathBuf,
}

impl Peer {
    /// llama.cpp, by the `command` that runs its llama-bench; `repack` is its setting of that name, 0 or 1.
    pub(super) fn llama_cpp(command: &[String], repack: &str, model: &Path) -> Peer {
        let mut command = command.to_vec();
        command.extend(["-r", "1", "-o", "json", "--repack", repack].map(str::to_owned));
        Peer { name: "llama.cpp", version: String::new(), setting: format!("repack {repack}"), command, model: model.to_owned() }
    }

    /// candle-transformers, run by this program.
    #[cfg(feature = "candle")]
    pub(super) fn candle(model: &Path) -> Result<Peer, Box<dyn Error>> {
        let program =
            std::env::current_exe()?.into_os_string().into_string().map_err(|p| format!("{}: its name is no text", p.display()))?;
        let command = vec![program, "candle".to_owned()];
        Ok(Peer { name: "candle-transformers", version: String::new(), setting: String::new(), command, model: model.to_owned() })
    }
}

impl Runner for Peer {
    fn name(&self) -> String {
        [self.name, &self.version, &self.setting].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn turn(&mut self, threads: usize, tests: &[Test]) -> Result<Vec<f64>, Box<dyn Error>> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).arg("-m").arg(&self.model);
        command.args(["-p", &numbers(tests, |test| matches!(test, Test::Prompt(_)))]);
        command.args(["-n", &numbers(tests, |test| matches!(test, Test::Generation(_)))]);
        command.args(["-t", &threads.to_string()]);
        // What candle asks for its threads.
        command.env("RAYON_NUM_THREADS", threads.to_string()).env_remove("CANDLE_NUM_THREADS");
        let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{}: {e}", self.command[0]))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = said.trim().lines().rev().take(3).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            return Err(format!("{} ended with {}: {}", self.command[0], output.status, last.join(" / ")).into());
        }
        let rows: Vec<Value> =
            serde_json::from_slice(&output.stdout).map_err(|e| format!("{}: no llama-bench's JSON: {e}", self.command[0]))?;
        self.version = version(&rows);
        tests.iter().map(|test| speed(&rows, *test).ok_or_else(|| format!("no row for {} in its answer", test.name()).into())).collect()
    }
}

/// The tests of a kind, as one flag takes them: `128,512`; `0` for none.
fn numbers(tests: &[Test], kind: fn(&Test) -> bool) -> String {
    let numbers: Vec<String> = tests.iter().filter(|test| kind(test)).map(|test| test.tokens().to_string()).collect();
    if numbers.is_empty() { "0".to_owned() } else { numbers.join(",") }
}

/// Tokens a second of `test` in an answer.
fn speed(rows: &[Value], test: Test) -> Option<f64> {
    let (prompt, generation) = test.counts();
    rows.iter().find(|row| row["n_prompt"] == prompt && row["n_gen"] == generation)?["avg_ts"].as_f64().filter(|speed| *speed > 0.0)
}

/// `7311 (5c8a717)`, where an answer says so.
fn version(rows: &[Value]) -> String {
    let build = |row: &Value| Some(format!("{} ({})", row["build_number"].as_u64()?, row["build_commit"].as_str()?));
    rows.first().and_then(build).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut from an answer of llama-bench.
    const ANSWER: &str = r#"[
      { "build_commit": "5c8a717", "build_number": 7311, "n_threads": 1, "n_prompt": 512, "n_gen": 0, "n_depth": 0,
        "avg_ns": 4815162342, "stddev_ns": 0, "avg_ts": 106.332137, "stddev_ts": 0.0, "samples_ts": [ 106.332 ] },
      { "build_commit": "5c8a717", "build_number": 7311, "n_threads": 1, "n_prompt": 0, "n_gen": 64, "n_depth": 0,
        "avg_ns": 1912311000, "stddev_ns": 0, "avg_ts": 33.467359, "stddev_ts": 0.0, "samples_ts": [ 33.4674 ] }
    ]"#;

    #[test]
    fn an_answer_has_a_speed_for_each_test() {
        let rows: Vec<Value> = serde_json::from_str(ANSWER).unwrap();
        assert_eq!(speed(&rows, Test::Prompt(512)), Some(106.332137));
        assert_eq!(speed(&rows, Test::Generation(64)), Some(33.467359));
        assert_eq!((speed(&rows, Test::Prompt(64)), speed(&rows, Test::Generation(512))), (None, None));
        assert_eq!((version(&rows).as_str(), version(&[]).as_str()), ("7311 (5c8a717)", ""));
    }

    #[test]
    fn tests_are_asked_for_in_llama_benchs_flags() {
        let tests = [Test::Prompt(128), Test::Prompt(512)];
        assert_eq!(numbers(&tests, |test| matches!(test, Test::Prompt(_))), "128,512");
        assert_eq!(numbers(&tests, |test| matches!(test, Test::Generation(_))), "0");
    }
}
