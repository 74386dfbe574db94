//! hob against candle-transformers: small models of random weights in F32, a row of the table each, made from the headers
//! that the families' own tests have. Both run the same prompt and then one token at a time; both know the file alone.
//!
//! Its authors wrote these models from the papers and from transformers, as hob's wrote hob: who agrees with them has read
//! the same. What a row changes in its header, candle-transformers cannot say (a rope's scaling, wide heads, one window of
//! many). Where it says something else, the conformance kit, whose numbers are transformers' own, is the judge, and hob
//! passes it. These are candle-transformers 0.11.1's, and in no row, or in one as far as it agrees:
//!
//! - `quantized_gemma3`: SiLU in the feed-forward blocks of Gemma, which have GELU: `gemma3` is taken.
//! - `quantized_qwen3_moe`: its experts are multiplied on CUDA alone: `qwen3_moe` is taken.
//! - `quantized_llama` with experts: reads those of 2023, a tensor an expert, which hob does not: `mixtral` is taken.
//! - `granite`: leaves out the four factors that make a Granite: `granitemoehybrid` is taken, which has no Mamba layers.
//! - Windows: a prompt sees one position too many, and in `gemma2` every layer has one and later tokens have none. Its row
//!   has none; that of `gemma3` has one as long as the prompt, after which the cache lets go of the right ones.
//! - `falcon`: GELU by tanh, where Falcon's is exact, so that its bound is wider; and no second norm (40B).
//! - `mamba2`: one norm over all groups, so that its row has one group.
//! - `deepseek2` with groups of experts: picks groups by the numbers of the best experts, not by those of the best groups.
//! - `gemma4`: scales the scores of queries and keys that are normed, by 1/√channels; transformers does not. In no row.

#[path = "../../../engine/tests/error/mod.rs"]
mod error;
#[path = "../../../engine/tests/synthetic/mod.rs"]
#[allow(dead_code)] // some of it is for the families' own tests
mod synthetic;
mod table;
mod weights;

use candle_core::{Device, Tensor};
use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{CacheOptions, KvType};
use hob::device::{LoadOptions, load};
use hob::gguf::Gguf;

const TOKENS: [u32; 23] = [3, 41, 7, 7, 0, 79, 12, 5, 66, 31, 2, 18, 44, 9, 71, 23, 50, 1, 37, 60, 15, 28, 77];

/// How many of them are fed at once, before the others follow one by one.
const PROMPT: usize = 11;

/// The steps: the tokens of each, and the position of its first.
fn steps() -> impl Iterator<Item = (&'static [u32], usize)> {
    std::iter::once((&TOKENS[..PROMPT], 0)).chain((PROMPT..TOKENS.len()).map(|at| (&TOKENS[at..=at], at)))
}

/// hob's logits after each step.
fn hob(file: &[u8]) -> Vec<f32> {
    let options = LoadOptions { threads: 1, context: Some(256), device: hob::Device::Cpu, gpu_layers: hob::GpuLayers::Auto };
    let model = load(&Gguf::from_vec(file.to_vec()).unwrap(), &options).unwrap_or_else(|e| panic!("{e}"));
    let mut cache = model.cache(&CacheOptions { capacity: 64, k: KvType::F32, v: KvType::F32, batch: 64 }).unwrap();
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for (tokens, at) in steps() {
        let entry = |(i, token): (usize, &u32)| Entry { token: *token, sequence: 0, position: (at + i) as u32, logits: Logits::Skip };
        let mut batch: Vec<Entry> = tokens.iter().enumerate().map(entry).collect();
        batch.last_mut().expect("a step has tokens").logits = Logits::Want;
        model.step(&batch, &mut [&mut cache], &Canceller::new(), &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

/// candle-transformers' logits after each step.
fn candle(row: &table::Row, file: &[u8]) -> candle_core::Result<Vec<f32>> {
    let mut model = (row.open)(file)?;
    let mut all = Vec::new();
    for (tokens, at) in steps() {
        let logits = model(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?, at)?;
        all.extend(logits.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}

#[test]
fn families_compute_what_candle_transformers_computes() {
    let mut wrong = Vec::new();
    for row in table::ROWS {
        let file = (row.change)(synthetic::Header::read(row.header).plain()).bytes();
        let error = candle(row, &file).map(|theirs| error::relative(&hob(&file), &theirs));
        println!("{:<12} {error:?}", row.name);
        if !error.as_ref().is_ok_and(|error| *error <= row.bound) {
            wrong.push(format!("{}: {error:?}", row.name));
        }
    }
    assert!(wrong.is_empty(), "errors over the bound: {wrong:#?}");
}
