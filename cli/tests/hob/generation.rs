//! What the commands that compute print: ids, text, logits, tables.

use serde_json::Value;

use super::{TINY, command, hob, hob_reads, scratch};

const GREEDY: [&str; 7] = ["--tokens", "1,5,9", "--temp", "0", "--ignore-eos", "--ids", "-n"];

fn run_ids(n: &str, more: &[&str]) -> String {
    hob(&[&["run", TINY][..], &GREEDY, &[n], more].concat()).fine()
}

#[test]
fn ids_come_on_one_line_and_do_not_depend_on_the_machine() {
    let ids = run_ids("12", &[]);
    assert!(ids.ends_with('\n') && ids.lines().count() == 1, "{ids:?}");
    assert_eq!(ids.trim_end().split(',').map(str::parse::<u32>).filter(Result::is_ok).count(), 12, "{ids}");
    for more in [&["-t", "2"][..], &["-ub", "1"], &["-ub", "2", "-t", "3"], &["-c", "64"], &["--seed", "9"]] {
        assert_eq!(run_ids("12", more), ids, "{more:?}");
    }
    let scalar = command(&[&["run", TINY][..], &GREEDY, &["12"]].concat()).env("HOB_LEVEL", "scalar").output().expect("hob runs");
    assert_eq!(String::from_utf8_lossy(&scalar.stdout), ids);
}

#[test]
fn text_goes_to_stdout_and_its_cost_to_stderr() {
    let done = hob(&["run", TINY, "--raw", "-p", "Hello", "-n", "6", "--seed", "1", "--ignore-eos"]);
    assert!(done.err.contains(" tok at "), "{}", done.err);
    assert!(!done.err.contains('\x1b') && !done.out.contains('\x1b'));
    assert!(done.out.ends_with('\n'));
    let again = hob_reads(&["run", TINY, "--raw", "-n", "6", "--seed", "1", "--ignore-eos"], "Hello\n");
    assert_eq!(again.fine(), done.fine());
}

#[test]
fn a_prompt_goes_through_the_chat_template() {
    let done = hob(&["run", TINY, "-p", "Hello", "-n", "4", "--temp", "0", "--system", "Be brief."]);
    // Both turns are in the prompt: more tokens than the words have.
    let tokens: usize = done.err.split(' ').next().and_then(|n| n.parse().ok()).expect("a count");
    assert!(tokens > 20, "{}", done.err);
    done.fine();
}

#[test]
fn logits_are_a_numpy_file_whose_maximum_is_the_greedy_token() {
    let path = scratch("logits.npy");
    let write = |more: &[&str]| {
        hob(&[&["logits", TINY, "--tokens", "1,5,9", "--out", &path.to_string_lossy()][..], more].concat()).fine();
        std::fs::read(&path).expect("written")
    };
    let bytes = write(&[]);
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..data]).expect("text");
    let numbers: Vec<f32> = bytes[data..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let vocabulary = numbers.len() / 3;
    assert!(header.starts_with(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (3, {vocabulary}), }}")), "{header}");
    let row = &numbers[2 * vocabulary..];
    let best = (0..vocabulary).fold(0, |best, at| if row[at] > row[best] { at } else { best });
    assert_eq!(run_ids("1", &[]), format!("{best}\n"));
    for more in [&["-ub", "1"][..], &["-ub", "2", "-t", "2"]] {
        assert!(write(more) == bytes, "{more:?}");
    }
}

#[test]
fn a_chat_from_a_pipe_answers_obeys_and_leaves() {
    let done = hob_reads(
        &["chat", TINY, "-n", "3", "--temp", "0"],
        "Hello \\\nthere\n\n/system Be brief.\n/system\n/think low\n/think soon\n/nonsense\n/stats\n/clear\n/help\n/exit\nnever\n",
    );
    assert!(done.err.contains("no command is called /nonsense"), "{}", done.err);
    for text in [
        " tok at ",
        "thinking low: this model's chat template has no switch",
        "medium, high or a number",
        "Be brief.\n",
        "\ncontext ",
        "forgotten",
        "/exit",
    ] {
        assert!(done.err.contains(text), "{text}: {}", done.err);
    }
    assert_eq!(done.err.matches(" GB/s").count(), 2, "one reply, and /stats: {}", done.err);
    assert!(done.fine().ends_with('\n'));
}

#[test]
fn bench_reports_in_three_forms() {
    let bench = |more: &[&str]| hob(&[&["bench", TINY, "-p", "8,4", "-n", "3", "-d", "0,5", "-r", "2", "-t", "1"][..], more].concat());
    let rows = bench(&["-o", "json"]).json();
    let tests: Vec<(u64, u64, u64)> =
        rows.as_array().expect("a list").iter().map(|row| (count(row, "n_prompt"), count(row, "n_gen"), count(row, "n_depth"))).collect();
    assert_eq!(tests, [(8, 0, 0), (4, 0, 0), (0, 3, 0), (8, 0, 5), (4, 0, 5), (0, 3, 5)]);
    for row in rows.as_array().expect("a list") {
        assert_eq!((row["samples_ts"].as_array().map(Vec::len), count(row, "n_threads")), (Some(2), 1));
        assert!(row["avg_ts"].as_f64().is_some_and(|ts| ts > 0.0) && row["stddev_ts"].is_number());
    }
    let table = bench(&[]).fine();
    for name in ["| pp8 |", "| tg3 |", "pp4 @ d5 |", "tg3 @ d5 |"] {
        assert!(table.replace("  ", "").contains(name.trim_start_matches("| ")), "{name}:\n{table}");
    }
    assert_eq!(bench(&["-o", "csv"]).fine().lines().count(), 7);
}

fn count(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}"))
}

#[test]
fn perplexity_ends_with_its_value() {
    let file = scratch("text.txt");
    std::fs::write(&file, "Hello, world. ".repeat(40)).expect("written");
    let out = hob(&["perplexity", TINY, "-f", &file.to_string_lossy(), "-c", "16"]).fine();
    let value: f64 = out.lines().last().and_then(|line| line.parse().ok()).expect("a number");
    assert!(value > 1.0 && value.is_finite());
}

#[test]
fn a_quantized_model_runs() {
    let file = scratch("quantized.gguf");
    let file = file.to_string_lossy();
    hob(&["quantize", TINY, &file, "Q8_0"]).fine();
    let types = hob(&["inspect", &file, "--json"]).json()["types"].to_string();
    assert!(types.contains("Q8_0"), "{types}");
    assert_eq!(hob(&["run", &file, "--tokens", "1,5,9", "-n", "2", "--ids", "--ignore-eos"]).fine().lines().count(), 1);
    let done = hob(&["quantize", TINY, &file, "Q9_Z"]);
    assert!(done.code == Some(2) && done.err.contains("Q9_Z"), "{}", done.err);
}

#[cfg(unix)]
#[test]
fn ctrl_c_prints_what_is_there_and_exits_130() {
    use std::io::{BufRead, BufReader, Read};
    let args = [&["run", TINY][..], &GREEDY, &["1000000", "-c", "32768"]].concat();
    let mut child = command(&args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("hob runs");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut start = Vec::new();
    out.read_until(b',', &mut start).expect("the first id");
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(kill.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    let done = child.wait_with_output().expect("hob ends");
    assert_eq!(done.status.code(), Some(130));
    assert!(rest.ends_with('\n'), "{rest}");
    assert!(String::from_utf8_lossy(&done.stderr).contains(" tok at "));
}

#[test]
fn an_answer_is_held_to_a_schema_a_grammar_or_a_regex() {
    let file = |name: &str, text: &str| {
        let path = scratch(name);
        std::fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let schema = file(
        "schema.json",
        r#"{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": false}"#,
    );
    let gbnf = file("list.gbnf", "root ::= (\"- \" [a-z]{2,4} \"\\n\"){2}");
    let run = |more: &[&str]| hob(&[&["run", TINY, "-p", "Hello", "--seed", "3"][..], more].concat());
    let value = run(&["--json-schema", &schema]).json();
    assert!([1, 2].contains(&count(&value, "n")));
    let list = run(&["--grammar", &gbnf, "--raw"]).fine();
    assert!(list.lines().count() == 2 && list.lines().all(|line| line.starts_with("- ")), "{list}");
    let object = run(&["--regex", "(yes|no)", "--json", "--logprobs", "2"]).json();
    assert!(["yes", "no"].contains(&object["text"].as_str().expect("text")), "{object}");
    assert_eq!((object["end"].as_str(), object["whole"].as_bool()), (Some("end_of_turn"), Some(true)));
    let probabilities = object["logprobs"].as_array().expect("a list");
    assert!(!probabilities.is_empty() && probabilities.iter().all(|one| one["top"].as_array().map(Vec::len) == Some(2)), "{object}");
    let raw = run(&["--raw", "--json", "-n", "4", "--ignore-eos"]).json();
    assert_eq!((raw["tokens"].as_array().map(Vec::len), raw["end"].as_str()), (Some(4), Some("max_tokens")));
    // What cannot be honoured is told with its place; what was cut is said.
    let bad = file("bad.json", r#"{"properties": {"a": {"not": {}}}}"#);
    let done = run(&["--json-schema", &bad]);
    assert!(done.code == Some(1) && done.err.contains("#/properties/a/not"), "{}", done.err);
    let done = run(&["--regex", "[a-z]{100}", "-n", "9"]);
    assert!(done.err.contains("NOT valid"), "{}", done.err);
}
