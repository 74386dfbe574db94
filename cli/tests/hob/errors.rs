//! What goes wrong is said on stderr, with what to do, and the exit status tells errors (1) from wrong usage (2).

use std::process::Stdio;

use super::{TINY, command, hob, hob_reads, scratch};

#[test]
fn wrong_usage_exits_2() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage:"),
        (&["sing"], "unrecognized subcommand 'sing'"),
        (&["run", TINY, "-p", "x", "-t", "0"], "at least 1 is needed"),
        (&["run", TINY, "-p", "x", "--top-p", "1.5"], "a number from 0 to 1 is needed"),
        (&["run", TINY, "--tokens", "1,x"], "invalid value 'x' for '--tokens"),
        (&["run", TINY, "--tokens", "1", "-p", "x"], "cannot be used with"),
        (&["run", TINY, "-p", "x", "--ids"], "error: --ids and --ignore-eos continue a text as it is\n help: add --raw, or give --tokens"),
        (&["logits", TINY, "--tokens", "1"], "--out <FILE.npy>"),
        (&["run", TINY, "-p", "x", "-ctk", "q2"], "invalid value 'q2' for '--cache-type-k"),
        (&["bench", TINY, "-p", "0", "-n", "0"], "error: nothing to measure"),
    ];
    for (args, text) in cases {
        let done = hob(args);
        assert_eq!((done.code, done.out.as_str()), (Some(2), ""), "{args:?}: {}", done.err);
        assert!(done.err.contains(text), "{args:?}: {}", done.err);
    }
}

#[test]
fn errors_exit_1_and_name_the_file() {
    let (text, empty) = (scratch("text.gguf"), scratch("empty.gguf"));
    std::fs::write(&text, "This is no model, though it is long enough to be taken for one.\n").expect("written");
    std::fs::write(&empty, "").expect("written");
    let (text, empty) = (text.to_string_lossy().into_owned(), empty.to_string_lossy().into_owned());
    for file in ["no/such/file.gguf", &text, &empty] {
        for args in [
            &["inspect", file][..],
            &["run", file, "-p", "x"],
            &["chat", file],
            &["tokenize", file, "-p", "x"],
            &["logits", file, "--tokens", "1", "--out", "never.npy"],
            &["bench", file],
            &["perplexity", file, "-f", TINY],
        ] {
            let done = hob(args);
            assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{args:?}: {}", done.err);
            let name = file.rsplit('/').next().unwrap_or(file);
            assert!(done.err.starts_with("error: ") && done.err.contains(name), "{args:?}: {}", done.err);
        }
    }
    let missing = hob(&["inspect", "no/such/file.gguf"]).err;
    assert!(missing.ends_with("\n help: check the path; a model is a .gguf file\n"), "{missing}");
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_by_both_numbers() {
    let ids = vec!["1"; 33].join(",");
    let out = scratch("never.npy").to_string_lossy().into_owned();
    for args in [&["run", TINY, "--tokens", &ids, "-c", "32"][..], &["logits", TINY, "--tokens", &ids, "-c", "32", "--out", &out]] {
        let done = hob(args);
        assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
        assert!(done.err.contains("33") && done.err.contains("32"), "{}", done.err);
    }
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error() {
    let done = hob(&["run", TINY, "--tokens", "1,4000000000", "-n", "1"]);
    assert_eq!(done.code, Some(1));
    assert!(done.err.starts_with("error: ") && done.err.contains("4000000000"), "{}", done.err);
}

#[test]
fn levels_that_are_not_here_are_named() {
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    for (level, text) in [(foreign, "not available"), ("mmx", "no CPU level is called `mmx`")] {
        let output = command(&["run", TINY, "--tokens", "1", "-n", "1"]).env("HOB_LEVEL", level).output().expect("hob runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(err.starts_with("error: HOB_LEVEL") && err.contains(text), "{err}");
    }
}

#[test]
fn a_reader_who_leaves_is_no_error() {
    for args in [
        &["inspect", TINY][..],
        &["run", TINY, "--tokens", "1", "-n", "20", "--ignore-eos"],
        &["bench", TINY, "-p", "4", "-n", "1", "-r", "1"],
    ] {
        let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("hob runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("hob ends");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = command(&["inspect", TINY]).stdout(full).output().expect("hob runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.starts_with("error: standard output: "), "{err}");
}

#[test]
fn a_template_that_raises_exits_1() {
    let template = scratch("raise.jinja");
    std::fs::write(&template, "{{ raise_exception('roles must alternate') }}").expect("written");
    let done = hob_reads(&["template", &template.to_string_lossy(), "--json", "-"], r#"{"messages": []}"#);
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    assert!(done.err.starts_with("error: ") && done.err.contains("roles must alternate"), "{}", done.err);
}
