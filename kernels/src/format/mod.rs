//! Block formats: how weights lie in a GGUF file, what they mean, and how to make them.
//!
//! A row is a run of blocks; a block is some small codes `q` and the numbers that scale them. Unpacked, all of them are one thing,
//! a [`Block`], with one formula:
//!
//! ```text
//! weight[i] = (d * scale[i / group]) * q[i]  -  (dmin * min[i / group])
//!             f32 from f16, small ints                   formats with a minimum only ([`Form::Affine`])
//! ```
//!
//! Every product and the difference are rounded to f32 on their own, which is what ggml computes: values are equal to its values
//! bit for bit. Layouts are pictured in [`plain`], [`legacy`], [`k`], [`table`], [`iq`] and [`ternary`];
//! their source is the GGUF specification
//! (github.com/ggml-org/ggml, docs/gguf.md) and the block structs that it names. All numbers are little-endian.

mod fit;
pub(crate) mod grid;
pub mod iq;
pub mod k;
mod k_quantize;
pub mod legacy;
pub mod plain;
pub mod table;
pub mod ternary;

/// A tensor format that hob has kernels for. Names are ggml's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs)]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    MXFP4,
    IQ4_XS,
    IQ3_S,
    IQ3_XXS,
    IQ2_S,
    IQ2_XS,
    IQ2_XXS,
    IQ1_S,
    IQ1_M,
    TQ1_0,
    TQ2_0,
}

impl Format {
    /// All formats, for tables and tests.
    pub const ALL: [Format; 25] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_NL,
        Format::MXFP4,
        Format::IQ4_XS,
        Format::IQ3_S,
        Format::IQ3_XXS,
        Format::IQ2_S,
        Format::IQ2_XS,
        Format::IQ2_XXS,
        Format::IQ1_S,
        Format::IQ1_M,
        Format::TQ1_0,
        Format::TQ2_0,
    ];

    /// Weights in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 | Format::IQ4_NL | Format::MXFP4 => 32,
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K | Format::IQ4_XS => 256,
            Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => 256,
            Format::TQ1_0 | Format::TQ2_0 => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q4_0 => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q8_0 => 34,
            Format::Q2_K => 84,
            Format::Q3_K => 110,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
            Format::IQ4_NL => 18,
            Format::MXFP4 => 17,
            Format::IQ4_XS => 136,
            Format::IQ3_S => 110,
            Format::IQ3_XXS => 98,
            Format::IQ2_S => 82,
            Format::IQ2_XS => 74,
            Format::IQ2_XXS => 66,
            Format::IQ1_S => 50,
            Format::IQ1_M => 56,
            Format::TQ1_0 => 54,
            Format::TQ2_0 => 66,
        }
    }

    /// The name that GGUF tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q8_0 => "Q8_0",
            Format::Q2_K => "Q2_K",
            Format::Q3_K => "Q3_K",
            Format::Q4_K => "Q4_K",
            Format::Q5_K => "Q5_K",
            Format::Q6_K => "Q6_K",
            Format::IQ4_NL => "IQ4_NL",
            Format::MXFP4 => "MXFP4",
            Format::IQ4_XS => "IQ4_XS",
            Format::IQ3_S => "IQ3_S",
            Format::IQ3_XXS => "IQ3_XXS",
            Format::IQ2_S => "IQ2_S",
            Format::IQ2_XS => "IQ2_XS",
            Format::IQ2_XXS => "IQ2_XXS",
            Format::IQ1_S => "IQ1_S",
            Format::IQ1_M => "IQ1_M",
            Format::TQ1_0 => "TQ1_0",
            Format::TQ2_0 => "TQ2_0",
        }
    }

    /// The format called `name`, in capitals or not.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(name))
    }

    /// Whether [`quantize`] makes this format: those with codebooks it does not.
    pub const fn can_quantize(self) -> bool {
        match self {
            Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => false,
            Format::F32 | Format::F16 | Format::BF16 => true,
            Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => true,
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K => true,
            Format::IQ4_NL | Format::IQ4_XS | Format::MXFP4 | Format::TQ1_0 | Format::TQ2_0 => true,
        }
    }

    /// Bits that a weight takes, scales included.
    pub const fn bits_per_weight(self) -> f64 {
        (self.block_bytes() * 8) as f64 / self.block_len() as f64
    }

    /// What a weight is made of.
    pub const fn form(self) -> Form {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => Form::Float,
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Q3_K | Format::Q6_K => Form::Symmetric,
            Format::IQ4_NL | Format::IQ4_XS | Format::MXFP4 | Format::TQ1_0 | Format::TQ2_0 => Form::Symmetric,
            Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {
                Form::Symmetric
            }
            Format::Q4_1 | Format::Q5_1 | Format::Q2_K | Format::Q4_K | Format::Q5_K => Form::Affine,
        }
    }

    /// What the other factor of a product with such weights is turned into.
    pub const fn input(self) -> InputKind {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => InputKind::F32,
            Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => InputKind::Int8Per32,
            Format::IQ4_NL | Format::MXFP4 => InputKind::Int8Per32,
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K => InputKind::Int8Per256,
            Format::IQ4_XS | Format::TQ1_0 | Format::TQ2_0 => InputKind::Int8Per256,
            Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {
                InputKind::Int8Per256
            }
        }
    }

    /// Bytes of a row of `cols` weights; `None` where `cols` is no multiple of the block or the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// What a weight is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// The weight itself.
    Float,
    /// `d * scale * q`, codes signed.
    Symmetric,
    /// `d * scale * q - dmin * min`, codes from 0.
    Affine,
}

/// What activations become before they meet a format's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// They stay f32.
    F32,
    /// int8 with an f32 scale for every 32.
    Int8Per32,
    /// int8 with an f32 scale for every 256.
    Int8Per256,
}

/// One block of a quantized format, unpacked. Only the first [`Format::block_len`] codes mean something.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// The scale of all scales.
    pub d: f32,
    /// The scale of all minimums; 0 where the format has none.
    pub dmin: f32,
    /// Codes that share a scale and a minimum: 16 or 32.
    pub group: usize,
    /// A scale a group.
    pub scales: [i8; 16],
    /// A minimum a group.
    pub mins: [u8; 16],
    /// The codes.
    pub codes: [i8; 256],
}

impl Block {
    /// A block of zeros, to be unpacked into.
    pub const fn new() -> Block {
        Block { d: 0.0, dmin: 0.0, group: 32, scales: [0; 16], mins: [0; 16], codes: [0; 256] }
    }

    /// The first 32 codes as one group, whose scale is `d` alone.
    fn one_group(&mut self, d: f32) {
        (self.d, self.dmin, self.group, self.scales[0], self.mins[0]) = (d, 0.0, 32, 1, 0);
    }

    /// Takes one block of `format` apart; `bytes` is exactly one block. Formats of [`Form::Float`] have no blocks: nothing is done.
    pub fn unpack(&mut self, format: Format, bytes: &[u8]) {
        debug_assert_eq!(bytes.len(), format.block_bytes());
        match format {
            Format::F32 | Format::F16 | Format::BF16 => {}
            Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => legacy::unpack(format, bytes, self),
            Format::Q2_K => k::unpack_q2(bytes, self),
            Format::Q3_K => k::unpack_q3(bytes, self),
            Format::Q4_K => k::unpack_q4_q5(bytes, None, 16, self),
            Format::Q5_K => k::unpack_q4_q5(bytes, Some(16), 48, self),
            Format::Q6_K => k::unpack_q6(bytes, self),
            Format::IQ4_NL => table::unpack_iq4_nl(bytes, self),
            Format::MXFP4 => table::unpack_mxfp4(bytes, self),
            Format::IQ4_XS => table::unpack_iq4_xs(bytes, self),
            Format::IQ3_S => iq::unpack_iq3_s(bytes, self),
            Format::IQ3_XXS => iq::unpack_iq3_xxs(bytes, self),
            Format::IQ2_S => iq::unpack_iq2_s(bytes, self),
            Format::IQ2_XS => iq::unpack_iq2_xs(bytes, self),
            Format::IQ2_XXS => iq::unpack_iq2_xxs(bytes, self),
            Format::IQ1_S => iq::unpack_iq1_s(bytes, self),
            Format::IQ1_M => iq::unpack_iq1_m(bytes, self),
            Format::TQ1_0 => ternary::unpack_tq1_0(bytes, self),
            Format::TQ2_0 => ternary::unpack_tq2_0(bytes, self),
        }
    }

    /// Puts one block together: the reverse of [`Block::unpack`] for formats with a [`Format::can_quantize`], zeros for others.
    pub fn pack(&self, format: Format, bytes: &mut [u8]) {
        debug_assert_eq!(bytes.len(), format.block_bytes());
        bytes.fill(0);
        match format {
            Format::F32 | Format::F16 | Format::BF16 => {}
            Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => legacy::pack(format, self, bytes),
            Format::Q2_K => k::pack_q2(self, bytes),
            Format::Q3_K => k::pack_q3(self, bytes),
            Format::Q4_K => k::pack_q4_q5(self, None, 16, bytes),
            Format::Q5_K => k::pack_q4_q5(self, Some(16), 48, bytes),
            Format::Q6_K => k::pack_q6(self, bytes),
            Format::IQ4_NL => table::pack_iq4_nl(self, bytes),
            Format::MXFP4 => table::pack_mxfp4(self, bytes),
            Format::IQ4_XS => table::pack_iq4_xs(self, bytes),
            Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {}
            Format::TQ1_0 => ternary::pack_tq1_0(self, bytes),
            Format::TQ2_0 => ternary::pack_tq2_0(self, bytes),
        }
    }

    /// The weights: `(d * scale) * q - (dmin * min)`, each step rounded.
    pub fn values(&self, out: &mut [f32]) {
        let groups = out.chunks_mut(self.group).zip(self.codes.chunks(self.group)).zip(self.scales.iter().zip(&self.mins));
        for ((out, codes), (&scale, &min)) in groups {
            let (scale, min) = (self.d * f32::from(scale), self.dmin * f32::from(min));
            for (y, &q) in out.iter_mut().zip(codes) {
                *y = scale * f32::from(q) - min;
            }
        }
    }
}

impl Default for Block {
    fn default() -> Block {
        Block::new()
    }
}

/// Weights of whole blocks as f32, with the very bits that ggml gives them.
///
/// # Panics
/// If `bytes` and `out` are not the same number of whole blocks.
pub fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(format.row_bytes(out.len()), Some(bytes.len()), "{} bytes for {} weights of {}", bytes.len(), out.len(), format.name());
    match format.form() {
        Form::Float => plain::dequantize(format, bytes, out),
        Form::Symmetric | Form::Affine => {
            let mut block = Block::new();
            for (bytes, out) in bytes.chunks_exact(format.block_bytes()).zip(out.chunks_exact_mut(format.block_len())) {
                block.unpack(format, bytes);
                block.values(out);
            }
        }
    }
}

/// Weights into blocks. `importance`, where given, says for every weight how much its squared error counts (as an importance matrix
/// does: the mean square of the activation it meets). The result is the same on every machine.
///
/// # Panics
/// If `x` and `out` are not the same number of whole blocks, `importance` is not as long as `x`, or `format` is one that cannot be made
/// ([`Format::can_quantize`]).
pub fn quantize(format: Format, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    assert_eq!(format.row_bytes(x.len()), Some(out.len()), "{} bytes for {} weights of {}", out.len(), x.len(), format.name());
    assert!(format.can_quantize(), "{} cannot be made", format.name());
    assert!(importance.is_none_or(|w| w.len() == x.len()), "one importance a weight");
    if format.form() == Form::Float {
        return plain::quantize(format, x, out);
    }
    let len = format.block_len();
    let mut block = Block::new();
    for (b, (x, out)) in x.chunks_exact(len).zip(out.chunks_exact_mut(format.block_bytes())).enumerate() {
        let importance = importance.map(|w| &w[b * len..(b + 1) * len]);
        match format {
            Format::F32 | Format::F16 | Format::BF16 => {}
            Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => legacy::fit(format, x, importance, &mut block),
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K => k_quantize::fit(format, x, importance, &mut block),
            Format::IQ4_NL => table::fit_iq4_nl(x, importance, &mut block),
            Format::IQ4_XS => table::fit_iq4_xs(x, importance, &mut block),
            Format::MXFP4 => table::fit_mxfp4(x, importance, &mut block),
            Format::TQ1_0 | Format::TQ2_0 => ternary::fit(x, importance, &mut block),
            Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {}
        }
        block.pack(format, out);
    }
}

/// The f16 at `at`, as f32.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Writes `value`, which an f16 already was rounded to, at `at`.
fn put_f16(bytes: &mut [u8], at: usize, value: f32) {
    bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
}

/// The nearest number that an f16 can hold; what is too large becomes the largest, so that a block stays finite.
fn to_f16(value: f32) -> f32 {
    half::f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32()
}
