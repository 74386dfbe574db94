//! Block formats: golden values of ggml's own dequantization, packing as the reverse of unpacking, and how close quantizing comes.

use hob_kernels::Format;
use hob_kernels::format::{Block, Form, dequantize, quantize};

/// Knuth's MMIX generator: the same bytes here and in the script that made the golden values.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0
    }

    /// About a normal distribution: the sum of 12 uniform numbers.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }
}

/// Blocks of random bytes in which every float is finite: the top bit of each exponent is cleared.
fn random_blocks(format: Format, blocks: usize) -> Vec<u8> {
    let floats: &[usize] = match format {
        Format::F32 => &[2],
        Format::F16 | Format::BF16 | Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::IQ4_NL => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
        Format::MXFP4 => &[],
        Format::IQ4_XS | Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S => &[0],
        Format::IQ1_M => &[54],
        Format::TQ1_0 => &[52],
        Format::TQ2_0 => &[64],
    };
    let mut random = Random(1);
    let mut bytes: Vec<u8> = (0..blocks * format.block_bytes()).map(|_| (random.next() >> 56) as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        floats.iter().for_each(|at| block[at + 1] &= 0xbf);
        if format == Format::MXFP4 {
            block[0] &= 0xbf;
        }
    }
    bytes
}

/// FNV-1a over the bytes of the values.
fn hash(values: &[f32]) -> u64 {
    values.iter().flat_map(|v| v.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Values at some places.
type Probes = [(usize, f32); 4];

/// What gguf-py 0.19 (`gguf.quants.dequantize`) makes of `random_blocks(format, 8)` (512 for floats): the hash and four values.
const GOLDEN: [(Format, u64, Probes); 25] = [
    (Format::F32, 0xe2e029af0c4f621c, [(0, 4.486143e-18), (17, 9.54603e-07), (289, 2.2649257e-13), (511, 2.7755902e-15)]),
    (Format::F16, 0xa843563315ac5a60, [(0, -3.695488e-05), (17, 1.8847656), (289, -7.432699e-05), (511, 0.0013494492)]),
    (Format::BF16, 0xd268d4ad42a18447, [(0, -1.7338542e-37), (17, 1.078125), (289, -5.2427048e-36), (511, 5.4526066e-26)]),
    (Format::Q4_0, 0x25d68a8d4f19efa5, [(0, 0.00011086464), (17, 7.390976e-05), (161, 0.000611186), (255, 0.3269043)]),
    (Format::Q4_1, 0x6d2afc871453a12f, [(0, 0.012571096), (17, 0.012681961), (161, -0.44921875), (255, 0.00052410364)]),
    (Format::Q5_0, 0x066bfb3bb9595f64, [(0, -0.00048041344), (17, -3.695488e-05), (161, -0.035152435), (255, -1.4107666)]),
    (Format::Q5_1, 0x011a350ea341f1ec, [(0, 0.012164593), (17, 0.012866735), (161, 0.5220032), (255, -0.03447008)]),
    (Format::Q8_0, 0xfc85ce30c51dbcc5, [(0, 0.003362894), (17, -0.0019216537), (161, -0.23861694), (255, -0.023002625)]),
    (Format::Q2_K, 0xaa7052c419e94ad0, [(0, -0.0054473877), (17, -0.0072631836), (1057, -0.00062835217), (2047, 12.101915)]),
    (Format::Q3_K, 0x0461370abf4c9c8b, [(0, 0.007324934), (17, -0.004626274), (1057, 2.425537), (2047, 0.00022798777)]),
    (Format::Q4_K, 0xb85e8353eb2810b6, [(0, -0.29038525), (17, -0.29038525), (1057, 0.034626782), (2047, -7.4188075)]),
    (Format::Q5_K, 0x8fe8237c2626ffeb, [(0, -0.2867267), (17, -0.28794622), (1057, -3.682023), (2047, -0.25854635)]),
    (Format::Q6_K, 0x5fae3d58bf3b9444, [(0, -0.5430889), (17, 0.042045593), (1057, 64.11914), (2047, 41.680298)]),
    (Format::IQ4_NL, 0x545aafceb9896db6, [(0, 0.0012934208), (17, 0.00081300735), (161, 0.0077416897), (255, 5.1896057)]),
    (Format::MXFP4, 0x3ac5f98788cbf5e6, [(0, 1.0339758e-25), (17, -1.0339758e-25), (161, 4.7019774e-38), (255, -6442451000.0)]),
    (Format::IQ4_XS, 0x16b90dc382df0a4d, [(0, -0.004065037), (17, -0.012010336), (1057, -135.48828), (2047, 0.07261276)]),
    (Format::IQ3_S, 0x7aa7deab75ba34d2, [(0, 0.0043976307), (17, -0.00062823296), (1057, -0.5560608), (2047, -0.00046104193)]),
    (Format::IQ3_XXS, 0x260c4d2a9180ecdf, [(0, -0.00011086464), (17, -0.00033259392), (1057, -0.016908348), (2047, 0.12757933)]),
    (Format::IQ2_S, 0x6c6f624831e07568, [(0, -0.002194196), (17, -0.004965812), (1057, 0.079042435), (2047, 0.005735159)]),
    (Format::IQ2_XS, 0x88aafe7d90763c56, [(0, 0.00062823296), (17, -0.00062823296), (1057, 0.011113644), (2047, 1.2779846)]),
    (Format::IQ2_XXS, 0x23c997a88b045ea6, [(0, 0.00025868416), (17, -0.00025868416), (1057, 4.3447266), (2047, -0.5517216)]),
    (Format::IQ1_S, 0x2265ad948bc42c4d, [(0, -3.233552e-05), (17, -3.233552e-05), (1057, -0.021846771), (2047, 0.16742706)]),
    (Format::IQ1_M, 0xba4562ab8fd91c8a, [(0, 0.8149719), (17, 0.01663208), (1057, 0.0005219579), (2047, 0.0065757036)]),
    (Format::TQ1_0, 0x9a3fb70d245ae33e, [(0, 0.0), (17, 0.0), (1057, -0.056854248), (2047, -1.6914062)]),
    (Format::TQ2_0, 0x317c81a8aa9e81c7, [(0, -0.001625061), (17, 0.001625061), (1057, 0.0054512024), (2047, 0.0)]),
];

#[test]
fn dequantize_has_ggmls_bits() {
    for (format, expected, values) in GOLDEN {
        let blocks = if format.form() == Form::Float { 512 } else { 8 };
        let mut out = vec![0.0; blocks * format.block_len()];
        dequantize(format, &random_blocks(format, blocks), &mut out);
        for (i, value) in values {
            assert_eq!(out[i], value, "{} [{i}]", format.name());
        }
        assert_eq!(hash(&out), expected, "{}", format.name());
    }
}

#[test]
fn packing_undoes_unpacking() {
    for format in Format::ALL.into_iter().filter(|f| f.form() != Form::Float && f.can_quantize()) {
        let (mut block, mut again, mut back) = (Block::new(), Block::new(), vec![0; format.block_bytes()]);
        for bytes in random_blocks(format, 16).chunks_exact(format.block_bytes()) {
            block.unpack(format, bytes);
            block.pack(format, &mut back);
            again.unpack(format, &back);
            assert_eq!(again, block, "{}", format.name());
            // MXFP4 has two codes for 0, TQ1_0 bytes that no five digits make.
            assert!(back == bytes || matches!(format, Format::MXFP4 | Format::TQ1_0), "{}", format.name());
        }
    }
}

#[test]
fn names_and_sizes() {
    for format in Format::ALL {
        assert_eq!(Format::from_name(&format.name().to_lowercase()), Some(format));
        assert_eq!(format.row_bytes(512), Some(512 / format.block_len() * format.block_bytes()));
        assert_eq!(format.row_bytes(usize::MAX), None);
    }
    assert_eq!(Format::from_name("Q4_K_M"), None);
    assert_eq!(Format::Q4_K.row_bytes(256 + 32), None);
    assert_eq!(Format::Q4_K.bits_per_weight(), 4.5);
}

/// The root of the mean squared error beside that of the weights, each error counted `importance` times.
fn error(format: Format, x: &[f32], importance: Option<&[f32]>, counted: &[f32]) -> f64 {
    let (mut bytes, mut back) = (vec![0; format.row_bytes(x.len()).unwrap()], vec![0.0; x.len()]);
    quantize(format, x, importance, &mut bytes);
    dequantize(format, &bytes, &mut back);
    let weighed = |f: &dyn Fn(usize) -> f64| (0..x.len()).map(|i| f64::from(counted[i]) * f(i).powi(2)).sum::<f64>();
    (weighed(&|i| f64::from(back[i]) - f64::from(x[i])) / weighed(&|i| f64::from(x[i]))).sqrt()
}

/// The relative error that llama-quantize (Debian's package of November 2026, `--pure`) leaves on 256 x 2048 normal numbers (MXFP4: gguf-py 0.19).
const LLAMA_CPP: [(Format, f64); 18] = [
    (Format::F32, 0.0),
    (Format::F16, 2.5e-4),
    (Format::BF16, 1.8e-3),
    (Format::Q4_0, 0.0859),
    (Format::Q4_1, 0.0783),
    (Format::Q5_0, 0.0427),
    (Format::Q5_1, 0.0379),
    (Format::Q8_0, 0.00535),
    (Format::Q2_K, 0.2961),
    (Format::Q3_K, 0.1507),
    (Format::Q4_K, 0.0714),
    (Format::Q5_K, 0.0362),
    (Format::Q6_K, 0.0178),
    (Format::IQ4_NL, 0.0762),
    (Format::MXFP4, 0.1141),
    (Format::IQ4_XS, 0.0768),
    (Format::TQ1_0, 0.8092),
    (Format::TQ2_0, 0.8092),
];

#[test]
fn quantizing_is_as_near_as_llama_cpp_and_importance_helps() {
    let mut random = Random(7);
    let x: Vec<f32> = (0..64 * 1024).map(|_| 0.02 * random.normal()).collect();
    let importance: Vec<f32> = (0..x.len()).map(|_| random.normal().exp2()).collect();
    let even = vec![1.0; x.len()];
    for (format, theirs) in LLAMA_CPP {
        let ours = error(format, &x, None, &even);
        // This sample is not theirs: its tails are a little shorter.
        assert!(ours <= theirs * 1.01 && ours >= theirs * 0.8, "{}: {ours:.5}, llama.cpp {theirs}", format.name());
        if format.form() == Form::Float || format == Format::Q8_0 {
            continue;
        }
        let (with, without) = (error(format, &x, Some(&importance), &importance), error(format, &x, None, &importance));
        assert!(with < without, "{}: {with:.5} with importances, {without:.5} without", format.name());
    }
}

#[test]
fn odd_blocks_stay_near_themselves() {
    let mut spike = [0.0; 256];
    spike[100] = -3.0;
    let ramp: Vec<f32> = (0..256).map(|i| i as f32 / 16.0).collect();
    let cases: [(&str, &[f32], f64); 6] = [
        ("zeros", &[0.0; 256], 0.0),
        ("ones", &[1.0; 256], 0.01),
        ("minus ones", &[-1.0; 256], 0.05),
        ("spike", &spike, 0.05),
        ("ramp", &ramp, 0.2),
        ("great", &[30000.0; 256], 0.05),
    ];
    for format in Format::ALL.into_iter().filter(|f| f.can_quantize()) {
        for (name, x, bound) in cases {
            for importance in [None, Some([1.0; 256]), Some([0.0; 256])] {
                let (mut bytes, mut back) = (vec![0; format.row_bytes(256).unwrap()], vec![9.0; 256]);
                quantize(format, x, importance.as_ref().map(|w| &w[..]), &mut bytes);
                dequantize(format, &bytes, &mut back);
                let missed = back.iter().zip(x).map(|(y, x)| f64::from(y - x).powi(2)).sum::<f64>().sqrt();
                let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                // Importances of zero leave the error free; it must only stay a number.
                let bound = if importance.is_some_and(|w| w[0] == 0.0) { 10.0 } else { bound };
                // Scales that are powers of two; three values.
                let bound = match format {
                    Format::MXFP4 => bound.max(0.1),
                    Format::TQ1_0 | Format::TQ2_0 => bound.max(0.6),
                    _ => bound,
                };
                assert!(missed <= bound * length, "{} of {name}: {missed} of {length}", format.name());
            }
        }
    }
}

#[test]
fn what_no_format_holds_does_not_panic() {
    for format in Format::ALL.into_iter().filter(|f| f.can_quantize()) {
        let mut bytes = vec![0; format.row_bytes(256).unwrap()];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-42] {
            for x in [[bad; 256], std::array::from_fn(|i| if i == 9 { bad } else { 1.0 })] {
                quantize(format, &x, None, &mut bytes);
                quantize(format, &x, Some(&[1.0; 256]), &mut bytes);
                quantize(format, &x, Some(&[bad; 256]), &mut bytes);
            }
        }
    }
}
