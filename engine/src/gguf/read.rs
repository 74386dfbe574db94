//! One GGUF file read at the door: header, pairs and tensor list, everything checked against the bytes that are there.

use std::collections::HashSet;

use super::tensor::REMOVED;
use super::{Array, Bytes, Metadata, Strings, TensorInfo, TensorType, Value, ValueType};
use crate::error::{Error, Fault, Result};

/// What `general.alignment` is where a file does not say.
pub(super) const ALIGNMENT: u64 = 32;

/// The largest alignment taken: beyond a huge page there is no reason, only a broken file.
const MAX_ALIGNMENT: u64 = 1 << 30;

/// Arrays in arrays in arrays: the files of today have none at all.
const MAX_NESTING: usize = 8;

/// The least bytes of a pair (key of one byte, type, value of one byte) and of a tensor's entry (no dimension).
const MIN_PAIR: u64 = 8 + 1 + 4 + 1;
const MIN_TENSOR: u64 = 8 + 1 + 4 + 4 + 8;

/// A file that was cut off, said everywhere in the same words.
const CUT_OFF: &str = "the file is cut off: download it again";

/// What one file holds.
pub(super) struct Part {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
}

/// The beginning of a file: enough of it, or not yet.
pub(super) enum Beginning {
    /// The header is whole.
    Whole(Part),
    /// The header goes on at least to this byte.
    Short(u64),
}

/// Reads the file in `bytes`. `name` is its name in error messages; `part` its number among those of a split model.
pub(super) fn read(bytes: &Bytes, name: &str, part: usize) -> Result<Part> {
    read_part(&mut Reader { bytes, at: 0, name, len: bytes.len() as u64, wants: None }, part)
}

/// Reads the header of a file of `len` bytes, of which `bytes` are the first.
pub(super) fn read_beginning(bytes: &Bytes, name: &str, len: u64) -> Result<Beginning> {
    let mut reader = Reader { bytes, at: 0, name, len: len.max(bytes.len() as u64), wants: None };
    if bytes.len() < 4 && reader.len >= 4 {
        return Ok(Beginning::Short(4)); // the magic is looked at as a whole
    }
    match (read_part(&mut reader, 0), reader.wants) {
        (Ok(part), _) => Ok(Beginning::Whole(part)),
        (Err(_), Some(wants)) => Ok(Beginning::Short(wants)),
        (Err(error), None) => Err(error),
    }
}

fn read_part(reader: &mut Reader<'_>, part: usize) -> Result<Part> {
    let (tensors, pairs) = header(reader)?;
    let metadata = read_metadata(reader, pairs)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = (0..tensors).map(|index| tensor_info(reader, index, part)).collect::<Result<Vec<_>>>()?;
    place(&mut tensors, reader.name, reader.at as u64, alignment, reader.len)?;
    Ok(Part { metadata, tensors })
}

/// Reads magic, version and the two counts (tensors, pairs).
fn header(reader: &mut Reader<'_>) -> Result<(u64, u64)> {
    let magic: [u8; 4] = match reader.bytes.get(..4) {
        _ if reader.bytes.is_empty() => return Err(gguf(Fault::at(reader.name).expected("a GGUF file").found("an empty file"))),
        Some(magic) => magic.try_into().unwrap_or_default(),
        None => return Err(foreign(reader)),
    };
    if magic != *b"GGUF" {
        return Err(foreign(reader));
    }
    reader.at = 4;
    let version = reader.u32("the version")?;
    match version {
        2 | 3 => {}
        1 => return Err(unsupported(reader, "1", "convert the model again with a current converter")),
        _ if matches!(version.swap_bytes(), 1..=3) => {
            let found = format!("{}, big-endian", version.swap_bytes());
            return Err(unsupported(
                reader,
                &found,
                "hob reads little-endian files: get that file, or convert it with gguf_convert_endian.py",
            ));
        }
        _ => return Err(unsupported(reader, &version.to_string(), "a newer hob may know it; otherwise the file is damaged")),
    }
    let tensors = reader.u64("the number of tensors")?;
    let pairs = reader.u64("the number of metadata pairs")?;
    reader.at_most(tensors, MIN_TENSOR, "number of tensors")?;
    reader.at_most(pairs, MIN_PAIR, "number of metadata pairs")?;
    Ok((tensors, pairs))
}

fn unsupported(reader: &Reader<'_>, found: &str, help: &str) -> Error {
    let place = format!("{}: GGUF version", reader.name);
    Error::Unsupported(Fault::at(place).expected("2 or 3").found(found).help(help))
}

/// The error for a file that is not GGUF, saying what it seems to be.
fn foreign(reader: &Reader<'_>) -> Error {
    const KNOWN: [(&[u8], &str, &str); 9] = [
        (b"ggml", "an old GGML file", "convert the model again: the formats before GGUF are no longer read"),
        (b"lmgg", "an old GGML file", "convert the model again: the formats before GGUF are no longer read"),
        (b"fmgg", "an old GGMF file", "convert the model again: the formats before GGUF are no longer read"),
        (b"tjgg", "an old GGJT file", "convert the model again: the formats before GGUF are no longer read"),
        (b"PK\x03\x04", "a zip archive or PyTorch checkpoint", "convert the model to GGUF first"),
        (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
        (b"<", "a web page", "the download went wrong: check the address"),
        (b"\x1f\x8b", "a gzip archive", "unpack it first"),
        (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    ];
    let start = &reader.bytes[..reader.bytes.len().min(24)];
    let fault = Fault::at(reader.name).expected("a GGUF file");
    gguf(match KNOWN.iter().find(|(magic, ..)| start.starts_with(magic)) {
        Some((_, what, help)) => fault.found(what).help(help),
        // A safetensors file: the length of its header, then that header, which is JSON.
        None if start.get(8..10) == Some(b"{\"") => fault.found("a safetensors file").help("convert the model to GGUF first"),
        None => fault.found(format!("a file that begins with \"{}\"", start[..start.len().min(8)].escape_ascii())),
    })
}

fn read_metadata(reader: &mut Reader<'_>, pairs: u64) -> Result<Metadata> {
    let mut metadata = Metadata::new(reader.name);
    for index in 0..pairs {
        let at = reader.at;
        let key = reader.name_str(&format!("key of pair {index}"))?;
        if metadata.get(&key).is_some() {
            return Err(gguf(
                reader.fault(at, &format!("key `{key}`")).found("the same key again").help("the file is damaged or badly made"),
            ));
        }
        let what = format!("key `{key}`");
        let kind = reader.value_type(&what)?;
        let value = read_value(reader, kind, &what, 0)?;
        metadata.set(&key, value);
    }
    Ok(metadata)
}

fn read_value(reader: &mut Reader<'_>, kind: ValueType, what: &str, depth: usize) -> Result<Value> {
    match kind {
        ValueType::Str => Ok(Value::Str(String::from_utf8_lossy(reader.string(what)?).into_owned())),
        ValueType::Array => read_array(reader, what, depth).map(Value::Array),
        _ => {
            let at = reader.at;
            let bytes = reader.take(kind.width().unwrap_or(0) as u64, what)?;
            Value::decode(kind, bytes).ok_or_else(|| gguf(reader.fault(at, what).found("a value of unknown width")))
        }
    }
}

fn read_array(reader: &mut Reader<'_>, what: &str, depth: usize) -> Result<Array> {
    let at = reader.at;
    if depth == MAX_NESTING {
        return Err(gguf(reader.fault(at, what).expected(format!("arrays at most {MAX_NESTING} deep")).found("more")));
    }
    let kind = reader.value_type(what)?;
    let count = reader.u64(what)?;
    // Strings and arrays are as small as their lengths.
    let least = kind.width().unwrap_or(if kind == ValueType::Array { 12 } else { 8 }) as u64;
    reader.at_most(count, least, &format!("number of items of {what}"))?;
    let start = reader.at;
    match kind {
        ValueType::Str => {
            let starts = string_starts(reader, count, what)?;
            Ok(Strings::new(reader.bytes.slice(start..reader.at), starts).into())
        }
        ValueType::Array => (0..count).map(|_| read_array(reader, what, depth + 1)).collect::<Result<Vec<_>>>().map(Array::nested),
        _ => {
            reader.take(count * least, what)?;
            Ok(Array::plain(kind, reader.bytes.slice(start..reader.at)))
        }
    }
}

/// Where each of `count` strings begins, from here, and where the last ends.
fn string_starts(reader: &mut Reader<'_>, count: u64, what: &str) -> Result<Vec<u32>> {
    let first = reader.at;
    // Of a file whose beginning alone is here, the count may be of more than fits: what is here bounds what is allocated.
    let mut starts = Vec::with_capacity((count as usize).min((reader.bytes.len() - first) / 8) + 1);
    starts.push(0);
    for _ in 0..count {
        reader.string(what)?;
        let end = u32::try_from(reader.at - first)
            .map_err(|_| gguf(reader.fault(first, what).expected("at most 4 GB of strings").found("more")))?;
        starts.push(end);
    }
    Ok(starts)
}

/// `general.alignment`, a power of two.
fn alignment(metadata: &Metadata) -> Result<u64> {
    let alignment = metadata.u64("general.alignment")?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
        let place = format!("{}: metadata key `general.alignment`", metadata.origin());
        return Err(gguf(Fault::at(place).expected("a power of two from 8 to 2^30").found(alignment)));
    }
    Ok(alignment)
}

/// Reads a tensor's entry. Its offset is still that in the file: from the start of the data.
fn tensor_info(reader: &mut Reader<'_>, index: u64, part: usize) -> Result<TensorInfo> {
    let at = reader.at;
    let name = reader.name_str(&format!("name of tensor {index}"))?;
    let what = format!("tensor `{name}`");
    let count = reader.u32(&what)?;
    if count > 4 {
        return Err(gguf(reader.fault(at, &what).expected("at most 4 dimensions").found(count)));
    }
    let mut dims = (0..count).map(|_| reader.u64(&what)).collect::<Result<Vec<_>>>()?;
    if dims.is_empty() {
        dims.push(1); // a single number
    }
    if dims.contains(&0) {
        return Err(gguf(reader.fault(at, &what).expected("dimensions of at least 1").found(format!("{dims:?}"))));
    }
    let id = reader.u32(&what)?;
    let kind = TensorType::from_id(id).ok_or_else(|| unknown_type(reader, at, &what, id))?;
    let offset = reader.u64(&what)?;
    if dims[0] % kind.block_len() != 0 {
        let expected = format!("rows of a multiple of {} ({kind})", kind.block_len());
        return Err(gguf(reader.fault(at, &what).expected(expected).found(format!("{dims:?}"))));
    }
    // The elements may be more than the bytes (types below 8 bits), so both are checked.
    let elements = dims.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    match (elements, kind.bytes(&dims)) {
        (Some(_), Some(size)) => Ok(TensorInfo { name, dims, kind, part, offset, size }),
        _ => Err(gguf(reader.fault(at, &what).expected("a size below 2^64 bytes").found(format!("{dims:?} of {kind}")))),
    }
}

fn unknown_type(reader: &Reader<'_>, at: usize, what: &str, id: u32) -> Error {
    let fault = reader.fault(at, what);
    Error::Unsupported(match REMOVED.iter().find(|(removed, ..)| *removed == id) {
        Some((_, old, new)) => fault
            .expected("a tensor type in use")
            .found(format!("{old} (type {id}), which ggml has given up"))
            .help(format!("quantize the model again, to {new}")),
        None => fault
            .expected("a known tensor type")
            .found(format!("type {id}"))
            .help("a type of a fork, newer than this hob, or a damaged file: quantize the model to a common type"),
    })
}

/// Turns offsets into places in the file, and checks that every tensor lies inside, aligned, and apart from the others.
fn place(tensors: &mut [TensorInfo], name: &str, header_end: u64, alignment: u64, len: u64) -> Result<()> {
    if tensors.is_empty() {
        return Ok(());
    }
    let data = header_end.next_multiple_of(alignment);
    let mut last: Option<(u64, &str)> = None;
    for tensor in tensors.iter_mut() {
        let fault = || Fault::at(format!("{name}: tensor `{}`", tensor.name));
        if tensor.offset % alignment != 0 {
            return Err(gguf(fault().expected(format!("an offset that is a multiple of {alignment}")).found(tensor.offset)));
        }
        let start = data.checked_add(tensor.offset);
        let Some((start, end)) = start.and_then(|start| Some((start, start.checked_add(tensor.size)?))) else {
            return Err(gguf(fault().expected("data inside the file").found(format!("offset {}, {} bytes", tensor.offset, tensor.size))));
        };
        tensor.offset = start;
        if last.is_none_or(|(most, _)| end > most) {
            last = Some((end, &tensor.name));
        }
    }
    if let Some((end, tensor)) = last.filter(|(end, _)| *end > len) {
        return Err(gguf(
            Fault::at(name)
                .expected(format!("at least {end} bytes (where tensor `{tensor}` ends)"))
                .found(format!("{len} bytes, {} too few", end - len))
                .help(CUT_OFF),
        ));
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].size > pair[1].offset {
            let found = format!("it overlaps `{}`", pair[0].name);
            return Err(gguf(Fault::at(format!("{name}: tensor `{}`, byte {}", pair[1].name, pair[1].offset)).found(found)));
        }
    }
    no_duplicates(tensors, name)
}

/// Checks that every tensor has a name of its own.
pub(super) fn no_duplicates(tensors: &[TensorInfo], name: &str) -> Result<()> {
    let mut seen = HashSet::with_capacity(tensors.len());
    for tensor in tensors {
        if !seen.insert(tensor.name.as_str()) {
            return Err(gguf(Fault::at(format!("{name}: tensor `{}`", tensor.name)).found("the same name again")));
        }
    }
    Ok(())
}

fn gguf(fault: Fault) -> Error {
    Error::Gguf(fault)
}

/// A cursor that knows where it is and says so.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
    name: &'a str,
    /// The length of the file, of which `bytes` may be the beginning alone.
    len: u64,
    /// Where the file has more and `bytes` have not: how many would have been needed.
    wants: Option<u64>,
}

impl<'a> Reader<'a> {
    fn fault(&self, at: usize, what: &str) -> Fault {
        Fault::at(format!("{}: byte {at}, {what}", self.name))
    }

    /// The next `count` bytes.
    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let bytes: &'a [u8] = self.bytes;
        let left = bytes.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left => {
                self.at += count;
                Ok(&bytes[self.at - count..self.at])
            }
            _ if count <= self.len - self.at as u64 => {
                self.wants = Some(self.at as u64 + count);
                Err(gguf(self.fault(self.at, what).found("the beginning of the file alone")))
            }
            _ => Err(gguf(self.fault(self.at, what).expected(format!("{count} more bytes")).found(left).help(CUT_OFF))),
        }
    }

    /// Checks a count before anything is allocated for it: `count` things of at least `least` bytes must be there.
    fn at_most(&self, count: u64, least: u64, what: &str) -> Result<()> {
        let most = (self.len - self.at as u64) / least;
        if count <= most {
            return Ok(());
        }
        let expected = format!("at most {most}, as the file is {} bytes long", self.len);
        Err(gguf(self.fault(self.at, what).expected(expected).found(count).help("the file is cut off or damaged: download it again")))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.take(4, what).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.take(8, what).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    /// A string that names something: not empty, and UTF-8.
    fn name_str(&mut self, what: &str) -> Result<String> {
        let at = self.at;
        let bytes = self.string(what)?;
        match std::str::from_utf8(bytes) {
            Ok("") => Err(gguf(self.fault(at, what).expected("a name").found("an empty string"))),
            Ok(text) => Ok(text.to_owned()),
            Err(_) => {
                let found = format!("\"{}\"", bytes[..bytes.len().min(40)].escape_ascii());
                Err(gguf(self.fault(at, what).expected("UTF-8 text").found(found)))
            }
        }
    }

    fn value_type(&mut self, what: &str) -> Result<ValueType> {
        let at = self.at;
        let id = self.u32(what)?;
        ValueType::from_id(id).ok_or_else(|| gguf(self.fault(at, what).expected("a value type from 0 to 12").found(id)))
    }
}
