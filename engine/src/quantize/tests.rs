//! Small models in memory, quantized to files of every kind.

use super::*;

/// A file name of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("hob-quantize-{}-{name}.gguf", std::process::id()));
        let _ = fs::remove_file(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A model of 8 layers in F32: an embedding, an output, and per layer a norm, values, downs, keys with odd rows.
fn model(weight: impl Fn(usize) -> f32) -> Gguf {
    let mut shapes: Vec<(String, Vec<u64>)> = vec![("token_embd.weight".into(), vec![256, 8]), ("output.weight".into(), vec![256, 8])];
    for i in 0..8 {
        for (name, dims) in [
            ("attn_norm.weight", vec![256]),
            ("attn_q.weight", vec![256, 4]),
            ("attn_k.weight", vec![96, 4]),
            ("attn_v.weight", vec![256, 4]),
            ("attn_output.weight", vec![80, 4]),
            ("ffn_down.weight", vec![512, 2, 2]),
        ] {
            shapes.push((format!("blk.{i}.{name}"), dims));
        }
    }
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "llama").set("llama.block_count", 8u32).set("split.count", 1u16);
    for (name, dims) in &shapes {
        writer.tensor(name, dims, TensorType::F32).unwrap();
    }
    let mut body = writer.start(Vec::new()).unwrap();
    for (_, dims) in &shapes {
        let weights = 0..dims.iter().product::<u64>() as usize;
        body.append(&weights.flat_map(|i| weight(i).to_le_bytes()).collect::<Vec<_>>()).unwrap();
    }
    Gguf::from_vec(body.finish().unwrap()).unwrap()
}

/// Numbers between -1 and 1 without a pattern.
fn noise(i: usize) -> f32 {
    let mixed = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut out = vec![0.0; tensor.elements() as usize];
    format::dequantize(tensor.kind.format().unwrap(), &gguf.bytes(tensor), &mut out);
    out
}

#[test]
fn every_file_type_holds_the_model() {
    use TensorType::*;
    // Type, then: output, values of layers 0 and 3, down of layers 0 and 4, key of 96, attention output of 80, greatest error.
    let table = [
        (FileType::F32, [F32, F32, F32, F32, F32, F32, F32], 0.0),
        (FileType::F16, [F16, F16, F16, F16, F16, F16, F16], 1e-3),
        (FileType::BF16, [BF16, BF16, BF16, BF16, BF16, BF16, BF16], 4e-3),
        (FileType::Q4_0, [Q6_K, Q4_0, Q4_0, Q4_0, Q4_0, Q4_0, F16], 0.15),
        (FileType::Q4_1, [Q6_K, Q4_1, Q4_1, Q4_1, Q4_1, Q4_1, F16], 0.08),
        (FileType::Q5_0, [Q6_K, Q5_0, Q5_0, Q5_0, Q5_0, Q5_0, F16], 0.07),
        (FileType::Q5_1, [Q6_K, Q5_1, Q5_1, Q5_1, Q5_1, Q5_1, F16], 0.04),
        (FileType::Q8_0, [Q8_0, Q8_0, Q8_0, Q8_0, Q8_0, Q8_0, F16], 0.01),
        (FileType::Q2_K, [Q6_K, Q3_K, Q3_K, Q3_K, Q3_K, IQ4_NL, F16], 0.5),
        (FileType::Q3_K_S, [Q6_K, Q3_K, Q3_K, Q3_K, Q3_K, IQ4_NL, F16], 0.35),
        (FileType::Q3_K_M, [Q6_K, Q5_K, Q4_K, Q4_K, Q4_K, IQ4_NL, F16], 0.35),
        (FileType::Q3_K_L, [Q6_K, Q5_K, Q5_K, Q5_K, Q5_K, IQ4_NL, F16], 0.35),
        (FileType::Q4_K_S, [Q6_K, Q5_K, Q5_K, Q5_K, Q4_K, Q5_0, F16], 0.12),
        (FileType::Q4_K_M, [Q6_K, Q6_K, Q6_K, Q6_K, Q4_K, Q5_0, F16], 0.12),
        (FileType::Q5_K_S, [Q6_K, Q5_K, Q5_K, Q5_K, Q5_K, Q5_1, F16], 0.08),
        (FileType::Q5_K_M, [Q6_K, Q6_K, Q6_K, Q6_K, Q5_K, Q5_1, F16], 0.08),
        (FileType::Q6_K, [Q6_K, Q6_K, Q6_K, Q6_K, Q6_K, Q8_0, F16], 0.05),
        (FileType::IQ4_NL, [Q6_K, IQ4_NL, IQ4_NL, Q5_K, IQ4_NL, IQ4_NL, F16], 0.15),
        (FileType::IQ4_XS, [Q6_K, IQ4_XS, IQ4_XS, Q5_K, IQ4_XS, IQ4_NL, F16], 0.15),
        (FileType::MXFP4_MOE, [Q8_0, Q8_0, Q8_0, MXFP4, MXFP4, Q8_0, F16], 0.26),
        (FileType::TQ1_0, [Q6_K, TQ1_0, TQ1_0, TQ1_0, TQ1_0, Q4_0, F16], 0.51),
        (FileType::TQ2_0, [Q6_K, TQ2_0, TQ2_0, TQ2_0, TQ2_0, Q4_0, F16], 0.51),
    ];
    let names = [
        "output.weight",
        "blk.0.attn_v.weight",
        "blk.3.attn_v.weight",
        "blk.0.ffn_down.weight",
        "blk.4.ffn_down.weight",
        "blk.1.attn_k.weight",
        "blk.1.attn_output.weight",
    ];
    let src = model(noise);
    for (kind, expected, bound) in table {
        let file = Scratch::new(kind.name());
        let (mut done, mut total) = (0, 0);
        let report = quantize(&src, &file.0, QuantizeOptions::new(kind).threads(2), |p| (done, total) = (p.done, p.total)).unwrap();
        let made = Gguf::open(&file.0).unwrap();
        assert_eq!(names.map(|n| made.tensor(n).unwrap().kind), expected, "{kind}");
        assert_eq!(made.tensor("blk.2.attn_norm.weight").unwrap().kind, F32);
        assert_eq!(made.metadata().u32("general.file_type").unwrap(), Some(kind.id()));
        assert_eq!(made.metadata().u32("general.quantization_version").unwrap(), Some(2));
        assert!(made.metadata().get("split.count").is_none() && made.metadata().get("llama.block_count").is_some());
        assert_eq!((report.bytes_after, done), (made.tensors().map(TensorInfo::size).sum(), total));
        let odd = report.notices.iter().filter(|n| matches!(n, Notice::InsteadOf { .. })).count();
        assert_eq!(odd > 0, kind.format().block_len() > 1, "{kind}");
        for tensor in src.tensors() {
            let worst = values(&src, &tensor.name).iter().zip(values(&made, &tensor.name)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= bound, "{kind}: {} is off by {worst}", tensor.name);
        }
    }
}

#[test]
fn threads_do_not_show_and_requantizing_is_said() {
    let files = ["one", "three", "again"].map(Scratch::new);
    let src = model(noise);
    let run =
        |src: &Gguf, file: &Scratch, kind, threads| quantize(src, &file.0, QuantizeOptions::new(kind).threads(threads), |_| ()).unwrap();
    assert!(run(&src, &files[0], FileType::Q8_0, 1).notices.iter().all(|n| !matches!(n, Notice::Requantized { .. })));
    run(&src, &files[1], FileType::Q8_0, 3);
    assert_eq!(fs::read(&files[0].0).unwrap(), fs::read(&files[1].0).unwrap());
    let report = run(&Gguf::open(&files[0].0).unwrap(), &files[2], FileType::Q4_K_M, 2);
    assert!(report.notices.iter().any(|n| matches!(n, Notice::Requantized { from: TensorType::Q8_0, .. })), "{:?}", report.notices);
}

#[test]
fn a_taken_name_is_refused_unless_it_may_be_replaced() {
    let (src, file) = (model(noise), Scratch::new("taken"));
    let message = |options: QuantizeOptions, src: &Gguf, dst: &Path| quantize(src, dst, options, |_| ()).unwrap_err().to_string();
    let options = QuantizeOptions::new(FileType::F16);
    fs::write(&file.0, "precious").unwrap();
    assert!(message(options.clone(), &src, &file.0).contains("an existing file"));
    assert_eq!(fs::read(&file.0).unwrap(), b"precious");
    quantize(&src, &file.0, options.clone().existing(Existing::Replace), |_| ()).unwrap();
    let made = Gguf::open(&file.0).unwrap();
    assert!(message(options.clone().existing(Existing::Replace), &made, &file.0).contains("the source itself"));
    assert!(message(options.clone(), &src, &std::env::temp_dir()).contains("a folder"));
    let nowhere = std::env::temp_dir().join("hob-no-such-folder").join("x.gguf");
    assert!(message(options, &src, &nowhere).contains("hob-no-such-folder"));
}

#[test]
fn a_cancel_leaves_nothing_behind() {
    let (src, file) = (model(noise), Scratch::new("cancelled"));
    let stop = Canceller::new();
    let options = QuantizeOptions::new(FileType::Q4_0).canceller(stop.clone());
    let error = quantize(&src, &file.0, options, |_| stop.cancel()).unwrap_err();
    assert!(matches!(error, Error::Cancelled) && !file.0.exists(), "{error}");
    let left = fs::read_dir(file.0.parent().unwrap()).unwrap().flatten().filter(|e| e.path().to_string_lossy().contains("-cancelled.gguf"));
    assert_eq!(left.count(), 0);
}

#[test]
fn weights_that_no_format_holds_are_named() {
    for (bad, found) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (1e6, "1000000")] {
        let (src, file) = (model(|i| if i == 300 { bad } else { noise(i) }), Scratch::new("bad"));
        let error = quantize(&src, &file.0, QuantizeOptions::new(FileType::Q4_0), |_| ()).unwrap_err().to_string();
        assert!(error.contains("`token_embd.weight`, weight 300") && error.contains(found), "{error}");
        let folder = file.0.parent().unwrap();
        let left = fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().to_string_lossy().contains("-bad.gguf")).count();
        assert_eq!(left, 0, "something is left behind");
    }
    let (src, file) = (model(|_| 1e6), Scratch::new("large"));
    assert!(quantize(&src, &file.0, QuantizeOptions::new(FileType::BF16), |_| ()).is_ok());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_with_a_path() {
    let src = model(noise);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut writer = GgufWriter::new();
    let tensor = src.tensor("output.weight").unwrap();
    writer.tensor(&tensor.name, &tensor.dims, TensorType::F16).unwrap();
    let mut body = writer.start(BufWriter::with_capacity(1 << 10, full)).unwrap();
    let pool = Pool::new(1);
    let mut convert = Convert { cpu: Cpu::new(Level::best(), &pool), out: Vec::new(), canceller: &Canceller::new() };
    let trouble = convert.tensor(&src, tensor, TensorType::F16, &mut body, &mut |_| ()).err().unwrap();
    let message = trouble.or_io(Path::new("out.gguf")).to_string();
    assert!(message.starts_with("out.gguf: No space left"), "{message}");
}
