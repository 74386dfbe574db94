//! This machine: what it can do at most, measured, the yardstick of `hob bench`; and how much memory it has.

use crate::error::{Error, Fault, Result};
use crate::gguf::{Bytes, Gguf};
use hob_kernels::ceiling::{self, Ahead};
use hob_kernels::{Cpu, Level, Pool};
use std::time::Instant;

mod memory;

pub use memory::Memory;

/// The most bytes that are read to measure reading.
const MOST: u64 = 1 << 30;
/// The least: less might stay in a cache.
const LEAST: usize = 256 << 20;
/// Runs of each measurement; the best counts.
const RUNS: usize = 3;

/// What a number of threads can do at most on this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Threads that worked.
    pub threads: usize,
    /// Bytes read a second: the bound of generation, which reads all weights for a token.
    pub read: f64,
    /// Products of bytes a second, each with its addition: the bound of a prompt, whose tokens share the weights.
    pub int8: f64,
}

impl Ceilings {
    /// Measures them, in about a second; reading on the bytes of `gguf`, where it has enough of them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where `HOB_LEVEL` names a level that this machine lacks, [`Error::Memory`] without 256 MiB.
    pub fn measure(threads: usize, gguf: Option<&Gguf>) -> Result<Ceilings> {
        let level = Level::from_env().map_err(|e| Error::Unsupported(Fault::at("HOB_LEVEL").found(e)))?;
        let pool = Pool::new(threads);
        let cpu = Cpu::new(level, &pool);
        let own: Bytes;
        let mut stretches: Vec<Bytes> = Vec::new();
        if let Some(gguf) = gguf {
            let mut taken = 0;
            for tensor in gguf.tensors() {
                if taken < MOST {
                    taken += tensor.size();
                    stretches.push(gguf.bytes(tensor));
                }
            }
        }
        let mut parts: Vec<&[u8]> = stretches.iter().map(|bytes| &**bytes).collect();
        if parts.iter().map(|p| p.len()).sum::<usize>() < LEAST {
            own = Bytes::filled(LEAST, |bytes| {
                bytes.fill(1);
                Ok(())
            })?;
            parts = vec![&own];
        }
        let bytes = parts.iter().map(|p| p.len()).sum::<usize>() as f64;
        let mut read = 0f64;
        for run in 0..2 * RUNS {
            let ahead = if run % 2 == 0 { Ahead::Own } else { Ahead::Page };
            let start = Instant::now();
            for part in &parts {
                std::hint::black_box(ceiling::read(cpu, part, ahead));
            }
            read = read.max(bytes / start.elapsed().as_secs_f64());
        }
        let mut int8 = 0f64;
        for _ in 0..RUNS {
            let start = Instant::now();
            let (products, found) = ceiling::multiply(cpu, 16 * pool.threads());
            std::hint::black_box(found);
            int8 = int8.max(products as f64 / start.elapsed().as_secs_f64());
        }
        Ok(Ceilings { threads: pool.threads(), read, int8 })
    }
}

/// The processor's name where the system tells it, else its architecture.
pub fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let identifier = || std::env::var("PROCESSOR_IDENTIFIER").ok().filter(|name| !name.is_empty());
    named.map(|(_, name)| name.trim().to_owned()).or_else(identifier).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Bytes of memory that this process holds now, mapped files included, where the system tells (Linux).
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    kib.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reads_and_multiplies() {
        let one = Ceilings::measure(1, None).unwrap();
        assert_eq!(one.threads, 1);
        // Slower than a tenth of a GB/s, or faster than a thousand, is a mistake of the clock or the count.
        assert!((1e8..1e12).contains(&one.read) && (1e8..1e14).contains(&one.int8), "{one:?}");
    }
}
