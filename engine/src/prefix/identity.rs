//! Whose states they are: two sessions may share them only where every bit of them would be the same.

use super::hash::checksum;
use crate::cache::CacheOptions;
use crate::decoder::Run;
use crate::gguf::Gguf;
use std::fmt;

/// The form of what is kept, and of the arithmetic that made it. It goes up whenever either changes.
const FORM: u32 = 1;

/// Bytes of a tensor that are looked at: those of a page, which is read anyway when one of them is.
const SAMPLE: usize = 4096;

/// All that the bits of a state depend on besides the tokens: the model's header and a sample of each of its tensors, what was made of
/// them (numbers, ropes, which may depend on the context asked for), the types of keys and values, and this version of hob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity(pub(super) u128);

impl Identity {
    pub(super) fn of(gguf: &Gguf, run: &dyn Run, cache: &CacheOptions) -> Identity {
        let made = format!("{FORM} {} {:?} {:?} {:?} {}", env!("CARGO_PKG_VERSION"), cache.k, cache.v, run.config(), run.positions());
        let sums = [1, 2].map(|seed| {
            let mut all = vec![checksum(seed, made.as_bytes())];
            for (part, bytes) in gguf.parts().iter().enumerate() {
                let tensors = gguf.tensors().filter(|t| t.part() == part);
                let header = tensors.map(|t| t.offset() as usize).min().unwrap_or(bytes.len()).min(bytes.len());
                all.extend([bytes.len() as u64, checksum(seed, &bytes[..header])]);
            }
            for tensor in gguf.tensors() {
                let bytes = gguf.bytes(tensor);
                let from = bytes.len().saturating_sub(SAMPLE) / 2;
                all.push(checksum(seed, &bytes[from..bytes.len().min(from + SAMPLE)]));
            }
            let all: Vec<u8> = all.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            u128::from(checksum(seed, &all))
        });
        Identity(sums[0] << 64 | sums[1])
    }

    /// What addresses of tokens begin with.
    pub(super) fn seed(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
