//! Files of a model's shape with weights at random: to measure a machine before anything is downloaded.
//!
//! ```text
//! head      that of the catalogue's row and type, with a vocabulary of as many tokens: bytes, a few merges, names that stand for nothing
//! matrices  a stretch of quantized noise for each type, over and over from changing places: variance 1 / row length
//! the rest  norms and factors 1, biases 0, decays -1, routers noise, so that all experts are chosen
//! ```
//! hob and llama.cpp read them as any other file. What such a model says is noise; how long it takes is not.

use std::collections::HashMap;
use std::io::{self, Write};

use hob_kernels::Format;
use hob_kernels::format::quantize;

use super::Entry;
use super::header::writer;
use crate::error::{Error, Fault, Result};
use crate::gguf::{Bytes, Gguf, GgufWriter, TensorInfo, TensorType, Value};
use crate::quantize::FileType;
use crate::tokenizer::BYTE_LEVEL;

/// Weights of noise that are quantized for a type.
const STRETCH: usize = 1 << 20;

impl Entry {
    /// The head of a synthetic file of this model and type, of its first `layers` layers where that is said: the weights are written
    /// by [`Entry::write_synthetic`].
    fn synthetic_head(&self, kind: FileType, layers: Option<u64>) -> Result<GgufWriter> {
        let shape = self.cut(layers);
        let title = match layers {
            Some(n) if n < self.shape.layers => format!("{} (random weights, {n} of {} layers)", self.title, self.shape.layers),
            Some(_) | None => format!("{} (random weights)", self.title),
        };
        writer(&self.family, &title, &shape, kind, &vocabulary(shape.vocab))
    }

    /// Bytes of its synthetic file.
    ///
    /// # Errors
    /// Where the row's shape is no model.
    pub fn synthetic_bytes(&self, kind: FileType, layers: Option<u64>) -> Result<u64> {
        Ok(self.synthetic_head(kind, layers)?.file_bytes())
    }

    /// A model in memory of this model's shape and type with weights at random, of its first `layers` layers where that is said.
    ///
    /// ```
    /// let gguf = hob::catalogue::find("gemma-3-270m")?.synthetic(hob::quantize::FileType::Q8_0, Some(1))?;
    /// let model = hob::Model::options().chat_template("chatml").build(gguf)?;
    /// assert_eq!(model.config().width, 640);
    /// # Ok::<(), hob::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no room for it.
    pub fn synthetic(&self, kind: FileType, layers: Option<u64>) -> Result<Gguf> {
        let len = usize::try_from(self.synthetic_bytes(kind, layers)?).unwrap_or(usize::MAX);
        let bytes = Bytes::filled(len, |mut out| self.write_synthetic(kind, layers, &mut out).map(drop))?;
        Gguf::from_bytes(bytes)
    }

    /// Writes a file of this model's shape and type with weights at random, of its first `layers` layers where that is said. Give it a
    /// buffered writer, or a vector.
    ///
    /// ```
    /// use hob::quantize::FileType;
    ///
    /// let entry = hob::catalogue::find("gemma-3-270m")?;
    /// let file = entry.write_synthetic(FileType::Q8_0, Some(1), Vec::new())?;
    /// assert_eq!(file.len() as u64, entry.synthetic_bytes(FileType::Q8_0, Some(1))?);
    /// # Ok::<(), hob::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] where the writer refuses.
    pub fn write_synthetic<W: Write>(&self, kind: FileType, layers: Option<u64>, out: W) -> Result<W> {
        let refused = |source: io::Error| Error::Io { path: "synthetic model".into(), source };
        let mut body = self.synthetic_head(kind, layers)?.start(out).map_err(refused)?;
        let mut noise = Noise::new();
        while let Some(tensor) = body.current().cloned() {
            if let Some(value) = constant(&tensor) {
                let values = vec![value; tensor.elements() as usize];
                body.append(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()).map_err(refused)?;
                continue;
            }
            if tensor.kind == TensorType::I32 {
                // Experts by token: some of those that every such model has.
                let ids = (0..tensor.elements()).map(|i| (i % 64) as i32);
                body.append(&ids.flat_map(i32::to_le_bytes).collect::<Vec<_>>()).map_err(refused)?;
                continue;
            }
            let stretch = noise.of(&tensor)?;
            let (block, mut left) = (tensor.kind.block_bytes() as usize, tensor.size() as usize);
            // From another place for each tensor, and again from the start.
            let mut at = (left / block).wrapping_mul(7919) % (stretch.len() / block) * block;
            while left > 0 {
                let n = left.min(stretch.len() - at);
                body.append(&stretch[at..at + n]).map_err(refused)?;
                (left, at) = (left - n, 0);
            }
        }
        body.finish().map_err(refused)
    }
}

/// What all numbers of a small tensor are; `None` for noise.
fn constant(tensor: &TensorInfo) -> Option<f32> {
    let name = tensor.name.as_str();
    if tensor.kind != TensorType::F32 {
        return None;
    }
    match name {
        _ if name.ends_with(".bias") || name.ends_with("sinks.weight") => Some(0.0),
        _ if name.ends_with("ssm_a") => Some(-1.0),
        _ if name.ends_with("ssm_d") || name.contains("norm") || name.starts_with("rope_") || name.ends_with("scale") => Some(1.0),
        _ if name.ends_with("layer_output_scale.weight") => Some(1.0),
        _ => None,
    }
}

/// Quantized noise, made once for a type and a row length.
struct Noise {
    made: HashMap<(TensorType, u64), Vec<u8>>,
    normal: Vec<f32>,
}

impl Noise {
    fn new() -> Noise {
        // SplitMix64; twelve uniform numbers less six are as good as normal here.
        let mut state = 0x686f_625f_7379_6e74u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            // Four sums of uniform numbers of 16 bits: variance 4/12.
            let parts = [mixed, mixed >> 16, mixed >> 32, mixed >> 48].map(|part| (part & 0xffff) as f32 / 65536.0);
            (parts.iter().sum::<f32>() - 2.0) * 3f32.sqrt()
        };
        Noise { made: HashMap::new(), normal: (0..STRETCH).map(|_| next()).collect() }
    }

    fn of(&mut self, tensor: &TensorInfo) -> Result<&[u8]> {
        let unsupported = || Error::Unsupported(Fault::at(tensor.name.as_str()).found(format!("no noise of type {}", tensor.kind)));
        let format: Format = tensor.kind.format().ok_or_else(unsupported)?;
        let cols = tensor.dims.first().copied().unwrap_or(1);
        // One stretch for rows of about the same length.
        let scale = cols.next_power_of_two();
        let normal = &self.normal;
        Ok(self.made.entry((tensor.kind, scale)).or_insert_with(|| {
            let spread = 1.0 / (scale as f32).sqrt();
            let values: Vec<f32> = normal.iter().map(|x| x * spread).collect();
            let mut bytes = vec![0; format.row_bytes(STRETCH).unwrap_or(0)];
            quantize(format, &values, None, &mut bytes);
            bytes
        }))
    }
}

/// A byte-level vocabulary of so many tokens. All but the bytes and a few pairs are never text.
fn vocabulary(size: u64) -> Vec<(String, Value)> {
    // GPT-2's picture of bytes: printable ones stand for themselves, the rest for characters from U+0100 on.
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut tokens: Vec<String> = (0..=255u8).filter(|byte| printable(*byte)).map(|byte| char::from(byte).to_string()).collect();
    let rest = (0..=255u8).filter(|byte| !printable(*byte)).count() as u32;
    tokens.extend((0..rest).filter_map(|index| char::from_u32(0x100 + index)).map(String::from));
    const PAIRS: [(&str, &str); 5] = [("Ġ", "t"), ("h", "e"), ("i", "n"), ("r", "e"), ("Ġt", "he")];
    tokens.extend(PAIRS.iter().map(|(left, right)| format!("{left}{right}")));
    let end = "<|endoftext|>".to_owned();
    let size = (size as usize).max(tokens.len() + 1);
    let names = tokens.len()..size - 1;
    tokens.extend(names.map(|n| format!("<{n}>")));
    tokens.push(end);
    let mut kinds = vec![1i32; size - 1];
    kinds.push(3);
    let merges: Vec<String> = PAIRS.iter().map(|(left, right)| format!("{left} {right}")).collect();
    vec![
        ("tokenizer.ggml.model".into(), BYTE_LEVEL.into()),
        ("tokenizer.ggml.pre".into(), "llama-bpe".into()),
        ("tokenizer.ggml.tokens".into(), tokens.into()),
        ("tokenizer.ggml.token_type".into(), kinds.into()),
        ("tokenizer.ggml.merges".into(), merges.into()),
        ("tokenizer.ggml.bos_token_id".into(), (size as u32 - 1).into()),
        ("tokenizer.ggml.eos_token_id".into(), (size as u32 - 1).into()),
        ("tokenizer.ggml.add_bos_token".into(), false.into()),
    ]
}
