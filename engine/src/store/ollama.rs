//! ollama's store: a manifest a name, which lists the blobs of a model as a container's image lists its layers.
//!
//! ```text
//! manifests/registry.ollama.ai/library/qwen3/4b        qwen3:4b
//! manifests/registry.ollama.ai/ada/loom/latest         ada/loom:latest
//! manifests/hf.co/ada/Loom-GGUF/Q4_K_M                 hf.co/ada/Loom-GGUF:Q4_K_M
//!   {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:HEX", "size": N}, … projector, template, license]}
//! blobs/sha256-HEX
//! ```
//! Source: ollama's `manifest/manifest.go`, `manifest/paths.go` and `types/model/name.go`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Entry, Listing, State, Store, file_name, inside, name, size};

/// What a manifest calls the layer that is a GGUF file.
const MODEL: &str = "application/vnd.ollama.image.model";

pub(super) fn list(store: &Store, listing: &mut Listing) {
    for host in inside(&store.root.join("manifests"), listing) {
        for user in folders(&host, listing) {
            for model in folders(&user, listing) {
                for tag in inside(&model, listing) {
                    if !tag.is_file() || file_name(&tag).starts_with('.') {
                        continue;
                    }
                    let entry = entry(store, &tag, &called([&host, &user, &model, &tag].map(|part| file_name(part))));
                    listing.entries.push(entry);
                }
            }
        }
    }
}

fn folders(folder: &Path, listing: &mut Listing) -> Vec<PathBuf> {
    if !folder.is_dir() {
        return Vec::new();
    }
    inside(folder, listing).into_iter().filter(|inner| inner.is_dir()).collect()
}

/// The name as ollama shows it: what goes without saying is not said.
fn called([host, user, model, tag]: [String; 4]) -> String {
    match (host.as_str(), user.as_str()) {
        ("registry.ollama.ai", "library") => format!("{model}:{tag}"),
        ("registry.ollama.ai", _) => format!("{user}/{model}:{tag}"),
        _ => format!("{host}/{user}/{model}:{tag}"),
    }
}

fn entry(store: &Store, manifest: &Path, called: &str) -> Entry {
    let mut names = vec![called.to_owned()];
    names.extend(called.strip_suffix(":latest").map(str::to_owned));
    let hub = called.strip_prefix("hf.co/").or_else(|| called.strip_prefix("huggingface.co/"));
    names.extend(hub.map(str::to_owned));
    let repository = hub.and_then(|name| name.split(':').next()).map(str::to_owned);
    let tag = called.rsplit(':').next().unwrap_or_default();
    let mut entry = Entry {
        store: store.clone(),
        names,
        repository,
        quantization: name::quantization(tag).map(str::to_owned),
        files: Vec::new(),
        bytes: 0,
        sha256: None,
        state: State::Whole,
    };
    match layers(manifest) {
        Ok(hashes) => {
            entry.files = hashes.iter().map(|hash| store.root.join("blobs").join(format!("sha256-{hash}"))).collect();
            entry.bytes = entry.files.iter().filter_map(|file| size(file)).sum();
            entry.sha256 = hashes.first().cloned();
            let broken = match (entry.files.as_slice(), entry.files.iter().find(|file| size(file).is_none())) {
                (_, Some(gone)) => {
                    let blob: String = file_name(gone).chars().take(19).collect();
                    Some(format!("its blob {blob}… is gone; `ollama pull {called}` brings it again"))
                }
                ([_], None) => None,
                (several, None) => Some(format!("its weights are {} blobs, whose order hob does not know", several.len())),
            };
            entry.state = broken.map_or(State::Whole, State::Broken);
        }
        Err(why) => entry.state = State::Broken(why),
    }
    entry
}

/// The hashes of the layers that are GGUF files.
fn layers(manifest: &Path) -> Result<Vec<String>, String> {
    let json = read(manifest)?;
    let broken = |why: &str| format!("its manifest {} {why}", manifest.display());
    let Some(layers) = json["layers"].as_array() else { return Err(broken("lists no layers")) };
    let models: Vec<&Value> = layers.iter().filter(|layer| layer["mediaType"].as_str() == Some(MODEL)).collect();
    if models.is_empty() {
        let tensors = layers.iter().any(|layer| layer["mediaType"].as_str().is_some_and(|kind| kind.ends_with(".tensor")));
        let why = if tensors { "its weights are not GGUF" } else { "it has no weights here: a model of ollama's cloud, or an adapter" };
        return Err(why.to_owned());
    }
    models.iter().map(|layer| hash(layer).ok_or_else(|| broken("names a blob that is no SHA-256"))).collect()
}

/// The hashes of all layers, and of the configuration, which is a blob too.
pub(super) fn blobs(manifest: &Path) -> Result<Vec<String>, String> {
    let json = read(manifest)?;
    let layers = json["layers"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(layers.iter().chain([&json["config"]]).filter_map(hash).collect())
}

fn hash(layer: &Value) -> Option<String> {
    let digest = layer["digest"].as_str()?;
    let hash = digest.strip_prefix("sha256:").or_else(|| digest.strip_prefix("sha256-"))?;
    (hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())).then(|| hash.to_ascii_lowercase())
}

fn read(manifest: &Path) -> Result<Value, String> {
    /// No manifest is larger; what is, is something else.
    const MOST: u64 = 4 << 20;
    let broken = |why: &str| format!("its manifest {} {why}", manifest.display());
    if size(manifest).is_none_or(|bytes| bytes > MOST) {
        return Err(broken("is too large to be one"));
    }
    let text = std::fs::read(manifest).map_err(|error| broken(&format!("cannot be read ({error})")))?;
    serde_json::from_slice(&text).map_err(|error| broken(&format!("is no JSON ({error})")))
}
