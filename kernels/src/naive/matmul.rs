//! The meaning of the matrix product: `out[t][r] = Σ_k weight[r][k] * x[t][k]`, in one stated order for every format.
//!
//! **Activations** meet quantized weights as int8 under one f32 scale for every 32 or 256 ([`Format::input`]):
//!
//! ```text
//! absmax = the greatest |x| of the block (of the bits without their sign, so that infinities and NaN are the greatest)
//! absmax infinite or NaN    dx = NaN, q = 0     a product with such an input is NaN, wherever it stands in the block
//! absmax < 2^-100           dx = 0,   q = 0     127/absmax could overflow; it is nothing beside any other input
//! otherwise                 dx = absmax / 127,  q = nearest(x * (127 / absmax)), ties to even; |q| <= 127
//! ```
//!
//! **Quantized weights** ([`Form::Symmetric`], [`Form::Affine`]); per block, ascending, one f32 accumulator an output, from 0:
//!
//! ```text
//! S = Σ_groups scale[g] · Σ q·qx     N = Σ_groups min[g] · Σ qx         exact in i32, whatever the order
//! f = d · f32(S)                                                        symmetric
//! f = fma(-dmin, f32(N), d · f32(S))                                    affine; Q4_1 and Q5_1 have dmin = -m, min = 1
//! acc = fma(f, dx, acc)
//! ```
//!
//! **Float weights**: 16 partial sums from 0, `p[k mod 16] = fma(weight[k], x[k], p[k mod 16])`, k ascending; then the tree
//! `p[i] + p[i+8]`, `+ p[i+4]`, `+ p[i+2]`, `+ p[1]`. Where cols is no multiple of 16, sums past the end are left as they are.
//!
//! Every operation rounds to nearest even and keeps subnormals. A NaN is a NaN; its sign and payload are not promised.

use crate::format::{Block, Form, Format, InputKind, dequantize};

/// Below this absmax a block of activations is taken for zeros: 2^-100.
pub const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// Activations as int8 codes `q` with a scale in `d` for every `block` of them (32 or 256; the last may be shorter).
pub fn quantize_activations(x: &[f32], block: usize, q: &mut [i8], d: &mut [f32]) {
    for ((x, q), d) in x.chunks(block).zip(q.chunks_mut(block)).zip(d) {
        let absmax = f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
        if !absmax.is_finite() || absmax < TINY {
            *d = if absmax.is_finite() { 0.0 } else { f32::NAN };
            q.fill(0);
            continue;
        }
        *d = absmax / 127.0;
        let inverse = 127.0 / absmax;
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x * inverse).round_ties_even() as i8;
        }
    }
}

/// `out [tokens, rows]` = `x [tokens, cols]` times the transpose of the weights `[rows, cols]`, which lie in `bytes` as in a GGUF file.
///
/// # Panics
/// If the lengths do not fit together.
pub fn matmul(format: Format, rows: usize, cols: usize, bytes: &[u8], x: &[f32], out: &mut [f32]) {
    let Some(row_bytes) = format.row_bytes(cols) else { panic!("{cols} weights are no whole blocks of {}", format.name()) };
    assert_eq!(bytes.len(), rows * row_bytes, "{rows} rows of {cols} weights of {}", format.name());
    if rows == 0 || cols == 0 {
        return out.fill(0.0);
    }
    let tokens = x.len() / cols;
    assert_eq!((x.len(), out.len()), (tokens * cols, tokens * rows), "{tokens} tokens");
    let block = match format.input() {
        InputKind::F32 => return float_matmul(format, rows, cols, bytes, x, out),
        InputKind::Int8Per32 => 32,
        InputKind::Int8Per256 => 256,
    };
    let (mut q, mut d) = (vec![0; x.len()], vec![0.0; x.len() / block]);
    quantize_activations(x, block, &mut q, &mut d);
    let mut weights = vec![Block::new(); cols / block];
    for (r, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
        for (weights, bytes) in weights.iter_mut().zip(bytes.chunks_exact(format.block_bytes())) {
            weights.unpack(format, bytes);
        }
        for (t, (q, d)) in q.chunks_exact(cols).zip(d.chunks_exact(cols / block)).enumerate() {
            let blocks = weights.iter().zip(q.chunks_exact(block)).zip(d);
            out[t * rows + r] = blocks.fold(0.0, |acc, ((w, q), &dx)| fma(block_dot(format.form(), w, q), dx, acc));
        }
    }
}

/// A block of weights times a block of int8 activations, before the activations' scale.
fn block_dot(form: Form, w: &Block, x: &[i8]) -> f32 {
    let (mut s, mut n) = (0i32, 0i32);
    for (g, x) in x.chunks_exact(w.group).enumerate() {
        let codes = &w.codes[g * w.group..(g + 1) * w.group];
        let dot: i32 = codes.iter().zip(x).map(|(&q, &x)| i32::from(q) * i32::from(x)).sum();
        s += i32::from(w.scales[g]) * dot;
        n += i32::from(w.mins[g]) * x.iter().map(|&x| i32::from(x)).sum::<i32>();
    }
    match form {
        Form::Float | Form::Symmetric => w.d * s as f32,
        Form::Affine => fma(-w.dmin, n as f32, w.d * s as f32),
    }
}

fn float_matmul(format: Format, rows: usize, cols: usize, bytes: &[u8], x: &[f32], out: &mut [f32]) {
    let mut weights = vec![0.0; cols];
    for (r, bytes) in bytes.chunks_exact(bytes.len() / rows).enumerate() {
        dequantize(format, bytes, &mut weights);
        for (t, x) in x.chunks_exact(cols).enumerate() {
            out[t * rows + r] = float_dot(&weights, x);
        }
    }
}

fn float_dot(w: &[f32], x: &[f32]) -> f32 {
    let mut p = [0.0; 16];
    for (w, x) in w.chunks(16).zip(x.chunks(16)) {
        for ((p, w), x) in p.iter_mut().zip(w).zip(x) {
            *p = fma(*w, *x, *p);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            p[i] += p[i + half];
        }
    }
    p[0]
}

/// `a * b + c` rounded once. From the libm crate, because not every platform's C library rounds it once.
fn fma(a: f32, b: f32, c: f32) -> f32 {
    libm::fmaf(a, b, c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::quantize;

    /// Numbers of about a normal distribution, the same on every machine.
    fn normal(seed: u64, n: usize) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn activations_follow_their_rule() {
        let run = |x: &[f32]| {
            let (mut q, mut d) = ([1i8; 4], [1.0f32; 1]);
            quantize_activations(x, 4, &mut q, &mut d);
            (q, d[0])
        };
        assert_eq!(run(&[0.0, -0.0, 0.0, 0.0]), ([0; 4], 0.0));
        assert_eq!(run(&[127.0, -2.5, 1.5, 0.5]), ([127, -2, 2, 0], 1.0), "ties to even");
        assert_eq!(run(&[-1.0, 0.5, 1.0, 0.0]), ([-127, 64, 127, 0], 1.0 / 127.0));
        assert_eq!(run(&[TINY, 0.0, -TINY, TINY / 2.0]), ([127, 0, -127, 64], TINY / 127.0));
        assert_eq!(run(&[TINY * 0.999, 1e-40, 0.0, 0.0]), ([0; 4], 0.0));
        assert_eq!(run(&[f32::MAX, -f32::MAX, 0.0, 1.0]).0, [127, -127, 0, 0]);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (q, d) = run(&[1.0, bad, 2.0, 3.0]);
            assert!(q == [0; 4] && d.is_nan(), "{bad}");
        }
    }

    #[test]
    fn every_format_is_near_exact_arithmetic() {
        // The error left is that of int8 activations: 1/127 of the absmax in steps, some 3.5 sigma: about 0.7 % of the result's deviation.
        let (rows, cols, tokens) = (24, 512, 3);
        for format in Format::ALL.into_iter().filter(|f| f.can_quantize()) {
            let mut bytes = vec![0; rows * format.row_bytes(cols).unwrap()];
            quantize(format, &normal(1, rows * cols), None, &mut bytes);
            let (mut w, x, mut out) = (vec![0.0; rows * cols], normal(2, tokens * cols), vec![0.0; tokens * rows]);
            dequantize(format, &bytes, &mut w);
            matmul(format, rows, cols, &bytes, &x, &mut out);
            let (mut missed, mut total) = (0.0, 0.0);
            for (t, x) in x.chunks(cols).enumerate() {
                for (r, w) in w.chunks(cols).enumerate() {
                    let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    missed += (f64::from(out[t * rows + r]) - exact).powi(2);
                    total += exact * exact;
                }
            }
            let (error, bound) = ((missed / total).sqrt(), if format.input() == InputKind::F32 { 1e-6 } else { 0.012 });
            assert!(error < bound && (error > 1e-4 || bound < 1e-4), "{}: {error:.2e}", format.name());
        }
    }

    #[test]
    fn one_bad_input_spoils_its_token_alone() {
        let (rows, cols) = (4, 256);
        for format in Format::ALL.into_iter().filter(|f| f.can_quantize()) {
            let mut bytes = vec![0; rows * format.row_bytes(cols).unwrap()];
            quantize(format, &normal(3, rows * cols), None, &mut bytes);
            let mut x = normal(4, 2 * cols);
            x[cols + 77] = f32::NAN;
            let mut out = vec![0.0; 2 * rows];
            matmul(format, rows, cols, &bytes, &x, &mut out);
            assert!(out[..rows].iter().all(|y| y.is_finite()) && out[rows..].iter().all(|y| y.is_nan()), "{}", format.name());
        }
    }
}
