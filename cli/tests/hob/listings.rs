//! What the commands that only read a file print.

use serde_json::{Value, json};

use super::{Done, TINY, command, hob, hob_reads, scratch};

#[test]
fn inspect_lists_card_types_metadata_and_tensors() {
    let text = hob(&["inspect", TINY]).fine();
    for part in
        ["\nArchitecture\n", "\nTypes\n", "\nMetadata\n", "\nTensors", "bits/weight", "  general.architecture", "  token_embd.weight"]
    {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    let object = hob(&["inspect", TINY, "--json"]).json();
    let sum =
        |key: &str, of: &str| object[key].as_array().expect("a list").iter().map(|item| item[of].as_u64().expect("a count")).sum::<u64>();
    assert_eq!(object["bytes"], json!(sum("tensors", "bytes")));
    assert_eq!(object["bytes"], json!(sum("types", "bytes")));
    assert_eq!(sum("types", "tensors"), object["tensors"].as_array().expect("a list").len() as u64);
    let bits = 8.0 * sum("types", "bytes") as f64 / sum("types", "params") as f64;
    assert_eq!(object["bits_per_weight"], json!(bits));
    assert_eq!(object["architecture"], object["metadata"]["general.architecture"]);
    assert!(object["card"].is_string() && object["cannot_run"].is_null());
}

#[test]
fn what_cannot_be_run_can_be_inspected() {
    // The same file under a name that no model has. It is as long as the true one, so that nothing moves.
    let mut bytes = std::fs::read(TINY).expect("the fixture");
    let architecture = hob(&["inspect", TINY, "--json"]).json()["architecture"].as_str().expect("a name").to_owned();
    let key = b"general.architecture";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("the key") + key.len() + 12;
    assert_eq!(&bytes[at..at + architecture.len()], architecture.as_bytes());
    bytes[at..at + architecture.len()].fill(b'z');
    let file = scratch("foreign.gguf");
    std::fs::write(&file, bytes).expect("written");
    let (file, name) = (file.to_string_lossy().into_owned(), "z".repeat(architecture.len()));

    let text = hob(&["inspect", &file]).fine();
    assert!(text.contains("\nhob cannot run it: ") && text.contains(&name) && text.contains("  token_embd.weight"), "{text}");
    let object = hob(&["inspect", &file, "--json"]).json();
    assert!(object["card"].is_null() && object["cannot_run"].as_str().is_some_and(|why| why.contains(&name)));
    let done = hob(&["run", &file, "--tokens", "1"]);
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains(&name), "{}", done.err);
}

#[test]
fn families_lists_what_runs_and_what_is_lacking() {
    let text = hob(&["families"]).fine();
    let object = hob(&["families", "--json"]).json();
    let items = |key: &str| object[key].as_array().cloned().unwrap_or_default();
    assert!(items("families").len() > 20 && items("types").contains(&json!("Q4_K")) && !items("lacking").is_empty());
    for item in items("families").iter().chain(&items("lacking")) {
        for name in item["architectures"].as_array().expect("names") {
            assert!(text.contains(name.as_str().expect("a name")), "{name}");
        }
    }
}

#[test]
fn tokenize_prints_ids_in_every_form() {
    let text = "Hello, world";
    let object = hob(&["tokenize", TINY, "-p", text, "--json"]).json();
    let ids: Vec<String> = object["ids"].as_array().expect("ids").iter().map(Value::to_string).collect();
    assert!(!ids.is_empty() && object["pieces"].as_array().is_some_and(|pieces| pieces.len() == ids.len()));
    assert_eq!(hob(&["tokenize", TINY, "-p", text, "--ids"]).fine(), ids.join(",") + "\n");
    assert_eq!(hob_reads(&["tokenize", TINY, "--ids"], &format!("{text}\n")).fine(), ids.join(",") + "\n");
    let table = hob(&["tokenize", TINY, "-p", text]);
    assert_eq!(table.err, format!("{} tokens\n", ids.len()));
    let first: Vec<&str> = table.out.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(first, ids);
}

#[test]
fn jsonl_keeps_the_line_and_adds_ids() {
    let done = hob_reads(&["tokenize", TINY, "--jsonl"], "{\"n\": 7, \"text\": \"Hello\"}\n\n{\"text\": \"\"}\n");
    let lines: Vec<Value> = done.fine().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["n"], &lines[0]["text"]), (&json!(7), &json!("Hello")));
    assert_eq!(lines[0]["ids"], hob(&["tokenize", TINY, "-p", "Hello", "--json"]).json()["ids"]);
    assert_eq!((&lines[1]["ids"], &lines[1]["ids_special"]), (&json!([]), &json!([])));

    let done = hob_reads(&["tokenize", TINY, "--jsonl"], "{\"text\": \"a\"}\n{\"txt\": 1}\n");
    assert_eq!(done.code, Some(1));
    assert!(done.err.starts_with("error: standard input, line 2: expected a JSON object with \"text\""), "{}", done.err);
}

#[test]
fn a_template_renders_its_prompt_alone() {
    let template = scratch("plain.jinja");
    std::fs::write(&template, "{{ bos_token }}{% for m in messages %}\n<{{ m.role }}> {{ m.content }}\n{% endfor %}{{ name }}")
        .expect("written");
    let case = r#"{"messages": [{"role": "user", "content": "Grüezi"}], "kwargs": {"name": "Vreni"}, "bos_token": "<s>"}"#;
    let file = scratch("case.json");
    std::fs::write(&file, case).expect("written");
    let args = ["template", &template.to_string_lossy(), "--json", &file.to_string_lossy()];
    assert_eq!(hob(&args).fine(), "<s><user> Grüezi\nVreni");
    let source = hob(&["template", TINY]).fine();
    assert!(source.contains("{%"), "{source}");
}

/// In a folder of its own: other tests fill theirs meanwhile.
#[test]
fn an_empty_cache_is_listed_and_cleared() {
    let folder = scratch("empty-cache");
    let _ = std::fs::remove_dir_all(&folder);
    let hob = |args: &[&str]| Done::new(command(args).env("HOB_CACHE", &folder).output().expect("hob runs"));
    assert!(hob(&["cache", "ls"]).fine().starts_with("0 prompts, 0 B in "));
    let listed = hob(&["cache", "ls", "--json"]).json();
    assert_eq!((listed["prompts"].as_array().map(Vec::len), listed["budget"].as_u64()), (Some(0), Some(4 << 30)));
    assert_eq!(hob(&["cache", "clear"]).fine(), "removed 0 files, 0 B\n");
    assert_eq!(hob(&["cache", "clear", "--model", ""]).code, Some(2));
}
