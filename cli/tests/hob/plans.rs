//! Plans, models made up, and what a machine is like.

use std::process::Command;
use std::sync::OnceLock;

use hob::plan::{Fingerprint, Profile};
use serde_json::{Value, json};

use super::{Done, TINY, command, scratch};

/// hob where a profile of this machine is kept, in round numbers: tests must not wait for a measurement.
fn measured(args: &[&str]) -> Done {
    static PROFILE: OnceLock<()> = OnceLock::new();
    PROFILE.get_or_init(|| {
        let mut profile = Profile::example();
        profile.of = Fingerprint::of_this_machine(hob::default_threads()).expect("a level");
        profile.keep(&scratch("cache").join("profile.json")).expect("kept");
    });
    let mut command: Command = command(args);
    Done::new(command.env("HOB_CACHE", scratch("cache")).env("HOB_DATA", scratch("data")).output().expect("hob runs"))
}

#[test]
fn a_name_is_planned_for_a_machine() {
    let text = measured(&["plan", "qwen3-4b", "--memory", "8G"]).fine();
    for part in
        ["Qwen3 4B · 4.02 B Q4_K_M", "Apache-2.0: any use", "A machine of 8.00 GiB", "fits", "the best here", "does not fit", "an answer"]
    {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let object = measured(&["plan", "qwen3-30b-a3b:Q8_0", "llama-3.2-1b", "--memory", "16G", "-c", "4096", "--json"]).json();
    let models = object["models"].as_array().expect("models");
    assert_eq!((models.len(), &models[0]["fits"], &models[1]["fits"]), (2, &json!(false), &json!(true)));
    assert_eq!((&models[1]["cache"], &models[1]["context"]), (&json!(4096 * 32_768), &json!(4096)));
    assert!(models[1]["answer_per_second"].as_f64() > models[0]["answer_per_second"].as_f64());
}

#[test]
fn a_file_is_planned_by_its_header() {
    let object = measured(&["plan", TINY, "--json"]).json();
    let model = &object["models"][0];
    assert_eq!(model["file_bytes"], json!(std::fs::metadata(TINY).expect("the fixture").len()));
    assert_eq!((&model["fits"], &model["context_trained"]), (&json!(true), &json!(1024)));
    let done = measured(&["plan", "qwen3-5b"]);
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("did you mean") && done.err.contains("qwen3-4b"), "{}", done.err);
    assert_eq!(measured(&["plan", "qwen3-4b", "--memory", "lots"]).code, Some(2));
}

#[test]
fn a_machine_is_examined() {
    let text = measured(&["doctor"]).fine();
    for part in ["Processor", "threads", "20.0 GB/s", "Memory", "Devices (--device)", "cpu", "Folders"] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    let object = measured(&["doctor", "--json"]).json();
    assert_eq!(object["read_bytes_per_second"], json!(20e9));
    assert!(object["devices"].as_array().is_some_and(|devices| !devices.is_empty()) && object["slow"].is_array());
    assert!(measured(&["doctor", "--quick", "--json"]).json()["read_bytes_per_second"].is_null());
}

#[test]
fn a_model_is_made_up_to_be_measured_or_kept() {
    let file = scratch("made.gguf");
    let path = file.to_string_lossy().into_owned();
    measured(&["bench", "--synthetic", "gemma-3-270m:Q4_0", "--layers", "1", "--write", &path]).fine();
    let inspected = measured(&["inspect", &path, "--json"]).json();
    assert_eq!((&inspected["architecture"], &inspected["file_type"]), (&json!("gemma3"), &json!("Q4_0")));
    assert!(inspected["cannot_run"].is_null(), "{}", inspected["cannot_run"]);
    assert_eq!(measured(&["bench", "--synthetic", "gemma-3-270m:Q4_0", "--layers", "1", "--write", &path]).code, Some(1));
    let args = ["bench", &path, "-p", "0", "-n", "0", "-pg", "8,2", "-r", "1", "--json"];
    let rows: Value = measured(&args).json();
    let rows = rows.as_array().expect("rows");
    assert_eq!((rows.len(), &rows[0]["n_prompt"], &rows[0]["n_gen"]), (1, &json!(8), &json!(2)));
    std::fs::remove_file(file).expect("removed");
}
