//! From a shape to the head of a file: metadata (`metadata.rs`) and tensors (`tensors.rs`), in the types that quantizing gives them.
//!
//! What the decoder makes of such a head is what it makes of a real file of the model: plans and synthetic models are made from it.

use super::Entry;
use super::metadata::metadata;
use super::shape::Shape;
use super::tensors::{Tensor, tensors};
use crate::error::Result;
use crate::gguf::{Gguf, GgufWriter, Head, TensorType, Value};
use crate::quantize::{self, FileType};

impl Entry {
    /// Every tensor of its files that its makers count among the weights.
    fn trained(&self) -> impl Iterator<Item = Tensor> {
        let counted =
            |t: &Tensor| t.kind != TensorType::I32 && !t.name.starts_with("rope_") && !t.name.ends_with("layer_output_scale.weight");
        tensors(&self.shape).into_iter().filter(counted)
    }

    /// The weights that its shape amounts to; `parameters`, where the row is right.
    pub fn weights(&self) -> u64 {
        self.trained().map(|t| t.dims.iter().product::<u64>()).sum()
    }

    /// Of these, those that a token passes through.
    pub(super) fn weights_of_a_token(&self) -> u64 {
        let share = |t: &Tensor| match &self.shape.experts {
            Some(experts) if t.name.contains("_exps.") => t.dims.iter().product::<u64>() / experts.count * experts.used,
            Some(_) | None => t.dims.iter().product(),
        };
        self.trained().map(|t| share(&t)).sum()
    }

    /// The head of its file of a type, without a vocabulary: what a plan is made from. Its first `layers` layers, where that is said.
    ///
    /// # Errors
    /// Where the row's shape is no model.
    pub fn header(&self, kind: FileType, layers: Option<u64>) -> Result<Gguf> {
        let shape = self.cut(layers);
        head_of(&writer(&self.family, &self.title, &shape, kind, &[])?)
    }

    /// Its shape with fewer layers.
    pub(crate) fn cut(&self, layers: Option<u64>) -> Shape {
        let mut shape = self.shape.clone();
        shape.layers = layers.unwrap_or(shape.layers).clamp(1, shape.layers);
        // Layers that look at the keys of earlier ones need one of each kind before them.
        let kinds = shape.window.as_ref().map_or(1, |w| w.every.max(1));
        shape.shared_kv = (shape.shared_kv * shape.layers / self.shape.layers).min(shape.layers.saturating_sub(kinds));
        shape
    }
}

/// The model of which only this head is there.
fn head_of(writer: &GgufWriter) -> Result<Gguf> {
    match Gguf::from_head("models.toml", writer.head(), writer.file_bytes())? {
        Head::Whole(model) => Ok(model),
        Head::Short { .. } => unreachable!("the writer wrote all of it"),
    }
}

/// The head of a file of this kind, with more metadata, as a writer that waits for the weights.
///
/// # Errors
/// Where the shape is no model.
pub(crate) fn writer(family: &str, title: &str, shape: &Shape, kind: FileType, more: &[(String, Value)]) -> Result<GgufWriter> {
    let tensors = tensors(shape);
    let mut writer = GgufWriter::new();
    for (key, value) in metadata(family, title, shape).into_iter().chain(more.iter().cloned()) {
        writer.set(&key, value);
    }
    writer.set("general.file_type", kind.id()).set("general.quantization_version", 2u32);
    let mut whole = writer.clone();
    for t in &tensors {
        whole.tensor(&t.name, &t.dims, t.kind).map_err(unsound)?;
    }
    let types = quantize::types(&head_of(&whole)?, kind);
    for (t, kind) in tensors.iter().zip(types) {
        writer.tensor(&t.name, &t.dims, kind).map_err(unsound)?;
    }
    Ok(writer)
}

fn unsound(error: std::io::Error) -> crate::Error {
    crate::Error::Model(crate::Fault::at("shape").found(error))
}
