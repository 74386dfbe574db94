//! GGUF files, sound and hostile: what is written is read back, and whatever is wrong with a file is an error that says
//! so, never a panic and never an allocation that the bytes of the file do not justify.

mod fixture;

use std::path::{Path, PathBuf};

use hob::Error;
use hob::gguf::{Array, Gguf, GgufWriter, Head, Strings, TensorType, Value, ValueType};
use hob::tokenizer::{Special, Tokenizer, TokenizerOptions};

/// A small file with every type of value and three tensors.
fn sample() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "llama").set("u8", 200u8).set("i8", -3i8).set("u16", 60000u16).set("i16", -300i16);
    writer.set("u32", 7u32).set("i32", -7i32).set("f32", 0.25f32).set("bool", true).set("u64", 1u64 << 60).set("i64", -1i64 << 60);
    writer.set("f64", 1e-3f64).set("floats", vec![1.5f32, -2.5]).set("bools", vec![true, false]);
    writer.set("tokens", Strings::from_iter([b"a".as_slice(), b"", b"\xff\xfe", "né".as_bytes()]));
    writer.set("nested", vec![nested(&[1, 2]), nested(&[]), nested(&[3])]);
    for (name, dims, kind, _) in TENSORS {
        writer.tensor(name, dims, kind).unwrap();
    }
    let mut body = writer.start(Vec::new()).unwrap();
    for (_, _, _, bytes) in TENSORS {
        body.append(&vec![7; bytes]).unwrap();
    }
    body.finish().unwrap()
}

const TENSORS: [(&str, &[u64], TensorType, usize); 3] = [
    ("token_embd.weight", &[32, 3], TensorType::Q8_0, 102),
    ("norm", &[5], TensorType::F32, 20),
    ("cube", &[2, 3, 1, 2], TensorType::F16, 24),
];

fn nested(items: &[i32]) -> Array {
    match Value::from(items.to_vec()) {
        Value::Array(array) => array,
        _ => unreachable!("a vector is an array"),
    }
}

/// A file from its pieces: header and lists as given, then 256 bytes of data.
fn raw(version: u32, pairs: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(version.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    pairs.iter().chain(tensors).for_each(|piece| file.extend(piece));
    file.resize(file.len().next_multiple_of(32) + 256, 1);
    file
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &[u8], dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut entry = text(name);
    entry.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| entry.extend(dim.to_le_bytes()));
    entry.extend(kind.to_le_bytes());
    entry.extend(offset.to_le_bytes());
    entry
}

fn array(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

/// A folder of its own for a test, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn message(result: hob::Result<Gguf>) -> String {
    match result {
        Ok(_) => "opened".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_written_is_read_back() {
    let gguf = Gguf::from_vec(sample()).unwrap();
    let m = gguf.metadata();
    assert_eq!(m.len(), 16);
    let wide = (m.u64("u8").unwrap(), m.i64("i8").unwrap(), m.u32("u16").unwrap(), m.i64("i16").unwrap(), m.u64("u64").unwrap());
    assert_eq!(wide, (Some(200), Some(-3), Some(60000), Some(-300), Some(1 << 60)));
    assert_eq!((m.f32("f32").unwrap(), m.f32("f64").unwrap(), m.bool("bool").unwrap()), (Some(0.25), Some(1e-3), Some(true)));
    assert_eq!((m.f32s("floats").unwrap(), m.bools("bools").unwrap()), (Some(vec![1.5, -2.5]), Some(vec![true, false])));
    let tokens = m.strings("tokens").unwrap().unwrap();
    assert_eq!(tokens.iter_bytes().collect::<Vec<_>>(), [b"a".as_slice(), b"", b"\xff\xfe", "né".as_bytes()]);
    assert_eq!(tokens.iter().collect::<Vec<_>>(), ["a", "", "\u{fffd}\u{fffd}", "né"]);
    assert_eq!((tokens.get(3), tokens.get(4)), (Some("né".as_bytes()), None));
    let Some(Value::Array(nest)) = m.get("nested") else { panic!("nested is no array") };
    assert_eq!((nest.kind(), nest.len(), nest.get(2)), (ValueType::Array, 3, Some(vec![3i32].into())));

    assert_eq!(gguf.tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), TENSORS.map(|(name, ..)| name));
    for (name, dims, kind, bytes) in TENSORS {
        let info = gguf.tensor(name).unwrap();
        assert_eq!((info.dims.as_slice(), info.kind, info.size()), (dims, kind, bytes as u64));
        assert_eq!(info.elements(), dims.iter().product::<u64>());
        assert_eq!((info.offset() % 32, &*gguf.bytes(info)), (0, vec![7; bytes].as_slice()));
    }
    assert!(gguf.tensor("absent").is_none());

    // Written again from what was read, the file is the same to the byte.
    let mut again = GgufWriter::with_metadata(m);
    for info in gguf.tensors() {
        again.tensor(&info.name, &info.dims, info.kind).unwrap();
    }
    let mut body = again.start(Vec::new()).unwrap();
    for info in gguf.tensors() {
        assert_eq!(body.current().unwrap().name, info.name);
        gguf.bytes(info).chunks(7).for_each(|piece| body.append(piece).unwrap());
    }
    assert_eq!(body.finish().unwrap(), sample());
}

#[test]
fn the_writer_refuses_what_no_reader_would_take() {
    let mut writer = GgufWriter::new();
    writer.tensor("a", &[32], TensorType::Q4_0).unwrap();
    for (name, dims, kind) in [
        ("a", [32].as_slice(), TensorType::Q4_0),
        ("b", &[33], TensorType::Q4_0),
        ("b", &[], TensorType::F32),
        ("b", &[0], TensorType::F32),
        ("b", &[1, 1, 1, 1, 1], TensorType::F32),
        ("b", &[1 << 62, 4], TensorType::F32),
        ("", &[1], TensorType::F32),
    ] {
        assert!(writer.tensor(name, dims, kind).is_err(), "{name} {dims:?} {kind}");
    }
    let mut body = writer.start(Vec::new()).unwrap();
    assert!(body.append(&[0; 19]).is_err());
    body.append(&[0; 17]).unwrap();
    assert!(body.finish().unwrap_err().to_string().contains("tensor `a`: expected 18 bytes, found 17"));
}

#[test]
fn every_truncation_is_an_error() {
    let file = sample();
    let padding = 8; // after the last tensor, which no one misses
    for length in 0..file.len() - padding {
        let error = message(Gguf::from_vec(file[..length].to_vec()));
        assert!(error != "opened", "cut to {length} of {} bytes", file.len());
        assert!(length < 4 || error.contains("download it again"), "{length}: {error}");
    }
    let cut = message(Gguf::from_vec(file[..file.len() - padding - 20].to_vec()));
    assert!(cut.contains("where tensor `cube` ends") && cut.contains("20 too few"), "{cut}");
}

#[test]
fn broken_headers_are_refused_by_name() {
    let huge = u64::MAX.to_le_bytes();
    let f32s = |count: u64| pair("k", 9, &array(6, count, &[0; 8]));
    let one = |entry: Vec<u8>| raw(3, &[], &[entry]);
    let count = |at: usize, value: u64| {
        let mut file = sample();
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        file
    };
    let deep = (0..9).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "expected a GGUF file, found an empty file"),
        (b"A text of no use".to_vec(), "found a file that begins with \"A text o\""),
        (b"GG".to_vec(), r#"begins with "GG""#),
        (b"<!DOCTYPE html><html>".to_vec(), "found a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "found a Git LFS pointer"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":{}}     ".to_vec(), "found a safetensors file"),
        (raw(1, &[], &[]), "GGUF version: expected 2 or 3, found 1"),
        (raw(4, &[], &[]), "GGUF version: expected 2 or 3, found 4"),
        (raw(3u32.swap_bytes(), &[], &[]), "found 3, big-endian"),
        (count(8, u64::MAX), "number of tensors: expected at most"),
        (count(16, u64::MAX / 2), "number of metadata pairs: expected at most"),
        (raw(3, &[pair("k", 13, &[0; 8])], &[]), "key `k`: expected a value type from 0 to 12, found 13"),
        (raw(3, &[pair("", 0, &[0])], &[]), "key of pair 0: expected a name, found an empty string"),
        (raw(3, &[pair("k", 0, &[0]), pair("k", 0, &[0])], &[]), "key `k`: the same key again"),
        (raw(3, &[pair("k", 8, &huge)], &[]), "key `k`: expected 18446744073709551615 more bytes"),
        (raw(3, &[f32s(u64::MAX)], &[]), "number of items of key `k`: expected at most"),
        (raw(3, &[f32s(1 << 40)], &[]), "number of items of key `k`: expected at most"),
        (raw(3, &[pair("k", 9, &array(8, 1 << 61, &huge))], &[]), "number of items of key `k`: expected at most"),
        (raw(3, &[pair("k", 9, &array(8, 1, &huge))], &[]), "more bytes"),
        (raw(3, &[pair("k", 9, &array(9, 1 << 60, &huge))], &[]), "number of items of key `k`: expected at most"),
        (raw(3, &[pair("k", 9, &deep)], &[]), "expected arrays at most 8 deep"),
        (
            raw(3, &[pair("k\u{e9}", 0, &[0]).into_iter().filter(|b| *b != 0xa9).chain([0; 64]).collect()], &[]),
            "key of pair 0: expected UTF-8",
        ),
        (raw(3, &[pair("general.alignment", 4, &48u32.to_le_bytes())], &[]), "`general.alignment`: expected a power of two"),
        (raw(3, &[pair("general.alignment", 4, &0u32.to_le_bytes())], &[]), "`general.alignment`: expected a power of two"),
        (raw(3, &[pair("general.alignment", 4, &4u32.to_le_bytes())], &[]), "`general.alignment`: expected a power of two"),
        (raw(3, &[pair("general.alignment", 8, &text(b"x"))], &[]), "`general.alignment`: expected an integer"),
        (one(tensor(b"", &[1], 0, 0)), "name of tensor 0: expected a name"),
        (one(tensor(b"\xff", &[1], 0, 0)), "name of tensor 0: expected UTF-8 text"),
        (one(tensor(b"t", &[1; 5], 0, 0)), "tensor `t`: expected at most 4 dimensions, found 5"),
        (one(tensor(b"t", &[4, 0], 0, 0)), "tensor `t`: expected dimensions of at least 1"),
        (one(tensor(b"t", &[1 << 40, 1 << 40], 0, 0)), "tensor `t`: expected a size below 2^64 bytes"),
        (one(tensor(b"t", &[32], 2, u64::MAX - 31)), "tensor `t`: expected data inside the file"),
        (one(tensor(b"t", &[33], 2, 0)), "tensor `t`: expected rows of a multiple of 32 (Q4_0), found [33]"),
        (one(tensor(b"t", &[32], 4, 0)), "found Q4_2 (type 4), which ggml has given up"),
        (one(tensor(b"t", &[32], 31, 0)), "quantize the model again, to Q4_0"),
        (one(tensor(b"t", &[32], 99, 0)), "expected a known tensor type, found type 99"),
        (one(tensor(b"t", &[8], 0, 8)), "tensor `t`: expected an offset that is a multiple of 32, found 8"),
        (one(tensor(b"t", &[65], 0, 0)), "4 too few"),
        (one(tensor(b"t", &[1], 0, 1 << 40)), "too few; the file is cut off: download it again"),
        (raw(3, &[], &[tensor(b"t", &[1], 0, 0), tensor(b"t", &[1], 0, 32)]), "tensor `t`: the same name again"),
        (raw(3, &[], &[tensor(b"b", &[1], 0, 32), tensor(b"a", &[9], 0, 0)]), "it overlaps `a`"),
    ];
    for (file, expected) in cases {
        let found = message(Gguf::from_vec(file));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
        assert!(found.starts_with("model in memory"), "{found}");
    }
    assert_eq!(message(Gguf::from_vec(raw(2, &[pair("k", 9, &array(0, 0, &[]))], &[tensor(b"t", &[], 0, 0)]))), "opened");
    assert!(matches!(Gguf::from_vec(raw(1, &[], &[])), Err(Error::Unsupported(_))));
}

#[test]
fn flipped_bytes_never_panic() {
    let file = sample();
    let mut state = 0x9e37_79b9_7f4a_7c15u64; // xorshift
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut opened = 0;
    for _ in 0..20_000 {
        let mut broken = file.clone();
        for _ in 0..1 + random(3) {
            let at = random(broken.len());
            broken[at] = [broken[at] ^ (1 << random(8)), 0xff, 0x7f, 0, random(256) as u8][random(5)];
        }
        if let Ok(gguf) = Gguf::from_vec(broken) {
            opened += 1;
            gguf.tensors().for_each(|t| assert_eq!(gguf.bytes(t).len() as u64, t.size()));
            gguf.metadata().iter().for_each(|(_, value)| drop(value.to_string()));
        }
    }
    assert!((1..20_000).contains(&opened), "{opened} of 20000 opened: nothing was tried");
}

/// Writes the parts of a split model: `tensors[i]` tensors in part i.
fn write_parts(folder: &Path, stem: &str, tensors: &[u64], said: impl Fn(&mut GgufWriter, usize)) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (part, &count) in tensors.iter().enumerate() {
        let mut writer = GgufWriter::new();
        writer.set("split.no", part as u16).set("split.count", tensors.len() as u16);
        writer.set("split.tensors.count", tensors.iter().sum::<u64>() as i32);
        if part == 0 {
            writer.set("general.architecture", "llama");
        }
        said(&mut writer, part);
        for index in 0..count {
            writer.tensor(&format!("t{part}.{index}"), &[4], TensorType::F32).unwrap();
        }
        let mut body = writer.start(Vec::new()).unwrap();
        let mut mark = 10 * part as u8;
        while body.current().is_some() {
            body.append(&[mark; 16]).unwrap();
            mark += 1;
        }
        let path = folder.join(format!("{stem}-{:05}-of-{:05}.gguf", part + 1, tensors.len()));
        std::fs::write(&path, body.finish().unwrap()).unwrap();
        paths.push(path);
    }
    paths
}

#[test]
fn any_part_opens_a_split_model() {
    let folder = folder("gguf-split");
    let paths = write_parts(&folder, "model", &[0, 2, 1], |_, _| {});
    for path in &paths {
        let gguf = Gguf::open(path).unwrap();
        assert_eq!(gguf.metadata().str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(gguf.tensors().map(|t| (t.name.as_str(), t.part())).collect::<Vec<_>>(), [("t1.0", 1), ("t1.1", 1), ("t2.0", 2)]);
        assert_eq!(
            (&*gguf.bytes(gguf.tensor("t1.1").unwrap()), &*gguf.bytes(gguf.tensor("t2.0").unwrap())),
            (&[11; 16][..], &[20; 16][..])
        );
        assert_eq!((gguf.path(), gguf.paths()), (Some(paths[0].as_path()), paths.as_slice()));
        assert_eq!(gguf.file_bytes(), paths.iter().map(|path| path.metadata().unwrap().len()).sum::<u64>());
    }
}

#[test]
fn wrong_parts_are_named() {
    let folder = folder("gguf-wrong-split");
    let missing = write_parts(&folder, "missing", &[1, 1, 1], |_, _| {});
    std::fs::remove_file(&missing[1]).unwrap();
    let swapped = write_parts(&folder, "swapped", &[1, 1], |_, _| {});
    std::fs::copy(&swapped[0], &swapped[1]).unwrap();
    let renamed = folder.join("renamed.gguf");
    std::fs::copy(&missing[2], &renamed).unwrap();
    let fewer = write_parts(&folder, "fewer", &[1, 1], |writer, _| {
        writer.set("split.tensors.count", 5i32);
    });
    let twice = write_parts(&folder, "twice", &[1, 1], |writer, _| {
        writer.set("split.tensors.count", 4i32).tensor("same", &[4], TensorType::F32).unwrap();
    });
    for (path, expected) in [
        (&missing[0], "expected part 2 of 3 beside it: missing-00002-of-00003.gguf, found no such file"),
        (&swapped[0], "expected part 2 of 2, found part 1 of 2, by its own metadata"),
        (&renamed, "expected the name of part 3 of 3, such as NAME-00003-of-00003.gguf, found renamed.gguf"),
        (&fewer[1], "expected 5 tensors in all parts, found 2"),
        (&twice[0], "tensor `same`: the same name again"),
    ] {
        let found = message(Gguf::open(path));
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    }
    let alone = std::fs::read(&missing[0]).unwrap();
    assert!(message(Gguf::from_vec(alone)).contains("expected a whole model, found one of 3 parts"));
}

#[test]
fn files_that_are_no_files_are_refused() {
    let folder = folder("gguf-odd");
    std::fs::write(folder.join("empty.gguf"), b"").unwrap();
    std::fs::write(folder.join("notes.txt"), b"remember the milk").unwrap();
    for (name, expected) in [
        ("empty.gguf", "found an empty file"),
        ("notes.txt", r#"notes.txt: expected a GGUF file, found a file that begins with "remember""#),
        ("absent.gguf", "absent.gguf: No such file"),
        ("", "found a folder; name the file, such as"),
    ] {
        let found = message(Gguf::open(folder.join(name)));
        assert!(found.contains(expected) || (name == "absent.gguf" && cfg!(windows)), "expected `{expected}` in `{found}`");
    }
}

#[test]
fn the_committed_tiny_model_is_what_its_program_writes() {
    let committed = include_bytes!("data/tiny.gguf");
    assert!(committed.as_slice() == fixture::tiny(), "run `cargo run -p hob --example make_tiny` and commit tests/data/tiny.gguf");
    let gguf = Gguf::from_static(committed).unwrap();
    assert!(gguf.file_bytes() < 200_000);
    let vocabulary = gguf.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(gguf.tensor("output.weight").unwrap().dims, [64, vocabulary.len() as u64]);

    let tokenizer = Tokenizer::from_gguf(gguf.metadata(), &TokenizerOptions::default()).unwrap();
    let tokens = tokenizer.encode("Hello the ∞ <|im_end|>", Special::Literal).unwrap();
    assert_eq!(tokens[..2].iter().map(|token| tokenizer.decode(&[*token])).collect::<Vec<_>>(), ["Hello", " the"]);
    assert_eq!(tokenizer.decode(&tokens), "Hello the ∞ <|im_end|>");
    assert!(!tokens.contains(&302) && tokenizer.is_end(302), "{tokens:?}");
}

#[test]
fn a_header_is_read_from_the_beginning_of_a_file() {
    let file = sample();
    let whole = Gguf::from_vec(file.clone()).unwrap();
    let mut last = 0;
    for length in 0..=file.len() {
        match Gguf::from_head("m.gguf", file[..length].to_vec(), file.len() as u64).unwrap() {
            Head::Short { needed } => {
                assert!(length < needed as usize && needed as usize <= file.len(), "{length} {needed}");
                last = length;
            }
            Head::Whole(head) => {
                assert_eq!((head.file_bytes(), head.metadata().len()), (file.len() as u64, whole.metadata().len()));
                let facts = |model: &Gguf| model.tensors().map(|t| (t.name.clone(), t.dims.clone(), t.offset())).collect::<Vec<_>>();
                assert_eq!(facts(&head), facts(&whole));
                assert_eq!(head.has_weights(), length == file.len());
            }
        }
    }
    assert!(last > 300 && last < file.len() - 146, "the header ends before the tensors' 146 bytes: {last}");
    let head = |bytes: &[u8]| Gguf::from_head("m.gguf", bytes.to_vec(), 1 << 40);
    assert!(head(b"<!DOCTYPE html>").is_err() && matches!(head(b"GG"), Ok(Head::Short { .. })));
    let model = match head(&file) {
        Ok(Head::Whole(model)) => model,
        other => panic!("{other:?}"),
    };
    let error = hob::Model::options().build(model).map(drop).unwrap_err().to_string();
    assert_eq!(error, "m.gguf: expected a whole model, found its header alone; download the file first");
}

#[test]
fn the_headers_of_a_split_model_make_one() {
    let part = |number: u16, count: u16| {
        let mut writer = GgufWriter::new();
        writer.set("split.no", number).set("split.count", count).set("of", "all");
        writer.tensor(&format!("t{number}"), &[8], TensorType::F32).unwrap();
        let mut body = writer.start(Vec::new()).unwrap();
        body.append(&[0; 32]).unwrap();
        let file = body.finish().unwrap();
        match Gguf::from_head("m.gguf", file[..file.len() - 32].to_vec(), file.len() as u64).unwrap() {
            Head::Whole(part) => part,
            Head::Short { needed } => panic!("{needed}"),
        }
    };
    let (first, second) = (part(0, 2), part(1, 2));
    let bytes = first.file_bytes() + second.file_bytes();
    let all = Gguf::join(vec![first.clone(), second.clone()]).unwrap();
    assert_eq!((all.tensors().map(|t| t.part()).collect::<Vec<_>>(), all.file_bytes()), (vec![0, 1], bytes));
    assert!(all.tensor("t1").is_some() && !all.has_weights());
    assert!(message(Gguf::join(vec![second, first.clone()])).contains("part 2 of 2, by its own metadata"));
    assert!(message(Gguf::join(vec![first])).contains("expected part 1 of 1"));
}
