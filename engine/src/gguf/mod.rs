//! GGUF files: one file holds a whole model, its facts as key-value pairs and its weights as aligned blocks of bytes.
//!
//! ```text
//! "GGUF" | version u32 | tensors u64 | pairs u64      header, little-endian
//! pairs:   key str | type u32 | value                 str = length u64, bytes; array = type u32, count u64, items
//! tensors: name str | n u32 | n × dim u64 | type u32 | offset u64
//! padding to `general.alignment` (32 where absent)
//! data:    each tensor at its offset from here, padded to the alignment
//! ```
//!
//! The file is mapped, not read: opening costs the header, whatever the size of the weights; what will be computed with is read
//! ahead by a thread of its own. Everything the header claims is checked here, once (counts against the bytes that are left before
//! anything is allocated, dimensions and offsets for overflow, tensors for bounds and overlap), so that the rest of hob indexes freely.
//!
//! Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3.

mod ahead;
mod file;
mod map;
mod metadata;
mod read;
mod tensor;
mod value;
mod write;

pub use ahead::ReadAhead;
pub(crate) use ahead::Reader;
pub use file::{Gguf, Head};
pub use map::Bytes;
#[cfg(feature = "candle")]
pub(crate) use map::Holder;
pub use metadata::Metadata;
pub use tensor::{TensorInfo, TensorType};
pub use value::{Array, Strings, Value, ValueType};
pub use write::{GgufBody, GgufWriter};
