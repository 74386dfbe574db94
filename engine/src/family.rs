//! FAMILIES: what files do not say, one row per family. Architecture names appear nowhere else.
//!
//! To add a family whose facts exist already, add its name to a row or a row to the table; tests iterate over it.

use crate::backend::Weighed;
use crate::block::rope::Pairing;
use crate::config::{Config, Scaling};
use crate::error::{Error, Fault, Result};
use hob_kernels::ops::{Activation, Gate, Renormalize};

/// What a family's files leave unsaid.
#[derive(Debug)]
pub struct Family {
    /// `general.architecture` of its files.
    pub names: &'static [&'static str],
    /// What its users call it, for lists.
    pub models: &'static str,
    /// Which channels of a head are rotated together.
    pub pairing: Pairing,
    /// Activation of the feed-forward blocks.
    pub activation: Activation,
    /// Factor on the embeddings where the file has none.
    pub embedding: EmbeddingScale,
    /// Which layers have the window, where the file has a window and does not say it itself.
    pub windows: Windows,
    /// Which layers turn queries and keys.
    pub ropes: Ropes,
    /// What the logit scale in the file does.
    pub logit_scale: LogitScale,
    /// How a router's logits become weights.
    pub gate: Gate,
    /// Whether the chosen weights are made to sum to one, where the file does not say.
    pub renormalize: Renormalize,
    /// What the weights of the chosen experts multiply.
    pub weighed: Weighed,
    /// What history made odd about the files.
    pub fix: fn(&mut Config),
}

/// Factor on the embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingScale {
    /// None.
    One,
    /// √width (Gemma).
    SqrtWidth,
}

/// Which layers look through the sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// All of them (Mistral 7B v0.1, Phi-3).
    All,
    /// All but the last of every n.
    AllButEvery(usize),
}

/// Which layers have a rope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ropes {
    /// All of them.
    All,
    /// Those with a window; the others know no positions (Cohere 2).
    Windowed,
    /// All but the last of every n (SmolLM 3).
    AllButEvery(usize),
    /// None: positions come in otherwise, or not at all.
    None,
}

/// What a logit scale does to the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitScale {
    /// They are multiplied by it (Cohere).
    Factor,
    /// They are divided by it (Granite).
    Divisor,
}

const BASE: Family = Family {
    names: &[],
    models: "",
    pairing: Pairing::Halves,
    activation: Activation::Silu,
    embedding: EmbeddingScale::One,
    windows: Windows::All,
    ropes: Ropes::All,
    logit_scale: LogitScale::Factor,
    gate: Gate::Softmax,
    renormalize: Renormalize::Yes,
    weighed: Weighed::Output,
    fix: |_| {},
};

/// All families.
pub static FAMILIES: &[Family] = &[
    Family { names: &["llama"], models: "Llama 1–3.x, Mistral, Mixtral, Yi, TinyLlama", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["qwen2"], models: "Qwen 2 and 2.5, QwQ", ..BASE },
    Family { names: &["qwen2moe"], models: "Qwen 1.5 and 2 MoE", renormalize: Renormalize::No, ..BASE },
    Family { names: &["qwen3"], models: "Qwen 3", ..BASE },
    Family { names: &["qwen3moe"], models: "Qwen 3 MoE", ..BASE },
    Family {
        names: &["gemma2"],
        models: "Gemma 2",
        activation: Activation::GeluTanh,
        embedding: EmbeddingScale::SqrtWidth,
        windows: Windows::AllButEvery(2),
        fix: gemma2,
        ..BASE
    },
    Family {
        names: &["gemma3"],
        models: "Gemma 3",
        activation: Activation::GeluTanh,
        embedding: EmbeddingScale::SqrtWidth,
        windows: Windows::AllButEvery(6),
        fix: gemma3,
        ..BASE
    },
    Family {
        names: &["gpt-oss"],
        models: "gpt-oss",
        activation: Activation::SwigluOai,
        windows: Windows::AllButEvery(2),
        gate: Gate::SoftmaxTopK,
        renormalize: Renormalize::No,
        ..BASE
    },
    Family {
        names: &["deepseek2", "mistral4"],
        models: "DeepSeek V2, V3, R1, Kimi K2, GLM-4.7 Flash, Mistral Large 3 and Small 4",
        pairing: Pairing::Adjacent,
        renormalize: Renormalize::No,
        fix: deepseek,
        ..BASE
    },
    Family { names: &["phi3"], models: "Phi-3, Phi-3.5, Phi-4", ..BASE },
    Family { names: &["command-r"], models: "Command R, Aya 23", pairing: Pairing::Adjacent, ..BASE },
    Family {
        names: &["cohere2"],
        models: "Command R7B, Command A",
        pairing: Pairing::Adjacent,
        windows: Windows::AllButEvery(4),
        ropes: Ropes::Windowed,
        ..BASE
    },
    Family { names: &["ernie4_5", "ernie4_5-moe"], models: "ERNIE 4.5", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["glm4"], models: "GLM-4-0414, GLM-Z1", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["glm4moe"], models: "GLM-4.5, GLM-4.6, GLM-4.7", gate: Gate::Sigmoid, ..BASE },
    Family {
        names: &["granite", "granitemoe"],
        models: "Granite 3 and 4 without Mamba",
        pairing: Pairing::Adjacent,
        logit_scale: LogitScale::Divisor,
        ..BASE
    },
    Family { names: &["mistral3"], models: "Ministral 3", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["olmo2"], models: "OLMo 2, OLMo 3", windows: Windows::AllButEvery(4), fix: olmo2, ..BASE },
    Family { names: &["olmoe"], models: "OLMoE", renormalize: Renormalize::No, ..BASE },
    Family { names: &["seed_oss"], models: "Seed-OSS", ..BASE },
    Family { names: &["smollm3"], models: "SmolLM3", pairing: Pairing::Adjacent, ropes: Ropes::AllButEvery(4), ..BASE },
    Family { names: &["starcoder2"], models: "StarCoder2", activation: Activation::GeluTanh, ..BASE },
];

/// The two temperatures that DeepSeek gives YaRN (mscale, mscale_all_dim) are equal in every model there is: so rotation keeps
/// lengths, and the second, of which files hold a tenth, is squared on the scores (DeepSeek-V2's modeling file, `softmax_scale`).
fn deepseek(config: &mut Config) {
    let (Some(latent), Scaling::Yarn { factor, .. }) = (config.latent, config.rope.scaling) else { return };
    if let Some(multiplier) = config.rope.yarn_log_multiplier.replace(1.0) {
        let temperature = 1.0 + multiplier * factor.max(1.0).ln();
        config.attention_scale.get_or_insert(temperature * temperature / (latent.key_dim as f32).sqrt());
    }
}

/// Early files carry no soft caps; the 27B model scales queries by the width per head (Gemma 2 report, table 1).
fn gemma2(config: &mut Config) {
    config.attention_softcap.get_or_insert(50.0);
    config.final_softcap.get_or_insert(30.0);
    config.window.get_or_insert(4096);
    if config.layers == 46 {
        per_width(config);
    }
}

/// Local layers turn at θ = 10⁴ without scaling; the 27B model scales queries by the width per head (Gemma 3 report).
fn gemma3(config: &mut Config) {
    config.rope.window_base.get_or_insert(10_000.0);
    if config.layers == 62 {
        per_width(config);
    }
}

/// Layers with a window turn without the stretch of the others (OLMo 3; `modeling_olmo3.py` of transformers).
fn olmo2(config: &mut Config) {
    config.rope.window_base.get_or_insert(config.rope.base);
}

fn per_width(config: &mut Config) {
    if let Some(heads) = config.heads.first().filter(|n| **n > 0) {
        config.attention_scale.get_or_insert(1.0 / ((config.width / heads) as f32).sqrt());
    }
}

impl Family {
    /// The family of an architecture.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names an architecture that is in no row.
    pub fn of(architecture: &str) -> Result<&'static Family> {
        FAMILIES.iter().find(|f| f.names.contains(&architecture)).ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().flat_map(|f| f.names).copied().collect();
            let fault = Fault::at("general.architecture").found(format!("hob has no family `{architecture}`"));
            Error::Unsupported(fault.help(format!("it runs {}", known.join(", "))))
        })
    }

    /// Whether layer `index` turns queries and keys.
    pub fn roped(&self, index: usize, windowed: bool) -> bool {
        match self.ropes {
            Ropes::All => true,
            Ropes::Windowed => windowed,
            Ropes::AllButEvery(n) => index % n != n - 1,
            Ropes::None => false,
        }
    }

    /// Whether layer `index` looks through the window, where the file does not say it.
    pub fn windowed(&self, index: usize) -> bool {
        match self.windows {
            Windows::All => true,
            Windows::AllButEvery(n) => index % n != n - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_row() {
        let mut names: Vec<_> = FAMILIES.iter().flat_map(|f| f.names).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        for name in names {
            assert!(Family::of(name).is_ok());
        }
    }

    #[test]
    fn an_unknown_architecture_is_named() {
        let error = Family::of("rwkv7").unwrap_err().to_string();
        assert!(error.contains("`rwkv7`") && error.contains("qwen3moe"), "{error}");
    }

    #[test]
    fn gemma_2_alternates_and_gemma_3_has_five_local_layers() {
        let windowed = |name, n| (0..n).map(|i| Family::of(name).unwrap().windowed(i)).collect::<Vec<_>>();
        assert_eq!(windowed("gemma2", 4), [true, false, true, false]);
        assert_eq!(windowed("gemma3", 7), [true, true, true, true, true, false, true]);
    }
}
