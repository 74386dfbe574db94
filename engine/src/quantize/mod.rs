//! Quantizing a whole file: tensor by tensor from the mapped source into a new file, rows in parallel.
//!
//! ```text
//! source (mapped)  ->  rows as f32  ->  blocks  ->  OUT.part  ->  renamed to OUT
//!                      one batch of rows in memory             only when all is written and on disk
//! ```
//!
//! Which tensor becomes what: [`FileType`]. The same source gives the same file on every machine and with any number of threads.

mod mix;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hob_kernels::{Cpu, Format, Level, Pool, default_threads, format};

use crate::batch::Canceller;
use crate::gguf::{Gguf, GgufBody, GgufWriter, TensorInfo, TensorType};
use crate::{Error, Fault, Result};
pub use mix::FileType;
use mix::Fit;

/// What [`quantize`] is to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// The kind of file to make.
    pub kind: FileType,
    /// Threads that work.
    pub threads: usize,
    /// What to do where the new file's name is taken.
    pub existing: Existing,
    /// Stops the work from another thread.
    pub canceller: Canceller,
}

impl QuantizeOptions {
    /// A file of this kind, made with a thread a core, under a name that is free.
    pub fn new(kind: FileType) -> QuantizeOptions {
        QuantizeOptions { kind, threads: default_threads(), existing: Existing::Refuse, canceller: Canceller::default() }
    }

    /// Sets the number of threads.
    pub fn threads(mut self, threads: usize) -> QuantizeOptions {
        self.threads = threads;
        self
    }

    /// Sets what stops the work from another thread.
    pub fn canceller(mut self, canceller: Canceller) -> QuantizeOptions {
        self.canceller = canceller;
        self
    }

    /// Says what to do where the name is taken.
    pub fn existing(mut self, existing: Existing) -> QuantizeOptions {
        self.existing = existing;
        self
    }
}

/// What to do where the name of a file to be written is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// An error.
    Refuse,
    /// The new file takes its place once it is whole.
    Replace,
}

/// How far [`quantize`] is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The tensor at work.
    pub tensor: &'a TensorInfo,
    /// Its number, from 0.
    pub index: usize,
    /// How many there are.
    pub tensors: usize,
    /// What it becomes.
    pub to: TensorType,
    /// Weights of the file that are done.
    pub done: u64,
    /// Weights of the file.
    pub total: u64,
}

/// What [`quantize`] has done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Bytes of tensors in the source.
    pub bytes_before: u64,
    /// Bytes of tensors in the new file.
    pub bytes_after: u64,
    /// Weights.
    pub weights: u64,
    /// What the user should know.
    pub notices: Vec<Notice>,
}

impl Report {
    /// Bits a weight takes in the new file.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes_after as f64 * 8.0 / self.weights.max(1) as f64
    }
}

/// Something that went well, but that the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The source had been quantized before: errors of both times add up.
    Requantized {
        /// Tensors that this concerns.
        tensors: usize,
        /// What the first of them was.
        from: TensorType,
    },
    /// A tensor's rows are no whole blocks of the format that the file type wants for it.
    InsteadOf {
        /// The tensor.
        tensor: String,
        /// The length of its rows.
        cols: u64,
        /// What it should have been.
        wanted: Format,
        /// What it is.
        found: TensorType,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Requantized { tensors, from } => {
                write!(f, "{tensors} tensors were quantized before ({from}); from an F16 or BF16 source the result would be better")
            }
            Notice::InsteadOf { tensor, cols, wanted, found } => {
                let (wanted, block) = (wanted.name(), wanted.block_len());
                write!(f, "{tensor}: {found} instead of {wanted}, because rows of {cols} are no multiple of {block}")
            }
        }
    }
}

/// Weights converted at a time.
const BATCH: usize = 1 << 22;
/// Weights that one thread takes at a time.
const PIECE: usize = 1 << 16;
/// The largest weight that every format holds: f16's largest number.
const LARGEST: f32 = 65504.0;

/// Writes the model to a new file `dst` of another kind.
///
/// # Errors
/// [`Error::Input`] where `dst` is the source itself, a folder, or taken; [`Error::Unsupported`] for a source type that hob cannot read,
/// [`Error::Model`] for weights that are not finite or too large, [`Error::Io`] where the system refuses (the disk is full),
/// [`Error::Cancelled`]. Nothing is left behind then, and what `dst` was before is untouched.
pub fn quantize(src: &Gguf, dst: impl AsRef<Path>, options: QuantizeOptions, mut progress: impl FnMut(Progress<'_>)) -> Result<Report> {
    let dst = dst.as_ref();
    check_destination(src, dst, options.existing)?;
    let plan = mix::plan(src, options.kind);
    let mut writer = GgufWriter::with_metadata(src.metadata());
    writer.set("general.file_type", options.kind.id());
    writer.set("general.quantization_version", 2u32);
    let mut report = Report { bytes_before: 0, bytes_after: 0, weights: 0, notices: Vec::new() };
    let (mut requantized, mut first) = (0, None);
    for (tensor, (to, fit)) in src.tensors().zip(&plan) {
        check_source(tensor, *to)?;
        writer.tensor(&tensor.name, &tensor.dims, *to).map_err(|e| Error::Model(Fault::at(e.to_string())))?;
        report.bytes_before += tensor.size();
        report.bytes_after += to.bytes(&tensor.dims).unwrap_or(0);
        report.weights += tensor.elements();
        if tensor.kind != *to && tensor.kind.block_len() > 1 {
            requantized += 1;
            first.get_or_insert(tensor.kind);
        }
        if let Fit::InsteadOf(wanted) = *fit {
            report.notices.push(Notice::InsteadOf { tensor: tensor.name.clone(), cols: tensor.dims[0], wanted, found: *to });
        }
    }
    report.notices.extend(first.map(|from| Notice::Requantized { tensors: requantized, from }));

    let part = Part::create(dst)?;
    let io = |source| Error::Io { path: dst.to_owned(), source };
    let mut body = writer.start(BufWriter::with_capacity(1 << 20, &part.file)).map_err(io)?;
    let pool = Pool::new(options.threads);
    let mut convert = Convert { cpu: Cpu::new(Level::best(), &pool), out: Vec::new(), canceller: &options.canceller };
    let (mut done, tensors, total) = (0, plan.len(), report.weights);
    for (index, (tensor, (to, _))) in src.tensors().zip(&plan).enumerate() {
        let mut step = |n: u64| {
            done += n;
            progress(Progress { tensor, index, tensors, to: *to, done, total });
        };
        step(0);
        if tensor.kind == *to {
            body.append(&src.bytes(tensor)).map_err(io)?;
            step(tensor.elements());
        } else {
            convert.tensor(src, tensor, *to, &mut body, &mut step).map_err(|e| e.or_io(dst))?;
        }
    }
    body.finish().map_err(io)?;
    part.keep(dst)?;
    Ok(report)
}

/// The type that each tensor of a model gets in a file of this kind, in the order of the model.
///
/// ```
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
/// use hob::quantize::{FileType, types};
///
/// let model = hob::gguf::Gguf::open(path)?;
/// let bytes: u64 = model.tensors().zip(types(&model, FileType::Q4_0)).filter_map(|(t, kind)| kind.bytes(&t.dims)).sum();
/// assert!(bytes < model.file_bytes());
/// # Ok::<(), hob::Error>(())
/// ```
pub fn types(model: &Gguf, kind: FileType) -> Vec<TensorType> {
    mix::plan(model, kind).into_iter().map(|(kind, _)| kind).collect()
}

/// A name must be free, and not the source's own: the source is mapped, and writing into it would change what is read.
fn check_destination(src: &Gguf, dst: &Path, existing: Existing) -> Result<()> {
    let refuse = |found: &str, help: &str| {
        Err(Error::Input(Fault::at(dst.display().to_string()).expected("a name for a new file").found(found).help(help)))
    };
    let Ok(facts) = fs::metadata(dst) else { return Ok(()) };
    let same = |path: &PathBuf| matches!((fs::canonicalize(path), fs::canonicalize(dst)), (Ok(a), Ok(b)) if a == b);
    match existing {
        _ if facts.is_dir() => refuse("a folder", "add a file name"),
        _ if src.paths().iter().any(same) => refuse("the source itself", "choose another name"),
        Existing::Refuse => refuse("an existing file", "remove it or choose another name"),
        Existing::Replace => Ok(()),
    }
}

fn check_source(tensor: &TensorInfo, to: TensorType) -> Result<()> {
    if tensor.kind == to || tensor.kind.format().is_some() {
        return Ok(());
    }
    let known = Format::ALL.map(Format::name).join(", ");
    let fault = Fault::at(format!("tensor `{}`", tensor.name)).expected(format!("one of {known}")).found(tensor.kind);
    Err(Error::Unsupported(fault.help("quantize from an F16 or BF16 file of this model")))
}

/// The new file while it is being written. Without [`Part::keep`] it is removed again.
struct Part {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Part {
    fn create(dst: &Path) -> Result<Part> {
        let Some(name) = dst.file_name() else {
            return Err(Error::Input(Fault::at(dst.display().to_string()).expected("a file name").found("none")));
        };
        let mut name = name.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = dst.with_file_name(name);
        let file = File::create(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        Ok(Part { path, file, kept: false })
    }

    fn keep(mut self, dst: &Path) -> Result<()> {
        let io = |source| Error::Io { path: dst.to_owned(), source };
        self.file.sync_all().map_err(io)?;
        fs::rename(&self.path, dst).map_err(io)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is left: there is an error to report already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What ends the work inside a tensor: its weights, the disk, or the canceller.
enum Trouble {
    Weights(Error),
    Cancelled,
    Io(io::Error),
}

impl Trouble {
    fn or_io(self, path: &Path) -> Error {
        match self {
            Trouble::Weights(error) => error,
            Trouble::Cancelled => Error::Cancelled,
            Trouble::Io(source) => Error::Io { path: path.to_owned(), source },
        }
    }
}

/// Converts tensors, batch by batch.
struct Convert<'a> {
    cpu: Cpu<'a>,
    out: Vec<u8>,
    canceller: &'a Canceller,
}

impl Convert<'_> {
    fn tensor<W: Write>(
        &mut self,
        src: &Gguf,
        tensor: &TensorInfo,
        to: TensorType,
        body: &mut GgufBody<W>,
        step: &mut impl FnMut(u64),
    ) -> Result<(), Trouble> {
        // Both were checked before the file was begun.
        let (Some(from), Some(to)) = (tensor.kind.format(), to.format()) else { return Ok(()) };
        let bytes = src.bytes(tensor);
        // Blocks do not cross rows, and rows are whole blocks of both: any multiple of both block lengths may be cut off.
        let unit = from.block_len().max(to.block_len());
        let (batch, piece) = (BATCH / unit * unit, PIECE / unit * unit);
        let sizes = |format: Format, weights: usize| weights / format.block_len() * format.block_bytes();
        let wrong = AtomicU64::new(u64::MAX);
        for (b, bytes) in bytes.chunks(sizes(from, batch)).enumerate() {
            if self.canceller.is_cancelled() {
                return Err(Trouble::Cancelled);
            }
            let weights = bytes.len() / from.block_bytes() * from.block_len();
            self.out.resize(sizes(to, weights), 0);
            self.cpu.parallel_chunks(&mut self.out, sizes(to, piece), &|i, out| {
                let n = out.len() / to.block_bytes() * to.block_len();
                let start = sizes(from, i * piece);
                let mut x = vec![0.0; n];
                format::dequantize(from, &bytes[start..start + sizes(from, n)], &mut x);
                if let Some(at) = x.iter().position(|x| !fits(*x, to)) {
                    wrong.fetch_min((b * batch + i * piece + at) as u64, Ordering::Relaxed);
                } else {
                    format::quantize(to, &x, None, out);
                }
            });
            match wrong.load(Ordering::Relaxed) {
                u64::MAX => body.append(&self.out).map_err(Trouble::Io)?,
                at => return Err(Trouble::Weights(wrong_weight(tensor, from, &src.bytes(tensor), at as usize, to))),
            }
            step(weights as u64);
        }
        Ok(())
    }
}

/// Whether a format can hold `x` at all.
fn fits(x: f32, format: Format) -> bool {
    match format {
        Format::F32 | Format::BF16 => x.is_finite(),
        _ => x.abs() <= LARGEST,
    }
}

fn wrong_weight(tensor: &TensorInfo, from: Format, bytes: &[u8], at: usize, to: Format) -> Error {
    let (block, mut x) = (at / from.block_len(), vec![0.0; from.block_len()]);
    format::dequantize(from, &bytes[block * from.block_bytes()..(block + 1) * from.block_bytes()], &mut x);
    let found = x[at % from.block_len()];
    let fault = Fault::at(format!("tensor `{}`, weight {at}", tensor.name)).found(found);
    Error::Model(if found.is_finite() {
        fault.expected(format!("at most {LARGEST} for {}", to.name())).help("BF16 and F32 hold larger numbers")
    } else {
        fault.expected("a finite number").help("the source is damaged")
    })
}

#[cfg(test)]
mod tests;
