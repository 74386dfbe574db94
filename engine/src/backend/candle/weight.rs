//! Weights on a candle device: quantized as the file has them where candle knows the type, else as numbers.
//!
//! Bytes go from the mapping to the device as they are. F32, F16 and BF16 become plain arrays; on the CPU, where candle would
//! round activations to multiply with halves, they become f32. Types that candle lacks become BF16 where that holds every value,
//! else F16 (on the CPU: f32). On a GPU a product with halves rounds its input: each row is brought into [-1, 1] before, so
//! that no activation is too large for f16.

use super::{Done, refused};
use crate::backend::Stored;
use crate::error::Result;
use crate::gguf::Holder;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{D, DType, Device, Tensor as Array};
use half::{bf16, f16};
use hob_kernels::Format;
use hob_kernels::format::dequantize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A matrix `[rows, cols]`, or a stack of them.
#[derive(Clone)]
pub struct Weight(Arc<Matrix>);

struct Matrix {
    values: Values,
    rows: usize,
    cols: usize,
    /// `u32 [rows]`, ascending: made when rows are first asked for by stack.
    numbers: OnceLock<Array>,
}

enum Values {
    /// As in the file.
    Quantized(Box<QTensor>),
    /// `f32`, `f16` or `bf16`.
    Plain(Array),
}

impl Weight {
    /// The matrix in a file, on `device`.
    fn load(stored: &Stored, device: &Device) -> Done<Weight> {
        let (rows, cols) = (stored.rows, stored.cols);
        let values = match (quantized(stored.format), plain(stored.format, device)) {
            (Some(kind), _) => {
                let bytes = aligned(&stored.bytes);
                Values::Quantized(Box::new(QTensor::new(QStorage::from_data(bytes, device, kind)?, (rows, cols))?))
            }
            (None, kind) => Values::Plain(dequantized(stored, kind, device)?),
        };
        Ok(Weight(Arc::new(Matrix { values, rows, cols, numbers: OnceLock::new() })))
    }

    /// `x [tokens, cols]` times the matrix transposed: `[tokens, rows]`.
    pub(super) fn apply(&self, x: &Array) -> Done<Array> {
        match &self.0.values {
            Values::Quantized(weight) => x.apply_op1_no_bwd(weight.as_ref()),
            Values::Plain(weight) => product(x, weight),
        }
    }

    /// These rows as f32, `[ids, cols]`.
    pub(super) fn rows(&self, ids: &Array) -> Done<Array> {
        match &self.0.values {
            Values::Quantized(weight) => weight.embedding(ids),
            Values::Plain(weight) => weight.index_select(ids, 0)?.to_dtype(DType::F32),
        }
    }

    /// These rows of the matrices that a stack of `count` holds at these places, as f32 `[ids, rows, cols]`.
    pub(super) fn picked(&self, ids: &Array, count: usize, rows: Range<usize>) -> Done<Array> {
        let Matrix { rows: all, cols, .. } = *self.0;
        let numbers = self.numbers(ids.device())?.reshape((count, all / count))?.narrow(1, rows.start, rows.len())?;
        let numbers = numbers.contiguous()?.index_select(ids, 0)?.flatten_all()?;
        self.rows(&numbers)?.reshape((ids.elem_count(), rows.len(), cols))
    }

    /// These rows of the matrix at place `index` in a stack of `count`, as f32 `[rows, cols]`.
    pub(super) fn one(&self, index: usize, count: usize, rows: Range<usize>) -> Done<Array> {
        let first = index * (self.0.rows / count) + rows.start;
        match &self.0.values {
            Values::Quantized(weight) => weight.embedding(&self.numbers(&weight.device())?.narrow(0, first, rows.len())?),
            Values::Plain(weight) => weight.narrow(0, first, rows.len())?.to_dtype(DType::F32),
        }
    }

    /// All matrices of a stack of `count`, as f32 `[count, rows / count, cols]`.
    fn stack(&self, count: usize) -> Done<Array> {
        let values = match &self.0.values {
            Values::Quantized(weight) => weight.dequantize(&weight.device())?,
            Values::Plain(weight) => weight.to_dtype(DType::F32)?,
        };
        values.reshape((count, self.0.rows / count, self.0.cols))
    }

    /// These rows of a matrix of the stack for each of `heads` heads of x `[tokens, heads · cols]`: `[tokens, heads · rows]`.
    pub(super) fn apply_by_head(&self, x: &Array, heads: usize, rows: Range<usize>) -> Done<Array> {
        let tokens = x.dim(0)?;
        let x = x.reshape((tokens, heads, self.0.cols))?.transpose(0, 1)?.contiguous()?;
        let matrices = self.stack(heads)?.narrow(1, rows.start, rows.len())?.contiguous()?;
        x.matmul(&matrices.t()?)?.transpose(0, 1)?.reshape((tokens, heads * rows.len()))
    }

    fn numbers(&self, device: &Device) -> Done<&Array> {
        if let Some(numbers) = self.0.numbers.get() {
            return Ok(numbers);
        }
        let numbers = Array::arange(0, self.0.rows as u32, device)?;
        Ok(self.0.numbers.get_or_init(|| numbers))
    }
}

/// `x` times the transpose of plain weights.
pub(super) fn product(x: &Array, weight: &Array) -> Done<Array> {
    let kind = weight.dtype();
    if kind == DType::F32 {
        return x.matmul(&weight.t()?);
    }
    let most = x.abs()?.max_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN_POSITIVE))?;
    let y = x.broadcast_div(&most)?.to_dtype(kind)?.matmul(&weight.t()?)?;
    y.to_dtype(DType::F32)?.broadcast_mul(&most)
}

/// The quantized formats that candle knows too.
const KNOWN: [(Format, GgmlDType); 10] = [
    (Format::Q4_0, GgmlDType::Q4_0),
    (Format::Q4_1, GgmlDType::Q4_1),
    (Format::Q5_0, GgmlDType::Q5_0),
    (Format::Q5_1, GgmlDType::Q5_1),
    (Format::Q8_0, GgmlDType::Q8_0),
    (Format::Q2_K, GgmlDType::Q2K),
    (Format::Q3_K, GgmlDType::Q3K),
    (Format::Q4_K, GgmlDType::Q4K),
    (Format::Q5_K, GgmlDType::Q5K),
    (Format::Q6_K, GgmlDType::Q6K),
];

/// candle's name of a quantized format.
fn quantized(format: Format) -> Option<GgmlDType> {
    KNOWN.iter().find(|(ours, _)| *ours == format).map(|(_, name)| *name)
}

/// What numbers that candle does not keep quantized are kept as.
fn plain(format: Format, device: &Device) -> DType {
    if device.is_cpu() || format == Format::F32 {
        DType::F32
    } else if format == Format::BF16 || format == Format::MXFP4 {
        // MXFP4 is a power of two times at most 6: exact in BF16, and beyond F16's reach.
        DType::BF16
    } else {
        DType::F16
    }
}

/// Whether a format is candle's too.
pub(super) fn known(format: Format) -> bool {
    quantized(format).is_some() || [Format::F32, Format::F16, Format::BF16].contains(&format)
}

/// Where blocks begin with a 2-byte scale candle reads them in place, so they must lie on even addresses.
fn aligned(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.as_ptr().addr().is_multiple_of(8) || bytes.as_ptr().addr().is_multiple_of(align_of::<u16>()) {
        return Cow::Borrowed(bytes);
    }
    Cow::Owned(bytes.to_vec())
}

/// The numbers of a matrix, as `kind`.
fn dequantized(stored: &Stored, kind: DType, device: &Device) -> Done<Array> {
    if !known(stored.format) {
        tracing::info!(tensor = stored.name, format = stored.format.name(), "candle lacks this type: it is kept as {}", kind.as_str());
    }
    let (rows, cols) = (stored.rows, stored.cols);
    let row_bytes = stored.bytes.len().checked_div(rows).unwrap_or(0);
    let mut row = vec![0f32; cols];
    let mut each = |take: &mut dyn FnMut(&[f32])| {
        for bytes in stored.bytes.chunks_exact(row_bytes.max(1)) {
            dequantize(stored.format, bytes, &mut row);
            take(&row);
        }
    };
    let n = rows * cols;
    match kind {
        DType::F16 => {
            let mut all = Vec::with_capacity(n);
            each(&mut |row| all.extend(row.iter().map(|x| f16::from_f32(*x))));
            Array::from_vec(all, (rows, cols), device)
        }
        DType::BF16 => {
            let mut all = Vec::with_capacity(n);
            each(&mut |row| all.extend(row.iter().map(|x| bf16::from_f32(*x))));
            Array::from_vec(all, (rows, cols), device)
        }
        _ => {
            let mut all = Vec::with_capacity(n);
            each(&mut |row| all.extend_from_slice(row));
            Array::from_vec(all, (rows, cols), device)
        }
    }
}

/// Matrices on the device by where they lie in the file, as long as someone holds them, and the bytes have not been let go of:
/// others may lie there since.
#[derive(Default)]
pub(super) struct Shared(Mutex<HashMap<(usize, usize), Known>>);

type Known = (Weak<Matrix>, Holder);

impl Shared {
    /// The matrix in a file, on `device`; the same one where it was asked for before.
    pub(super) fn weight(&self, stored: &Stored, device: &Device) -> Result<Weight> {
        let place = (stored.bytes.as_ptr().addr(), stored.bytes.len());
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = shared.get(&place).filter(|(_, holder)| holder.holds()).and_then(|(matrix, _)| matrix.upgrade());
        if let Some(matrix) = known.filter(|m| (m.rows, m.cols) == (stored.rows, stored.cols)) {
            return Ok(Weight(matrix));
        }
        let weight = Weight::load(stored, device).map_err(|e| refused(&stored.name, e))?;
        shared.insert(place, (Arc::downgrade(&weight.0), stored.bytes.holder()));
        Ok(weight)
    }
}
