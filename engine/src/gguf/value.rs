//! Metadata values: the thirteen types of GGUF, and arrays of them.
//!
//! Arrays stay where they are in the file: numbers are decoded when asked for, strings are found by a table of offsets.
//! A vocabulary of 250,000 tokens so costs one pass over its lengths and 1 MB of offsets, and no copy.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::Bytes;

/// The type of a metadata value. The numbers are those in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// All types, in the order of their numbers.
    pub const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::Str,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// The type with this number in the file.
    pub fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of a value in the file; `None` for strings and arrays, whose size varies.
    pub const fn width(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::Str | ValueType::Array => None,
        }
    }

    /// The name, as in `u32`.
    pub const fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::Str => "str",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Text; bytes that are not UTF-8 have been replaced by U+FFFD.
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Its type.
    pub fn kind(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The number, where it is an integer of whatever width.
    pub fn integer(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::Str(_) | Value::Array(_) => None,
        }
    }

    /// The number, where it is a float of either width.
    pub fn float(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// Decodes a value of fixed width; `None` for strings and arrays, or where the length is not that of the type.
    pub(super) fn decode(kind: ValueType, bytes: &[u8]) -> Option<Value> {
        Some(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Value::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Str | ValueType::Array => return None,
        })
    }

    /// Appends the value as it lies in a file (without its type).
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(v) => out.extend(v.to_le_bytes()),
            Value::I8(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::F32(v) => out.extend(v.to_le_bytes()),
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::Str(v) => encode_str(v.as_bytes(), out),
            Value::Array(v) => v.encode(out),
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

/// Appends a string as it lies in a file: its length, then its bytes.
pub(super) fn encode_str(text: &[u8], out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// Numbers as they are, strings as they are, arrays with their type, length and first items: `[str; 32000] <unk>, <s>, …`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::Str(v) => v.fmt(f),
            Value::Array(v) => v.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
        }
    }
}

/// An array of values of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    kind: ValueType,
    items: Items,
}

#[derive(Clone, Debug, PartialEq)]
enum Items {
    /// Values of fixed width, one after the other.
    Plain(Bytes),
    Strings(Strings),
    Nested(Vec<Array>),
}

impl Array {
    pub(super) fn plain(kind: ValueType, bytes: Bytes) -> Array {
        Array { kind, items: Items::Plain(bytes) }
    }

    pub(super) fn nested(arrays: Vec<Array>) -> Array {
        Array { kind: ValueType::Array, items: Items::Nested(arrays) }
    }

    /// The type of its items.
    pub fn kind(&self) -> ValueType {
        self.kind
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Plain(bytes) => bytes.len() / self.kind.width().unwrap_or(1),
            Items::Strings(strings) => strings.len(),
            Items::Nested(arrays) => arrays.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at `index`.
    pub fn get(&self, index: usize) -> Option<Value> {
        match &self.items {
            Items::Plain(bytes) => {
                let width = self.kind.width()?;
                let start = index.checked_mul(width)?;
                Value::decode(self.kind, bytes.get(start..start.checked_add(width)?)?)
            }
            Items::Strings(strings) => strings.get(index).map(|text| Value::Str(String::from_utf8_lossy(text).into_owned())),
            Items::Nested(arrays) => arrays.get(index).cloned().map(Value::Array),
        }
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Its strings, where it is an array of strings.
    pub fn strings(&self) -> Option<&Strings> {
        match &self.items {
            Items::Strings(strings) => Some(strings),
            Items::Plain(_) | Items::Nested(_) => None,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend((self.kind as u32).to_le_bytes());
        out.extend((self.len() as u64).to_le_bytes());
        match &self.items {
            Items::Plain(bytes) => out.extend(&**bytes),
            Items::Strings(strings) => out.extend(&*strings.bytes),
            Items::Nested(arrays) => arrays.iter().for_each(|array| array.encode(out)),
        }
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        write!(f, "[{}; {}]", self.kind, self.len())?;
        for (index, item) in self.iter().take(SHOWN).enumerate() {
            write!(f, "{}{item}", if index == 0 { " " } else { ", " })?;
        }
        if self.len() > SHOWN { f.write_str(", …") } else { Ok(()) }
    }
}

/// An array of strings where they lie in the file. They need not be UTF-8: tokens of some vocabularies are not.
#[derive(Clone, PartialEq)]
pub struct Strings {
    /// Each string: its length as u64, then its bytes.
    bytes: Bytes,
    /// Where each string (its length) begins, and one more: the end of the last.
    starts: Arc<[u32]>,
}

impl Strings {
    /// Strings in their file layout. `starts` has been taken from these very bytes.
    pub(super) fn new(bytes: Bytes, starts: Vec<u32>) -> Strings {
        Strings { bytes, starts: starts.into() }
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the string at `index`, as they are.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let (start, end) = (*self.starts.get(index)? as usize, *self.starts.get(index + 1)? as usize);
        self.bytes.get(start + 8..end)
    }

    /// The string at `index`; bytes that are not UTF-8 are replaced by U+FFFD.
    pub fn text(&self, index: usize) -> Option<Cow<'_, str>> {
        self.get(index).map(String::from_utf8_lossy)
    }

    /// All strings in order; bytes that are not UTF-8 are replaced by U+FFFD.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Cow<'_, str>> + '_ {
        self.iter_bytes().map(String::from_utf8_lossy)
    }

    /// The bytes of all strings in order, as they are.
    pub fn iter_bytes(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        let bytes: &[u8] = &self.bytes;
        self.starts.windows(2).map(move |pair| bytes.get(pair[0] as usize + 8..pair[1] as usize).unwrap_or_default())
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Strings({})", self.len())
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Strings {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Strings {
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for item in items {
            encode_str(item.as_ref(), &mut bytes);
            starts.push(u32::try_from(bytes.len()).expect("strings built in memory stay below 4 GB"));
        }
        Strings::new(Bytes::from(bytes), starts)
    }
}

impl From<Strings> for Array {
    fn from(strings: Strings) -> Array {
        Array { kind: ValueType::Str, items: Items::Strings(strings) }
    }
}

macro_rules! from_scalar {
    ($($type:ty => $variant:ident),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::$variant(value)
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(items: Vec<$type>) -> Value {
                let mut bytes = Vec::new();
                items.into_iter().for_each(|item| Value::$variant(item).encode(&mut bytes));
                Value::Array(Array::plain(ValueType::$variant, Bytes::from(bytes)))
            }
        }
    )*};
}
from_scalar!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool, u64 => U64, i64 => I64, f64 => F64);

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Str(text)
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Value {
        Value::Array(array)
    }
}

impl From<Vec<Array>> for Value {
    fn from(arrays: Vec<Array>) -> Value {
        Value::Array(Array::nested(arrays))
    }
}

impl From<Strings> for Value {
    fn from(strings: Strings) -> Value {
        Value::Array(strings.into())
    }
}

impl From<Vec<String>> for Value {
    fn from(items: Vec<String>) -> Value {
        Strings::from_iter(items).into()
    }
}

impl From<Vec<&str>> for Value {
    fn from(items: Vec<&str>) -> Value {
        Strings::from_iter(items).into()
    }
}
