//! Matrix products: weights where they lie in the mapped file, activations quantized once for all who share them.
//!
//! ```text
//! out[t][n] = Σ_k weight[n][k] · x[t][k]          weight [rows, cols] in any Format, x [tokens, cols], out [tokens, rows]
//! ```
//! The arithmetic is canonical: the same bits at every level, with any number of threads, any number of tokens at once.
//! - K formats (blocks of 256): S = Σ scale·Σ q·x and N = Σ min·Σ x are exact in i32; `f = d·S` or `fma(-dmin, N, d·S)`;
//!   `acc = fma(f, dx, acc)`, blocks ascending. Signed codes are stored with a bias, which is exact too.
//! - Formats in blocks of 32: the same with one S and one dx for each 32; with a minimum m, `f = fma(m, Σ x, d·S)`.
//! - f32, f16, bf16: f32 activations, 16 partial sums over k mod 16, fused, then the tree 8, 4, 2, 1; where
//!   cols is no multiple of 16, the last partial sums miss a turn.
//!
//! Shapes: lanes are rows of the weights, so nothing is summed across lanes (`quantized.rs`); plain floats take lanes
//! along k (`float.rs`), and so do most formats by one token on x86 (`isa/stream`). One parallel region
//! for all products that share their inputs.

mod codebook;
mod experts;
mod float;
mod formats;
mod inputs;
mod panel;
mod quantized;

pub use experts::{ExpertProduct, Groups, InputRow, matmul_experts};
pub use inputs::Inputs;

use crate::isa::{self, Canvas, Tile};
use crate::{Cpu, Format, Level};
use std::ops::Range;

/// A weight matrix in a file's bytes: `rows` outputs of `cols` inputs, row after row of blocks.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A matrix over `bytes`; `None` where `cols` is no multiple of the format's block or `bytes` has another length.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Matrix<'a>> {
        let row_bytes = format.row_bytes(cols)?;
        (row_bytes.checked_mul(rows)? == bytes.len()).then_some(Matrix { format, rows, cols, row_bytes, bytes })
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// Where the range is not within the matrix.
    pub fn slice(&self, rows: Range<usize>) -> Matrix<'a> {
        let bytes = &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes];
        Matrix { rows: rows.len(), bytes, ..*self }
    }

    /// The bytes of row `row`.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// How the weights are written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// One product of a [`matmul`]: `out` is `[tokens, weight.rows()]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights.
    pub weight: Matrix<'a>,
    /// Where the result goes.
    pub out: &'a mut [f32],
}

/// Products that share one parallel region; more take several.
const TOGETHER: usize = 8;

/// Multiplies all `products` with the same inputs, in one parallel region.
///
/// # Panics
/// Where shapes do not fit, or `inputs` was not made for a product's format.
pub fn matmul(cpu: Cpu, inputs: &Inputs, products: &mut [Product]) {
    for products in products.chunks_mut(TOGETHER) {
        let count = products.len();
        let mut canvases = [Canvas::EMPTY; TOGETHER];
        let mut weights = [None; TOGETHER];
        for ((product, canvas), weight) in products.iter_mut().zip(&mut canvases).zip(&mut weights) {
            assert_eq!(product.out.len(), inputs.tokens() * product.weight.rows, "output of another shape");
            inputs.assert_fit(cpu, &product.weight);
            *canvas = Canvas::new(product.out, product.weight.rows, chunk(cpu, &product.weight, inputs.tokens()));
            *weight = Some(product.weight);
        }
        isa::fill(cpu, &canvases[..count], &|which, tile| {
            let Some(weight) = weights[which] else { return };
            Work { weight, inputs, tokens: Tokens::All(inputs.tokens()), tile }.run(cpu.level);
        });
    }
}

/// Up to so many tokens the weights are streamed through registers row by row; beyond, tiles of rows and tokens.
const FEW: usize = 8;

/// Rows of one work item: some 256 KB of weights for few tokens, a few register tiles for many, as many more between as tokens are fewer,
/// since what an item sets up is for 256; less where threads would go without, but whole register tiles.
fn chunk(cpu: Cpu, weight: &Matrix, tokens: usize) -> usize {
    let lanes = isa::lanes(cpu.level);
    let most = if tokens > FEW { 16 * lanes * (256 / tokens).max(1) } else { (1 << 18) / weight.row_bytes.max(1) };
    most.min(weight.rows / (4 * cpu.threads())).max(1).next_multiple_of(quantized::tile_rows(cpu.level, tokens))
}

/// Which rows of the inputs a work item takes, in the order of its output rows.
#[derive(Clone, Copy)]
enum Tokens<'a> {
    /// All of them.
    All(usize),
    /// Those of some slots: input row = slot / `share`.
    Slots { slots: &'a [u32], share: usize },
}

impl Tokens<'_> {
    fn len(&self) -> usize {
        match self {
            Tokens::All(count) => *count,
            Tokens::Slots { slots, .. } => slots.len(),
        }
    }

    #[inline(always)]
    fn input(&self, index: usize) -> usize {
        match self {
            Tokens::All(_) => index,
            Tokens::Slots { slots, share } => slots[index] as usize / share,
        }
    }
}

/// A work item: the tile's columns are rows of `weight`, its rows are `tokens`.
struct Work<'a> {
    weight: Matrix<'a>,
    inputs: &'a Inputs,
    tokens: Tokens<'a>,
    tile: Tile<'a>,
}

impl Work<'_> {
    /// The whole item by its one token, where the level has a shape of its own for that: whether it has.
    fn stream(&mut self, level: Level) -> bool {
        let (columns, row_bytes) = (self.tile.columns(), self.weight.row_bytes);
        let rows = &self.weight.bytes[columns.start * row_bytes..columns.end * row_bytes];
        let x = self.inputs.one(self.tokens.input(0));
        row_bytes > 0 && isa::by_one_token(level, self.weight.format, rows, row_bytes, x, self.tile.row(0))
    }

    /// Dispatch, once an item: on the format here, on the level in `vectorize`.
    fn run(mut self, level: Level) {
        use {codebook as c, formats as f};
        if self.tokens.len() == 1 && self.stream(level) {
            return;
        }
        match self.weight.format {
            Format::F32 => isa::vectorize(level, float::Run::<float::F32>::new(self)),
            Format::F16 => isa::vectorize(level, float::Run::<float::F16>::new(self)),
            Format::BF16 => isa::vectorize(level, float::Run::<float::BF16>::new(self)),
            Format::Q4_0 => isa::vectorize(level, quantized::Run::<f::Q4_0>::new(self)),
            Format::Q4_1 => isa::vectorize(level, quantized::Run::<f::Q4_1>::new(self)),
            Format::Q5_0 => isa::vectorize(level, quantized::Run::<f::Q5_0>::new(self)),
            Format::Q5_1 => isa::vectorize(level, quantized::Run::<f::Q5_1>::new(self)),
            Format::Q8_0 => isa::vectorize(level, quantized::Run::<f::Q8_0>::new(self)),
            Format::Q2_K => isa::vectorize(level, quantized::Run::<f::Q2_K>::new(self)),
            Format::Q3_K => isa::vectorize(level, quantized::Run::<f::Q3_K>::new(self)),
            Format::Q4_K => isa::vectorize(level, quantized::Run::<f::Q4_K>::new(self)),
            Format::Q5_K => isa::vectorize(level, quantized::Run::<f::Q5_K>::new(self)),
            Format::Q6_K => isa::vectorize(level, quantized::Run::<f::Q6_K>::new(self)),
            Format::IQ4_NL => isa::vectorize(level, quantized::Run::<f::IQ4_NL>::new(self)),
            Format::MXFP4 => isa::vectorize(level, quantized::Run::<f::MXFP4>::new(self)),
            Format::IQ4_XS => isa::vectorize(level, quantized::Run::<c::IQ4_XS>::new(self)),
            Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {
                isa::vectorize(level, quantized::Run::<c::RowByRow>::new(self));
            }
            Format::TQ1_0 | Format::TQ2_0 => isa::vectorize(level, quantized::Run::<c::RowByRow>::new(self)),
        }
    }
}
