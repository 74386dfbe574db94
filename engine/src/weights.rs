//! Tensors by name, each checked for its shape once, here.
//!
//! Presence decides the options: a bias tensor in the file means a bias. What no block asks for is an error, not silence: a
//! tensor that hob would ignore is a fact about the model that hob does not know.

use crate::backend::{Backend, HeadWeights, Linear, Norm, Stored, Window};
use crate::config::{Config, NormKind};
use crate::error::{Error, Fault, Result};
use crate::family::{Family, Looks, Norms};
use crate::gguf::{Gguf, TensorInfo, TensorType};
use std::cell::RefCell;
use std::collections::HashSet;

/// Hands a model's tensors to its blocks.
pub struct Loader<'a, B: Backend> {
    /// The file.
    pub gguf: &'a Gguf,
    /// Who will compute with them.
    pub backend: &'a B,
    /// The model's numbers.
    pub config: &'a Config,
    /// What the file does not say.
    pub family: &'static Family,
    /// The context the model will be run with, which chooses LongRoPE's factors.
    pub context: usize,
    used: RefCell<HashSet<String>>,
}

/// A shape as GGUF's users write it, row length first.
fn shape(dims: impl IntoIterator<Item = impl ToString>) -> String {
    format!("[{}]", dims.into_iter().map(|d| d.to_string()).collect::<Vec<_>>().join(", "))
}

impl<'a, B: Backend> Loader<'a, B> {
    /// A loader of the tensors of `gguf`.
    pub fn new(gguf: &'a Gguf, backend: &'a B, config: &'a Config, family: &'static Family, context: usize) -> Loader<'a, B> {
        Loader { gguf, backend, config, family, context, used: RefCell::new(HashSet::new()) }
    }

    /// Whether the file has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// Row length of a tensor that is there, before its shape is checked.
    pub fn row_length(&self, name: &str) -> Option<usize> {
        self.gguf.tensor(name).and_then(|t| t.dims.first()).map(|n| *n as usize)
    }

    /// Rows of a matrix that is there, before its shape is checked.
    pub fn rows(&self, name: &str) -> Option<usize> {
        self.gguf.tensor(name).and_then(|t| t.dims.get(1)).map(|n| *n as usize)
    }

    /// The tensor of this name, if the file has it, with just these dimensions (row length first).
    fn find(&self, name: &str, dims: &[usize]) -> Result<Option<&'a TensorInfo>> {
        let Some(info) = self.gguf.tensor(name) else { return Ok(None) };
        // Converters leave ones among the dimensions of what was a convolution or a broadcast.
        let found = info.dims.iter().copied().filter(|d| *d != 1);
        let wanted = dims.iter().map(|d| *d as u64).filter(|d| *d != 1);
        if !found.eq(wanted) {
            let fault = Fault::at(name).expected(shape(dims)).found(shape(&info.dims));
            return Err(Error::Model(fault.help("the shape does not fit the file's own metadata")));
        }
        self.used.borrow_mut().insert(name.to_owned());
        Ok(Some(info))
    }

    /// The error for a tensor that has to be there.
    pub fn missing(&self, name: &str) -> Error {
        let fault = Fault::at(name).found("no such tensor in the file");
        Error::Model(fault.help(format!("architecture `{}` needs it; the file may be incomplete", self.config.architecture)))
    }

    /// The tensor of this name as it lies in the file, if the file has it, with just these dimensions (row length first).
    ///
    /// # Errors
    /// [`Error::Model`] where it is of another shape, [`Error::Unsupported`] where hob has no kernel for its type.
    pub fn stored(&self, name: &str, dims: &[usize]) -> Result<Option<Stored>> {
        let Some(info) = self.find(name, dims)? else { return Ok(None) };
        let Some(format) = info.kind.format() else {
            let known: Vec<_> = hob_kernels::Format::ALL.iter().map(|f| f.name()).collect();
            let fault = Fault::at(name).expected(format!("one of {}", known.join(" "))).found(info.kind);
            return Err(Error::Unsupported(fault.help("quantize the model to one of these types")));
        };
        let cols = dims[0];
        Ok(Some(Stored { name: name.to_owned(), format, rows: dims[1..].iter().product(), cols, bytes: self.gguf.bytes(info) }))
    }

    /// A matrix `[rows, cols]` that has to be there.
    ///
    /// # Errors
    /// [`Error::Model`] where it is missing or of another shape, [`Error::Unsupported`] where hob has no kernel for its type.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<B::Weight> {
        let stored = self.stored(name, &[cols, rows])?.ok_or_else(|| self.missing(name))?;
        self.backend.weight(stored)
    }

    /// A stack of matrices `[experts, rows, cols]` that has to be there.
    ///
    /// # Errors
    /// As [`matrix`](Loader::matrix).
    pub fn stack(&self, name: &str, experts: usize, rows: usize, cols: usize) -> Result<B::Weight> {
        let stored = self.stored(name, &[cols, rows, experts])?.ok_or_else(|| self.missing(name))?;
        self.backend.weight(stored)
    }

    /// A matrix `[rows, cols]` for each head that has to be there: a stack of them, or one with the rows of all.
    ///
    /// # Errors
    /// As [`matrix`](Loader::matrix).
    pub fn by_head(&self, name: &str, heads: usize, rows: usize, cols: usize) -> Result<HeadWeights<B>> {
        let flat = self.gguf.tensor(name).is_some_and(|t| t.dims.len() == 2);
        let stack = if flat { self.matrix(name, heads * rows, cols)? } else { self.stack(name, heads, rows, cols)? };
        Ok(HeadWeights { stack, heads, rows: 0..rows })
    }

    /// The linear map `{base}.weight` `[rows, cols]`, with `{base}.bias` if the file has it.
    ///
    /// # Errors
    /// As [`matrix`](Loader::matrix).
    pub fn linear(&self, base: &str, rows: usize, cols: usize) -> Result<Linear<B>> {
        let weight = self.matrix(&format!("{base}.weight"), rows, cols)?;
        Ok(Linear { weight, bias: self.vector(&format!("{base}.bias"), rows)? })
    }

    /// A linear map whose rows are several maps' one after the other (fused q, k, v; fused gate, up), cut at these heights.
    ///
    /// # Errors
    /// As [`matrix`](Loader::matrix).
    pub fn fused<const N: usize>(&self, base: &str, heights: [usize; N], cols: usize) -> Result<[Linear<B>; N]> {
        let name = format!("{base}.weight");
        let rows = heights.iter().sum();
        let stored = self.stored(&name, &[cols, rows])?.ok_or_else(|| self.missing(&name))?;
        let bias = self.values(&format!("{base}.bias"), rows)?;
        let row_bytes = stored.bytes.len() / rows;
        let mut parts = Vec::with_capacity(N);
        let mut from = 0;
        for rows in heights {
            let bytes = stored.bytes.slice(from * row_bytes..(from + rows) * row_bytes);
            let weight = self.backend.weight(Stored { rows, bytes, ..stored.clone() })?;
            let bias = bias.as_ref().map(|b| self.backend.vector(b[from..from + rows].to_vec())).transpose()?;
            parts.push(Linear { weight, bias });
            from += rows;
        }
        parts.try_into().map_err(|_| self.missing(&name))
    }

    /// A small vector in f32, if the file has it.
    ///
    /// # Errors
    /// [`Error::Model`] where it has another length, [`Error::Unsupported`] where its type has no kernel.
    pub fn values(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.numbers(name, &[len])
    }

    /// A small array in f32 with these dimensions (row length first), if the file has it.
    ///
    /// # Errors
    /// [`Error::Model`] where it has another shape, [`Error::Unsupported`] where its type has no kernel.
    pub fn numbers(&self, name: &str, dims: &[usize]) -> Result<Option<Vec<f32>>> {
        let Some(stored) = self.stored(name, dims)? else { return Ok(None) };
        let mut values = vec![0.0; dims.iter().product()];
        hob_kernels::format::dequantize(stored.format, &stored.bytes, &mut values);
        Ok(Some(values))
    }

    /// The same, handed to the back end.
    ///
    /// # Errors
    /// As [`values`](Loader::values).
    pub fn vector(&self, name: &str, len: usize) -> Result<Option<B::Vector>> {
        self.values(name, len)?.map(|v| self.backend.vector(v)).transpose()
    }

    /// Small vectors of one length, one after the other, `[count, len]`, if the file has them.
    ///
    /// # Errors
    /// As [`values`](Loader::values).
    pub fn vectors(&self, name: &str, count: usize, len: usize) -> Result<Option<B::Vector>> {
        let Some(stored) = self.stored(name, &[len, count])? else { return Ok(None) };
        let mut values = vec![0.0; count * len];
        hob_kernels::format::dequantize(stored.format, &stored.bytes, &mut values);
        self.backend.vector(values).map(Some)
    }

    /// Integers `[rows, cols]`, if the file has them.
    ///
    /// # Errors
    /// [`Error::Model`] where they have another shape or are no 32-bit integers.
    pub fn integers(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Vec<i32>>> {
        let Some(info) = self.find(name, &[cols, rows])? else { return Ok(None) };
        if info.kind != TensorType::I32 {
            return Err(Error::Model(Fault::at(name).expected("I32").found(info.kind)));
        }
        let bytes = self.gguf.bytes(info);
        Ok(Some(bytes.as_chunks::<4>().0.iter().map(|x| i32::from_le_bytes(*x)).collect()))
    }

    /// The norm `{base}.weight` over `width` channels, with `{base}.bias`, if the file has it.
    ///
    /// # Errors
    /// As [`values`](Loader::values).
    pub fn norm(&self, base: &str, width: usize) -> Result<Option<Norm<B>>> {
        // Falcon-H1's converter leaves the ending off.
        let name = if self.has(base) { base.to_owned() } else { format!("{base}.weight") };
        let Some(weight) = self.vector(&name, width)? else { return Ok(None) };
        let bias = self.vector(&format!("{base}.bias"), width)?;
        Ok(Some(Norm { kind: self.config.norm, weight, bias, eps: self.config.eps, width }))
    }

    /// A norm of the residual stream, which some families give no weight.
    ///
    /// # Errors
    /// As [`values`](Loader::values).
    pub fn stream_norm(&self, base: &str) -> Result<Option<Norm<B>>> {
        match self.family.norms {
            Norms::Weighted => self.norm(base, self.config.width),
            Norms::Plain => self.plain_norm(self.config.norm, self.config.width).map(Some),
        }
    }

    /// A norm over `width` channels without a weight.
    ///
    /// # Errors
    /// Where the device cannot hold it.
    pub fn plain_norm(&self, kind: NormKind, width: usize) -> Result<Norm<B>> {
        let weight = self.backend.vector(vec![1.0; width])?;
        Ok(Norm { kind, weight, bias: None, eps: self.config.eps, width })
    }

    /// What layer `index` sees of earlier positions.
    pub fn window(&self, index: usize) -> Window {
        let windowed = self.config.windowed.as_ref().map_or_else(|| self.family.windowed(index), |layers| layers[index]);
        match (self.config.window.filter(|_| windowed), self.family.looks) {
            (None, Looks::Sliding | Looks::Chunked) => Window::None,
            (Some(window), Looks::Sliding) => Window::Sliding(window),
            (Some(chunk), Looks::Chunked) => Window::Chunked(chunk),
        }
    }

    /// The layer whose keys and values layer `index` looks at: its own, or, for the last of a model that shares them, those of the
    /// last layer before that sees the same positions.
    ///
    /// # Errors
    /// [`Error::Model`] where there is no such layer.
    pub fn kv_layer(&self, index: usize) -> Result<usize> {
        let own = self.config.layers.saturating_sub(self.config.shared_kv_layers);
        if index < own {
            return Ok(index);
        }
        (0..own).rev().find(|i| self.window(*i) == self.window(index)).ok_or_else(|| {
            let fault = Fault::at(format!("{}.attention.shared_kv_layers", self.config.architecture));
            Error::Model(fault.expected(format!("a layer with keys and values for layer {index}")).found("none with its window"))
        })
    }

    /// Passes over a tensor that is not needed, if the file has it.
    pub fn pass_over(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    /// The names of all tensors that were asked for.
    pub fn used(self) -> HashSet<String> {
        self.used.into_inner()
    }
}

/// Sees to it that every tensor of a file is among those that were asked for.
///
/// # Errors
/// [`Error::Unsupported`] names the first that is not.
pub fn asked(gguf: &Gguf, config: &Config, used: &HashSet<String>) -> Result<()> {
    match gguf.tensors().find(|t| !used.contains(&t.name) && !config.drafts(&t.name)) {
        None => Ok(()),
        Some(t) => {
            let fault = Fault::at(&t.name).found(format!("architecture `{}` has no block for this tensor", config.architecture));
            Err(Error::Unsupported(fault.help("the file holds a variant of the model that hob does not know")))
        }
    }
}
