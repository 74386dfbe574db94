//! Writing GGUF files, version 3: first the facts and the list of tensors, then their bytes as a stream.
//!
//! ```
//! use hob::gguf::{Gguf, GgufWriter, TensorType};
//!
//! let mut writer = GgufWriter::new();
//! writer.set("general.architecture", "llama");
//! writer.tensor("output_norm.weight", &[2], TensorType::F32)?;
//! let mut body = writer.start(Vec::new())?;
//! body.append(&1f32.to_le_bytes())?;
//! body.append(&2f32.to_le_bytes())?;
//! let file = body.finish()?;
//!
//! let gguf = Gguf::from_vec(file)?;
//! assert_eq!(gguf.metadata().str("general.architecture")?, Some("llama"));
//! assert_eq!(gguf.bytes(gguf.tensor("output_norm.weight").unwrap())[4..], 2f32.to_le_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::HashSet;
use std::io::{self, Write};

use super::read::ALIGNMENT;
use super::value::encode_str;
use super::{Metadata, TensorInfo, TensorType, Value};

/// Collects what stands before the data of a file: metadata, and the names, shapes and types of tensors.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
}

impl GgufWriter {
    /// A file without anything.
    pub fn new() -> GgufWriter {
        GgufWriter::default()
    }

    /// A file with the metadata of another. What belonged to that file's form (its parts, its alignment) is left out.
    pub fn with_metadata(metadata: &Metadata) -> GgufWriter {
        let mut writer = GgufWriter::new();
        for (key, value) in metadata.iter().filter(|(key, _)| !key.starts_with("split.") && *key != "general.alignment") {
            writer.set(key, value.clone());
        }
        writer
    }

    /// Sets a metadata value. Any alignment other than 32 is not for the caller to set: `general.alignment` is ignored.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut GgufWriter {
        if key != "general.alignment" {
            self.metadata.set(key, value);
        }
        self
    }

    /// Adds a tensor; its bytes follow after [`start`](GgufWriter::start), in the order in which tensors are added here.
    pub fn tensor(&mut self, name: &str, dims: &[u64], kind: TensorType) -> io::Result<&mut GgufWriter> {
        if name.is_empty() || !self.names.insert(name.to_owned()) {
            return Err(refused(format!("tensor `{name}`: expected a name of its own")));
        }
        let offset = self.tensors.last().map_or(0, |last| (last.offset + last.size).next_multiple_of(ALIGNMENT));
        let size = kind.bytes(dims).filter(|size| (1..=4).contains(&dims.len()) && *size > 0 && size.checked_add(offset).is_some());
        let Some(size) = size else {
            return Err(refused(format!("tensor `{name}`: expected 1 to 4 dimensions, rows of whole blocks, found {dims:?} of {kind}")));
        };
        self.tensors.push(TensorInfo { name: name.to_owned(), dims: dims.to_vec(), kind, part: 0, offset, size });
        Ok(self)
    }

    /// The size of the file that it would write.
    pub fn file_bytes(&self) -> u64 {
        let data = self.tensors.last().map_or(0, |last| (last.offset + last.size).next_multiple_of(ALIGNMENT));
        self.head().len() as u64 + data
    }

    /// Everything before the data: what [`start`](GgufWriter::start) writes.
    pub fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            encode_str(key.as_bytes(), &mut head);
            head.extend((value.kind() as u32).to_le_bytes());
            value.encode(&mut head);
        }
        for tensor in &self.tensors {
            encode_str(tensor.name.as_bytes(), &mut head);
            head.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| head.extend(dim.to_le_bytes()));
            head.extend((tensor.kind as u32).to_le_bytes());
            head.extend(tensor.offset.to_le_bytes());
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
        head
    }

    /// Writes everything before the data. Give it a buffered writer.
    pub fn start<W: Write>(self, mut out: W) -> io::Result<GgufBody<W>> {
        out.write_all(&self.head())?;
        Ok(GgufBody { out, tensors: self.tensors, current: 0, written: 0 })
    }
}

/// The data of a file being written: the bytes of the tensors, one after the other.
#[derive(Debug)]
pub struct GgufBody<W> {
    out: W,
    tensors: Vec<TensorInfo>,
    current: usize,
    /// Bytes of the current tensor so far.
    written: u64,
}

impl<W: Write> GgufBody<W> {
    /// The tensor whose bytes are next; `None` when all are written.
    pub fn current(&self) -> Option<&TensorInfo> {
        self.tensors.get(self.current)
    }

    /// Writes bytes of the current tensor, all of them or the next piece. The padding is done here.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tensor) = self.tensors.get(self.current) else {
            return Err(refused(format!("expected no more data, found {} bytes", bytes.len())));
        };
        let left = tensor.size - self.written;
        if bytes.len() as u64 > left {
            return Err(refused(format!("tensor `{}`: expected at most {left} more bytes, found {}", tensor.name, bytes.len())));
        }
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == tensor.size {
            let padding = (tensor.size.next_multiple_of(ALIGNMENT) - tensor.size) as usize;
            self.out.write_all(&[0; ALIGNMENT as usize][..padding])?;
            (self.current, self.written) = (self.current + 1, 0);
        }
        Ok(())
    }

    /// Ends the file and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(tensor) = self.tensors.get(self.current) {
            let message = format!("tensor `{}`: expected {} bytes, found {}", tensor.name, tensor.size, self.written);
            return Err(refused(message));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
