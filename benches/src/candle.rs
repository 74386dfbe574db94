//! `candle`: a turn of candle-transformers, which answers as llama-bench does, `[{"n_prompt": 512, "n_gen": 0, "avg_ts": 101.5}, …]`.
//!
//! Its threads are those of `RAYON_NUM_THREADS`: candle asks when it begins, and never again.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Result, Tensor};
use candle_transformers::models::{
    quantized_gemma3, quantized_glm4, quantized_lfm2, quantized_llama, quantized_phi, quantized_phi3, quantized_qwen2, quantized_qwen3,
};
use hob_benches::tokens;
use serde_json::{Value, json};

use crate::compare::Test;

/// Flags of `candle`: llama-bench's.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(short)]
    model: PathBuf,
    #[arg(short = 'p', value_delimiter = ',')]
    n_prompt: Vec<usize>,
    #[arg(short = 'n', value_delimiter = ',')]
    n_gen: Vec<usize>,
    /// For the answer alone
    #[arg(short)]
    threads: usize,
}

/// A model: the next tokens `[1, tokens]` and the position of the first, to the logits of the last. Position 0 begins anew.
type Model = Box<dyn FnMut(&Tensor, usize) -> Result<Tensor>>;

type Open = fn(Content, &mut BufReader<File>) -> Result<Model>;

const CPU: &Device = &Device::Cpu;

/// The architectures, and who runs them. `quantized_gemma3` has SiLU where Gemma has GELU, which takes about as long;
/// `quantized_qwen3_moe` multiplies its experts on CUDA alone, and so is not here.
const MODELS: &[(&str, Open)] = &[
    ("llama", |c, r| Ok(model(quantized_llama::ModelWeights::from_gguf(c, r, CPU)?, quantized_llama::ModelWeights::forward))),
    ("qwen2", |c, r| Ok(model(quantized_qwen2::ModelWeights::from_gguf(c, r, CPU)?, quantized_qwen2::ModelWeights::forward))),
    ("qwen3", |c, r| {
        Ok(model(quantized_qwen3::ModelWeights::from_gguf(c, r, CPU)?, |m, tokens, at| {
            if at == 0 {
                m.clear_kv_cache();
            }
            m.forward(tokens, at)
        }))
    }),
    ("gemma3", |c, r| Ok(model(quantized_gemma3::ModelWeights::from_gguf(c, r, CPU)?, quantized_gemma3::ModelWeights::forward))),
    ("phi2", |c, r| Ok(model(quantized_phi::ModelWeights::from_gguf(c, r, CPU)?, quantized_phi::ModelWeights::forward))),
    ("phi3", |c, r| Ok(model(quantized_phi3::ModelWeights::from_gguf(false, c, r, CPU)?, quantized_phi3::ModelWeights::forward))),
    ("glm4", |c, r| Ok(model(quantized_glm4::ModelWeights::from_gguf(c, r, CPU, DType::F32)?, quantized_glm4::ModelWeights::forward))),
    ("lfm2", |c, r| Ok(model(quantized_lfm2::ModelWeights::from_gguf(c, r, CPU)?, quantized_lfm2::ModelWeights::forward))),
];

fn model<M: 'static>(mut model: M, forward: fn(&mut M, &Tensor, usize) -> Result<Tensor>) -> Model {
    Box::new(move |tokens, at| forward(&mut model, tokens, at))
}

/// Runs `candle`.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> std::result::Result<(), Box<dyn Error>> {
    let mut reader = BufReader::new(File::open(&args.model)?);
    let content = Content::read(&mut reader)?;
    let architecture = content.metadata.get("general.architecture").map_or(Ok(""), |name| name.to_string().map(String::as_str))?;
    let (_, open) = MODELS
        .iter()
        .find(|(name, _)| *name == architecture)
        .ok_or_else(|| format!("candle-transformers runs no GGUF file of architecture `{architecture}` on a CPU"))?;
    let vocabulary = content.tensor_infos.get("token_embd.weight").ok_or("no token_embd.weight")?.shape.dims()[0];
    let mut model = open(content, &mut reader)?;
    let tests = args.n_prompt.iter().map(|n| Test::Prompt(*n)).chain(args.n_gen.iter().map(|n| Test::Generation(*n)));
    let mut rows = Vec::new();
    for test in tests.filter(|test| test.tokens() > 0) {
        let (n_prompt, n_gen) = test.counts();
        let speed = time(&mut model, test, vocabulary)?;
        rows.push(json!({ "n_prompt": n_prompt, "n_gen": n_gen, "n_threads": args.threads, "avg_ts": speed }));
    }
    Ok(writeln!(out, "{}", Value::Array(rows))?)
}

/// Tokens a second of a test, after a run to warm up.
fn time(model: &mut Model, test: Test, vocabulary: usize) -> Result<f64> {
    let tokens = tokens(test.tokens(), vocabulary);
    let mut step = |tokens: &[u32], at: usize| model(&Tensor::new(tokens, CPU)?.unsqueeze(0)?, at);
    step(&tokens[..test.at_once()], 0)?;
    let start = Instant::now();
    for (at, tokens) in tokens.chunks(test.at_once()).enumerate() {
        step(tokens, at * test.at_once())?;
    }
    Ok(tokens.len() as f64 / start.elapsed().as_secs_f64())
}
