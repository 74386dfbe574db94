//! What a model is, in a few facts from its header.

use crate::error::Result;
use crate::family::{Family, PROJECTOR};
use crate::gguf::Gguf;

use super::{Entry, name};

/// `general.file_type`: what most of the file was made as (llama.h, `llama_ftype`).
const FILE_TYPES: [(u32, &str); 34] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (21, "Q2_K_S"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (25, "IQ4_NL"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (30, "IQ4_XS"),
    (31, "IQ1_M"),
    (32, "BF16"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4_MOE"),
    (39, "NVFP4"),
];

/// What a file says it was made as, or else the type that takes most of its bytes.
pub fn file_type(gguf: &Gguf) -> &'static str {
    let said = gguf.metadata().u32("general.file_type").ok().flatten();
    let named = said.and_then(|said| FILE_TYPES.iter().find(|(id, _)| *id == said)).map(|(_, name)| *name);
    let largest = || {
        let mut kinds: Vec<(&'static str, u64)> = Vec::new();
        for tensor in gguf.tensors() {
            match kinds.iter_mut().find(|(name, _)| *name == tensor.kind.name()) {
                Some((_, bytes)) => *bytes += tensor.size(),
                None => kinds.push((tensor.kind.name(), tensor.size())),
            }
        }
        kinds.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(name, _)| name)
    };
    named.or_else(largest).unwrap_or("empty")
}

/// What a GGUF file is for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// A language model.
    Model,
    /// What turns pictures or sound into tokens for a model (`mmproj`).
    Projector,
    /// A change to a model (LoRA).
    Adapter,
    /// A vocabulary without weights.
    Vocabulary,
    /// Something else, by the file's own word: `imatrix`, `diffusion` …
    Other(String),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Role::Model => "model",
            Role::Projector => "mmproj",
            Role::Adapter => "adapter",
            Role::Vocabulary => "vocabulary",
            Role::Other(other) => other,
        })
    }
}

/// A model in a few facts.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// What the file is for.
    pub role: Role,
    /// What the file calls itself.
    pub title: Option<String>,
    /// Its `general.architecture`.
    pub family: String,
    /// Whether hob has this architecture.
    pub known: bool,
    /// As its maker or its largest part says: `Q4_K_M`.
    pub quantization: String,
    /// Weights in all.
    pub parameters: u64,
    /// Tokens that it was trained for.
    pub context: Option<u64>,
    /// The licence that it says it is under.
    pub licence: Option<String>,
    /// Whether it knows how to converse: it has a chat template.
    pub chats: bool,
}

impl About {
    /// The facts of an open file, or of a header alone.
    pub fn of(gguf: &Gguf) -> About {
        let metadata = gguf.metadata();
        let text = |key: &str| metadata.str(key).ok().flatten().map(str::to_owned).filter(|text| !text.is_empty());
        let family = text("general.architecture").unwrap_or_default();
        let said = text("general.type").unwrap_or_default();
        let role = match said.as_str() {
            "mmproj" => Role::Projector,
            "adapter" => Role::Adapter,
            _ if family == PROJECTOR => Role::Projector,
            "model" | "" if gguf.tensors().len() == 0 => Role::Vocabulary,
            "model" | "" => Role::Model,
            other => Role::Other(other.to_owned()),
        };
        About {
            role,
            title: text("general.name").or_else(|| text("general.basename")),
            known: Family::of(&family).is_ok(),
            quantization: file_type(gguf).to_owned(),
            parameters: gguf.tensors().map(|tensor| tensor.elements()).sum(),
            context: metadata.u64(&format!("{family}.context_length")).ok().flatten(),
            licence: text("general.license").or_else(|| text("general.license.name")),
            chats: metadata.get("tokenizer.chat_template").is_some(),
            family,
        }
    }
}

impl Entry {
    /// Opens it for its facts.
    ///
    /// # Errors
    /// As [`Gguf::open`]; [`crate::Error::Input`] where the entry is broken.
    pub fn about(&self) -> Result<About> {
        let mut about = About::of(&Gguf::open(self.usable()?)?);
        // `general.file_type` of mixtures that came after it was written says less than the name does.
        if let Some(said) = self.quantization.as_deref().and_then(|said| said.strip_prefix("UD-")) {
            about.quantization = format!("UD-{said}");
        }
        if about.role == Role::Model && self.files.first().and_then(|file| file.to_str()).is_some_and(name::is_beside) {
            about.role = Role::Other("beside".to_owned());
        }
        Ok(about)
    }

    /// The file that opens it.
    ///
    /// # Errors
    /// [`crate::Error::Input`] where the entry is broken, with the reason.
    pub fn usable(&self) -> Result<&std::path::Path> {
        match (self.path(), &self.state) {
            (Some(path), _) => Ok(path),
            (None, super::State::Broken(why)) => Err(crate::Error::Input(crate::Fault::at(self.name()).found(why))),
            (None, super::State::Whole) => Err(crate::Error::Input(crate::Fault::at(self.name()).found("no file"))),
        }
    }
}
