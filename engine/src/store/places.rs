//! Where programs keep their models on this machine, as their own variables and files say it.
//!
//! ```text
//! Hugging Face  $HF_HUB_CACHE, $HUGGINGFACE_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub
//! ollama        $OLLAMA_MODELS, ~/.ollama/models; as a service of the system /usr/share/ollama/.ollama/models, /var/lib/ollama/models
//! LM Studio     the home that ~/.lmstudio-home-pointer names, ~/.lmstudio, ~/.cache/lm-studio: its models folder,
//!               and the `downloadsFolder` of its settings.json
//! llama.cpp     $LLAMA_CACHE, ~/.cache/llama.cpp, ~/Library/Caches/llama.cpp, %LOCALAPPDATA%\llama.cpp
//! ```
//! Sources: huggingface_hub `constants.py`; ollama `envconfig/config.go` and its service file; LM Studio's documentation; llama.cpp
//! `common/common.cpp` (`fs_get_cache_directory`).

use std::path::{Path, PathBuf};

use super::{Keeper, Store};

fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)?;
    // As shells do it, where a variable was set without one.
    match value.strip_prefix("~") {
        Ok(rest) => home().map(|home| home.join(rest)),
        Err(_) => Some(value),
    }
}

fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

/// The folder of Hugging Face: cache and token are in it.
fn hugging_face_home() -> Option<PathBuf> {
    let cache = || variable("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")));
    variable("HF_HOME").or_else(|| cache().map(|cache| cache.join("huggingface")))
}

/// The cache of Hugging Face, whether it is there or not.
pub fn hugging_face() -> Option<PathBuf> {
    let named = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
    named.or_else(|| hugging_face_home().map(|home| home.join("hub")))
}

/// Who asks: `HF_TOKEN`, else the file that `hf auth login` writes.
#[cfg(feature = "hub")]
pub(crate) fn token() -> Option<String> {
    let said = |name: &str| std::env::var(name).ok();
    let file = || std::fs::read_to_string(variable("HF_TOKEN_PATH").or_else(|| hugging_face_home().map(|home| home.join("token")))?).ok();
    let unasked = said("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value));
    let token = said("HF_TOKEN").or_else(|| said("HUGGING_FACE_HUB_TOKEN")).filter(|token| !token.trim().is_empty());
    // A token is of visible characters; line ends come from files and from copying.
    token.or_else(|| file().filter(|_| !unasked)).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// The variable that says that the network is not to be used.
pub fn offline() -> Option<&'static str> {
    let names = ["HOB_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];
    names.into_iter().find(|name| std::env::var(name).is_ok_and(|value| is_true(&value)))
}

pub(crate) fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// The stores of this machine's programs that are there, and the folders of `HOB_MODELS`.
pub(super) fn stores() -> Vec<Store> {
    let mut stores: Vec<Store> = Vec::new();
    let mut add = |keeper: Keeper, place: Option<PathBuf>| {
        let Some(root) = place.filter(|place| place.is_dir()) else { return };
        // The same folder by two ways is one store; the first to claim it has it.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if !stores.iter().any(|store| real(&store.root) == real(&root)) {
            stores.push(Store { keeper, root });
        }
    };
    let at_home = |path: &str| home().map(|home| home.join(path));
    add(Keeper::HuggingFace, hugging_face());
    match variable("OLLAMA_MODELS") {
        Some(place) => add(Keeper::Ollama, Some(place)),
        None => {
            let service = ["/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models", "/var/lib/ollama/models"];
            let all = at_home(".ollama/models").into_iter().chain(service.map(PathBuf::from));
            all.for_each(|place| add(Keeper::Ollama, Some(place)));
        }
    }
    let pointed = at_home(".lmstudio-home-pointer").and_then(|file| std::fs::read_to_string(file).ok());
    let pointed = pointed.and_then(|text| text.lines().next().map(|line| PathBuf::from(line.trim())));
    for lm in pointed.into_iter().chain(at_home(".lmstudio")).chain(at_home(".cache/lm-studio")) {
        add(Keeper::LmStudio, chosen(&lm));
        add(Keeper::LmStudio, Some(lm.join("models")));
    }
    let local = || if cfg!(windows) { variable("LOCALAPPDATA") } else { variable("XDG_CACHE_HOME").or_else(|| at_home(".cache")) };
    match variable("LLAMA_CACHE") {
        Some(place) => add(Keeper::LlamaCpp, Some(place)),
        None if cfg!(target_os = "macos") => add(Keeper::LlamaCpp, at_home("Library/Caches/llama.cpp")),
        None => add(Keeper::LlamaCpp, local().map(|cache| cache.join("llama.cpp"))),
    }
    for folder in given() {
        add(Keeper::Folder, Some(folder));
    }
    stores
}

/// The folders of `HOB_MODELS`, separated as those of `PATH` are.
pub fn given() -> Vec<PathBuf> {
    let list = std::env::var_os("HOB_MODELS").unwrap_or_default();
    std::env::split_paths(&list).filter(|folder| !folder.as_os_str().is_empty()).collect()
}

/// The folder that LM Studio's user has chosen for downloads.
fn chosen(lm: &Path) -> Option<PathBuf> {
    let settings = std::fs::read(lm.join("settings.json")).ok()?;
    let settings: serde_json::Value = serde_json::from_slice(&settings).ok()?;
    settings["downloadsFolder"].as_str().map(PathBuf::from)
}
