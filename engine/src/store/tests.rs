//! The four stores as their programs lay them out, sound and broken: listed or explained, never a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Found, Keeper, Listing, Removal, Role, State, Store};
use crate::gguf::{GgufWriter, TensorType};

/// An empty folder of this test run, which goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hob-store-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Scratch(path.canonicalize().expect("a path"))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, bytes).expect("written");
        path
    }

    /// A link where there are links, else a copy.
    fn link(&self, path: &str, target: &str) {
        let path = self.0.join(path);
        let folder = path.parent().expect("a folder");
        fs::create_dir_all(folder).expect("a folder");
        #[cfg(unix)]
        std::os::unix::fs::symlink(target, &path).expect("a link");
        #[cfg(not(unix))]
        let _ = fs::copy(folder.join(target), &path);
    }

    fn store(&self, keeper: Keeper, folder: &str) -> Store {
        Store { keeper, root: self.0.join(folder) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A small model, told from others by its number.
fn model(number: u32, kind: &str) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", if kind == "mmproj" { "clip" } else { "llama" }).set("general.type", kind);
    writer.set("general.name", format!("Loom {number}")).set("general.file_type", 15u32).set("llama.context_length", 4096u32);
    writer.set("general.license", "apache-2.0").set("number", number);
    writer.tensor("token_embd.weight", &[32, 4], TensorType::F32).expect("a tensor");
    let mut body = writer.start(Vec::new()).expect("a header");
    body.append(&[number as u8; 512]).expect("data");
    body.finish().expect("a file")
}

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const C: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
const D: &str = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";

/// Two snapshots: the same Q4_K_M in both, a Q8_0 in the newer, an mmproj, a split model that lacks a part, a blob that is gone.
fn hugging_face(scratch: &Scratch) -> Store {
    let repository = "hf/models--ada--Loom-2--GGUF";
    scratch.put(&format!("{repository}/blobs/{A}"), &model(1, "model"));
    scratch.put(&format!("{repository}/blobs/{B}"), &model(2, "model"));
    scratch.put(&format!("{repository}/blobs/{C}"), &model(3, "mmproj"));
    scratch.put(&format!("{repository}/blobs/{D}.hob.incomplete"), &[0; 2 << 20]);
    scratch.put(&format!("{repository}/refs/main"), b"2222");
    for (path, blob) in [
        ("1111/loom-Q4_K_M.gguf", A),
        ("2222/loom-Q4_K_M.gguf", A),
        ("2222/loom-Q8_0.gguf", B),
        ("2222/mmproj-loom-F16.gguf", C),
        ("2222/gone-Q5_0.gguf", D),
        ("2222/config.json", A),
    ] {
        scratch.link(&format!("{repository}/snapshots/{path}"), &format!("../../blobs/{blob}"));
    }
    scratch.link(&format!("{repository}/snapshots/2222/F16/loom-F16-00001-of-00002.gguf"), &format!("../../../blobs/{B}"));
    scratch.put("hf/datasets--ada--texts/refs/main", b"1");
    scratch.put("hf/models--broken", b"not a folder");
    scratch.put("hf/version.txt", b"1");
    scratch.store(Keeper::HuggingFace, "hf")
}

fn manifest(layers: &[(&str, &str)]) -> Vec<u8> {
    let layers: Vec<serde_json::Value> = layers
        .iter()
        .map(|(kind, hash)| serde_json::json!({ "mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": format!("sha256:{hash}"), "size": 1 }))
        .collect();
    serde_json::json!({ "schemaVersion": 2, "config": { "digest": format!("sha256:{C}") }, "layers": layers }).to_string().into_bytes()
}

fn ollama(scratch: &Scratch) -> Store {
    let names = "ollama/manifests/registry.ollama.ai";
    scratch.put(&format!("{names}/library/loom/4b"), &manifest(&[("model", A), ("template", D), ("projector", B)]));
    scratch.put(&format!("{names}/library/loom/latest"), &manifest(&[("model", A)]));
    scratch.put(&format!("{names}/bea/knit/latest"), &manifest(&[("model", B)]));
    scratch.put("ollama/manifests/hf.co/ada/Loom-GGUF/Q8_0", &manifest(&[("model", B)]));
    scratch.put(&format!("{names}/library/gone/1b"), &manifest(&[("model", D)]));
    scratch.put(&format!("{names}/library/cloud/120b"), &manifest(&[]));
    scratch.put(&format!("{names}/library/tensors/1b"), &manifest(&[("tensor", A)]));
    scratch.put(&format!("{names}/library/cut/1b"), &manifest(&[("model", A)])[..60]);
    scratch.put(&format!("{names}/library/evil/1b"), &manifest(&[("model", "../../../../etc/passwd")]));
    scratch.put(&format!("{names}/library/stray"), b"a file where a folder should be");
    scratch.put(&format!("ollama/blobs/sha256-{A}"), &model(1, "model"));
    scratch.put(&format!("ollama/blobs/sha256-{B}"), &model(2, "model"));
    scratch.put(&format!("ollama/blobs/sha256-{C}"), b"{}");
    scratch.store(Keeper::Ollama, "ollama")
}

/// Each entry's first name, and what is wrong with it.
fn told(listing: &Listing) -> Vec<(&str, Option<&str>)> {
    listing.entries.iter().map(|entry| (entry.name(), entry.broken())).collect()
}

#[test]
fn the_cache_of_hugging_face_is_listed() {
    let scratch = Scratch::new();
    let listing = Listing::of(vec![hugging_face(&scratch)]);
    let names: Vec<&str> = listing.entries.iter().map(|entry| entry.name()).collect();
    assert_eq!(
        names,
        [
            "ada/Loom-2--GGUF/mmproj-loom-F16.gguf",
            "ada/Loom-2--GGUF:F16",
            "ada/Loom-2--GGUF:Q4_K_M",
            "ada/Loom-2--GGUF:Q5_0",
            "ada/Loom-2--GGUF:Q8_0"
        ]
    );
    let broken: Vec<&str> = listing.entries.iter().filter_map(|entry| entry.broken()).collect();
    assert!(broken[0].starts_with("part 2 of 2 is missing"), "{broken:?}");
    #[cfg(unix)]
    assert_eq!(broken[1], "its blob dddddddddddd is gone; `hob pull ada/Loom-2--GGUF:Q5_0` brings it again");
    assert!(listing.remarks.iter().any(|remark| remark.contains("2.0 MiB of an unfinished download")), "{:?}", listing.remarks);
    let entry = &listing.entries[2];
    #[cfg(unix)]
    assert_eq!(entry.sha256.as_deref(), Some(A));
    let about = entry.about().expect("a sound file");
    assert_eq!((about.role, about.family.as_str(), about.quantization.as_str()), (Role::Model, "llama", "Q4_K_M"));
    assert_eq!((about.parameters, about.context, about.licence.as_deref()), (128, Some(4096), Some("apache-2.0")));
    assert_eq!(listing.entries[0].about().expect("a sound file").role, Role::Projector);
    assert!(listing.entries[0].is_beside() && listing.entries[3].about().is_err());
}

#[test]
fn ollamas_manifests_are_listed_or_explained() {
    let scratch = Scratch::new();
    let listing = Listing::of(vec![ollama(&scratch)]);
    let told = told(&listing);
    let why = |name: &str| told.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} is not listed: {told:?}")).1;
    for name in ["loom:4b", "loom:latest", "bea/knit:latest", "hf.co/ada/Loom-GGUF:Q8_0"] {
        assert_eq!(why(name), None);
    }
    for (name, text) in [
        ("gone:1b", "its blob sha256-dddddddddddd… is gone; `ollama pull gone:1b` brings it again"),
        ("cloud:120b", "no weights here"),
        ("tensors:1b", "not GGUF"),
        ("cut:1b", "is no JSON"),
        ("evil:1b", "names a blob that is no SHA-256"),
    ] {
        assert!(why(name).is_some_and(|why| why.contains(text)), "{name}: {:?}", why(name));
    }
    assert_eq!(told.len(), 9);
}

#[test]
fn folders_are_listed_with_their_parts_and_dead_links() {
    let scratch = Scratch::new();
    scratch.put("lm/ada/Loom-GGUF/loom-Q4_K_M.gguf", &model(1, "model"));
    scratch.put("lm/ada/Loom-GGUF/mmproj-loom.gguf", &model(2, "mmproj"));
    scratch.put("lm/bea/Big/big-Q2_K-00001-of-00003.gguf", &model(3, "model"));
    scratch.put("lm/bea/Big/big-Q2_K-00003-of-00003.gguf", &model(4, "model"));
    scratch.put("lm/bea/Big/empty.gguf", b"");
    scratch.put("lm/bea/Big/text.gguf", b"This is no model.");
    scratch.put("lm/.internal/hidden.gguf", &model(5, "model"));
    #[cfg(unix)]
    {
        scratch.link("lm/bea/dead.gguf", "/nowhere/at/all.gguf");
        scratch.link("lm/bea/round", "..");
    }
    scratch.put("llama/ada_Loom-GGUF_loom-Q8_0.gguf", &model(6, "model"));
    scratch.put("llama/ada_Loom-GGUF_loom-Q8_0.gguf.etag", b"x");
    scratch.put("llama/manifest=ada=Loom-GGUF=latest.json", b"{}");
    scratch.put("llama/tiny.gguf.downloadInProgress", b"x");
    scratch.put("own/deep/er/knit.gguf", &model(7, "model"));
    let stores = [(Keeper::LmStudio, "lm"), (Keeper::LlamaCpp, "llama"), (Keeper::Folder, "own"), (Keeper::Folder, "no such folder")];
    let listing = Listing::of(stores.into_iter().map(|(keeper, folder)| scratch.store(keeper, folder)).collect());
    let told = told(&listing);
    let why = |name: &str| told.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} is not listed: {told:?}")).1;
    for name in ["ada/Loom-GGUF:Q4_K_M", "ada/Loom-GGUF/mmproj-loom.gguf", "bea/Big/text.gguf", "ada/Loom-GGUF:Q8_0", "knit"] {
        assert_eq!(why(name), None, "{name}");
    }
    assert_eq!(why("bea/Big:Q2_K"), Some("part 2 of 3 is missing"));
    assert_eq!(why("bea/Big/empty.gguf"), Some("empty.gguf is empty"));
    #[cfg(unix)]
    assert_eq!(why("dead"), Some("dead.gguf is a link to /nowhere/at/all.gguf, which is not there"));
    assert!(listing.remarks.is_empty() && !told.iter().any(|(name, _)| name.contains("hidden") || name.contains("Progress")));
    let text = listing.entries.iter().find(|entry| entry.name() == "bea/Big/text.gguf").expect("it is listed");
    assert!(text.about().expect_err("it is no model").to_string().contains("expected a GGUF file"));
}

#[test]
fn names_lead_to_models() {
    let scratch = Scratch::new();
    scratch.put("own/knit.gguf", &model(1, "model")); // the same as Loom's Q4_K_M
    scratch.put("own/purl-Q4_0.gguf", &model(8, "model"));
    scratch.put("own/purl-Q5_0.gguf", &model(9, "model"));
    let listing = Listing::of(vec![hugging_face(&scratch), ollama(&scratch), scratch.store(Keeper::Folder, "own")]);
    let find = |name: &str| match listing.find(name) {
        Found::One(entry) => entry.name().to_owned(),
        Found::Several(entries) => format!("several: {}", entries.len()),
        Found::Nothing(near) => format!("nothing, near {near:?}"),
    };
    for (name, want) in [
        ("loom:4b", "loom:4b"),
        ("LOOM", "loom:latest"),
        ("bea/knit", "bea/knit:latest"),
        ("ada/Loom-2--GGUF", "ada/Loom-2--GGUF:Q4_K_M"),
        ("https://huggingface.co/ada/Loom-2--GGUF", "ada/Loom-2--GGUF:Q4_K_M"),
        ("hf.co/ada/loom-2--gguf:q8_0", "ada/Loom-2--GGUF:Q8_0"),
        ("Loom-2--GGUF:Q8_0", "ada/Loom-2--GGUF:Q8_0"),
        ("loom-Q8_0.gguf", "ada/Loom-2--GGUF:Q8_0"),
        ("hf.co/ada/Loom-GGUF:Q8_0", "hf.co/ada/Loom-GGUF:Q8_0"),
        ("ada/Loom-GGUF", "hf.co/ada/Loom-GGUF:Q8_0"),
        ("purl-Q5_0", "purl-Q5_0"),
        ("purl-q5_1", "nothing, near [\"purl-Q5_0\", \"purl-Q4_0\"]"),
        ("gone:1b", "gone:1b"),
        ("zebra", "nothing, near []"),
        ("", "nothing, near []"),
    ] {
        assert_eq!(find(name), want, "{name}");
    }
    // Two that are not the same, under one name.
    scratch.put("own/more/purl-Q5_0.gguf", &model(10, "model"));
    let listing = Listing::of(vec![scratch.store(Keeper::Folder, "own")]);
    assert!(matches!(listing.find("purl-Q5_0"), Found::Several(entries) if entries.len() == 2));
    // Two that are.
    scratch.put("own/more/purl-Q5_0.gguf", &model(9, "model"));
    assert!(matches!(listing.find("purl-Q5_0"), Found::One(_)));
}

#[test]
fn twins_are_told_by_place_hash_and_content() {
    let scratch = Scratch::new();
    scratch.put("own/knit.gguf", &model(1, "model"));
    scratch.put("own/other.gguf", &model(11, "model"));
    let mut listing = Listing::of(vec![hugging_face(&scratch), ollama(&scratch), scratch.store(Keeper::Folder, "own")]);
    listing.entries.retain(|entry| entry.state == State::Whole);
    let twins = listing.twins();
    let of = |name: &str| {
        let at = listing.entries.iter().position(|entry| entry.name() == name).unwrap_or_else(|| panic!("{name}"));
        let mut names: Vec<&str> = twins[at].iter().map(|at| listing.entries[*at].name()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(of("ada/Loom-2--GGUF:Q4_K_M"), ["knit", "loom:4b", "loom:latest"]);
    assert_eq!(of("knit"), ["ada/Loom-2--GGUF:Q4_K_M", "loom:4b", "loom:latest"]);
    assert_eq!(of("bea/knit:latest"), ["ada/Loom-2--GGUF:Q8_0", "hf.co/ada/Loom-GGUF:Q8_0"]);
    assert!(of("other").is_empty());
}

fn remove(listing: &Listing, name: &str) -> (Removal, Vec<String>) {
    let Found::One(entry) = listing.find(name) else { panic!("{name}") };
    let removal = Removal::of(entry).expect("a store that can be read");
    let root = &entry.store.root;
    let short = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
    let mut goes: Vec<String> = removal.files.iter().map(|path| short(path)).collect();
    goes.sort();
    removal.carry_out(entry).expect("nothing stands in the way");
    (removal, goes)
}

#[cfg(unix)]
#[test]
fn of_the_cache_goes_what_nothing_else_uses() {
    let scratch = Scratch::new();
    let store = hugging_face(&scratch);
    let list = || Listing::of(vec![store.clone()]);
    let listing = list();
    // Its blob is that of a part of another model, too.
    let (removal, goes) = remove(&listing, "ada/Loom-2--GGUF:Q8_0");
    assert_eq!(goes, ["models--ada--Loom-2--GGUF/snapshots/2222/loom-Q8_0.gguf"]);
    assert!(removal.bytes == 0 && removal.kept.len() == 1, "{removal:?}");
    // Both snapshots have it, and something else that is no model links to it.
    let (removal, goes) = remove(&listing, "ada/Loom-2--GGUF:Q4_K_M");
    assert_eq!(goes.len(), 2, "{goes:?}");
    assert!(removal.kept[0].1.contains("config.json"));
    fs::remove_file(store.root.join("models--ada--Loom-2--GGUF/snapshots/2222/config.json")).expect("it is there");
    let (removal, goes) = remove(&listing, "mmproj-loom-F16");
    assert!(goes.contains(&format!("models--ada--Loom-2--GGUF/blobs/{C}")) && removal.bytes > 512);
    remove(&listing, "gone-Q5_0");
    let (_, goes) = remove(&listing, "ada/Loom-2--GGUF:F16");
    assert!(goes.contains(&format!("models--ada--Loom-2--GGUF/blobs/{B}")), "{goes:?}");
    assert!(list().entries.is_empty());
    assert!(!store.root.join("models--ada--Loom-2--GGUF/snapshots").exists());
}

#[test]
fn of_ollamas_store_goes_what_no_other_model_uses() {
    let scratch = Scratch::new();
    let store = ollama(&scratch);
    for broken in ["cut", "evil", "gone", "tensors"] {
        let folder = store.root.join("manifests/registry.ollama.ai/library").join(broken);
        if broken != "cut" {
            fs::remove_dir_all(folder).expect("it is there");
        }
    }
    let list = || Listing::of(vec![store.clone()]);
    // While a manifest cannot be read, nobody knows what it uses.
    let (removal, goes) = remove(&list(), "loom:4b");
    assert_eq!(goes, ["manifests/registry.ollama.ai/library/loom/4b"]);
    assert!(removal.kept[0].1.contains("cannot be read"));
    fs::remove_dir_all(store.root.join("manifests/registry.ollama.ai/library/cut")).expect("it is there");
    let (removal, goes) = remove(&list(), "bea/knit");
    assert_eq!(goes, ["manifests/registry.ollama.ai/bea/knit/latest"]);
    assert!(removal.kept.iter().all(|(_, why)| why.contains("another of ollama's models")) && removal.kept.len() == 2, "{removal:?}");
    let (_, goes) = remove(&list(), "hf.co/ada/Loom-GGUF:Q8_0");
    assert_eq!(goes, [format!("blobs/sha256-{B}"), "manifests/hf.co/ada/Loom-GGUF/Q8_0".to_owned()]);
    assert!(!store.root.join("manifests/hf.co").exists() && store.root.join("manifests/registry.ollama.ai/library/loom").exists());
}

#[test]
fn of_a_folder_goes_the_file_or_the_link() {
    let scratch = Scratch::new();
    scratch.put("own/sub/knit.gguf", &model(1, "model"));
    let listing = Listing::of(vec![scratch.store(Keeper::Folder, "own")]);
    let (removal, goes) = remove(&listing, "knit");
    assert_eq!((goes, removal.bytes > 512), (vec!["sub/knit.gguf".to_owned()], true));
    assert!(!scratch.0.join("own/sub").exists() && scratch.0.join("own").exists());
    #[cfg(unix)]
    {
        let target = scratch.put("elsewhere/purl.gguf", &model(2, "model"));
        scratch.link("own/purl.gguf", "../elsewhere/purl.gguf");
        let (removal, _) = remove(&Listing::of(vec![scratch.store(Keeper::Folder, "own")]), "purl");
        assert!(removal.bytes == 0 && removal.kept.len() == 1 && target.exists());
    }
}
