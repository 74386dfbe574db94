//! The types of a cache's numbers.

use std::fmt;
use std::str::FromStr;

/// How the numbers of a cache are stored. What they come back as is written in [`crate::naive::cache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// As computed.
    F32,
    /// Half precision, rounded to nearest even.
    F16,
    /// The upper half of an f32, rounded to nearest even.
    Bf16,
    /// 8 bits, and a factor for every 32 channels: 53 % of f16.
    Q8_0,
    /// 4 bits, and a factor for every 32 channels: 28 % of f16.
    Q4_0,
}

/// Channels that share a factor.
pub const GROUP: usize = 32;

/// Channels that are turned together at most: more would not spread outliers any thinner than codes can tell.
pub(crate) const MOST_TURNED: usize = 128;

impl KvType {
    /// All of them, for tables and tests.
    pub const ALL: [KvType; 5] = [KvType::F32, KvType::F16, KvType::Bf16, KvType::Q8_0, KvType::Q4_0];

    /// Its name, as in the files and flags of llama.cpp.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Bf16 => "bf16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }

    /// Whether its numbers are codes that share a factor.
    pub const fn is_quantized(self) -> bool {
        match self {
            KvType::F32 | KvType::F16 | KvType::Bf16 => false,
            KvType::Q8_0 | KvType::Q4_0 => true,
        }
    }

    /// Bytes of `dim` numbers of one position; quantized, whole groups of 32.
    ///
    /// ```
    /// # use hob_kernels::attention::KvType;
    /// assert_eq!(KvType::ALL.map(|kind| kind.bytes(128)), [512, 256, 256, 136, 72]);
    /// ```
    pub const fn bytes(self, dim: usize) -> usize {
        match self {
            KvType::F32 => 4 * dim,
            KvType::F16 | KvType::Bf16 => 2 * dim,
            KvType::Q8_0 => dim.div_ceil(GROUP) * (2 + GROUP),
            KvType::Q4_0 => dim.div_ceil(GROUP) * (2 + GROUP / 2),
        }
    }

    /// How many channels a Hadamard matrix mixes with each other before they are stored, of `dim` that a head has: 1 for none.
    /// Few bits cannot tell a channel that is always large from its neighbours; mixed, all are alike.
    pub const fn turned(self, dim: usize) -> usize {
        match self {
            KvType::F32 | KvType::F16 | KvType::Bf16 => 1,
            KvType::Q8_0 | KvType::Q4_0 => match dim & dim.wrapping_neg() {
                0 => 1,
                n if n > MOST_TURNED => MOST_TURNED,
                n => n,
            },
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(text: &str) -> Result<KvType, String> {
        KvType::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names = KvType::ALL.map(KvType::name).join(", ");
            format!("`{text}` is none of {names}")
        })
    }
}
