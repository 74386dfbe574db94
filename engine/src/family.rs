//! FAMILIES: what files do not say, one row per family. Architecture names appear nowhere else.
//!
//! To add a family whose facts exist already, add its name to a row or a row to the table; tests iterate over it. Each has been
//! held against a reference's logits: `.ci/peer.py` does it against llama.cpp, from the small header that the tests need anyway.

use crate::backend::Weighed;
use crate::block::rope::Pairing;
use crate::config::{Config, NormKind, Scaling, Temperature, Tempered};
use crate::error::{Error, Fault, Result};
use hob_kernels::ops::{Activation, Gate, Renormalize};
use hob_kernels::recurrent::KeyHeads;

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
    /// Whether norms of the residual stream have weights.
    pub norms: Norms,
    /// Which layers have the window, where the file has a window and does not say it itself.
    pub windows: Windows,
    /// What a window is.
    pub looks: Looks,
    /// Where an attention layer's values come from.
    pub values: Values,
    /// Which layers turn queries and keys.
    pub ropes: Ropes,
    /// When queries and keys are normed, where they are.
    pub head_norms: HeadNorms,
    /// What the logit scale in the file does.
    pub logit_scale: LogitScale,
    /// What a router sees.
    pub router: RouterInput,
    /// How a router's logits become weights.
    pub gate: Gate,
    /// Whether the chosen weights are made to sum to one, where the file does not say.
    pub renormalize: Renormalize,
    /// What the weights of the chosen experts multiply.
    pub weighed: Weighed,
    /// Which key head a head of a delta layer reads.
    pub key_heads: KeyHeads,
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

/// Whether norms of the residual stream have weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// They have.
    Weighted,
    /// They have none (OLMo 1).
    Plain,
}

/// Which layers look through the sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// All of them (Mistral 7B v0.1, Phi-3).
    All,
    /// All but the last of every n.
    AllButEvery(usize),
    /// All but the first of every n.
    AllButFirst(usize),
}

/// What a window shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// The last positions.
    Sliding,
    /// Those of the same chunk (Llama 4).
    Chunked,
}

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// A projection of their own.
    Projected,
    /// The same, normed without a weight (Gemma 3n).
    Normed,
    /// The same, or that of the keys where a layer has none (Gemma 4).
    NormedOrKeys,
}

/// Which layers have a rope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ropes {
    /// All of them.
    All,
    /// Where the model has windows, the layers that have one; the others know no positions (Cohere 2, EXAONE 4).
    Windowed,
    /// All but the last of every n (SmolLM 3).
    AllButEvery(usize),
    /// None: positions come in otherwise, or not at all.
    None,
    /// None: a table has a vector for each position, which is added to the embedding (GPT-2).
    Learned,
}

/// When queries and keys are normed by weights of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorms {
    /// Before they are turned.
    BeforeRope,
    /// Afterwards (Hunyuan).
    AfterRope,
}

/// What an expert's router sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterInput {
    /// What its experts see.
    Experts,
    /// The residual stream at the beginning of the layer (SmallThinker: experts are known while attention goes on).
    Layer,
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
    norms: Norms::Weighted,
    windows: Windows::All,
    looks: Looks::Sliding,
    values: Values::Projected,
    ropes: Ropes::All,
    head_norms: HeadNorms::BeforeRope,
    logit_scale: LogitScale::Factor,
    router: RouterInput::Experts,
    gate: Gate::Softmax,
    renormalize: Renormalize::Yes,
    weighed: Weighed::Output,
    key_heads: KeyHeads::Grouped,
    fix: |_| {},
};

/// `general.architecture` of files that hold what reads pictures or sound, and no language model.
pub const PROJECTOR: &str = "clip";

/// All families.
pub static FAMILIES: &[Family] = &[
    Family { names: &["llama"], models: "Llama 1–3.x, Mistral, Mixtral, Yi, TinyLlama", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["qwen"], models: "Qwen 1", fix: qwen, ..BASE },
    Family { names: &["qwen2"], models: "Qwen 1.5, 2 and 2.5, QwQ", ..BASE },
    Family { names: &["qwen2vl"], models: "the text of Qwen 2 and 2.5 VL", ..BASE },
    Family { names: &["qwen2moe"], models: "Qwen 1.5 and 2 MoE", renormalize: Renormalize::No, ..BASE },
    Family { names: &["qwen3"], models: "Qwen 3", ..BASE },
    Family { names: &["qwen3vl"], models: "the text of Qwen 3 VL", ..BASE },
    Family { names: &["qwen3moe"], models: "Qwen 3 MoE", ..BASE },
    Family { names: &["qwen3vlmoe"], models: "the text of Qwen 3 VL MoE", ..BASE },
    Family {
        names: &["gemma"],
        models: "Gemma 1, CodeGemma",
        activation: Activation::GeluTanh,
        embedding: EmbeddingScale::SqrtWidth,
        ..BASE
    },
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
        names: &["gemma4"],
        models: "Gemma 4",
        activation: Activation::GeluTanh,
        embedding: EmbeddingScale::SqrtWidth,
        values: Values::NormedOrKeys,
        fix: gemma4,
        ..BASE
    },
    Family {
        names: &["gemma3n"],
        models: "Gemma 3n",
        activation: Activation::GeluTanh,
        embedding: EmbeddingScale::SqrtWidth,
        windows: Windows::AllButEvery(5),
        values: Values::Normed,
        fix: gemma4,
        ..BASE
    },
    Family {
        names: &["llama4"],
        models: "Llama 4 Scout and Maverick",
        pairing: Pairing::Adjacent,
        windows: Windows::AllButEvery(4),
        looks: Looks::Chunked,
        ropes: Ropes::Windowed,
        gate: Gate::Sigmoid,
        renormalize: Renormalize::No,
        weighed: Weighed::Input,
        fix: llama4,
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
    Family {
        names: &["deepseek4"],
        models: "DeepSeek V4",
        pairing: Pairing::Adjacent,
        activation: Activation::SwigluLimited,
        gate: Gate::SqrtSoftplus,
        fix: deepseek4,
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
    Family { names: &["arcee"], models: "Arcee AFM 4.5B", pairing: Pairing::Adjacent, activation: Activation::ReluSquared, ..BASE },
    Family { names: &["bailingmoe"], models: "Ling 1", pairing: Pairing::Adjacent, renormalize: Renormalize::No, ..BASE },
    Family { names: &["bailingmoe2"], models: "Ling 2, Ring 2", gate: Gate::Sigmoid, renormalize: Renormalize::No, ..BASE },
    Family { names: &["chatglm"], models: "ChatGLM3, GLM-4-9B", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["deepseek"], models: "DeepSeek MoE 16B", pairing: Pairing::Adjacent, renormalize: Renormalize::No, ..BASE },
    Family { names: &["dots1"], models: "dots.llm1", gate: Gate::Sigmoid, renormalize: Renormalize::No, ..BASE },
    Family { names: &["ernie4_5"], models: "ERNIE 4.5", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["ernie4_5-moe"], models: "ERNIE 4.5 MoE", pairing: Pairing::Adjacent, ..BASE },
    Family {
        names: &["exaone-moe"],
        models: "K-EXAONE",
        windows: Windows::AllButEvery(4),
        ropes: Ropes::Windowed,
        gate: Gate::Sigmoid,
        ..BASE
    },
    Family { names: &["exaone"], models: "EXAONE 3 and 3.5", ..BASE },
    Family { names: &["exaone4"], models: "EXAONE 4", windows: Windows::AllButEvery(4), ropes: Ropes::Windowed, ..BASE },
    Family { names: &["falcon"], models: "Falcon 7B, 40B and 180B", activation: Activation::Gelu, ..BASE },
    Family { names: &["gptneox"], models: "GPT-NeoX, Pythia, Dolly", activation: Activation::Gelu, ..BASE },
    Family { names: &["glm4"], models: "GLM-4-0414, GLM-Z1", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["glm4moe"], models: "GLM-4.5, GLM-4.6, GLM-4.7", gate: Gate::Sigmoid, ..BASE },
    Family {
        names: &["granite", "granitemoe"],
        models: "Granite 3 and 4 without Mamba",
        pairing: Pairing::Adjacent,
        logit_scale: LogitScale::Divisor,
        fix: granite,
        ..BASE
    },
    Family { names: &["hunyuan-dense", "hunyuan-moe"], models: "Hunyuan 0.5B to 7B, A13B", head_norms: HeadNorms::AfterRope, ..BASE },
    Family { names: &["hy_v3"], models: "Hunyuan 3", gate: Gate::Sigmoid, ..BASE },
    Family { names: &["internlm2"], models: "InternLM 2 and 2.5", pairing: Pairing::Adjacent, ..BASE },
    Family {
        names: &["minicpm"],
        models: "MiniCPM 1, 2 and 4",
        pairing: Pairing::Adjacent,
        logit_scale: LogitScale::Divisor,
        fix: minicpm,
        ..BASE
    },
    Family { names: &["minicpm3"], models: "MiniCPM3", logit_scale: LogitScale::Divisor, fix: minicpm, ..BASE },
    Family { names: &["mimo2"], models: "MiMo V2", gate: Gate::Sigmoid, ..BASE },
    Family { names: &["minimax-m2"], models: "MiniMax M2", gate: Gate::Sigmoid, ..BASE },
    Family { names: &["nemotron"], models: "Nemotron 4, Minitron", activation: Activation::ReluSquared, ..BASE },
    Family { names: &["mistral3"], models: "Ministral 3", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["olmo2"], models: "OLMo 2, OLMo 3", windows: Windows::AllButEvery(4), fix: olmo2, ..BASE },
    Family { names: &["olmoe"], models: "OLMoE", renormalize: Renormalize::No, ..BASE },
    Family { names: &["orion"], models: "Orion 14B", ..BASE },
    Family { names: &["phi2"], models: "Phi-1, Phi-1.5, Phi-2", activation: Activation::GeluTanh, ..BASE },
    Family { names: &["seed_oss"], models: "Seed-OSS", ..BASE },
    Family { names: &["smollm3"], models: "SmolLM3", pairing: Pairing::Adjacent, ropes: Ropes::AllButEvery(4), ..BASE },
    Family { names: &["stablelm"], models: "StableLM 3B, 2 1.6B", fix: |config| config.parallel_residual = None, ..BASE },
    Family { names: &["xverse"], models: "XVERSE", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["starcoder2"], models: "StarCoder2", activation: Activation::GeluTanh, ..BASE },
    Family { names: &["mamba2"], models: "Mamba-2, Codestral Mamba", ..BASE },
    Family {
        names: &["granitehybrid"],
        models: "Granite 4",
        pairing: Pairing::Adjacent,
        logit_scale: LogitScale::Divisor,
        fix: granite,
        ..BASE
    },
    Family {
        names: &["nemotron_h", "nemotron_h_moe"],
        models: "Nemotron-H, Nemotron Nano 2 and 3",
        activation: Activation::ReluSquared,
        ropes: Ropes::None,
        gate: Gate::Sigmoid,
        fix: nemotron_h,
        ..BASE
    },
    Family {
        names: &["afmoe"],
        models: "Trinity",
        embedding: EmbeddingScale::SqrtWidth,
        windows: Windows::AllButEvery(4),
        ropes: Ropes::Windowed,
        gate: Gate::Sigmoid,
        ..BASE
    },
    Family { names: &["apertus"], models: "Apertus", ..BASE },
    Family { names: &["dbrx"], models: "DBRX", ..BASE },
    Family { names: &["gpt2"], models: "GPT-2", activation: Activation::GeluTanh, ropes: Ropes::Learned, ..BASE },
    Family { names: &["olmo"], models: "OLMo 1", pairing: Pairing::Adjacent, norms: Norms::Plain, ..BASE },
    Family { names: &["starcoder"], models: "StarCoder, SantaCoder", activation: Activation::GeluTanh, ropes: Ropes::Learned, ..BASE },
    Family { names: &["codeshell"], models: "CodeShell", activation: Activation::GeluTanh, ..BASE },
    Family { names: &["deci"], models: "Llama Nemotron Super and Ultra", pairing: Pairing::Adjacent, ..BASE },
    Family { names: &["jais2"], models: "Jais 2", activation: Activation::ReluSquared, ..BASE },
    Family { names: &["maincoder"], models: "Maincoder", pairing: Pairing::Adjacent, head_norms: HeadNorms::AfterRope, ..BASE },
    Family { names: &["mellum"], models: "Mellum 2", windows: Windows::AllButEvery(4), fix: olmo2, ..BASE },
    Family { names: &["openelm"], models: "OpenELM", ..BASE },
    Family { names: &["paddleocr"], models: "the text of PaddleOCR-VL", ..BASE },
    Family { names: &["pangu-embedded"], models: "openPangu Embedded", ..BASE },
    Family { names: &["plm"], models: "PLM 1.8B", pairing: Pairing::Adjacent, activation: Activation::ReluSquared, ..BASE },
    Family {
        names: &["smallthinker"],
        models: "SmallThinker",
        activation: Activation::Relu,
        windows: Windows::AllButFirst(4),
        ropes: Ropes::Windowed,
        router: RouterInput::Layer,
        gate: Gate::Sigmoid,
        ..BASE
    },
    Family { names: &["falcon-h1"], models: "Falcon-H1", ..BASE },
    Family { names: &["lfm2"], models: "LFM2", ..BASE },
    Family { names: &["lfm2moe"], models: "LFM2 MoE", gate: Gate::Sigmoid, ..BASE },
    Family { names: &["kimi-linear"], models: "Kimi Linear", ropes: Ropes::None, gate: Gate::Sigmoid, ..BASE },
    Family { names: &["qwen3next"], models: "Qwen3-Next", ..BASE },
    Family { names: &["qwen35", "qwen35moe"], models: "Qwen 3.5", key_heads: KeyHeads::Tiled, ..BASE },
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

/// Rotation keeps lengths, so that it can be undone on what attention brings.
fn deepseek4(config: &mut Config) {
    config.rope.yarn_log_multiplier = Some(1.0);
}

/// Architectures that hob cannot run, by the block that it lacks for them.
pub static LACKING: &[(&str, &[&str])] = &[
    ("an encoder of pictures or sound, which goes with a language model in a file of its own: open that one", &[PROJECTOR]),
    ("a vocoder: the file makes sound, not text", &["wavtokenizer-dec"]),
    (
        "attention in both directions: it is an encoder, which turns text into vectors and writes none",
        &[
            "bert",
            "nomic-bert",
            "nomic-bert-moe",
            "jina-bert-v2",
            "jina-bert-v3",
            "neo-bert",
            "modern-bert",
            "eurobert",
            "gemma-embedding",
            "llama-embed",
            "t5encoder",
        ],
    ),
    ("cross attention of a decoder to an encoder", &["t5"]),
    ("diffusion, by which all tokens are written at once", &["dream", "llada", "llada-moe", "rnd1", "diffusion-gemma"]),
    ("a time-mix block (RWKV)", &["rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"]),
    ("the selective scan of Mamba 1", &["mamba", "jamba", "plamo2"]),
    ("attention biased by distance (ALiBi)", &["bloom", "mpt", "refact", "jais"]),
    ("norms within its attention and feed-forward blocks", &["bitnet"]),
    ("a feed-forward block beside its experts", &["arctic"]),
    ("a choice of positions by an index (DeepSeek's sparse attention)", &["deepseek32", "glm-dsa"]),
    ("its tokenizer, a search among all ways to cut a text", &["plamo3"]),
    ("tokens of pictures", &["chameleon", "cogvlm", "mllama"]),
    ("drafting, for which it goes with another model: open that one", &["eagle3", "dflash", "gemma4-assistant"]),
];

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

/// The files count the hidden channels of gate and up together (`modeling_qwen.py` of Qwen-7B).
fn qwen(config: &mut Config) {
    config.ff.iter_mut().for_each(|ff| *ff /= 2);
}

/// Early files carry no factors: scale_emb 12, scale_depth 1.4, dim_model_base 256 (`configuration_minicpm.py` of MiniCPM-2B).
fn minicpm(config: &mut Config) {
    config.embedding_scale.get_or_insert(12.0);
    config.residual_scale.get_or_insert(1.4 / (config.layers as f32).sqrt());
    config.logit_scale.get_or_insert(config.width as f32 / 256.0);
}

/// Gemma 3n and 4. Queries and keys are normed, which leaves nothing to scale; the cap is left out of some files (`modeling_gemma4.py`).
fn gemma4(config: &mut Config) {
    config.attention_scale.get_or_insert(1.0);
    config.final_softcap.get_or_insert(30.0);
    config.rope.window_base.get_or_insert(10_000.0);
}

/// The files have no word of the chunks, of the temperature or of the norm, which Maverick's 128 experts go without (llama.cpp,
/// `llama4.cpp`; `modeling_llama4.py` of transformers).
fn llama4(config: &mut Config) {
    config.window.get_or_insert(8192);
    config.temperature.get_or_insert(Temperature { scale: 0.1, length: 8192, offset: 1, layers: Tempered::WithoutRope });
    if config.experts.is_none_or(|e| e.count != 128) {
        config.late_norm.get_or_insert(NormKind::Rms);
    }
}

/// Models whose state space layers or masks alone know the order say that their ropes were not trained (`position_embedding_type: nope`).
fn granite(config: &mut Config) {
    if config.roped == Some(false) {
        config.rope.rotary = 0;
    }
}

/// The epsilon's key is that of a mean-and-variance norm, the norm is not (`modeling_nemotron_h.py`: NemotronHRMSNorm).
fn nemotron_h(config: &mut Config) {
    config.norm = NormKind::Rms;
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
            let fault = Fault::at("general.architecture");
            if let Some((block, _)) = LACKING.iter().find(|(_, names)| names.contains(&architecture)) {
                return Error::Unsupported(fault.found(format!("architecture `{architecture}`: hob lacks {block}")));
            }
            let fault = fault.found(format!("hob has no family `{architecture}`"));
            Error::Unsupported(fault.help("`hob families` lists what it runs"))
        })
    }

    /// Whether layer `index` turns queries and keys; `windowed` where it has a window, or the model has none at all.
    pub fn roped(&self, index: usize, windowed: bool) -> bool {
        match self.ropes {
            Ropes::All => true,
            Ropes::Windowed => windowed,
            Ropes::AllButEvery(n) => index % n != n - 1,
            Ropes::None | Ropes::Learned => false,
        }
    }

    /// Whether layer `index` looks through the window, where the file does not say it.
    pub fn windowed(&self, index: usize) -> bool {
        match self.windows {
            Windows::All => true,
            Windows::AllButEvery(n) => index % n != n - 1,
            Windows::AllButFirst(n) => !index.is_multiple_of(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_row() {
        let runs = FAMILIES.iter().flat_map(|f| f.names);
        let lacks = LACKING.iter().flat_map(|(_, names)| *names);
        let mut names: Vec<_> = runs.clone().chain(lacks.clone()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(runs.clone().all(|name| Family::of(name).is_ok()) && lacks.clone().all(|name| Family::of(name).is_err()));
    }

    #[test]
    fn an_unknown_architecture_is_named_and_the_block_that_a_known_one_needs() {
        let error = Family::of("llama99").unwrap_err().to_string();
        assert!(error.contains("`llama99`") && error.contains("hob families"), "{error}");
        let error = Family::of("rwkv7").unwrap_err().to_string();
        assert!(error.contains("`rwkv7`: hob lacks a time-mix block"), "{error}");
    }

    #[test]
    fn gemma_2_alternates_and_gemma_3_has_five_local_layers() {
        let windowed = |name, n| (0..n).map(|i| Family::of(name).unwrap().windowed(i)).collect::<Vec<_>>();
        assert_eq!(windowed("gemma2", 4), [true, false, true, false]);
        assert_eq!(windowed("gemma3", 7), [true, true, true, true, true, false, true]);
    }
}
