//! Every level and number of threads gives the bits of `naive`, and `naive` is near the true functions.

mod oracle;

use hob_kernels::ops::{self, Activation, Gate, GroupLimit, GroupScore, Pairing, Renormalize, Router, Xielu};
use hob_kernels::{Cpu, Level, Pool, naive};
use oracle::{equal_or_nan, everywhere};

/// Numbers in about ±`spread`, some of them tiny, zero or large.
fn numbers(n: usize, seed: u64, spread: f32) -> Vec<f32> {
    let strange = |(i, x): (usize, f32)| match i % 97 {
        13 => x * 1e-42,
        29 => x.signum() * 0.0,
        71 => x * spread * 30.0,
        _ => x * spread,
    };
    oracle::numbers(n, seed).into_iter().enumerate().map(strange).collect()
}

/// Some columns of rows of `width`.
fn columns(x: &[f32], width: usize, columns: std::ops::Range<usize>) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| &row[columns.clone()]).copied().collect()
}

/// Rows and widths: whole vectors, ragged ends, less than a vector, and enough for threads.
const SHAPES: [(usize, usize); 9] = [(1, 1), (3, 7), (2, 16), (5, 33), (2, 100), (1, 896), (1, 20_001), (70, 576), (300, 128)];

#[test]
fn norms_and_softmax() {
    for (rows, width) in SHAPES {
        let x = numbers(rows * width, 1, 3.0);
        let (weight, bias) = (numbers(width, 2, 1.0), numbers(width, 3, 1.0));
        let what = format!("[{rows}, {width}]");
        for weight in [None, Some(&weight[..])] {
            let mut expected = vec![0.0; x.len()];
            naive::ops::rms_norm(&x, weight, 1e-6, width, &mut expected);
            everywhere(|cpu| {
                let (mut out, mut place) = (vec![0.0; x.len()], x.clone());
                ops::rms_norm(cpu, &x, weight, 1e-6, width, &mut out);
                ops::rms_norm_in_place(cpu, &mut place, weight, 1e-6, width);
                equal_or_nan(&out, &expected, &format!("rms_norm {what} {}", cpu.level));
                equal_or_nan(&place, &expected, &format!("rms_norm_in_place {what} {}", cpu.level));
            });
        }
        if rows % 5 == 0 {
            let groups = numbers(5 * width, 12, 1.0);
            let mut expected = vec![0.0; x.len()];
            naive::ops::rms_norm(&x, Some(&groups), 1e-6, width, &mut expected);
            everywhere(|cpu| {
                let mut place = x.clone();
                ops::rms_norm_in_place(cpu, &mut place, Some(&groups), 1e-6, width);
                equal_or_nan(&place, &expected, &format!("rms_norm by groups {what} {}", cpu.level));
            });
        }
        for bias in [None, Some(&bias[..])] {
            let mut expected = vec![0.0; x.len()];
            naive::ops::layer_norm(&x, &weight, bias, 1e-5, width, &mut expected);
            everywhere(|cpu| {
                let mut out = vec![0.0; x.len()];
                ops::layer_norm(cpu, &x, &weight, bias, 1e-5, width, &mut out);
                equal_or_nan(&out, &expected, &format!("layer_norm {what} {}", cpu.level));
            });
        }
        let mut expected = x.clone();
        naive::ops::softmax(&mut expected, width);
        everywhere(|cpu| {
            let mut out = x.clone();
            ops::softmax(cpu, &mut out, width);
            equal_or_nan(&out, &expected, &format!("softmax {what} {}", cpu.level));
        });
        let below: Vec<f32> = x.iter().enumerate().map(|(i, x)| if i % 31 == 30 { f32::NEG_INFINITY } else { -x.abs() }).collect();
        naive::ops::weights(&below, 0.25, &mut expected);
        for level in Level::available() {
            let mut out = vec![0.0; x.len()];
            ops::weights(level, &below, 0.25, &mut out);
            equal_or_nan(&out, &expected, &format!("weights {what} {level}"));
        }
    }
}

#[test]
fn elementwise() {
    for (rows, width) in SHAPES {
        let (x, y) = (numbers(rows * width, 4, 5.0), numbers(rows * width, 5, 5.0));
        let bias = &y[..width];
        let runs = if rows % 3 == 0 { 3 } else { 1 };
        type InPlace<'a> = (&'static str, &'a dyn Fn(&mut [f32]), &'a dyn Fn(Cpu<'_>, &mut [f32]));
        let rows_of_like = &y[..rows * width / runs];
        let gates = &y[..rows];
        let xielu = Xielu { above: 0.8, below: 1.3, slope: 0.5, edge: -1e-6 };
        let table: [InPlace<'_>; 10] = [
            ("add", &|x| naive::ops::add(x, &y), &|cpu, x| ops::add(cpu, x, &y)),
            ("add_bias", &|x| naive::ops::add_bias(x, bias), &|cpu, x| ops::add_bias(cpu, x, bias)),
            ("scale_by", &|x| naive::ops::scale_by(x, bias), &|cpu, x| ops::scale_by(cpu, x, bias)),
            ("gate", &|x| naive::ops::gate(x, gates), &|cpu, x| ops::gate(cpu, x, gates)),
            ("rescale", &|x| naive::ops::rescale(x, runs, rows_of_like, width), &|cpu, x| ops::rescale(cpu, x, runs, rows_of_like, width)),
            ("sparsify", &|x| naive::ops::sparsify(x, 1.6, width), &|cpu, x| ops::sparsify(cpu, x, 1.6, width)),
            ("scale", &|x| naive::ops::scale(x, 0.3), &|cpu, x| ops::scale(cpu, x, 0.3)),
            ("softcap", &|x| naive::ops::softcap(x, 30.0), &|cpu, x| ops::softcap(cpu, x, 30.0)),
            ("clamp", &|x| naive::ops::clamp(x, 2.0), &|cpu, x| ops::clamp(cpu, x, 2.0)),
            ("xielu", &|x| naive::ops::xielu(x, xielu), &|cpu, x| ops::xielu(cpu, x, xielu)),
        ];
        for (name, meaning, op) in table {
            let mut expected = x.clone();
            meaning(&mut expected);
            everywhere(|cpu| {
                let mut out = x.clone();
                op(cpu, &mut out);
                equal_or_nan(&out, &expected, &format!("{name} [{rows}, {width}] {}", cpu.level));
            });
        }
        let (at, part) = (width / 3, width - width / 3 * 2);
        let mut expected = x.clone();
        for (x, y) in expected.chunks_exact_mut(width).zip(y.chunks_exact(part)) {
            naive::ops::add(&mut x[at..at + part], y);
        }
        everywhere(|cpu| {
            let mut out = x.clone();
            ops::add_channels(cpu, (&mut out, width), at, (&y[..rows * part], part));
            equal_or_nan(&out, &expected, &format!("add_channels [{rows}, {width}] {}", cpu.level));
        });
        for act in Activation::ALL {
            let (mut expected, mut activated) = (x.clone(), x.clone());
            naive::ops::glu(act, &mut expected, &y);
            naive::ops::activate(act, &mut activated);
            everywhere(|cpu| {
                let (mut out, mut place) = (x.clone(), x.clone());
                ops::glu(cpu, act, &mut out, &y);
                ops::activate(cpu, act, &mut place);
                equal_or_nan(&out, &expected, &format!("glu {act:?} [{rows}, {width}] {}", cpu.level));
                equal_or_nan(&place, &activated, &format!("activate {act:?} [{rows}, {width}] {}", cpu.level));
            });
        }
    }
}

#[test]
fn channels_go_where_they_are_wanted() {
    for (rows, width) in SHAPES {
        let x = numbers(rows * width, 4, 3.0);
        // From nothing to all of a row to one side, the rest to the other, and both back together.
        for at in [0, width / 3, width] {
            let expected = [columns(&x, width, 0..at), columns(&x, width, at..width)];
            everywhere(|cpu| {
                let [mut first, mut second] = [vec![0.0; rows * at], vec![0.0; rows * (width - at)]];
                let mut whole = vec![0.0; x.len()];
                ops::copy_channels(cpu, (&x, width), 0, (&mut first, at), 0, at);
                ops::copy_channels(cpu, (&x, width), at, (&mut second, width - at), 0, width - at);
                ops::copy_channels(cpu, (&first, at), 0, (&mut whole, width), 0, at);
                ops::copy_channels(cpu, (&second, width - at), 0, (&mut whole, width), at, width - at);
                let what = format!("copy_channels at {at} of [{rows}, {width}] {}", cpu.level);
                equal_or_nan(&first, &expected[0], &what);
                equal_or_nan(&second, &expected[1], &what);
                equal_or_nan(&whole, &x, &what);
            });
        }
    }
}

#[test]
fn rotations() {
    for (tokens, heads, head_dim, rotary) in [(1, 1, 2, 2), (3, 2, 8, 8), (2, 3, 20, 10), (5, 4, 80, 32), (40, 8, 128, 128), (3, 2, 6, 0)] {
        let x = numbers(tokens * heads * head_dim, 6, 2.0);
        let angles: Vec<f32> = (0..tokens * rotary / 2).map(|i| i as f32 * 1.7 % 4000.0).collect();
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| angle.sin_cos()).unzip();
        for pairing in [Pairing::Adjacent, Pairing::Halves] {
            let mut expected = x.clone();
            naive::ops::rope(&mut expected, heads, head_dim, rotary, pairing, &cos, &sin);
            everywhere(|cpu| {
                let mut out = x.clone();
                ops::rope(cpu, &mut out, heads, head_dim, rotary, pairing, &cos, &sin);
                equal_or_nan(&out, &expected, &format!("rope {pairing:?} {heads}×{head_dim} ({rotary}) {}", cpu.level));
            });
        }
    }
}

#[test]
fn routing() {
    for (tokens, experts, k) in [(1, 1, 1), (3, 4, 2), (5, 60, 4), (200, 128, 8), (2, 9, 9)] {
        let mut logits = numbers(tokens * experts, 7, 4.0);
        if experts > 2 {
            logits[2] = logits[0]; // a tie
        }
        let bias = numbers(experts, 8, 0.5);
        for gate in [Gate::Softmax, Gate::SoftmaxTopK, Gate::Sigmoid, Gate::SqrtSoftplus] {
            for (renormalize, scale, bias) in [(Renormalize::Yes, 1.0, None), (Renormalize::No, 2.5, Some(&bias[..]))] {
                let score = if bias.is_some() { GroupScore::BestTwo } else { GroupScore::Best };
                let groups = (experts % 4 == 0).then_some(GroupLimit { count: 4, used: 2, score });
                let router = Router { gate, k, groups, renormalize, scale };
                let (mut expected, mut weights) = (vec![0; tokens * k], vec![0.0; tokens * k]);
                naive::ops::route(&logits, experts, &router, bias, &mut expected, &mut weights);
                everywhere(|cpu| {
                    let (mut ids, mut out) = (vec![0; tokens * k], vec![0.0; tokens * k]);
                    ops::route(cpu, &logits, experts, &router, bias, &mut ids, &mut out);
                    assert_eq!(ids, expected, "{router:?} {}", cpu.level);
                    equal_or_nan(&out, &weights, &format!("{router:?} {}", cpu.level));
                });

                let (mut offsets, mut slots) = (vec![9; 3], vec![9; 3]);
                ops::group_by_expert(&expected, experts, &mut offsets, &mut slots);
                let mut stable: Vec<u32> = (0..expected.len() as u32).collect();
                stable.sort_by_key(|slot| expected[*slot as usize]);
                assert_eq!(slots, stable);
                for e in 0..experts {
                    assert!(slots[offsets[e] as usize..offsets[e + 1] as usize].iter().all(|slot| expected[*slot as usize] == e as u32));
                }
            }
        }
        let (width, x) = (50, numbers(tokens * 50, 11, 2.0));
        let (ids, weights) = ((0..tokens * k).map(|slot| (slot * 7 % experts) as u32).collect::<Vec<_>>(), numbers(tokens * k, 12, 1.0));
        let bias = numbers(experts * width, 13, 1.0);
        let mut expected = vec![0.0; tokens * k * width];
        naive::ops::spread(&x, &weights, k, width, &mut expected);
        let mut biased = expected.clone();
        naive::ops::add_expert_bias(&mut biased, &bias, &ids, width);
        everywhere(|cpu| {
            let mut out = vec![1.0; tokens * k * width];
            ops::spread(cpu, &x, &weights, k, width, &mut out);
            equal_or_nan(&out, &expected, &format!("spread to {k} {}", cpu.level));
            ops::add_expert_bias(cpu, &mut out, &bias, &ids, width, 0..width);
            equal_or_nan(&out, &biased, &format!("biases of {experts} {}", cpu.level));
            let mut some = columns(&expected, width, 9..31);
            ops::add_expert_bias(cpu, &mut some, &bias, &ids, width, 9..31);
            equal_or_nan(&some, &columns(&biased, width, 9..31), &format!("some columns' biases of {experts} {}", cpu.level));
        });
        let weights = numbers(tokens * k, 9, 1.0);
        let y = numbers(tokens * k * width, 10, 2.0);
        let mut expected = vec![0.0; tokens * width];
        naive::ops::combine(&y, &weights, k, width, &mut expected);
        everywhere(|cpu| {
            let mut out = vec![1.0; tokens * width];
            ops::combine(cpu, &y, &weights, k, &mut out, width, 0..width);
            equal_or_nan(&out, &expected, &format!("combine of {k} {}", cpu.level));
            out.fill(1.0);
            for part in [0..9, 9..31, 31..width] {
                ops::combine(cpu, &columns(&y, width, part.clone()), &weights, k, &mut out, width, part);
            }
            equal_or_nan(&out, &expected, &format!("combine of {k} by columns {}", cpu.level));
        });
    }
}

/// On paper: beyond their bounds gate and up count as 7, 7 and -7; at 0 the gate lets nothing through.
#[test]
fn gpt_oss_bounds_its_gate_and_its_up() {
    let pool = Pool::new(1);
    let (mut gate, up) = ([100.0, 100.0, 0.0, -100.0, f32::NAN, 1.0], [100.0, -100.0, 3.0, 5.0, 0.0, f32::NAN]);
    ops::glu(Cpu::new(Level::best(), &pool), Activation::SwigluOai, &mut gate, &up);
    let at_7 = 7.0 / (1.0 + (-1.702f32 * 7.0).exp());
    assert!((gate[0] - at_7 * 8.0).abs() < 1e-4 && (gate[1] + at_7 * 6.0).abs() < 1e-4, "{gate:?}");
    assert!(gate[2] == 0.0 && gate[3].abs() < 1e-20 && gate[4].is_nan() && gate[5].is_nan(), "{gate:?}");
}

#[test]
fn a_tie_goes_to_the_lowest_id_and_nan_to_nobody() {
    let pool = Pool::new(1);
    let router = Router { gate: Gate::SoftmaxTopK, k: 3, groups: None, renormalize: Renormalize::No, scale: 1.0 };
    let (mut ids, mut weights) = ([0; 3], [0.0; 3]);
    let logits = [1.0, 2.0, f32::NAN, 2.0, 1.0, 0.0];
    ops::route(Cpu::new(Level::best(), &pool), &logits, 6, &router, None, &mut ids, &mut weights);
    assert_eq!(ids, [1, 3, 0]);
    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
}

#[test]
fn settled_experts_weigh_what_chosen_ones_do() {
    let pool = Pool::new(2);
    let router = Router { gate: Gate::SqrtSoftplus, k: 2, groups: None, renormalize: Renormalize::Yes, scale: 1.5 };
    // √ln(1 + e⁰) = √ln 2 and, of ln(e³ - 1), √3; 1 is never chosen.
    let (logits, mut weights) = ([0.0, 9.0, (3f32.exp() - 1.0).ln(), 0.0, 9.0, 0.0], [0.0; 4]);
    ops::route_fixed(Cpu::new(Level::best(), &pool), &logits, 3, &router, &[2, 0, 0, 2], &mut weights);
    let (a, b) = (3f32.sqrt(), 2f32.ln().sqrt());
    for (found, expected) in weights.iter().zip([1.5 * a / (a + b), 1.5 * b / (a + b), 0.75, 0.75]) {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }
}

#[test]
fn rows_blend_by_channel() {
    for (count, width) in [(1, 5), (8, 64), (128, 33)] {
        let (values, scores) = (numbers(count * width, 3, 2.0), numbers(count * width, 4, 3.0));
        let (rows, scores): (Vec<_>, Vec<_>) = (values.chunks(width).collect(), scores.chunks(width).collect());
        let mut expected = vec![0.0; width];
        naive::ops::blend(&rows, &scores, &mut expected);
        for level in Level::available() {
            let mut out = vec![1.0; width];
            ops::blend(level, &rows, &scores, &mut out);
            equal_or_nan(&out, &expected, &format!("{count} rows of {width} {level}"));
        }
    }
    // Weights 3/4 and 1/4, and where one score is far below, 1 and 0.
    let mut out = [0.0; 2];
    ops::blend(Level::best(), &[&[4.0, 1.0], &[8.0, 2.0]], &[&[3f32.ln(), 90.0], &[0.0, 0.0]], &mut out);
    assert!((out[0] - 5.0).abs() < 1e-5 && out[1] == 1.0, "{out:?}");
}

#[test]
fn strands_are_read_and_written() {
    let (strands, width, tokens) = (4, 37, 5);
    let (scale, base) = (numbers(3, 1, 1.0), numbers(24, 2, 1.0));
    let hyper = ops::Hyper { strands, scale: &scale, base: &base, iterations: 20, eps: 1e-6 };
    let mut weights = numbers(tokens * 24, 3, 2.0);
    let mut expected = weights.clone();
    expected.chunks_mut(24).for_each(|w| naive::hyper::weights(&hyper, w));
    let (x, y) = (numbers(tokens * strands * width, 4, 1.0), numbers(tokens * width, 5, 1.0));
    let pool = Pool::new(2);
    ops::hyper_weights(Cpu::new(Level::best(), &pool), &hyper, &mut weights);
    equal_or_nan(&weights, &expected, "weights");
    for token in weights.chunks(24) {
        let comb = &token[8..];
        for i in 0..4 {
            let (row, column) = (comb[4 * i..4 * i + 4].iter().sum::<f32>(), (0..4).map(|j| comb[4 * j + i]).sum::<f32>());
            assert!((row - 1.0).abs() < 1e-3 && (column - 1.0).abs() < 1e-3, "doubly stochastic: {row} {column}");
        }
    }
    let (mut mixed, mut added) = (vec![0.0; tokens * width], x.clone());
    for t in 0..tokens {
        let (w, x) = (&weights[t * 24..][..24], &x[t * strands * width..][..strands * width]);
        naive::hyper::mix(x, &w[..strands], &mut mixed[t * width..][..width]);
        naive::hyper::add(&mut added[t * strands * width..][..strands * width], strands, &y[t * width..][..width], w);
    }
    everywhere(|cpu| {
        let (mut out, mut z) = (vec![0.0; tokens * width], x.clone());
        ops::hyper_mix(cpu, &x, strands, &weights, 24, &mut out);
        equal_or_nan(&out, &mixed, &format!("mix {}", cpu.level));
        ops::hyper_add(cpu, &mut z, strands, &y, &weights);
        equal_or_nan(&z, &added, &format!("add {}", cpu.level));
    });
}

#[test]
fn only_the_best_groups_are_chosen_from() {
    let pool = Pool::new(1);
    // Groups (5, 0), (4, 3), (1, 1), (4, 3): by their best the first and second of them, by their best two the second and fourth.
    let logits = [5.0, 0.0, 4.0, 3.0, 1.0, 1.0, 4.0, 3.0];
    for (score, expected) in [(GroupScore::Best, [0, 2, 3, 1]), (GroupScore::BestTwo, [2, 6, 3, 7])] {
        let groups = Some(GroupLimit { count: 4, used: 2, score });
        let router = Router { gate: Gate::SoftmaxTopK, k: 4, groups, renormalize: Renormalize::No, scale: 1.0 };
        let (mut ids, mut weights) = ([0; 4], [0.0; 4]);
        ops::route(Cpu::new(Level::best(), &pool), &logits, 8, &router, None, &mut ids, &mut weights);
        assert_eq!(ids, expected, "{score:?}");
    }
}

/// Largest errors against f64, in units in the last place of the result, or of `floor` where the result is smaller.
fn worst(from: f32, to: f32, floor: f64, ours: fn(f32) -> f32, truth: fn(f64) -> f64) -> f64 {
    let steps = 200_000;
    let point = |i| from + (to - from) * i as f32 / steps as f32;
    (0..=steps).map(point).fold(0.0, |worst: f64, x| {
        let truth = truth(f64::from(x));
        let ulp = truth.abs().max(floor).log2().floor().exp2() * f64::from(f32::EPSILON);
        worst.max((f64::from(ours(x)) - truth).abs() / ulp)
    })
}

#[test]
fn elementary_functions_are_near_the_truth() {
    use naive::math::{exp, gelu, gelu_tanh, silu, softplus, tanh};
    fn gelu_tanh_64(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    }
    let silu_64 = |x: f64| x / (1.0 + (-x).exp());
    let gelu_64 = |x: f64| 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2);
    type Row = (&'static str, f32, f32, f64, fn(f32) -> f32, fn(f64) -> f64, f64);
    let table: [Row; 11] = [
        ("softplus", -80.0, 80.0, 0.0, softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 3.0),
        ("exp", -86.9, 0.0, 0.0, exp, f64::exp, 1.0),
        ("tanh", -12.0, 12.0, 0.0, tanh, f64::tanh, 2.0),
        ("tanh near 0", -1e-3, 1e-3, 1e-30, tanh, f64::tanh, 1.0),
        ("silu", -20.0, 20.0, 1e-30, silu, silu_64, 3.0),
        ("silu far", -80.0, 80.0, 1e-30, silu, silu_64, 3.0),
        ("gelu_tanh", -1.0, 10.0, 1e-30, gelu_tanh, gelu_tanh_64, 4.0),
        ("gelu_tanh left", -8.0, -1.0, 1.0, gelu_tanh, gelu_tanh_64, 1.0),
        ("gelu", -1.0, 10.0, 1e-30, gelu, gelu_64, 6.0),
        ("gelu left", -12.0, -1.0, 1.0, gelu, gelu_64, 1.0),
        ("gelu far", 12.0, 1000.0, 1e-30, gelu, gelu_64, 0.5),
    ];
    for (name, from, to, floor, ours, truth, most) in table {
        let found = worst(from, to, floor, ours, truth);
        println!("{name}: {found:.2} ulp");
        assert!(found <= most, "{name}: off by {found:.2} units in the last place, expected at most {most}");
    }
    assert_eq!((exp(0.0), exp(-87.5), exp(f32::NEG_INFINITY), tanh(f32::INFINITY)), (1.0, 0.0, 0.0, 1.0));
    assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && silu(f32::NAN).is_nan() && gelu(f32::NAN).is_nan());
}
