//! Which of candle's devices this machine has, and a decoder on one of them.

use super::CandleBackend;
use super::weight;
use crate::backend::cpu::CpuBackend;
use crate::decoder::split::Split;
use crate::decoder::{Decoder, Run};
use crate::device::options::{Device, LoadOptions, Memory, not_built};
use crate::error::{Error, Fault, Result};
use crate::gguf::{Gguf, TensorType};

/// A GPU that is there.
pub(crate) struct Gpu {
    pub(crate) name: String,
    pub(crate) memory: Option<Memory>,
}

/// NVIDIA's GPUs, or why there are none.
#[cfg(feature = "cuda")]
pub(crate) fn cuda() -> Result<Vec<Gpu>, String> {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    let count = CudaContext::device_count().map_err(|e| format!("no NVIDIA driver or GPU answers ({e})"))?;
    if count <= 0 {
        return Err("the driver finds no GPU".into());
    }
    let gpu = |n: i32| {
        let context = CudaContext::new(n as usize)?;
        let (free, total) = context.mem_get_info()?;
        Ok(Gpu { name: context.name()?, memory: Some(Memory { free: free as u64, total: total as u64 }) })
    };
    let failed = |e: candle_core::cuda_backend::cudarc::driver::DriverError| format!("the driver fails: {e}");
    (0..count).map(|n| gpu(n).map_err(failed)).collect()
}

/// NVIDIA's GPUs, or why there are none.
#[cfg(not(feature = "cuda"))]
pub(crate) fn cuda() -> Result<Vec<Gpu>, String> {
    Err(not_built("cuda"))
}

/// Apple's GPUs, or why there are none.
#[cfg(all(feature = "metal", target_vendor = "apple"))]
pub(crate) fn metal() -> Result<Vec<Gpu>, String> {
    let gpu = |device: candle_metal_kernels::metal::Device| {
        // Memory is the machine's own: what the system advises to stay within, less what this program has taken.
        let total = device.recommended_max_working_set_size() as u64;
        let free = total.saturating_sub(device.current_allocated_size() as u64);
        Gpu { name: device.architecture_name(), memory: Some(Memory { free, total }) }
    };
    let all: Vec<Gpu> = candle_metal_kernels::metal::Device::all().into_iter().map(gpu).collect();
    if all.is_empty() { Err("the system has no Metal device".into()) } else { Ok(all) }
}

/// Apple's GPUs, or why there are none.
#[cfg(not(all(feature = "metal", target_vendor = "apple")))]
pub(crate) fn metal() -> Result<Vec<Gpu>, String> {
    Err(if cfg!(target_os = "macos") { not_built("metal") } else { "only on a Mac".into() })
}

/// Whether candle keeps a type as the file has it.
pub(crate) fn kept(kind: TensorType) -> bool {
    kind.format().is_some_and(weight::known)
}

/// The model in a file on one of candle's devices; its layers before `cut` on the CPU.
pub(crate) fn load(device: Device, gguf: &Gguf, options: &LoadOptions, cut: usize) -> Result<Box<dyn Run>> {
    let backend = CandleBackend::new(open(device)?);
    Ok(match cut {
        0 => Box::new(Decoder::load(gguf, backend, options.context)?),
        _ => Box::new(Split::load(gguf, (CpuBackend::new(options.threads)?, backend), cut, options.context)?),
    })
}

/// candle's handle. It is asked for a GPU only after the driver was: candle panics where there is none.
fn open(device: Device) -> Result<candle_core::Device> {
    let absent = |found: String| {
        let fault = Fault::at(format!("device {device}")).found(found);
        Error::Device(fault.help("`hob doctor` lists the devices that there are"))
    };
    let there = |gpus: Result<Vec<Gpu>, String>, n: usize| match gpus {
        Ok(gpus) if n < gpus.len() => Ok(()),
        Ok(gpus) => Err(absent(format!("the last of its kind is number {}", gpus.len() - 1))),
        Err(why) => Err(absent(why)),
    };
    match device {
        Device::Auto | Device::Cpu | Device::Candle => Ok(candle_core::Device::Cpu),
        Device::Cuda(n) => {
            there(cuda(), n)?;
            // One stream of its own: sessions of a model run on any thread, and must see what others have written.
            candle_core::Device::new_cuda_with_stream(n).map_err(|e| absent(e.to_string()))
        }
        Device::Metal(n) => {
            there(metal(), n)?;
            candle_core::Device::new_metal(n).map_err(|e| absent(e.to_string()))
        }
    }
}
