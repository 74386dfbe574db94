//! A model opened: one file, or all files of a split model whichever of them is named.
//!
//! Split models come as `NAME-00001-of-00003.gguf` and so on. The first part holds the metadata of the model; every part
//! says its number (`split.no`, from 0) and the count (`split.count`), and lists the tensors it holds.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::read::{self, Beginning, Part};
use super::{Bytes, Metadata, TensorInfo};
use crate::error::{Error, Fault, Result};

const SPLIT_NO: &str = "split.no";
const SPLIT_COUNT: &str = "split.count";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// An open model: its metadata, its tensors, and their bytes. Cloning it is cheap and shares the mapping.
#[derive(Clone, Debug)]
pub struct Gguf {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    parts: Vec<Bytes>,
    paths: Vec<PathBuf>,
    file_bytes: u64,
    /// Stands for every tensor where the header alone is here and a decoder is to be built all the same.
    blank: Option<Bytes>,
}

/// What the first bytes of a file give: [`Gguf::from_head`].
#[derive(Clone, Debug)]
pub enum Head {
    /// The header is whole: metadata and tensors, without the weights.
    Whole(Gguf),
    /// The header is longer than the bytes given.
    Short {
        /// At least so many bytes from the start of the file are needed.
        needed: u64,
    },
}

impl Gguf {
    /// Opens the model in a file. Any part of a split model opens all of it.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        let path = path.as_ref();
        let bytes = map(path)?;
        let part = read::read(&bytes, &name_of(path), 0)?;
        match part.metadata.u32(SPLIT_COUNT)? {
            None | Some(0 | 1) => Gguf::assemble(vec![(bytes, part)], vec![path.to_owned()]),
            Some(count) => open_split(path, count, &part.metadata),
        }
    }

    /// Opens a model that is part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Result<Gguf> {
        Gguf::from_bytes(Bytes::from(bytes))
    }

    /// Opens a model in memory.
    pub fn from_vec(bytes: Vec<u8>) -> Result<Gguf> {
        Gguf::from_bytes(Bytes::from(bytes))
    }

    pub(crate) fn from_bytes(bytes: Bytes) -> Result<Gguf> {
        let part = read::read(&bytes, "model in memory", 0)?;
        match part.metadata.u32(SPLIT_COUNT)? {
            None | Some(0 | 1) => Gguf::assemble(vec![(bytes, part)], Vec::new()),
            Some(count) => {
                let found = format!("one of {count} parts");
                Err(Error::Gguf(Fault::at("model in memory").expected("a whole model").found(found).help("merge the parts first")))
            }
        }
    }

    /// Reads the header of a file that is elsewhere, from its first bytes and its length: its facts are known before it is
    /// downloaded. Of a split model this is one part; [`Gguf::join`] makes them one. `name` is its name in error messages.
    ///
    /// ```
    /// use hob::gguf::{Gguf, Head};
    ///
    /// # let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf"))?;
    /// let mut have = 1024;
    /// let model = loop {
    ///     match Gguf::from_head("tiny.gguf", file[..have].to_vec(), file.len() as u64)? {
    ///         Head::Whole(model) => break model,
    ///         Head::Short { needed } => have = file.len().min((needed as usize).max(2 * have)),
    ///     }
    /// };
    /// assert!(!model.has_weights() && model.file_bytes() == file.len() as u64);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Gguf`] where this is no GGUF file, or not a sound one.
    pub fn from_head(name: &str, head: Vec<u8>, file_bytes: u64) -> Result<Head> {
        let bytes = Bytes::from(head);
        Ok(match read::read_beginning(&bytes, name, file_bytes)? {
            Beginning::Short(needed) => Head::Short { needed },
            Beginning::Whole(part) => {
                let model = Gguf::assemble(vec![(bytes, part)], Vec::new())?;
                let inner = Arc::into_inner(model.inner).unwrap_or_default();
                Head::Whole(Gguf { inner: Arc::new(Inner { file_bytes, ..inner }) })
            }
        })
    }

    /// The parts of a split model, each read by [`Gguf::from_head`], as one model, still without weights.
    ///
    /// # Errors
    /// [`Error::Gguf`] where they are not the parts of one model, in their order.
    pub fn join(parts: Vec<Gguf>) -> Result<Gguf> {
        let count = parts.len();
        let (mut all, mut file_bytes) = (Inner::default(), 0);
        for (number, part) in parts.into_iter().enumerate() {
            let says = (part.metadata().u32(SPLIT_NO)?.unwrap_or(0), part.metadata().u32(SPLIT_COUNT)?.unwrap_or(1));
            if (says.0 as usize, says.1 as usize) != (number, count) {
                let found = format!("part {} of {}, by its own metadata", says.0.saturating_add(1), says.1);
                return Err(Error::Gguf(
                    Fault::at(part.metadata().origin()).expected(format!("part {} of {count}", number + 1)).found(found),
                ));
            }
            all.tensors.extend(part.tensors().map(|tensor| TensorInfo { part: number, ..tensor.clone() }));
            all.parts.extend(part.inner.parts.iter().cloned());
            file_bytes += part.file_bytes();
            if number == 0 {
                all.metadata = part.metadata().clone();
            }
        }
        read::no_duplicates(&all.tensors, all.metadata.origin())?;
        let index = all.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Gguf { inner: Arc::new(Inner { index, file_bytes, ..all }) })
    }

    /// Whether the weights are here, and not the header alone.
    pub fn has_weights(&self) -> bool {
        self.inner.parts.iter().map(|part| part.len() as u64).sum::<u64>() == self.inner.file_bytes
    }

    /// The same model with zeros for weights, which take no memory: for a decoder that is built to be looked at, not to run.
    ///
    /// # Errors
    /// [`Error::Memory`] for a tensor beyond all reason.
    pub(crate) fn hollow(&self) -> Result<Gguf> {
        let most = self.tensors().map(TensorInfo::size).max().unwrap_or(0);
        let blank = usize::try_from(most)
            .ok()
            .and_then(|most| Bytes::blank(most).ok())
            .ok_or_else(|| Error::Memory(Fault::at(self.metadata().origin()).found(format!("no room for a tensor of {most} bytes"))))?;
        let Inner { metadata, tensors, index, parts, paths, file_bytes, .. } = &*self.inner;
        let (metadata, tensors, index) = (metadata.clone(), tensors.clone(), index.clone());
        let (parts, paths, file_bytes) = (parts.clone(), paths.clone(), *file_bytes);
        Ok(Gguf { inner: Arc::new(Inner { metadata, tensors, index, parts, paths, file_bytes, blank: Some(blank) }) })
    }

    fn assemble(parts: Vec<(Bytes, Part)>, paths: Vec<PathBuf>) -> Result<Gguf> {
        let (mut files, mut tensors, mut metadata) = (Vec::with_capacity(parts.len()), Vec::new(), None);
        for (bytes, part) in parts {
            files.push(bytes);
            tensors.extend(part.tensors);
            metadata.get_or_insert(part.metadata);
        }
        let metadata = metadata.unwrap_or_default();
        if files.len() > 1 {
            read::no_duplicates(&tensors, metadata.origin())?;
        }
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        let file_bytes = files.iter().map(|file| file.len() as u64).sum();
        Ok(Gguf { inner: Arc::new(Inner { metadata, tensors, index, parts: files, paths, file_bytes, blank: None }) })
    }

    /// The facts of the model.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> + '_ {
        self.inner.tensors.iter()
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.index.get(name).map(|&at| &self.inner.tensors[at])
    }

    /// The bytes of a tensor of this model, where they lie in the file.
    ///
    /// # Panics
    /// Where the tensor is of another model and would reach beyond this one's files, or the header alone is here
    /// ([`Gguf::has_weights`]).
    pub fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        if let Some(blank) = &self.inner.blank {
            return blank.slice(0..tensor.size as usize);
        }
        // Both fit: the door has checked the end against the length of a mapping.
        let start = tensor.offset as usize;
        self.inner.parts[tensor.part].slice(start..start + tensor.size as usize)
    }

    /// The bytes of its files.
    pub(crate) fn parts(&self) -> &[Bytes] {
        &self.inner.parts
    }

    /// The size of the file, or of all parts together.
    pub fn file_bytes(&self) -> u64 {
        self.inner.file_bytes
    }

    /// The file, the first one where the model is split; `None` for a model in memory.
    pub fn path(&self) -> Option<&Path> {
        self.inner.paths.first().map(PathBuf::as_path)
    }

    /// All files of the model.
    pub fn paths(&self) -> &[PathBuf] {
        &self.inner.paths
    }
}

/// Maps a regular file that is not empty.
fn map(path: &Path) -> Result<Bytes> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    // Asked before opening: opening a pipe would wait for its other end.
    let facts = fs::metadata(path).map_err(io)?;
    let wrong = |found: &str| Error::Gguf(Fault::at(path.display().to_string()).expected("a GGUF file").found(found));
    if facts.is_dir() {
        let inside = fs::read_dir(path).map_err(io)?.flatten().map(|entry| entry.path());
        let mut models: Vec<PathBuf> = inside.filter(|entry| entry.extension().is_some_and(|ending| ending == "gguf")).collect();
        models.sort();
        return Err(match models.first() {
            Some(model) => Error::Gguf(
                Fault::at(path.display().to_string())
                    .expected("a GGUF file")
                    .found("a folder")
                    .help(format!("name the file, such as {}", model.display())),
            ),
            None => wrong("a folder"),
        });
    }
    if !facts.is_file() {
        return Err(wrong("something that is not a regular file"));
    }
    if facts.len() == 0 {
        return Err(wrong("an empty file"));
    }
    Bytes::map(&File::open(path).map_err(io)?).map_err(io)
}

/// Opens all parts of a split model. `found` is the metadata of the part at `path`.
fn open_split(path: &Path, count: u32, found: &Metadata) -> Result<Gguf> {
    let Some(stem) = split_stem(path, count) else {
        let number = found.u32(SPLIT_NO)?.unwrap_or(0).saturating_add(1);
        return Err(Error::Gguf(
            Fault::at(path.display().to_string())
                .expected(format!("the name of part {number} of {count}, such as NAME-{number:05}-of-{count:05}.gguf"))
                .found(name_of(path))
                .help("give all parts of the model their original names, or merge them into one file"),
        ));
    };
    let (mut parts, mut paths) = (Vec::new(), Vec::new());
    for number in 0..count {
        let file = path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", number + 1));
        if !file.exists() {
            return Err(Error::Gguf(
                Fault::at(path.display().to_string())
                    .expected(format!("part {} of {count} beside it: {}", number + 1, name_of(&file)))
                    .found("no such file")
                    .help("download all parts of the model into the same folder"),
            ));
        }
        let bytes = map(&file)?;
        let part = read::read(&bytes, &name_of(&file), number as usize)?;
        let says = (part.metadata.u32(SPLIT_NO)?.unwrap_or(0), part.metadata.u32(SPLIT_COUNT)?.unwrap_or(1));
        if says != (number, count) {
            return Err(Error::Gguf(
                Fault::at(file.display().to_string())
                    .expected(format!("part {} of {count}", number + 1))
                    .found(format!("part {} of {}, by its own metadata", says.0.saturating_add(1), says.1))
                    .help("the file was renamed or belongs to another model: download it again"),
            ));
        }
        parts.push((bytes, part));
        paths.push(file);
    }
    let tensors: u64 = parts.iter().map(|(_, part)| part.tensors.len() as u64).sum();
    let announced = match parts.first() {
        Some((_, first)) => first.metadata.u64(SPLIT_TENSORS)?,
        None => None,
    };
    if let Some(expected) = announced.filter(|count| *count != tensors) {
        return Err(Error::Gguf(
            Fault::at(path.display().to_string())
                .expected(format!("{expected} tensors in all parts"))
                .found(tensors)
                .help("the parts belong to different models: download them again"),
        ));
    }
    Gguf::assemble(parts, paths)
}

/// `NAME` where the file is called `NAME-00001-of-00003.gguf` with this count.
fn split_stem(path: &Path, count: u32) -> Option<String> {
    let stem = path.file_name()?.to_str()?.strip_suffix(&format!("-of-{count:05}.gguf"))?;
    let (stem, number) = stem.rsplit_once('-')?;
    (number.len() == 5 && number.bytes().all(|digit| digit.is_ascii_digit())).then(|| stem.to_owned())
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
