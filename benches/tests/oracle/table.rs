//! The table: a row a family, or a kind of it.

use crate::synthetic::Header;
use crate::weights::{Peer, halves, less_one, reads, same, takes};
use candle_core::{DType, Device, Result, Tensor};
use candle_transformers::models::*;
use serde::de::IgnoredAny;
use serde_json::json;
use smol::smollm3;

/// A family, and how candle-transformers runs it.
pub(crate) struct Row {
    /// What it is called in reports.
    pub(crate) name: &'static str,
    /// The architecture whose header is taken.
    pub(crate) header: &'static str,
    /// What candle-transformers cannot read of it is left out, or said otherwise.
    pub(crate) change: fn(Header) -> Header,
    pub(crate) open: fn(&[u8]) -> Result<Peer>,
    /// The greatest error.
    pub(crate) bound: f64,
}

/// Of sums in another order, and of angles and exponentials by other polynomials: ten times the greatest there is. An ε ten
/// times too large shows.
const CLOSE: f64 = 1e-11;

const BASE: Row =
    Row { name: "", header: "", change: |header| header, open: |_| candle_core::bail!("a row without a model"), bound: CLOSE };

const CPU: &Device = &Device::Cpu;

/// Norms within the residual branches, as Gemma 2 and 3 name them.
const SANDWICH: [(&str, &str); 3] = [
    (".post_attention_norm.", ".post_attention_layernorm."),
    (".ffn_norm.", ".pre_feedforward_layernorm."),
    (".post_ffw_norm.", ".post_feedforward_layernorm."),
];

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "llama",
        header: "llama",
        change: |h| h.narrow_heads().without("rope_freqs"),
        open: |file| reads(file, |c, r| quantized_llama::ModelWeights::from_gguf(c, r, CPU), quantized_llama::ModelWeights::forward),
        ..BASE
    },
    Row {
        name: "mixtral",
        header: "llama",
        change: |h| {
            let h = h.narrow_heads().without("rope_freqs").without("ffn_gate").without("ffn_up").without("ffn_down");
            let h = h.set("expert_count", "4").set("expert_used_count", "2").with("blk.*.ffn_gate_inp.weight", &[64, 4]);
            let h = h.with("blk.*.ffn_gate_exps.weight", &[64, 96, 4]).with("blk.*.ffn_up_exps.weight", &[64, 96, 4]);
            h.with("blk.*.ffn_down_exps.weight", &[96, 64, 4])
        },
        open: |file| {
            let names = [
                (".ffn_gate_inp.", ".block_sparse_moe.gate."),
                (".ffn_gate_exps.", ".block_sparse_moe.experts.{e}.w1."),
                (".ffn_down_exps.", ".block_sparse_moe.experts.{e}.w2."),
                (".ffn_up_exps.", ".block_sparse_moe.experts.{e}.w3."),
            ];
            let config = json!({ "num_local_experts": 4, "sliding_window": 4096 });
            takes(file, &names, halves, config, |c, w| mixtral::Model::new(&c, w), mixtral::Model::forward)
        },
        ..BASE
    },
    Row {
        name: "qwen2",
        header: "qwen2",
        open: |file| reads(file, |c, r| quantized_qwen2::ModelWeights::from_gguf(c, r, CPU), quantized_qwen2::ModelWeights::forward),
        ..BASE
    },
    Row {
        name: "qwen2moe",
        header: "qwen2moe",
        change: Header::narrow_heads,
        open: |file| {
            let names = [
                (".ffn_gate_inp_shexp.", ".mlp.shared_expert_gate."),
                (".ffn_gate_shexp.", ".mlp.shared_expert.gate_proj."),
                (".ffn_up_shexp.", ".mlp.shared_expert.up_proj."),
                (".ffn_down_shexp.", ".mlp.shared_expert.down_proj."),
            ];
            let config = json!({
                "moe_intermediate_size": 32, "shared_expert_intermediate_size": 96, "norm_topk_prob": false, "sliding_window": 4096,
            });
            let change = |name: &str, t: Tensor| if name.contains("inp_shexp") { t.unsqueeze(0) } else { Ok(t) };
            takes(file, &names, change, config, |c, w| qwen2_moe::Model::new(&c, w), qwen2_moe::Model::forward)
        },
        ..BASE
    },
    Row {
        name: "qwen3",
        header: "qwen3",
        change: |mut h| {
            h.metadata.push(("general.dtype".into(), "0".into())); // or it computes in f16
            h.without("rope.scaling").set("rope.freq_base", "10000.0")
        },
        open: |file| reads(file, |c, r| quantized_qwen3::ModelWeights::from_gguf(c, r, CPU), quantized_qwen3::ModelWeights::forward),
        ..BASE
    },
    Row {
        name: "qwen3moe",
        header: "qwen3moe",
        open: |file| {
            let config = json!({ "moe_intermediate_size": 32, "norm_topk_prob": true });
            takes(file, &[], same, config, |c, w| qwen3_moe::ModelForCausalLM::new(&c, w), qwen3_moe::ModelForCausalLM::forward)
        },
        ..BASE
    },
    Row {
        name: "gemma",
        header: "gemma",
        open: |file| {
            let config = json!({ "hidden_act": "gelu_pytorch_tanh", "hidden_activation": null });
            takes(file, &[], less_one, config, |c, w| gemma::Model::new(false, &c, w), gemma::Model::forward)
        },
        ..BASE
    },
    Row {
        name: "gemma2",
        header: "gemma2",
        change: |h| h.without("sliding_window"),
        open: |file| {
            let config = json!({
                "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32,
                "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            });
            takes(file, &SANDWICH, less_one, config, |c, w| gemma2::Model::new(false, &c, w), gemma2::Model::forward)
        },
        ..BASE
    },
    Row {
        name: "gemma3",
        header: "gemma3",
        change: |h| {
            // One head of keys: its cache does not take more.
            let h = h.set("attention.head_count_kv", "1").with("blk.*.attn_k.weight", &[64, 32]).with("blk.*.attn_v.weight", &[64, 32]);
            h.without("rope.scaling").set("attention.sliding_window", &crate::PROMPT.to_string())
        },
        open: |file| {
            let config = json!({
                "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32,
                "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6,
            });
            takes(file, &SANDWICH, less_one, config, |c, w| gemma3::Model::new(false, &c, w), gemma3::Model::forward)
        },
        ..BASE
    },
    Row {
        name: "phi2",
        header: "phi2",
        change: |h| {
            let h = h.without("attn_q.").without("attn_k.").without("attn_v.");
            h.with("blk.*.attn_qkv.weight", &[64, 192]).with("blk.*.attn_qkv.bias", &[192])
        },
        open: |file| reads(file, |c, r| quantized_phi::ModelWeights::from_gguf(c, r, CPU), quantized_phi::ModelWeights::forward),
        ..BASE
    },
    Row {
        name: "phi3",
        header: "phi3",
        change: |h| h.without("rope").set("rope.dimension_count", "16"),
        open: |file| reads(file, |c, r| quantized_phi3::ModelWeights::from_gguf(false, c, r, CPU), quantized_phi3::ModelWeights::forward),
        ..BASE
    },
    Row {
        name: "glm4",
        header: "glm4",
        change: |h| h.set("rope.freq_base", "10000.0"),
        open: |file| {
            reads(file, |c, r| quantized_glm4::ModelWeights::from_gguf(c, r, CPU, DType::F32), quantized_glm4::ModelWeights::forward)
        },
        ..BASE
    },
    Row {
        name: "chatglm",
        header: "chatglm",
        open: |file| {
            let names = [
                ("token_embd.", "transformer.embedding.word_embeddings."),
                (".attn_output.", ".self_attention.dense."),
                ("output_norm.", "transformer.encoder.final_layernorm."),
                ("output.", "transformer.output_layer."),
                ("blk.", "transformer.encoder.layers."),
                (".attn_qkv.", ".self_attention.query_key_value."),
                (".ffn_up.", ".mlp.dense_h_to_4h."),
                (".ffn_down.", ".mlp.dense_4h_to_h."),
            ];
            let open = |_: IgnoredAny, w| {
                let shape = chatglm::Config {
                    num_layers: 2,
                    padded_vocab_size: 80,
                    hidden_size: 64,
                    ffn_hidden_size: 96,
                    ..chatglm::Config::glm3_6b()
                };
                chatglm::Model::new(&chatglm::Config { kv_channels: 16, num_attention_heads: 4, seq_length: 256, ..shape }, w)
            };
            takes(file, &names, same, json!({}), open, |model, tokens, _| model.forward(tokens))
        },
        ..BASE
    },
    Row {
        name: "deepseek2",
        header: "deepseek2",
        // Keys and values in one tensor, as the checkpoint has them, and files of before April 2025; no groups of experts.
        change: |h| {
            let h = h.without("_mla").without("attn_k_b").without("attn_v_b").without("expert_g").without("exp_probs_b");
            let h = h.set("attention.head_count_kv", "4").set("attention.key_length", "48").set("attention.value_length", "32");
            h.with("blk.*.attn_kv_b.weight", &[64, 256])
        },
        open: |file| {
            let names = [
                (".attn_q_a.", ".self_attn.q_a_proj."),
                (".attn_q_a_norm.", ".self_attn.q_a_layernorm."),
                (".attn_q_b.", ".self_attn.q_b_proj."),
                (".attn_kv_a_mqa.", ".self_attn.kv_a_proj_with_mqa."),
                (".attn_kv_a_norm.", ".self_attn.kv_a_layernorm."),
                (".attn_kv_b.", ".self_attn.kv_b_proj."),
                (".ffn_gate_shexp.", ".mlp.shared_experts.gate_proj."),
                (".ffn_up_shexp.", ".mlp.shared_experts.up_proj."),
                (".ffn_down_shexp.", ".mlp.shared_experts.down_proj."),
            ];
            let config = json!({
                "moe_intermediate_size": 32, "n_shared_experts": 1, "n_routed_experts": 8, "routed_scaling_factor": 2.5,
                "first_k_dense_replace": 1, "q_lora_rank": 96, "kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32,
                "v_head_dim": 32, "n_group": 1, "topk_group": 1,
                "rope_scaling": {
                    "type": "yarn", "factor": 40.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0,
                    "mscale": 1.0, "mscale_all_dim": 1.0,
                },
            });
            takes(file, &names, same, config, |c, w| deepseek2::DeepSeekV2::new(&c, w), deepseek2::DeepSeekV2::forward)
        },
        ..BASE
    },
    Row {
        name: "lfm2",
        header: "lfm2",
        change: |h| h.set("rope.freq_base", "1000000.0"),
        open: |file| reads(file, |c, r| quantized_lfm2::ModelWeights::from_gguf(c, r, CPU), quantized_lfm2::ModelWeights::forward),
        ..BASE
    },
    Row {
        name: "olmo2",
        header: "olmo2",
        change: |h| h.without("rope.scaling").without("sliding_window"),
        open: |file| takes(file, &SANDWICH, same, json!({}), |c, w| olmo2::Model::new(&c, w), olmo2::Model::forward),
        ..BASE
    },
    Row {
        name: "granite",
        header: "granite",
        change: |h| h.without("ffn_gate").with("blk.*.ffn_up.weight", &[64, 192]),
        open: granite,
        ..BASE
    },
    Row {
        name: "smollm3",
        header: "smollm3",
        open: |file| {
            let config = json!({ "no_rope_layer_interval": 4 });
            takes(file, &[], halves, config, |c, w| smollm3::ModelForCausalLM::new(&c, w), smollm3::ModelForCausalLM::forward)
        },
        ..BASE
    },
    Row {
        name: "stablelm",
        header: "stablelm",
        open: |file| {
            let config = json!({ "partial_rotary_factor": 0.25, "use_cache": true, "use_qkv_bias": true });
            takes(file, &[], same, config, |c, w| stable_lm::Model::new(&c, w), stable_lm::Model::forward)
        },
        ..BASE
    },
    Row {
        name: "starcoder2",
        header: "starcoder2",
        open: |file| {
            let names = [(".ffn_up.", ".mlp.c_fc."), (".ffn_down.", ".mlp.c_proj.")];
            let config = json!({ "hidden_act": "gelu_pytorch_tanh", "use_bias": true });
            takes(file, &names, same, config, |c, w| starcoder2::Model::new(&c, w), starcoder2::Model::forward)
        },
        ..BASE
    },
    Row {
        name: "falcon",
        header: "falcon",
        change: |h| {
            let h = h.without("attn_norm_2").set("attention.head_count_kv", "1").set("feed_forward_length", "256");
            let h = h.with("blk.*.attn_qkv.weight", &[64, 96]).with("blk.*.ffn_up.weight", &[64, 256]);
            h.with("blk.*.ffn_down.weight", &[256, 64])
        },
        open: |file| {
            let names = [
                ("token_embd.", "transformer.word_embeddings."),
                (".attn_output.", ".self_attention.dense."),
                ("output_norm.", "transformer.ln_f."),
                ("blk.", "transformer.h."),
                (".attn_qkv.", ".self_attention.query_key_value."),
                (".ffn_up.", ".mlp.dense_h_to_4h."),
                (".ffn_down.", ".mlp.dense_4h_to_h."),
            ];
            let config = json!({
                "initializer_range": 0.0, "use_cache": true, "bos_token_id": 0, "eos_token_id": 0, "hidden_dropout": 0.0,
                "attention_dropout": 0.0, "n_head_kv": null, "alibi": false, "new_decoder_architecture": false,
                "multi_query": true, "parallel_attn": true, "bias": false,
            });
            takes(file, &names, same, config, |c, w| falcon::Falcon::load(w, c), |model, tokens, _| model.forward(tokens))
        },
        bound: 1e-7, // GELU by tanh
    },
    Row {
        name: "mamba2",
        header: "mamba2",
        change: |h| {
            let h = h.without("output.weight").set("ssm.group_count", "1").with("blk.*.ssm_in.weight", &[64, 324]);
            let h = h.with("blk.*.ssm_conv1d.weight", &[4, 192]).with("blk.*.ssm_conv1d.bias", &[192]);
            h.with("blk.*.ssm_norm.weight", &[128])
        },
        open: mamba2,
        ..BASE
    },
];

/// The model of `granitemoehybrid`, whose cache is apart.
fn granite(file: &[u8]) -> Result<Peer> {
    use granitemoehybrid::{GraniteMoeHybrid, GraniteMoeHybridCache, GraniteMoeHybridConfig};
    let names = [(".ffn_up.", ".shared_mlp.input_linear."), (".ffn_down.", ".shared_mlp.output_linear.")];
    let config = json!({
        "attention_multiplier": 0.0625, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0,
    });
    let open = |config: GraniteMoeHybridConfig, weights| {
        let config = config.into_config(false);
        Ok((GraniteMoeHybrid::load(weights, &config)?, GraniteMoeHybridCache::new(true, DType::F32, &config, CPU)?))
    };
    takes(file, &names, halves, config, open, |(model, cache), tokens, at| model.forward(tokens, at, cache))
}

/// The model of `mamba2`, whose state is apart and which takes a token, or a prompt with the logits of all its positions.
fn mamba2(file: &[u8]) -> Result<Peer> {
    let names = [
        ("token_embd.", "embeddings."),
        ("output_norm.", "norm_f."),
        ("blk.", "layers."),
        (".attn_norm.", ".norm."),
        (".ssm_in.", ".mixer.in_proj."),
        (".ssm_conv1d.", ".mixer.conv1d."),
        (".ssm_dt.bias", ".mixer.dt_bias"),
        (".ssm_a", ".mixer.A_log"),
        (".ssm_d", ".mixer.D"),
        (".ssm_norm.", ".mixer.norm."),
        (".ssm_out.", ".mixer.out_proj."),
    ];
    let change = |name: &str, t: Tensor| match name {
        _ if name.ends_with("ssm_a") => t.neg()?.log()?.flatten_all(),
        _ if name.ends_with("ssm_d") => t.flatten_all(),
        _ if name.ends_with("ssm_conv1d.weight") => t.unsqueeze(1),
        _ => Ok(t),
    };
    let config = json!({ "state_size": 32, "head_dim": 32 });
    let open = |config, weights| Ok((mamba2::Model::new(&config, weights)?, mamba2::State::new(1, &config, DType::F32, CPU)?));
    takes(file, &names, change, config, open, |(model, state), tokens, _| match tokens.dim(1)? {
        1 => model.forward(&tokens.squeeze(1)?, state),
        n => model.forward_prefill(tokens, state, 4)?.narrow(1, n - 1, 1),
    })
}
