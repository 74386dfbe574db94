//! One row at a time: norms and softmax.

use super::piece;
use crate::{Cpu, naive};

/// Each row of x `[rows, width]` divided by its root mean square, times `weight`.
///
/// # Panics
/// If lengths do not fit together.
pub fn rms_norm(cpu: Cpu<'_>, x: &[f32], weight: Option<&[f32]>, eps: f32, width: usize, out: &mut [f32]) {
    check(x.len(), out.len(), width, weight.map_or(width, <[f32]>::len));
    let n = piece(cpu, out.len(), width);
    cpu.parallel_chunks(out, n, &|i, out| naive::ops::rms_norm(&x[i * n..][..out.len()], weight, eps, width, out));
}

/// [`rms_norm`], the result in place of x.
///
/// # Panics
/// If lengths do not fit together.
pub fn rms_norm_in_place(cpu: Cpu<'_>, x: &mut [f32], weight: Option<&[f32]>, eps: f32, width: usize) {
    check(x.len(), x.len(), width, weight.map_or(width, <[f32]>::len));
    let n = piece(cpu, x.len(), width);
    cpu.parallel_chunks(x, n, &|_, x| naive::ops::rms_norm(&x.to_vec(), weight, eps, width, x));
}

/// Each row of x `[rows, width]` less its mean, divided by its standard deviation, times `weight`, plus `bias`.
///
/// # Panics
/// If lengths do not fit together.
pub fn layer_norm(cpu: Cpu<'_>, x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, width: usize, out: &mut [f32]) {
    check(x.len(), out.len(), width, weight.len());
    check(x.len(), out.len(), width, bias.map_or(width, <[f32]>::len));
    let n = piece(cpu, out.len(), width);
    cpu.parallel_chunks(out, n, &|i, out| naive::ops::layer_norm(&x[i * n..][..out.len()], weight, bias, eps, width, out));
}

/// The softmax of each row of x `[rows, width]`, in place.
///
/// # Panics
/// If x is not whole rows.
pub fn softmax(cpu: Cpu<'_>, x: &mut [f32], width: usize) {
    check(x.len(), x.len(), width, width);
    let n = piece(cpu, x.len(), width);
    cpu.parallel_chunks(x, n, &|_, x| naive::ops::softmax(x, width));
}

fn check(x: usize, out: usize, width: usize, weight: usize) {
    assert!(width > 0 && x % width == 0 && out == x && weight == width, "{x} values to {out}, rows of {width}, weights of {weight}");
}
