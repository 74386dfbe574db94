//! GPUs, as candle knows them; a build without candle has none, and says so.

#[cfg(feature = "candle")]
pub(super) use crate::backend::candle::device::{Gpu, cuda, kept, load, metal};
#[cfg(not(feature = "candle"))]
pub(super) use absent::{Gpu, cuda, kept, load, metal};

#[cfg(not(feature = "candle"))]
mod absent {
    use crate::decoder::Run;
    use crate::device::options::{Device, LoadOptions, Memory, not_built};
    use crate::error::{Error, Fault, Result};
    use crate::gguf::{Gguf, TensorType};

    pub(crate) struct Gpu {
        pub(crate) name: String,
        pub(crate) memory: Option<Memory>,
    }

    pub(crate) fn cuda() -> Result<Vec<Gpu>, String> {
        Err(not_built("cuda"))
    }

    pub(crate) fn metal() -> Result<Vec<Gpu>, String> {
        Err(not_built("metal"))
    }

    pub(crate) fn kept(_: TensorType) -> bool {
        true
    }

    pub(crate) fn load(device: Device, _: &Gguf, _: &LoadOptions, _: usize) -> Result<Box<dyn Run>> {
        let feature = match device {
            Device::Auto | Device::Cpu | Device::Candle => "candle",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        Err(Error::Unsupported(Fault::at(format!("device {device}")).found(not_built(feature)).help("the CPU runs everything")))
    }
}
