//! Recurrences: every level, number of threads and cut of the tokens gives the bits of `naive`.

mod oracle;

use hob_kernels::naive;
use hob_kernels::ops::Activation;
use hob_kernels::recurrent::{self, Conv, Inputs, KeyHeads, Lane, Shape, State, StateSize};
use oracle::{equal, everywhere};

/// Numbers in ±`spread`.
fn numbers(n: usize, seed: u64, spread: f32) -> Vec<f32> {
    oracle::numbers(n, seed).into_iter().map(|x| x * spread).collect()
}

/// Two sequences of these many tokens, and the steps in which they are computed: how many tokens of each.
type Cuts = (usize, usize, &'static [(usize, usize)]);
const CUTS: [Cuts; 4] =
    [(7, 4, &[(7, 4)]), (7, 4, &[(3, 1), (1, 0), (3, 3)]), (1, 3, &[(1, 1), (0, 1), (0, 1)]), (40, 0, &[(39, 0), (1, 0)])];

/// Rows `from..from + n` of the first sequence, then `other..` of the second, of x `[a + b, width]`.
fn rows(x: &[f32], width: usize, a: usize, first: (usize, usize), second: (usize, usize)) -> Vec<f32> {
    let part = |from: usize, n: usize| &x[from * width..(from + n) * width];
    [part(first.0, first.1), part(a + second.0, second.1)].concat()
}

fn lanes<'a>(states: &'a mut [State; 2], tokens: (usize, usize)) -> Vec<Lane<'a>> {
    let counts = [tokens.0, tokens.1];
    states.iter_mut().zip(counts).filter(|(_, n)| *n > 0).map(|(state, tokens)| Lane::new(state, tokens)).collect()
}

#[test]
fn convolutions() {
    for (taps, channels, act) in
        [(4, 200, Activation::Silu), (3, 64, Activation::Identity), (2, 5, Activation::Silu), (4, 1100, Activation::Silu)]
    {
        for (bias, first) in [(true, 0), (false, 24)] {
            let (weight, constant) = (numbers(taps * channels, 1, 1.0), numbers(channels, 2, 0.5));
            let bias = bias.then_some(&constant[..]);
            for (a, b, steps) in CUTS {
                let x = numbers((a + b) * channels, 3, 2.0);
                let mut expected = x.clone();
                let (left, right) = expected.split_at_mut(a * channels);
                for part in [left, right] {
                    naive::recurrent::conv(part, &weight, bias, act, channels, &mut vec![0.0; (taps - 1) * channels]);
                }
                everywhere(|cpu| {
                    let size = StateSize { channels: first + channels, past: taps - 1, heads: 0, keys: 0, values: 0 };
                    let mut states = [State::new(size).unwrap(), State::new(size).unwrap()];
                    let mut done = (0, 0);
                    for &(m, n) in steps {
                        let mut part = rows(&x, channels, a, (done.0, m), (done.1, n));
                        let conv = Conv { weight: &weight, bias, activation: act, first, channels };
                        recurrent::conv(cpu, &conv, &mut part, &mut lanes(&mut states, (m, n)));
                        let want = rows(&expected, channels, a, (done.0, m), (done.1, n));
                        equal(&part, &want, &format!("{taps} taps of {channels} in {steps:?} {}", cpu.level));
                        done = (done.0 + m, done.1 + n);
                    }
                });
            }
        }
    }
}

#[test]
fn steps_and_decays() {
    for (rows, width) in [(1, 1), (3, 7), (5, 16), (9, 33), (70, 128)] {
        let (x, bias) = (numbers(rows * width, 1, 30.0), numbers(width, 2, 3.0));
        let rate: Vec<f32> = numbers(width, 3, 2.0).iter().map(|r| -r.abs()).collect();
        let mut steps = x.clone();
        naive::recurrent::time_steps(&mut steps, &bias);
        let mut decays = steps.clone();
        naive::recurrent::decays(&mut decays, &rate);
        assert!(steps.iter().all(|x| *x >= 0.0) && decays.iter().all(|x| (0.0..=1.0).contains(x)));
        everywhere(|cpu| {
            let mut found = x.clone();
            recurrent::time_steps(cpu, &mut found, &bias);
            equal(&found, &steps, &format!("steps [{rows}, {width}] {}", cpu.level));
            recurrent::decays(cpu, &mut found, &rate);
            equal(&found, &decays, &format!("decays [{rows}, {width}] {}", cpu.level));
        });
    }
}

/// Some shapes of heads: whole panels, less, more; keys shared either way.
const SHAPES: [Shape; 6] = [
    Shape { key_heads: 1, heads: 1, keys: 1, values: 1, order: KeyHeads::Grouped },
    Shape { key_heads: 1, heads: 3, keys: 16, values: 64, order: KeyHeads::Grouped },
    Shape { key_heads: 2, heads: 4, keys: 32, values: 32, order: KeyHeads::Tiled },
    Shape { key_heads: 2, heads: 6, keys: 7, values: 40, order: KeyHeads::Grouped },
    Shape { key_heads: 4, heads: 4, keys: 33, values: 5, order: KeyHeads::Tiled },
    Shape { key_heads: 2, heads: 4, keys: 128, values: 128, order: KeyHeads::Grouped },
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Scan,
    Delta,
    DeltaByKey,
}

#[test]
fn heads() {
    for shape in SHAPES {
        for rule in [Rule::Scan, Rule::Delta, Rule::DeltaByKey] {
            for (a, b, steps) in CUTS {
                sequences(&shape, rule, a, b, steps);
            }
        }
    }
}

fn sequences(shape: &Shape, rule: Rule, a: usize, b: usize, steps: &[(usize, usize)]) {
    let Shape { key_heads, heads, keys, values, .. } = *shape;
    let fading = if rule == Rule::DeltaByKey { heads * keys } else { heads };
    let widths = [key_heads * keys, key_heads * keys, heads * values, heads, fading];
    let [q, k, v, factors, decay] = std::array::from_fn(|i| numbers((a + b) * widths[i], 5 + i as u64, 0.7));
    let decay: Vec<f32> = decay.iter().map(|x| x.abs()).collect();
    let skip = numbers(heads, 11, 1.0);
    let mut expected = vec![0.0; v.len()];
    for (from, n) in [(0, a), (a, b)] {
        let part = |x: &[f32], i: usize| x[from * widths[i]..(from + n) * widths[i]].to_vec();
        let (q, k, v, factors, decay) = (part(&q, 0), part(&k, 1), part(&v, 2), part(&factors, 3), part(&decay, 4));
        let (mut state, out) = (vec![0.0; heads * keys * values], &mut expected[from * widths[2]..(from + n) * widths[2]]);
        match rule {
            Rule::Scan => naive::recurrent::scan(shape, &q, &k, &v, &factors, &decay, &skip, &mut state, out),
            Rule::Delta | Rule::DeltaByKey => naive::recurrent::delta(shape, &q, &k, &v, &decay, &factors, &mut state, out),
        }
    }
    everywhere(|cpu| {
        let size = StateSize { channels: 0, past: 0, heads, keys, values };
        let mut states = [State::new(size).unwrap(), State::new(size).unwrap()];
        let mut done = (0, 0);
        for &(m, n) in steps {
            let part = |x: &[f32], i: usize| rows(x, widths[i], a, (done.0, m), (done.1, n));
            let (q, k, v, factors, decay) = (part(&q, 0), part(&k, 1), part(&v, 2), part(&factors, 3), part(&decay, 4));
            let inputs = Inputs { q: &q, k: &k, v: &v };
            let mut out = vec![9.0; v.len()];
            let lanes = &mut lanes(&mut states, (m, n));
            match rule {
                Rule::Scan => recurrent::scan(cpu, shape, inputs, &factors, &decay, &skip, lanes, &mut out),
                Rule::Delta | Rule::DeltaByKey => recurrent::delta(cpu, shape, inputs, &decay, &factors, lanes, &mut out),
            }
            equal(&out, &part(&expected, 2), &format!("{rule:?} {shape:?} in {steps:?} {}", cpu.level));
            done = (done.0 + m, done.1 + n);
        }
        // A copy goes on as the original would.
        let [mut first, _] = states;
        let mut copy = first.copy().unwrap();
        first.clear_memory();
        copy.clear_memory();
        assert_eq!(first.bytes(), copy.bytes());
    });
}

/// What a state was on the way is what it is after a step that ends there.
#[test]
fn marks() {
    let shape = Shape { key_heads: 2, heads: 6, keys: 7, values: 40, order: KeyHeads::Grouped };
    let Shape { key_heads, heads, keys, values, .. } = shape;
    let size = StateSize { channels: 1100, past: 3, heads, keys, values };
    let widths = [key_heads * keys, key_heads * keys, heads * values, heads, heads, size.channels];
    let (first, second) = (9, 4);
    let inputs: [Vec<f32>; 6] = std::array::from_fn(|i| numbers((first + second) * widths[i], 5 + i as u64, 0.7));
    let decay: Vec<f32> = inputs[4].iter().map(|x| x.abs()).collect();
    let (skip, weight) = (numbers(heads, 11, 1.0), numbers(4 * size.channels, 12, 1.0));
    let saved = |state: &State| {
        let mut bytes = Vec::new();
        state.save(&mut bytes);
        bytes
    };
    // Tokens `done` to `until` of both sequences; what comes out.
    let step = |cpu: hob_kernels::Cpu<'_>, rule, done: (usize, usize), until: (usize, usize), lanes: &mut [Lane<'_>]| {
        let tokens = (until.0 - done.0, until.1 - done.1);
        let part = |x: &[f32], i: usize| rows(x, widths[i], first, (done.0, tokens.0), (done.1, tokens.1));
        let [q, k, v, factors, decay, mut x] = std::array::from_fn(|i| part(if i == 4 { &decay } else { &inputs[i] }, i));
        let conv = Conv { weight: &weight, bias: None, activation: Activation::Silu, first: 0, channels: size.channels };
        recurrent::conv(cpu, &conv, &mut x, lanes);
        let (mut out, inputs) = (vec![9.0; v.len()], Inputs { q: &q, k: &k, v: &v });
        match rule {
            Rule::Scan => recurrent::scan(cpu, &shape, inputs, &factors, &decay, &skip, lanes, &mut out),
            Rule::Delta | Rule::DeltaByKey => recurrent::delta(cpu, &shape, inputs, &decay, &factors, lanes, &mut out),
        }
        [x, out]
    };
    everywhere(|cpu| {
        for rule in [Rule::Scan, Rule::Delta] {
            let new = || State::new(size).unwrap();
            // With an end at each place, after 1 and 6 tokens of the first sequence and 3 of the second.
            let mut apart = [new(), new()];
            let mut expected = Vec::new();
            let mut done = (0, 0);
            for until in [(1, 3), (6, 3), (9, 4)] {
                step(cpu, rule, done, until, &mut lanes(&mut apart, (until.0 - done.0, until.1 - done.1)));
                expected.push([saved(&apart[0]), saved(&apart[1])]);
                done = until;
            }
            // At once.
            let ([mut one, mut other], mut marks) = ([new(), new()], [new(), new(), new()]);
            let plain = step(cpu, rule, (0, 0), (first, second), &mut lanes(&mut [new(), new()], (first, second)));
            let [a, b, c] = &mut marks;
            let mut together = [
                Lane { state: &mut one, tokens: first, marks: vec![(1, a), (6, b)] },
                Lane { state: &mut other, tokens: second, marks: vec![(3, c)] },
            ];
            let found = step(cpu, rule, (0, 0), (first, second), &mut together);
            for (found, plain) in found.iter().zip(&plain) {
                equal(found, plain, &format!("{rule:?} with marks {}", cpu.level));
            }
            assert_eq!([saved(&one), saved(&other)], expected[2], "{rule:?} {}", cpu.level);
            assert_eq!([saved(&marks[0]), saved(&marks[2])], expected[0], "{rule:?} {}", cpu.level);
            assert_eq!(saved(&marks[1]), expected[1][0], "{rule:?} {}", cpu.level);
        }
    });
}

/// Small enough for paper: one head, keys 2, values 1, the state after a token is written beside it.
#[test]
fn by_hand() {
    let shape = Shape { key_heads: 1, heads: 1, keys: 2, values: 1, order: KeyHeads::Grouped };
    let (q, k, v) = ([1.0, 1.0, 1.0, 2.0], [1.0, 0.0, 0.5, 1.0], [4.0, 2.0]);
    // Scan, dt 0.5 and 1, decay 0.5, skip 1: d = 2, S = (2, 0), y = 2 + 4; d = 2, S = (1, 0) + (1, 2), y = 2 + 4 + 2.
    let (mut state, mut out) = ([0.0; 2], [0.0; 2]);
    naive::recurrent::scan(&shape, &q, &k, &v, &[0.5, 1.0], &[0.5, 0.5], &[1.0], &mut state, &mut out);
    assert_eq!((out, state), ([6.0, 8.0], [2.0, 2.0]));
    // Delta, beta 0.5 and 1, decay 1 and 0.5: p = 0, d = 2, S = (2, 0), y = 2; S = (1, 0), p = 0.5, d = 1.5,
    // S = (1.75, 1.5), y = 1.75 + 3.
    let (mut state, mut out) = ([0.0; 2], [0.0; 2]);
    naive::recurrent::delta(&shape, &q, &k, &v, &[1.0, 0.5], &[0.5, 1.0], &mut state, &mut out);
    assert_eq!((out, state), ([2.0, 4.75], [1.75, 1.5]));
    // The same with a decay for each key, (1, 1) and (0.5, 0.25): the second row was 0, so nothing changes.
    let (mut state, mut out) = ([0.0; 2], [0.0; 2]);
    naive::recurrent::delta(&shape, &q, &k, &v, &[1.0, 1.0, 0.5, 0.25], &[0.5, 1.0], &mut state, &mut out);
    assert_eq!((out, state), ([2.0, 4.75], [1.75, 1.5]));
    // Two channels, taps (1, 2) and (3, 4), the first inputs after zeros: 2·1, 4·5; 1 + 2·2, 3·5 + 4·6.
    let (mut x, mut past) = ([1.0, 5.0, 2.0, 6.0], vec![0.0; 2]);
    naive::recurrent::conv(&mut x, &[1.0, 3.0, 2.0, 4.0], None, Activation::Identity, 2, &mut past);
    assert_eq!((x, past), ([2.0, 20.0, 5.0, 39.0], vec![2.0, 6.0]));
}
