//! One element at a time: sums, scales, activations.

use super::{Activation, piece};
use crate::{Cpu, naive};

/// `x += y`
///
/// # Panics
/// If the lengths differ.
pub fn add(cpu: Cpu<'_>, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "two sums of different lengths");
    let n = piece(cpu, x.len(), 16);
    cpu.parallel_chunks(x, n, &|i, x| naive::ops::add(x, &y[i * n..][..x.len()]));
}

/// Adds `bias` to each row of x `[rows, bias.len()]`.
///
/// # Panics
/// If x is not whole rows.
pub fn add_bias(cpu: Cpu<'_>, x: &mut [f32], bias: &[f32]) {
    assert!(!bias.is_empty() && x.len() % bias.len() == 0, "{} values in rows of {}", x.len(), bias.len());
    let n = piece(cpu, x.len(), bias.len());
    cpu.parallel_chunks(x, n, &|_, x| naive::ops::add_bias(x, bias));
}

/// `x *= s`
pub fn scale(cpu: Cpu<'_>, x: &mut [f32], s: f32) {
    let n = piece(cpu, x.len(), 16);
    cpu.parallel_chunks(x, n, &|_, x| naive::ops::scale(x, s));
}

/// `x = cap · tanh(x / cap)`
pub fn softcap(cpu: Cpu<'_>, x: &mut [f32], cap: f32) {
    let n = piece(cpu, x.len(), 16);
    cpu.parallel_chunks(x, n, &|_, x| naive::ops::softcap(x, cap));
}

/// `out = act(gate) · up`
///
/// # Panics
/// If the lengths differ.
pub fn glu(cpu: Cpu<'_>, act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out of different lengths");
    let n = piece(cpu, out.len(), 16);
    cpu.parallel_chunks(out, n, &|i, out| naive::ops::glu(act, &gate[i * n..][..out.len()], &up[i * n..][..out.len()], out));
}

/// `x = act(x)`
pub fn activate(cpu: Cpu<'_>, act: Activation, x: &mut [f32]) {
    let n = piece(cpu, x.len(), 16);
    cpu.parallel_chunks(x, n, &|_, x| naive::ops::activate(act, x));
}
