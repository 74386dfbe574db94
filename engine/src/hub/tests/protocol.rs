//! What is asked of a hub, and where what comes is put.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::server::{COMMIT, Fault, Server, sha256};
use super::{Event, Scratch, find, hub, noise, options, pull, trouble};
use crate::error::{Error, Trouble};
use crate::hub::layout::Links;
use crate::store::{Found, Keeper, Listing, Store};

fn repository(cache: &Path) -> std::path::PathBuf {
    cache.join("models--ada--Loom-GGUF")
}

#[test]
fn a_file_lies_where_other_programs_look_for_it() {
    let (q4, q8) = (noise(1, 300_000), noise(2, 5000));
    let server = Server::start(&[("README.md", vec![b'#'; 10]), ("loom-Q8_0.gguf", q8), ("sub/loom-Q4_K_M.gguf", q4.clone())]);
    let scratch = Scratch::new();
    let hub = hub(&server, &scratch.0);
    let remote = find(&hub, "ada/Loom-GGUF").expect("it is there");
    assert_eq!((remote.name.as_str(), remote.bytes(), hub.present(&remote)), ("ada/Loom-GGUF:Q4_K_M", 300_000, 0));
    assert!(remote.place().ends_with("/ada/Loom-GGUF") && hub.local(&remote).is_none());
    let mut told = Vec::new();
    let path = hub.pull(&remote, &mut |event| {
        told.push(format!("{event:?}"));
        ControlFlow::Continue(())
    });
    let path = path.expect("it comes");
    assert_eq!(fs::read(&path).expect("a file"), q4);
    assert_eq!(path, repository(&scratch.0).join(format!("snapshots/{COMMIT}/sub/loom-Q4_K_M.gguf")));
    assert_eq!(hub.local(&remote), Some(path.clone()));
    assert!(
        told[0].contains("sub/loom-Q4_K_M.gguf") && told.last().is_some_and(|last| last.contains("done: 300000, total: 300000")),
        "{told:?}"
    );
    #[cfg(unix)]
    {
        let blob = format!("../../../blobs/{}", sha256(&q4));
        assert_eq!(fs::read_link(&path).expect("a link"), Path::new(&blob));
    }
    assert_eq!(fs::read_to_string(repository(&scratch.0).join("refs/main")).expect("a ref"), COMMIT);
    assert_eq!(fs::read_dir(repository(&scratch.0).join("blobs")).expect("blobs").count(), 1, "nothing is left over");

    // What is here is not asked for again.
    server.asked();
    assert_eq!(pull(&hub, "ada/Loom-GGUF:q4_k_m").expect("it is here"), path);
    assert!(server.asked().iter().all(|asked| asked.path.contains("/api/models/")));

    // And the store's own listing finds it.
    let listing = Listing::of(vec![Store { keeper: Keeper::HuggingFace, root: scratch.0.clone() }]);
    match listing.find("ada/Loom-GGUF") {
        Found::One(entry) => assert_eq!(entry.path(), Some(path.as_path())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let server = Server::start(&[("loom.gguf", noise(1, 1000))]);
    let scratch = Scratch::new();
    server.rename();
    pull(&hub(&server, &scratch.0), "ada/Loom-GGUF").expect("it comes");
    let asked = server.asked();
    assert_eq!(asked.iter().filter(|asked| asked.hub).count(), 3, "the API, a repository that was renamed, the file: {asked:?}");
    assert!(asked.iter().all(|asked| asked.token.is_some() == asked.hub), "{asked:?}");
    assert!(asked.iter().filter_map(|asked| asked.token.as_ref()).all(|token| token == "Bearer hf_secret"));
}

#[test]
fn refusals_have_names_and_say_what_to_do() {
    let server = Server::start(&[("loom.gguf", noise(1, 1000))]);
    let scratch = Scratch::new();
    let known = hub(&server, &scratch.0);
    let stranger = options(&server, &scratch.0).token(None).build().expect("a hub");
    let gated = Fault::Status(403, "X-Error-Code: GatedRepo\r\nX-Error-Message: Access to model ada/Loom-GGUF is restricted\r\n");
    let throttled = || Fault::Status(429, "Retry-After: 0\r\n");
    let cases = [
        (&known, vec![Fault::Status(401, "")], Trouble::Unauthorized, "the token is not accepted"),
        (&stranger, vec![Fault::Status(401, "X-Error-Message: Invalid username or password.\r\n")], Trouble::Unauthorized, "HF_TOKEN"),
        (&known, vec![gated.clone()], Trouble::Forbidden, "accept its terms"),
        (&stranger, vec![gated], Trouble::Forbidden, "restricted"),
        (&known, vec![Fault::Status(404, "X-Error-Code: RevisionNotFound\r\n")], Trouble::Missing, "no such branch"),
        (&known, vec![throttled(), throttled(), throttled()], Trouble::Throttled, "too many requests"),
        (&known, vec![Fault::Status(503, "Retry-After: 7200\r\n")], Trouble::Server, "the server asks to wait 120 minutes"),
        (&known, vec![Fault::Close, Fault::Close, Fault::Close], Trouble::Unreachable, "check the network"),
        (&known, vec![Fault::Status(418, "")], Trouble::Protocol, "check the address"),
    ];
    for (hub, faults, want, help) in cases {
        server.fail_api(faults);
        let (why, text) = trouble(find(hub, "ada/Loom-GGUF"));
        assert!(why == want && text.contains(help) && text.contains("/ada/Loom-GGUF"), "{why:?}: {text}");
    }
    let (why, text) = trouble(find(&known, "ada/Other"));
    assert!(why == Trouble::Missing && text.contains("Repository not found") && text.contains("check the spelling"), "{text}");
    let (why, text) = trouble(find(&known, "ada/Loom-GGUF/other.gguf"));
    assert!(why == Trouble::Missing && text.contains("no such file"), "{text}");
    let error = find(&known, "ada/Loom-GGUF:Q2_K").expect_err("it has none").to_string();
    assert!(error.contains("expected Q2_K, found loom"), "{error}");
    // Two throttled answers and a good one are a good one.
    server.fail_api([throttled(), throttled()]);
    assert!(find(&known, "ada/Loom-GGUF").is_ok());
    let offline = options(&server, &scratch.0).offline("HF_HUB_OFFLINE").build().expect("a hub");
    server.asked();
    let (why, text) = trouble(find(&offline, "ada/Loom-GGUF"));
    assert!(why == Trouble::Offline && text.contains("HF_HUB_OFFLINE says that the network is not to be used"), "{text}");
    assert!(server.asked().is_empty());
}

#[test]
fn a_server_cannot_name_places_outside_of_the_cache() {
    let scratch = Scratch::new();
    for path in ["../loom.gguf", "/etc/loom.gguf", "a/../../loom.gguf", "C:\\loom.gguf", ".ssh/loom.gguf"] {
        let server = Server::start(&[(path, noise(1, 10))]);
        let (why, text) = trouble(find(&hub(&server, &scratch.0), "ada/Loom-GGUF"));
        assert!(why == Trouble::Protocol && text.contains("not to be trusted"), "{text}");
    }
}

#[test]
fn a_download_goes_on_where_it_stopped() {
    let file = noise(3, 900_000);
    let server = Server::start(&[("loom.gguf", file.clone())]);
    let scratch = Scratch::new();
    let hub = hub(&server, &scratch.0);
    let remote = find(&hub, "ada/Loom-GGUF").expect("it is there");
    let stopped = hub.pull(&remote, &mut |event| match event {
        Event::Bytes { done: 300_000.., .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let here = hub.present(&remote);
    assert!((300_000..900_000).contains(&here), "{here}");
    server.asked();
    let path = pull(&hub, "ada/Loom-GGUF").expect("it comes");
    assert_eq!(fs::read(path).expect("a file"), file);
    let ranges: Vec<_> = server.asked().into_iter().filter_map(|asked| asked.range).collect();
    assert_eq!(ranges, [format!("bytes={here}-"), format!("bytes={here}-")], "the hub, and the store it leads to");
}

#[test]
fn a_wrong_hash_is_tried_once_more_and_then_refused() {
    let file = noise(4, 50_000);
    let server = Server::start(&[("loom.gguf", file.clone())]);
    let scratch = Scratch::new();
    let hub = hub(&server, &scratch.0);
    server.fail_store([Fault::Flipped(7)]);
    assert!(pull(&hub, "ada/Loom-GGUF").is_ok());
    fs::remove_dir_all(repository(&scratch.0)).expect("it was there");
    server.fail_store([Fault::Flipped(7), Fault::Flipped(8)]);
    let (why, text) = trouble(pull(&hub, "ada/Loom-GGUF"));
    assert!(why == Trouble::Corrupt && text.contains(&format!("expected SHA-256 {}", sha256(&file))), "{text}");
    assert_eq!(fs::read_dir(repository(&scratch.0).join("blobs")).expect("blobs").count(), 0, "nothing was kept");
    server.fail_resolve([Fault::Replaced]);
    assert_eq!(trouble(pull(&hub, "ada/Loom-GGUF")).0, Trouble::Changed);
}

#[test]
fn all_parts_of_a_split_model_come() {
    let parts: Vec<(String, Vec<u8>)> = (1..=3).map(|n| (format!("Q8_0/loom-Q8_0-0000{n}-of-00003.gguf"), noise(n, 20_000))).collect();
    let files: Vec<(&str, Vec<u8>)> = parts.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
    let server = Server::start(&files);
    let scratch = Scratch::new();
    let hub = hub(&server, &scratch.0);
    for name in ["ada/Loom-GGUF:Q8_0", "ada/Loom-GGUF/Q8_0/loom-Q8_0-00002-of-00003.gguf"] {
        let remote = find(&hub, name).expect("it is there");
        assert_eq!((remote.files.len(), remote.bytes()), (3, 60_000));
        let first = hub.pull(&remote, &mut |_| ControlFlow::Continue(())).expect("it comes");
        for (path, bytes) in &parts {
            let file = first.with_file_name(path.rsplit('/').next().expect("a name"));
            assert_eq!(fs::read(file).expect("a part"), *bytes);
        }
    }
}

#[test]
fn two_at_once_download_once() {
    let file = noise(5, 2_000_000);
    let server = Server::start(&[("loom.gguf", file.clone())]);
    let scratch = Scratch::new();
    let waited = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let hub = hub(&server, &scratch.0);
                let remote = find(&hub, "ada/Loom-GGUF").expect("it is there");
                let path = hub.pull(&remote, &mut |event| {
                    if let Event::Bytes { done: 1..1_000_000, .. } = event {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    waited.fetch_add(usize::from(event == Event::Locked), Ordering::Relaxed);
                    ControlFlow::Continue(())
                });
                assert_eq!(fs::read(path.expect("it comes")).expect("a file"), file);
            });
        }
    });
    let downloads = server.asked().into_iter().filter(|asked| !asked.hub).count();
    assert!(downloads == 1 && waited.load(Ordering::Relaxed) > 0, "{downloads} downloads");
}

#[test]
fn a_disk_without_room_is_told_before_anything_comes() {
    let server = Server::start(&[("loom.gguf", noise(6, 100_000))]);
    let scratch = Scratch::new();
    let mut hub = hub(&server, &scratch.0);
    hub.free = |_| Ok(1000);
    let (why, text) = trouble(pull(&hub, "ada/Loom-GGUF"));
    assert!(why == Trouble::DiskFull && text.contains("expected 0.06 GiB free, found 0.00 GiB"), "{text}");
    assert!(!repository(&scratch.0).exists());
    hub.free = |_| Ok(u64::MAX);
    hub.room.store(40_000, Ordering::Relaxed);
    let (why, text) = trouble(pull(&hub, "ada/Loom-GGUF"));
    assert!(why == Trouble::DiskFull && text.contains("make room"), "{text}");
    hub.room.store(u64::MAX, Ordering::Relaxed);
    assert!(pull(&hub, "ada/Loom-GGUF").is_ok());
}

#[test]
fn where_links_cannot_be_made_the_file_itself_lies_there() {
    let file = noise(8, 4000);
    let server = Server::start(&[("loom.gguf", file.clone()), ("same.gguf", file.clone())]);
    let scratch = Scratch::new();
    let mut hub = hub(&server, &scratch.0);
    hub.links = Links::None;
    for name in ["loom", "same"] {
        let path = pull(&hub, &format!("ada/Loom-GGUF/{name}.gguf")).expect("it comes");
        assert!(fs::symlink_metadata(&path).expect("it is there").is_file());
        assert_eq!(fs::read(path).expect("a file"), file);
    }
}

#[test]
fn files_at_any_address_go_to_the_folder() {
    let file = noise(9, 60_000);
    let server = Server::start(&[("loom v1.gguf", file.clone())]);
    let scratch = Scratch::new();
    let address = format!("{}/direct/loom%20v1.gguf?key=secret", server.endpoint);
    let (why, homeless) = (hub(&server, &scratch.0), &scratch.0.join("models"));
    assert!(pull(&why, &address).expect_err("there is no folder").to_string().contains("HOB_MODELS"));
    let hub = options(&server, &scratch.0).folder(homeless).build().expect("a hub");
    server.fail_store([Fault::Status(503, ""), Fault::Cut(20_000), Fault::Cut(20_000), Fault::NoRanges]);
    let path = pull(&hub, &address).expect("it comes");
    assert_eq!((path.clone(), fs::read(&path).expect("a file")), (homeless.join("loom v1.gguf"), file));
    // The file there is now another one, of another size: it comes anew, and the place has one or the other.
    server.set("loom v1.gguf", noise(10, 70_000));
    let remote = find(&hub, &address).expect("it is there");
    assert_eq!((remote.bytes(), hub.local(&remote)), (70_000, None));
    assert!(find(&hub, &format!("{}/direct/page.html", server.endpoint)).is_err());
    // What lies in a repository of the hub is the repository's, however it is named.
    server.set("knit.gguf", noise(11, 100));
    let remote = find(&hub, &format!("{}/ada/Loom-GGUF/blob/main/knit.gguf", server.endpoint)).expect("it is there");
    assert_eq!((remote.repository.as_deref(), remote.name.as_str()), (Some("ada/Loom-GGUF"), "ada/Loom-GGUF/knit.gguf"));
}

#[test]
fn a_header_is_read_by_ranges_alone() {
    let model = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf")).expect("the tiny model");
    let mut large = model.clone();
    large.resize(9 << 20, 0);
    let server = Server::start(&[("loom-Q4_K_M.gguf", large)]);
    let scratch = Scratch::new();
    let hub = hub(&server, &scratch.0);
    let remote = find(&hub, "ada/Loom-GGUF").expect("it is there");
    for faults in [vec![], vec![Fault::Cut(1000), Fault::NoRanges], vec![Fault::Close, Fault::Status(503, "")]] {
        server.asked();
        server.fail_store(faults);
        let head = hub.head(&remote).expect("a header");
        assert!(!head.has_weights() && head.file_bytes() == 9 << 20);
        assert_eq!(head.metadata().str("general.architecture").ok().flatten(), Some("llama"));
        assert!(server.asked().iter().filter(|asked| !asked.hub).all(|asked| asked.range.is_some()));
    }
    assert!(!repository(&scratch.0).exists(), "nothing is written");
    let junk = Server::start(&[("loom.gguf", noise(1, 5000))]);
    let hub = super::hub(&junk, &scratch.0);
    let error = hub.head(&find(&hub, "ada/Loom-GGUF").expect("it is there")).expect_err("noise is no model").to_string();
    assert!(error.contains("expected a GGUF file"), "{error}");
}
