//! Models by name: listed, shown, removed, pulled from a hub on this machine, downloaded where a command wants one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hob::plan::{Fingerprint, Profile};
use serde_json::json;

use super::{Done, TINY, command, scratch};

/// A home of its own, in which nothing is yet.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Home {
        let path = scratch(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Home(path)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// The tiny model, under another name.
    fn tiny(&self, path: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::copy(TINY, &path).expect("a copy");
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("HOME", &self.0).env("USERPROFILE", &self.0).env("HOB_MODELS", self.at("own"));
        command.env("HOB_DATA", self.at("data")).env("HOB_CACHE", self.at("cache"));
        command
    }

    fn hob(&self, args: &[&str]) -> Done {
        Done::new(self.command(args).output().expect("hob runs"))
    }

    /// ollama's `loom:4b`, a broken `gone:1b`, and files of one's own.
    fn furnished(name: &str) -> Home {
        let home = Home::new(name);
        home.tiny(&format!(".ollama/models/blobs/sha256-{BLOB}"));
        for (name, hash) in [("loom/4b", BLOB.to_owned()), ("gone/1b", "d".repeat(64))] {
            let manifest = home.at(&format!(".ollama/models/manifests/registry.ollama.ai/library/{name}"));
            fs::create_dir_all(manifest.parent().expect("a folder")).expect("a folder");
            let layer = json!({ "mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{hash}"), "size": 1 });
            fs::write(manifest, json!({ "layers": [layer] }).to_string()).expect("written");
        }
        home.tiny("own/knit-Q4_K_M.gguf");
        let mut other = fs::read(TINY).expect("the tiny model");
        let last = other.len() - 1;
        other[last] ^= 1;
        fs::write(home.at("own/purl.gguf"), other).expect("written");
        home
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn all_stores_make_one_list() {
    let home = Home::furnished("list");
    let text = home.hob(&["ls"]).fine();
    for part in
        ["NAME", "loom:4b", "ollama", "knit-Q4_K_M", "folder, the same as loom:4b", "\n3 models, ", "\nBroken\n", "`ollama pull gone:1b`"]
    {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    let all = home.hob(&["ls", "--json"]).json();
    let models = all["models"].as_array().expect("a list");
    let named = |name: &str| models.iter().find(|model| model["name"] == name).unwrap_or_else(|| panic!("{name}: {all}"));
    assert_eq!(named("knit-Q4_K_M")["same_as"], json!(["loom:4b"]));
    assert!(named("gone:1b")["broken"].is_string() && named("loom:4b")["runs"] == json!(true) && named("purl")["same_as"] == json!([]));
    let empty = Home::new("list-empty");
    let done = empty.hob(&["ls"]);
    assert!(done.err.contains("hob pull") && done.fine() == "No models here yet.\n");
    assert!(empty.hob(&["ls", "--dir", &home.at("own").to_string_lossy()]).fine().contains("purl"));
    assert_eq!(empty.hob(&["ls", "--dir", "no/such/folder"]).code, Some(1));
}

#[test]
fn names_do_wherever_a_model_is_taken() {
    let home = Home::furnished("names");
    let own = home.hob(&["run", TINY, "--tokens", "1,2", "-n", "4", "--temp", "0", "--ids"]).fine();
    for name in ["loom:4b", "Knit-Q4_K_M.gguf"] {
        assert_eq!(home.hob(&["run", name, "--tokens", "1,2", "-n", "4", "--temp", "0", "--ids"]).fine(), own, "{name}");
    }
    let inspected = home.hob(&["inspect", "loom:4b", "--json"]).json();
    assert_eq!(inspected["architecture"], "llama");
    assert!(home.hob(&["tokenize", "Purl.gguf", "-p", "Once"]).code == Some(0) && home.hob(&["template", "purl"]).code == Some(0));
    let shown = home.hob(&["show", "knit-q4_k_m"]).fine();
    for part in ["family", "llama", "same as", "loom:4b (ollama)", "licence"] {
        assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
    }
    assert_eq!(home.hob(&["show", TINY, "--json"]).json()["store"], "folder");
    assert!(home.hob(&["show", "qwen3-4b"]).fine().contains("hob pull qwen3-4b"));
}

#[test]
fn names_that_lead_nowhere_are_errors_that_help() {
    let home = Home::furnished("lost");
    for (args, part) in [
        (&["run", "loom:5b", "--tokens", "1"][..], "did you mean loom:4b"),
        (&["inspect", "zebra"], "hob ls lists what is here"),
        (&["inspect", "gone:1b"], "`ollama pull gone:1b`"),
        (&["inspect", "qwen3-4b"], "`hob pull qwen3-4b` downloads it"),
        (&["run", "qwen3-4b", "--tokens", "1"], "`hob pull qwen3-4b` downloads it; so does --yes"),
        (&["chat", "ada/Loom-GGUF:Q8_0"], "`hob pull ada/Loom-GGUF:Q8_0` downloads it"),
        (&["inspect", "./loom:4b"], "check the path"),
    ] {
        let done = home.hob(args);
        assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{args:?}: {}", done.err);
        assert!(done.err.starts_with("error: ") && done.err.contains(part), "{args:?}: {}", done.err);
    }
    let output = home.command(&["run", "qwen3-4b", "--yes", "--tokens", "1"]).env("HF_HUB_OFFLINE", "1").output().expect("hob runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("HF_HUB_OFFLINE is set"), "{err}");
}

#[test]
fn removing_asks_and_says_what_goes() {
    let home = Home::furnished("remove");
    let refused = home.hob(&["rm", "loom:4b"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("It is ollama's") && refused.err.contains("--yes"), "{}", refused.err);
    assert_eq!(home.hob(&["rm", TINY, "--yes"]).code, Some(2));
    let done = home.hob(&["rm", "loom:4b", "--yes"]);
    assert!(done.err.contains("goes") && done.err.contains("freed"), "{}", done.err);
    assert!(fs::read_dir(home.at(".ollama/models/blobs")).map_or(0, Iterator::count) == 0);
    let own = home.at("own/purl.gguf");
    assert_eq!(home.hob(&["rm", &own.to_string_lossy(), "-y"]).code, Some(0));
    assert!(!own.exists() && home.at("own/knit-Q4_K_M.gguf").exists());
}

/// What ollama's store in [`Home::furnished`] calls its file, and a hub the same one.
const BLOB: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A hub with two models, both the tiny one, of which one has a known hash; what it was asked, and how many bytes a second it gives.
struct Hub {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// The tiny model's SHA-256 is not computed here: the hub tells none of it that is downloaded, and the size stands in for it.
fn hub(rate: usize) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || drop(serve(connection, &seen, rate)));
        }
    });
    Hub { endpoint, asked }
}

fn serve(mut out: TcpStream, asked: &Mutex<Vec<String>>, rate: usize) -> std::io::Result<()> {
    let mut lines = BufReader::new(out.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut from = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.split('-').next().and_then(|from| from.parse().ok()).unwrap_or(0);
        }
    }
    asked.lock().expect("no panic").push(format!("{first} from {from}"));
    let model = fs::read(TINY)?;
    let (status, body) = if first.contains("/api/models/ada/Loom-GGUF/") {
        let file = json!({ "rfilename": "loom-Q4_K_M.gguf", "size": model.len(), "blobId": "b10b" });
        (200, json!({ "sha": "c0ffee", "siblings": [file] }).to_string().into_bytes())
    } else if first.contains("/api/models/ada/Twin-GGUF/") {
        let file = json!({ "rfilename": "twin-Q4_K_M.gguf", "size": model.len(), "lfs": { "sha256": BLOB, "size": model.len() } });
        (200, json!({ "sha": "c0ffee", "siblings": [file] }).to_string().into_bytes())
    } else if first.contains("/ada/Loom-GGUF/resolve/c0ffee/loom-Q4_K_M.gguf") {
        (if from > 0 { 206 } else { 200 }, model[from..].to_vec())
    } else {
        (404, Vec::new())
    };
    let range = if status == 206 { format!("Content-Range: bytes {from}-{}/{}\r\n", model.len() - 1, model.len()) } else { String::new() };
    write!(out, "HTTP/1.1 {status} X\r\n{range}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    for piece in body.chunks(rate / 100) {
        out.write_all(piece)?;
        if rate < 1 << 30 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn is_the_tiny_model(path: &Path) -> bool {
    fs::read(path).expect("a file") == fs::read(TINY).expect("the tiny model")
}

#[test]
fn a_model_is_pulled_and_used_by_its_name() {
    let (home, hub) = (Home::new("pull"), hub(1 << 30));
    let with = |args: &[&str]| Done::new(home.command(args).env("HF_ENDPOINT", &hub.endpoint).output().expect("hob runs"));
    let done = with(&["pull", "ada/Loom-GGUF"]);
    assert!(done.err.contains("loom-Q4_K_M.gguf, ") && done.err.contains("done: hob chat ada/Loom-GGUF:Q4_K_M"), "{}", done.err);
    let path = PathBuf::from(done.fine().trim());
    assert!(is_the_tiny_model(&path) && path.starts_with(home.at(".cache/huggingface/hub/models--ada--Loom-GGUF/snapshots/c0ffee")));
    assert_eq!(home.hob(&["run", "ada/loom-gguf", "--tokens", "1", "-n", "1"]).code, Some(0));
    let again = with(&["pull", "ada/Loom-GGUF:Q4_K_M"]);
    assert!(again.err.contains("is here already"), "{}", again.err);
    assert_eq!(hub.asked.lock().expect("no panic").iter().filter(|asked| asked.contains("/resolve/")).count(), 1);
    // Without the network, what is here is here, and what is not is an error.
    let offline = |args: &[&str]| Done::new(home.command(args).env("HF_HUB_OFFLINE", "1").output().expect("hob runs"));
    assert!(is_the_tiny_model(Path::new(offline(&["pull", "ada/Loom-GGUF"]).fine().trim())));
    let err = offline(&["pull", "ada/Other"]);
    assert!(err.code == Some(1) && err.err.contains("HF_HUB_OFFLINE"), "{}", err.err);
    let missing = with(&["pull", "ada/Other"]);
    assert!(missing.code == Some(1) && missing.err.contains("404") && missing.err.contains("check the spelling"), "{}", missing.err);
    assert!(with(&["pull", "zebra"]).err.contains("no model of this name"));
}

#[test]
fn a_model_elsewhere_is_planned_by_its_header_and_nothing_stays() {
    let (home, hub) = (Home::new("planned"), hub(1 << 30));
    let mut profile = Profile::example();
    profile.of = Fingerprint::of_this_machine(hob::default_threads()).expect("a level");
    profile.keep(&home.at("cache/profile.json")).expect("kept");
    let plan = |name: &str, more: &[&str]| {
        let mut command = home.command(&[&["plan", name], more].concat());
        Done::new(command.env("HF_ENDPOINT", &hub.endpoint).output().expect("hob runs"))
    };
    let there = plan("ada/Loom-GGUF", &["--json"]).json();
    let here = plan(TINY, &["--json"]).json();
    assert_eq!(there["models"][0]["resident"], here["models"][0]["resident"]);
    assert!(plan("ada/Loom-GGUF:Q4_K_M", &[]).fine().contains("fits"));
    assert!(!home.at(".cache/huggingface").exists());
    let missing = plan("ada/Other", &[]);
    assert!(missing.code == Some(1) && missing.err.contains("404"), "{}", missing.err);
}

#[test]
fn a_command_downloads_what_it_needs_where_it_is_told_to() {
    let (home, hub) = (Home::new("needs"), hub(1 << 30));
    let done = home.command(&["run", "ada/Loom-GGUF", "--yes", "--tokens", "1", "-n", "1"]).env("HF_ENDPOINT", &hub.endpoint).output();
    let done = Done::new(done.expect("hob runs"));
    assert_eq!(done.code, Some(0), "{}", done.err);
}

#[test]
fn the_very_file_of_another_store_is_used_in_place_of_a_download() {
    let (home, hub) = (Home::furnished("twin"), hub(1 << 30));
    for args in [&["pull", "ada/Twin-GGUF"][..], &["run", "ada/Twin-GGUF", "--yes", "--tokens", "1", "-n", "1"]] {
        let done = Done::new(home.command(args).env("HF_ENDPOINT", &hub.endpoint).output().expect("hob runs"));
        assert!(done.code == Some(0) && done.err.contains("in the store of ollama (loom:4b)"), "{args:?}: {}", done.err);
    }
    assert!(hub.asked.lock().expect("no panic").iter().all(|asked| !asked.contains("/resolve/")));
}

#[test]
fn a_pull_that_was_killed_goes_on() {
    // A second for all of it: the kill comes in the middle.
    let size = fs::metadata(TINY).expect("the tiny model").len() as usize;
    let (home, hub) = (Home::new("killed"), hub(size));
    let pull = || {
        let mut command = home.command(&["pull", "ada/Loom-GGUF"]);
        command.env("HF_ENDPOINT", &hub.endpoint);
        command
    };
    let mut child = pull().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("hob runs");
    let partial = home.at(".cache/huggingface/hub/models--ada--Loom-GGUF/blobs/b10b.hob.incomplete");
    let start = Instant::now();
    while fs::metadata(&partial).map_or(0, |facts| facts.len()) < 1000 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it runs");
    let _ = child.wait();
    let here = fs::metadata(&partial).expect("what has come").len();
    assert!(here >= 1000 && (here as usize) < size, "{here} of {size}");
    let done = Done::new(pull().output().expect("hob runs"));
    assert!(is_the_tiny_model(Path::new(done.fine().trim())) && !partial.exists());
    let asked = hub.asked.lock().expect("no panic").clone();
    assert!(asked.last().is_some_and(|last| last.ends_with(&format!("from {here}"))), "{asked:?}");
}
