//! Tensors of a file: their types, all of ggml's, and their place.

use std::fmt;

use hob_kernels::Format;

macro_rules! tensor_types {
    ($($name:ident = $id:literal, $len:literal, $bytes:literal;)*) => {
        /// How the numbers of a tensor are stored: every type a GGUF file may hold today, also those hob cannot compute with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, missing_docs)]
        #[repr(u32)]
        pub enum TensorType { $($name = $id,)* }

        impl TensorType {
            /// All types, in the order of their numbers.
            pub const ALL: &[TensorType] = &[$(TensorType::$name,)*];

            /// The type with this number in the file.
            pub const fn from_id(id: u32) -> Option<TensorType> {
                match id { $($id => Some(TensorType::$name),)* _ => None }
            }

            /// Its name, as ggml has it, in capitals.
            pub const fn name(self) -> &'static str {
                match self { $(TensorType::$name => stringify!($name),)* }
            }

            /// Numbers in a block.
            pub const fn block_len(self) -> u64 {
                match self { $(TensorType::$name => $len,)* }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> u64 {
                match self { $(TensorType::$name => $bytes,)* }
            }
        }
    };
}

// name = number in the file, numbers in a block, bytes of a block (ggml.h and ggml-common.h)
tensor_types! {
    F32 = 0, 1, 4;
    F16 = 1, 1, 2;
    Q4_0 = 2, 32, 18;
    Q4_1 = 3, 32, 20;
    Q5_0 = 6, 32, 22;
    Q5_1 = 7, 32, 24;
    Q8_0 = 8, 32, 34;
    Q8_1 = 9, 32, 36;
    Q2_K = 10, 256, 84;
    Q3_K = 11, 256, 110;
    Q4_K = 12, 256, 144;
    Q5_K = 13, 256, 176;
    Q6_K = 14, 256, 210;
    Q8_K = 15, 256, 292;
    IQ2_XXS = 16, 256, 66;
    IQ2_XS = 17, 256, 74;
    IQ3_XXS = 18, 256, 98;
    IQ1_S = 19, 256, 50;
    IQ4_NL = 20, 32, 18;
    IQ3_S = 21, 256, 110;
    IQ2_S = 22, 256, 82;
    IQ4_XS = 23, 256, 136;
    I8 = 24, 1, 1;
    I16 = 25, 1, 2;
    I32 = 26, 1, 4;
    I64 = 27, 1, 8;
    F64 = 28, 1, 8;
    IQ1_M = 29, 256, 56;
    BF16 = 30, 1, 2;
    TQ1_0 = 34, 256, 54;
    TQ2_0 = 35, 256, 66;
    MXFP4 = 39, 32, 17;
    NVFP4 = 40, 64, 36;
    Q1_0 = 41, 128, 18;
    Q2_0 = 42, 64, 18;
}

/// Types that files once held and ggml has given up, with what to use instead.
pub(super) const REMOVED: [(u32, &str, &str); 8] = [
    (4, "Q4_2", "Q4_0"),
    (5, "Q4_3", "Q4_1"),
    (31, "Q4_0_4_4", "Q4_0"),
    (32, "Q4_0_4_8", "Q4_0"),
    (33, "Q4_0_8_8", "Q4_0"),
    (36, "IQ4_NL_4_4", "IQ4_NL"),
    (37, "IQ4_NL_4_8", "IQ4_NL"),
    (38, "IQ4_NL_8_8", "IQ4_NL"),
];

impl TensorType {
    /// The type with this name, whatever its case.
    pub fn from_name(name: &str) -> Option<TensorType> {
        TensorType::ALL.iter().copied().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// The kernel format of this type; `None` where hob has none.
    pub const fn format(self) -> Option<Format> {
        Some(match self {
            TensorType::F32 => Format::F32,
            TensorType::F16 => Format::F16,
            TensorType::BF16 => Format::BF16,
            TensorType::Q4_0 => Format::Q4_0,
            TensorType::Q4_1 => Format::Q4_1,
            TensorType::Q5_0 => Format::Q5_0,
            TensorType::Q5_1 => Format::Q5_1,
            TensorType::Q8_0 => Format::Q8_0,
            TensorType::Q2_K => Format::Q2_K,
            TensorType::Q3_K => Format::Q3_K,
            TensorType::Q4_K => Format::Q4_K,
            TensorType::Q5_K => Format::Q5_K,
            TensorType::Q6_K => Format::Q6_K,
            TensorType::IQ4_NL => Format::IQ4_NL,
            TensorType::MXFP4 => Format::MXFP4,
            TensorType::IQ4_XS => Format::IQ4_XS,
            TensorType::IQ3_S => Format::IQ3_S,
            TensorType::IQ3_XXS => Format::IQ3_XXS,
            TensorType::IQ2_S => Format::IQ2_S,
            TensorType::IQ2_XS => Format::IQ2_XS,
            TensorType::IQ2_XXS => Format::IQ2_XXS,
            TensorType::IQ1_S => Format::IQ1_S,
            TensorType::IQ1_M => Format::IQ1_M,
            TensorType::TQ1_0 => Format::TQ1_0,
            TensorType::TQ2_0 => Format::TQ2_0,
            TensorType::Q8_1 | TensorType::Q8_K => return None,
            TensorType::Q1_0 | TensorType::Q2_0 | TensorType::NVFP4 => return None,
            TensorType::I8 | TensorType::I16 | TensorType::I32 | TensorType::I64 | TensorType::F64 => return None,
        })
    }

    /// Bytes of a tensor of these dimensions; `None` where a row is no whole number of blocks, or on overflow.
    pub fn bytes(self, dims: &[u64]) -> Option<u64> {
        let row = *dims.first()?;
        if row % self.block_len() != 0 {
            return None;
        }
        dims[1..].iter().try_fold((row / self.block_len()).checked_mul(self.block_bytes())?, |bytes, dim| bytes.checked_mul(*dim))
    }
}

impl From<Format> for TensorType {
    fn from(format: Format) -> TensorType {
        match format {
            Format::F32 => TensorType::F32,
            Format::F16 => TensorType::F16,
            Format::BF16 => TensorType::BF16,
            Format::Q4_0 => TensorType::Q4_0,
            Format::Q4_1 => TensorType::Q4_1,
            Format::Q5_0 => TensorType::Q5_0,
            Format::Q5_1 => TensorType::Q5_1,
            Format::Q8_0 => TensorType::Q8_0,
            Format::Q2_K => TensorType::Q2_K,
            Format::Q3_K => TensorType::Q3_K,
            Format::Q4_K => TensorType::Q4_K,
            Format::Q5_K => TensorType::Q5_K,
            Format::Q6_K => TensorType::Q6_K,
            Format::IQ4_NL => TensorType::IQ4_NL,
            Format::MXFP4 => TensorType::MXFP4,
            Format::IQ4_XS => TensorType::IQ4_XS,
            Format::IQ3_S => TensorType::IQ3_S,
            Format::IQ3_XXS => TensorType::IQ3_XXS,
            Format::IQ2_S => TensorType::IQ2_S,
            Format::IQ2_XS => TensorType::IQ2_XS,
            Format::IQ2_XXS => TensorType::IQ2_XXS,
            Format::IQ1_S => TensorType::IQ1_S,
            Format::IQ1_M => TensorType::IQ1_M,
            Format::TQ1_0 => TensorType::TQ1_0,
            Format::TQ2_0 => TensorType::TQ2_0,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A tensor of a file: name, shape, type and place. Its bytes: [`Gguf::bytes`](super::Gguf::bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, as in `blk.0.attn_q.weight`.
    pub name: String,
    /// One to four dimensions in ggml's order: `dims[0]` is the length of a row, whose numbers lie side by side.
    pub dims: Vec<u64>,
    /// How its numbers are stored.
    pub kind: TensorType,
    /// Which part of a split model holds it.
    pub(super) part: usize,
    /// Its first byte in that part's file.
    pub(super) offset: u64,
    /// How many bytes it has.
    pub(super) size: u64,
}

impl TensorInfo {
    /// How many numbers it holds.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// How many bytes it takes in the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where its first byte lies in its file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Which file of a split model holds it, from 0.
    pub fn part(&self) -> usize {
        self.part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_kernel_formats_agree() {
        for &kind in TensorType::ALL {
            assert_eq!(TensorType::from_id(kind as u32), Some(kind));
            assert_eq!(TensorType::from_name(&kind.name().to_lowercase()), Some(kind));
            assert!(REMOVED.iter().all(|(id, ..)| *id != kind as u32));
        }
        for format in Format::ALL {
            let kind = TensorType::from(format);
            assert_eq!(kind.format(), Some(format));
            assert_eq!((kind.block_len(), kind.block_bytes()), (format.block_len() as u64, format.block_bytes() as u64));
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(TensorType::Q4_K.bytes(&[512, 3, 2]), Some(2 * 144 * 6));
        assert_eq!(TensorType::Q4_K.bytes(&[300]), None);
        assert_eq!(TensorType::F32.bytes(&[1 << 32, 1 << 31]), None);
        assert_eq!(TensorType::F32.bytes(&[]), None);
    }
}
