//! `compare` with a llama-bench that is a script: what it is asked, in which order, and what becomes of its answers.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/data/tiny.gguf");

/// Writes down its arguments and answers as llama-bench does; without repacking it is slower.
const LLAMA_BENCH: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
case "$*" in *"--repack 0"*) speed=5 ;; *) speed=20 ;; esac
echo '[{"build_number": 7, "build_commit": "abc", "n_prompt": 8, "n_gen": 0, "avg_ts": '$speed'},'
echo '{"build_number": 7, "build_commit": "abc", "n_prompt": 0, "n_gen": 3, "avg_ts": 2}]'
"#;

/// A folder with a program `llama-bench` in it.
fn folder(name: &str, program: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("llama-bench");
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn compare(folder: &Path) -> Output {
    let llama_bench = format!("'{}' -fa on", folder.join("llama-bench").display());
    let flags = ["compare", MODEL, "-p", "8", "-n", "3", "-t", "1,2", "--rounds", "2", "--json", "--llama-bench", &llama_bench];
    Command::new(env!("CARGO_BIN_EXE_hob-benches")).args(flags).output().unwrap()
}

#[test]
fn a_round_has_a_turn_of_each_with_every_number_of_threads() {
    let folder = folder("compare", LLAMA_BENCH);
    let output = compare(&folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let call = |repack: u8, threads: u8| format!("-fa on -r 1 -o json --repack {repack} -m {MODEL} -p 8 -n 3 -t {threads}");
    let round = [call(1, 1), call(0, 1), call(1, 2), call(0, 2)];
    let asked = fs::read_to_string(folder.join("asked")).unwrap();
    assert_eq!(asked.lines().collect::<Vec<_>>(), [round.clone(), round].concat());

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = report["results"].as_array().unwrap();
    let of = |program: &str| results.iter().filter(|row| row["program"].as_str().unwrap().starts_with(program)).collect::<Vec<_>>();
    assert_eq!((of("hob ").len(), of("llama.cpp 7 (abc) repack 1").len(), of("llama.cpp 7 (abc) repack 0").len()), (4, 4, 4));
    for (hob, peer) in of("hob ").iter().zip(of("llama.cpp 7 (abc) repack 0")) {
        assert_eq!((&hob["test"], &hob["n_threads"]), (&peer["test"], &peer["n_threads"]));
        let speed = if peer["test"] == "pp8" { 5.0 } else { 2.0 };
        assert_eq!(peer["samples_ts"], Value::from(vec![speed, speed]));
        let least = hob["samples_ts"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).fold(f64::INFINITY, f64::min);
        let ratio = peer["hob_by_it"]["least"].as_f64().unwrap();
        assert!((ratio * speed / least - 1.0).abs() < 1e-9, "{ratio} of {least} by {speed}");
    }
}

#[test]
fn a_llama_bench_that_fails_is_left_out_aloud() {
    let output = compare(&folder("compare-fails", "#!/bin/sh\necho 'unknown architecture' >&2\nexit 1\n"));
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("is left out: ").count(), 2, "{said}");
    assert!(said.contains("unknown architecture"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["results"].as_array().unwrap().iter().all(|row| !row["program"].as_str().unwrap().starts_with("llama.cpp")));
}

#[cfg(feature = "candle")]
#[test]
fn candle_transformers_has_its_turns() {
    let flags = ["compare", MODEL, "-p", "8", "-n", "3", "-t", "1", "--rounds", "1", "--json"];
    let output = Command::new(env!("CARGO_BIN_EXE_hob-benches")).args(flags).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let programs: Vec<&str> = report["results"].as_array().unwrap().iter().map(|row| row["program"].as_str().unwrap()).collect();
    assert_eq!((programs.len(), programs[1], programs[3]), (4, "candle-transformers", "candle-transformers"));
}
