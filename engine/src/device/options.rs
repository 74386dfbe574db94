//! What may be asked for: a place to compute, layers on a GPU, threads, a context.

use crate::error::{Error, Fault, Result};
use std::fmt;
use std::str::FromStr;

/// A place to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// A GPU where that goes, else the CPU.
    #[default]
    Auto,
    /// This machine's CPU.
    Cpu,
    /// This machine's CPU by candle: to test what runs on the other devices.
    Candle,
    /// An NVIDIA GPU, counted from 0.
    Cuda(usize),
    /// A GPU of Apple's, counted from 0.
    Metal(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.pad("auto"),
            Device::Cpu => f.pad("cpu"),
            Device::Candle => f.pad("candle"),
            Device::Cuda(n) => f.pad(&format!("cuda:{n}")),
            Device::Metal(n) => f.pad(&format!("metal:{n}")),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Device> {
        let (name, number) = text.split_once(':').map_or((text, Some(0)), |(name, number)| (name, number.parse().ok()));
        match (name, number) {
            ("auto", _) if !text.contains(':') => Ok(Device::Auto),
            ("cpu", _) if !text.contains(':') => Ok(Device::Cpu),
            ("candle", _) if !text.contains(':') => Ok(Device::Candle),
            ("cuda", Some(n)) => Ok(Device::Cuda(n)),
            ("metal", Some(n)) => Ok(Device::Metal(n)),
            _ => Err(Error::Input(Fault::at("device").expected("auto, cpu, candle, cuda, cuda:N, metal or metal:N").found(text))),
        }
    }
}

/// How many of a model's layers a GPU computes, counted from the last; the head goes with them. The CPU computes the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit into its memory.
    #[default]
    Auto,
    /// So many, or all where the model has no more; none is the CPU alone.
    Count(usize),
}

impl fmt::Display for GpuLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuLayers::Auto => f.pad("auto"),
            GpuLayers::Count(n) => n.fmt(f),
        }
    }
}

impl FromStr for GpuLayers {
    type Err = Error;

    fn from_str(text: &str) -> Result<GpuLayers> {
        match text.parse() {
            Ok(n) => Ok(GpuLayers::Count(n)),
            Err(_) if text == "auto" => Ok(GpuLayers::Auto),
            Err(_) => Err(Error::Input(Fault::at("layers on a GPU").expected("auto or a number").found(text))),
        }
    }
}

/// How a model is to be loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Threads that compute, the caller's included.
    pub threads: usize,
    /// The context it will be run with; the trained one where `None`.
    pub context: Option<usize>,
    /// Where it computes.
    pub device: Device,
    /// How many of its layers a GPU computes.
    pub gpu_layers: GpuLayers,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Not taken by anyone.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// What a device is told that this build has no back end for.
pub(crate) fn not_built(feature: &str) -> String {
    format!("not in this build; it needs --features {feature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for device in [Device::Auto, Device::Cpu, Device::Candle, Device::Cuda(0), Device::Cuda(3), Device::Metal(1)] {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:1", "auto:0"] {
            assert!(bad.parse::<Device>().unwrap_err().to_string().contains("cuda:N"), "{bad}");
        }
    }
}
