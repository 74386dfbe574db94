//! Which layers go to a GPU: as many of the last as it has room for, with the head, or as many as were asked for.
//!
//! ```text
//! layers of the file    0 … cut-1   cut … last   head       llama.cpp's order: -ngl N takes the last N
//! computed by           the CPU     the GPU                 cut = 0: the embedding too
//! ```

use super::gpu;
use super::options::{Device, GpuLayers, LoadOptions, Memory};
use crate::cache::KvType;
use crate::decoder::{described, split};
use crate::error::{Error, Fault, Result};
use crate::gguf::Gguf;

/// What a GPU needs beside weights and cache: activations, candle's scratch, the driver.
const SCRATCH: u64 = 768 << 20;

/// Bytes that the parts of a model need on a GPU.
#[derive(Debug)]
pub(super) struct Needs {
    /// What all layers on the GPU need beyond them and the head.
    embedding: u64,
    /// Weights and one session's cache, of each layer.
    layers: Vec<u64>,
    /// The head, and scratch.
    head: u64,
    /// Layers before which the model can be cut in two.
    cuts: Vec<usize>,
    /// The first layer that goes to the GPU, where the options say it.
    asked: Option<usize>,
}

/// So many bytes in GiB.
pub(super) fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1u64 << 30) as f64)
}

impl Needs {
    /// Those of a file's model.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the options ask for a number of layers after which the model cannot be cut.
    pub(super) fn of(gguf: &Gguf, options: &LoadOptions, [k, v]: [KvType; 2]) -> Result<Needs> {
        let (config, _) = described(gguf)?;
        let context = options.context.unwrap_or(config.context) as u64;
        let row = |heads: usize| heads as u64 * (k.bytes(config.key_dim) + v.bytes(config.value_dim)) as u64;
        let mut layers: Vec<u64> = config.kv_heads.iter().take(config.layers).map(|heads| context * row(*heads)).collect();
        let (mut embedding, mut head) = (0, SCRATCH);
        let tied = gguf.tensor("output.weight").is_none();
        for tensor in gguf.tensors().filter(|t| !config.drafts(&t.name)) {
            // What candle has no type for becomes halves.
            let bytes = if gpu::kept(tensor.kind) { tensor.size() } else { 2 * tensor.elements() };
            let layer = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse::<usize>().ok());
            match layer.and_then(|index| layers.get_mut(index)) {
                Some(layer) => *layer += bytes,
                None if tensor.name.starts_with("output") || tied && tensor.name == "token_embd.weight" => head += bytes,
                None => embedding += bytes,
            }
        }
        let needs = Needs { embedding, layers, head, cuts: split::cuts(gguf)?, asked: None };
        let asked = match options.gpu_layers {
            GpuLayers::Auto => None,
            GpuLayers::Count(n) => Some(needs.count(n)?),
        };
        Ok(Needs { asked, ..needs })
    }

    /// What the layers from `cut` on and the head need.
    fn from(&self, cut: usize) -> u64 {
        let embedding = if cut == 0 { self.embedding } else { 0 };
        embedding + self.layers[cut..].iter().sum::<u64>() + self.head
    }

    /// What the fewest layers need that can go to a GPU.
    pub(super) fn least(&self) -> u64 {
        self.from(self.cuts.last().copied().unwrap_or(0))
    }

    /// The first layer that goes to a GPU of this memory; `None` where it has no room for any.
    pub(super) fn cut(&self, memory: Option<Memory>) -> Option<usize> {
        let mut cuts = std::iter::once(0).chain(self.cuts.iter().copied());
        match (self.asked, memory) {
            (Some(cut), _) => Some(cut),
            (None, None) => Some(0),
            (None, Some(memory)) => cuts.find(|cut| self.from(*cut) <= memory.free),
        }
    }

    /// The first of the last `n` layers.
    fn count(&self, n: usize) -> Result<usize> {
        let all = self.layers.len();
        let cut = all.saturating_sub(n);
        if cut == 0 || self.cuts.contains(&cut) {
            return Ok(cut);
        }
        let last = self.cuts.last().map_or(all, |cut| all - cut);
        let fault = Fault::at("layers on a GPU").expected(format!("0, or from {last} to {all}")).found(n);
        Err(Error::Unsupported(fault.help("the model's last layers look at the keys of an earlier one, which must be on the same device")))
    }

    /// What the user should hear of a model in two parts.
    pub(super) fn notice(&self, device: Device, cut: usize, memory: Option<Memory>) -> Option<String> {
        let all = self.layers.len();
        let why = memory.map_or(String::new(), |memory| format!(": {} GiB are free, all need {}", gib(memory.free), gib(self.from(0))));
        (cut > 0).then(|| format!("{device} computes the last {} of {all} layers and the head, the CPU the others{why}", all - cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn cut(needs: &Needs, free: u64) -> Option<usize> {
        needs.cut(Some(Memory { free, total: 64 * GIB }))
    }

    #[test]
    fn a_gpu_takes_as_many_of_the_last_layers_as_it_has_room_for() {
        // 4 layers of 1, 2, 1 and 1 GiB; the head and scratch 3, the embedding 2.
        let layers = [1, 2, 1, 1].map(|n| n * GIB).to_vec();
        let needs = Needs { embedding: 2 * GIB, layers, head: 3 * GIB, cuts: vec![1, 2, 3], asked: None };
        for (free, want) in [
            (64 * GIB, Some(0)),
            (10 * GIB, Some(0)),
            (10 * GIB - 1, Some(1)),
            (7 * GIB, Some(1)),
            (7 * GIB - 1, Some(2)),
            (5 * GIB, Some(2)),
            (4 * GIB, Some(3)),
            (4 * GIB - 1, None),
            (0, None),
        ] {
            assert_eq!(cut(&needs, free), want, "{free} bytes free");
        }
        assert_eq!(needs.least(), 4 * GIB);
        assert_eq!(needs.cut(None), Some(0), "where nothing is known of memory, all layers");
        assert!(needs.notice(Device::Cuda(0), 0, None).is_none());
        let memory = Some(Memory { free: 5 * GIB, total: 8 * GIB });
        let said = "cuda:0 computes the last 2 of 4 layers and the head, the CPU the others: 5.0 GiB are free, all need 10.0";
        assert_eq!(needs.notice(Device::Cuda(0), 2, memory).unwrap(), said);
    }

    #[test]
    fn layers_that_share_keys_stay_together() {
        // Layers 2 and 3 look at the keys of layer 1.
        let needs = Needs { embedding: 0, layers: vec![GIB; 4], head: GIB, cuts: vec![1], asked: None };
        assert_eq!([cut(&needs, 5 * GIB), cut(&needs, 4 * GIB), cut(&needs, 3 * GIB)], [Some(0), Some(1), None]);
        assert_eq!([3, 4, 99].map(|n| needs.count(n).unwrap()), [1, 0, 0]);
        assert!(needs.count(2).unwrap_err().to_string().contains("0, or from 3 to 4"));
    }

    #[test]
    fn numbers_of_layers_are_read_as_they_are_written() {
        for layers in [GpuLayers::Auto, GpuLayers::Count(0), GpuLayers::Count(33)] {
            assert_eq!(layers.to_string().parse::<GpuLayers>().unwrap(), layers);
        }
        assert!("-1".parse::<GpuLayers>().unwrap_err().to_string().contains("auto or a number"));
    }
}
