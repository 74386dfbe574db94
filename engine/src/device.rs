//! Where a model computes: this machine's CPU by hob's own kernels, or a device of candle's, or both.
//!
//! [`Device::Auto`] takes a GPU where the build has one's back end, it is there, and the model or its last layers fit; otherwise it
//! says why and takes the CPU. A device asked for by name is that device or an error. Where a GPU is too small, the CPU has the first
//! layers and the embedding, the GPU the last layers and the head: the stream goes over once a step (`layers.rs`).

mod gpu;
mod layers;
pub(crate) mod options;

use crate::backend::cpu::CpuBackend;
use crate::cache::KvType;
use crate::decoder::{Decoder, Run};
use crate::error::{Error, Fault, Result};
use crate::gguf::Gguf;
use hob_kernels::Level;
use layers::{Needs, gib};
use options::not_built;
pub use options::{Device, GpuLayers, LoadOptions, Memory};

/// Whether a device can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It can.
    Ready {
        /// What its maker calls it.
        name: String,
        /// Bytes of its memory, where it has its own.
        memory: Option<Memory>,
    },
    /// It cannot: why not.
    Absent(String),
}

impl Presence {
    fn memory(&self) -> Option<Memory> {
        match self {
            Presence::Ready { memory, .. } => *memory,
            Presence::Absent(_) => None,
        }
    }
}

/// All devices that hob knows of on this machine, those that cannot be used too.
pub fn devices() -> Vec<(Device, Presence)> {
    let level = Level::from_env().map_or_else(|e| e.to_string(), |level| level.to_string());
    let cpu = Presence::Ready { name: format!("{}, {level}", std::env::consts::ARCH), memory: None };
    let candle = if cfg!(feature = "candle") {
        Presence::Ready { name: "candle's CPU device, for tests".into(), memory: None }
    } else {
        Presence::Absent(not_built("candle"))
    };
    let mut all = vec![(Device::Cpu, cpu), (Device::Candle, candle)];
    all.extend(gpus(gpu::cuda(), Device::Cuda));
    all.extend(gpus(gpu::metal(), Device::Metal));
    all
}

fn gpus(found: Result<Vec<gpu::Gpu>, String>, device: impl Fn(usize) -> Device) -> Vec<(Device, Presence)> {
    match found {
        Ok(gpus) => {
            let ready = |(n, gpu): (usize, gpu::Gpu)| (device(n), Presence::Ready { name: gpu.name, memory: gpu.memory });
            gpus.into_iter().enumerate().map(ready).collect()
        }
        Err(why) => vec![(device(0), Presence::Absent(why))],
    }
}

/// A model on its device.
pub(crate) struct Placed {
    pub(crate) run: Box<dyn Run>,
    pub(crate) device: Device,
    /// What the user should hear about the choice.
    pub(crate) notice: Option<String>,
}

/// Loads the model in a file onto a device.
///
/// # Errors
/// [`Error::Unsupported`] for an architecture, a tensor type or a CPU level that hob does not have, [`Error::Model`] for a
/// file that is incomplete, [`Error::Gguf`] for one that contradicts itself, [`Error::Device`] for a device that is not there.
pub fn load(gguf: &Gguf, options: &LoadOptions) -> Result<Box<dyn Run>> {
    place(gguf, options, [KvType::F16; 2]).map(|placed| placed.run)
}

/// Loads the model in a file onto the device that the options name, or choose, for caches of these types.
pub(crate) fn place(gguf: &Gguf, options: &LoadOptions, kv: [KvType; 2]) -> Result<Placed> {
    match (options.device, options.gpu_layers) {
        (Device::Cpu, GpuLayers::Count(n)) if n > 0 => {
            let fault = Fault::at("layers on a GPU").expected("none with the device cpu").found(n);
            Err(Error::Input(fault.help("name the GPU: `hob doctor` lists the devices that there are")))
        }
        (Device::Cpu, GpuLayers::Auto | GpuLayers::Count(_)) | (_, GpuLayers::Count(0)) => on_cpu(gguf, options, None),
        (Device::Auto, _) => auto(gguf, options, kv),
        (device, _) => {
            keeps(device, kv)?;
            let memory = devices().into_iter().find(|(other, _)| *other == device).and_then(|(_, presence)| presence.memory());
            let needs = Needs::of(gguf, options, kv)?;
            let cut = needs.cut(memory).ok_or_else(|| {
                let (free, least) = (memory.map_or(0, |memory| memory.free), needs.least());
                let fault = Fault::at(format!("device {device}")).expected(format!("{} GiB for a layer and the head", gib(least)));
                Error::Memory(
                    fault.found(format!("{} GiB free", gib(free))).help("compute on the device cpu, or ask for a smaller context"),
                )
            })?;
            on_gpu(device, gguf, options, &needs, cut, memory)
        }
    }
}

fn on_cpu(gguf: &Gguf, options: &LoadOptions, notice: Option<String>) -> Result<Placed> {
    let decoder = Decoder::load(gguf, CpuBackend::new(options.threads)?, options.context)?;
    Ok(Placed { run: Box::new(decoder), device: Device::Cpu, notice })
}

/// The layers from `cut` on and the head on a GPU, the rest on the CPU.
fn on_gpu(device: Device, gguf: &Gguf, options: &LoadOptions, needs: &Needs, cut: usize, memory: Option<Memory>) -> Result<Placed> {
    Ok(Placed { run: gpu::load(device, gguf, options, cut)?, device, notice: needs.notice(device, cut, memory) })
}

/// Whether caches of these types can be had there.
fn keeps(device: Device, kv: [KvType; 2]) -> Result<()> {
    match (device, kv.into_iter().find(|kind| kind.is_quantized())) {
        (Device::Auto | Device::Cpu, _) | (_, None) => Ok(()),
        (Device::Candle | Device::Cuda(_) | Device::Metal(_), Some(kind)) => {
            let fault = Fault::at(format!("a KV cache of {kind} on {device}")).found("only the CPU's back end has quantized caches");
            Err(Error::Unsupported(fault.help("ask for f16, or for the device cpu")))
        }
    }
}

/// The GPU that has room for most of the model, else the CPU.
fn auto(gguf: &Gguf, options: &LoadOptions, kv: [KvType; 2]) -> Result<Placed> {
    let mut notice = None;
    if cfg!(any(feature = "cuda", feature = "metal")) {
        let needs = Needs::of(gguf, options, kv)?;
        match choose(&needs, kv) {
            Ok((device, memory, cut)) => match on_gpu(device, gguf, options, &needs, cut, memory) {
                Ok(placed) => {
                    placed.notice.iter().for_each(|notice| tracing::info!("{notice}"));
                    return Ok(placed);
                }
                Err(error @ (Error::Device(_) | Error::Memory(_))) => {
                    notice = Some(format!("{device} failed, so the CPU computes: {error}"))
                }
                Err(error) => return Err(error),
            },
            Err(why) => notice = Some(format!("the CPU computes: {why}")),
        }
    } else if options.gpu_layers != GpuLayers::Auto {
        notice = Some(format!("the CPU computes: no GPU's back end is {}", not_built("cuda or metal")));
    }
    if let Some(notice) = &notice {
        tracing::warn!("{notice}");
    }
    on_cpu(gguf, options, notice)
}

/// The GPU that has room for most layers, with the first of them, or why there is none.
fn choose(needs: &Needs, kv: [KvType; 2]) -> Result<(Device, Option<Memory>, usize), String> {
    if let Some(kind) = kv.into_iter().find(|kind| kind.is_quantized()) {
        return Err(format!("GPUs keep no KV cache of {kind}"));
    }
    let (mut best, mut reasons): (Option<(Device, Option<Memory>, usize)>, _) = (None, Vec::new());
    for (device, presence) in devices() {
        match (device, presence) {
            (Device::Auto | Device::Cpu | Device::Candle, _) => {}
            (_, Presence::Ready { memory, .. }) => match needs.cut(memory) {
                Some(cut) if best.is_none_or(|(.., other)| cut < other) => best = Some((device, memory, cut)),
                Some(_) => {}
                None => {
                    let free = memory.map_or(0, |memory| memory.free);
                    reasons.push(format!("{device} has {} GiB free, a layer and the head need {}", gib(free), gib(needs.least())));
                }
            },
            (Device::Cuda(_), Presence::Absent(why)) if cfg!(feature = "cuda") => reasons.push(format!("{device}: {why}")),
            (Device::Metal(_), Presence::Absent(why)) if cfg!(feature = "metal") => reasons.push(format!("{device}: {why}")),
            (Device::Cuda(_) | Device::Metal(_), Presence::Absent(_)) => {}
        }
    }
    best.ok_or_else(|| reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantized_caches_are_the_cpu_s_alone() {
        for kv in [[KvType::Q8_0, KvType::F16], [KvType::F16, KvType::Q4_0]] {
            assert!(keeps(Device::Cpu, kv).is_ok() && keeps(Device::Auto, kv).is_ok());
            assert!(keeps(Device::Cuda(0), kv).unwrap_err().to_string().contains("_0 on cuda:0"));
        }
        assert!(keeps(Device::Candle, [KvType::Bf16, KvType::F32]).is_ok());
    }

    #[test]
    fn the_cpu_is_always_there_and_what_is_absent_says_why() {
        let all = devices();
        assert!(matches!(&all[0], (Device::Cpu, Presence::Ready { .. })));
        for (device, presence) in all {
            match presence {
                Presence::Ready { name, .. } => assert!(!name.is_empty(), "{device}"),
                Presence::Absent(why) => assert!(!why.is_empty(), "{device}"),
            }
        }
    }
}
