//! The searches behind the quantizers: the scale, or the scale and minimum, under which small codes come closest to given weights.
//!
//! Both are one idea. For given codes `q` the best scale is a weighted least-squares fit, in closed form; for a given scale the best
//! codes are the nearest integers. So: try a few scales around the obvious one, fit each, keep the one with the least error.
//!
//! ```text
//! x ~ s*q        s = Σwxq / Σwqq                                       error Σwxx − (Σwxq)² / Σwqq
//! x ~ s*q − m    s = (Σw·Σwxq − Σwx·Σwq) / D,  D = Σw·Σwqq − (Σwq)²    m = (Σwq·Σwxq − Σwqq·Σwx) / D
//! ```
//!
//! Sums run in 8 lanes and end in a tree, so that they are fast and the same on every machine.

use std::array;

/// A scale and a minimum: `x ~ scale * q - min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) min: f32,
}

/// Which scales to try: codes spread over `top + first + i * step` steps from the least weight to the greatest, for `i <= steps`.
pub(super) struct Search {
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) steps: usize,
    pub(super) miss: Miss,
}

/// How far off a weight is.
#[derive(Clone, Copy)]
pub(super) enum Miss {
    Absolute,
    Squared,
}

/// What the minimum may be.
#[derive(Clone, Copy)]
pub(super) enum Floor {
    /// Codes begin at 0 or below: `min >= 0`, as formats with unsigned minimums need it.
    Zero,
    /// Anywhere.
    Free,
}

impl Search {
    /// For weights with importances: worth more time.
    pub(super) const FINE: Search = Search { first: -0.9, step: 0.05, steps: 36, miss: Miss::Squared };
}

/// Weights smaller than this are nothing.
const NOTHING: f32 = 1e-15;

/// The nearest integer, ties to even, for |x| < 2^22: what is past the point of 1.5 * 2^23 is rounded away.
fn nearest(x: f32) -> f32 {
    const POINT: f32 = 12_582_912.0;
    (x + POINT) - POINT
}

fn sum<const N: usize>(v: &[f32; N]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for chunk in v.chunks_exact(8) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// How much each weight counts: its importance, more where the weight itself is large beside its block's mean square.
pub(super) fn weigh<const N: usize>(x: &[f32; N], importance: &[f32], mean_square: f32) -> [f32; N] {
    array::from_fn(|i| importance[i] * (mean_square + x[i] * x[i]).sqrt())
}

/// The mean square of `x`.
pub(super) fn mean_square(x: &[f32]) -> f32 {
    let total: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    (total / x.len() as f64) as f32
}

/// The scale with which codes `low..=high` come closest to `x`, and these codes. The weight of largest magnitude begins at code
/// `pivot` (the end of the range that reaches furthest); from there the scale is varied, and at last code by code is moved as long as it helps.
pub(super) fn multiples<const N: usize>(x: &[f32; N], weights: &[f32; N], low: i8, high: i8, pivot: i8, codes: &mut [i8]) -> f32 {
    let (low, high, pivot) = (f32::from(low), f32::from(high), f32::from(pivot));
    let largest = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    codes.fill(0);
    if largest.abs() < NOTHING {
        return 0.0;
    }
    let (mut best, mut best_xq, mut best_qq, mut best_score) = ([0.0; N], 0.0f32, 0.0f32, -1.0f64);
    // The obvious scale first: it stays where nothing is better.
    for step in [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let inverse = (pivot + 0.1f32.copysign(pivot) * step as f32) / largest;
        let q: [f32; N] = array::from_fn(|i| nearest(inverse * x[i]).clamp(low, high));
        let wq: [f32; N] = array::from_fn(|i| weights[i] * q[i]);
        let xq = sum(&array::from_fn::<_, N, _>(|i| wq[i] * x[i]));
        let qq = sum(&array::from_fn::<_, N, _>(|i| wq[i] * q[i]));
        let score = if qq > 0.0 { f64::from(xq) * f64::from(xq) / f64::from(qq) } else { 0.0 };
        if score > best_score {
            (best, best_xq, best_qq, best_score) = (q, xq, qq, score);
        }
    }
    let scale = if best_qq > 0.0 { polish(x, weights, low, high, &mut best, best_xq, best_qq) } else { largest / pivot };
    for (code, q) in codes.iter_mut().zip(&best) {
        *code = *q as i8;
    }
    scale
}

/// Moves one code at a time to where it fits best beside the others, until nothing moves. Returns the scale.
fn polish<const N: usize>(x: &[f32; N], weights: &[f32; N], low: f32, high: f32, q: &mut [f32; N], mut xq: f32, mut qq: f32) -> f32 {
    let score = |xq: f32, qq: f32| f64::from(xq) * f64::from(xq) / f64::from(qq);
    for _ in 0..5 {
        let mut moved = false;
        for i in 0..N {
            let w = weights[i];
            let (others_xq, others_qq) = (xq - w * x[i] * q[i], qq - w * q[i] * q[i]);
            if others_xq == 0.0 || others_qq <= 0.0 {
                continue;
            }
            let new = nearest((x[i] * others_qq / others_xq).clamp(low, high));
            let (new_xq, new_qq) = (others_xq + w * x[i] * new, others_qq + w * new * new);
            if new != q[i] && new_qq > 0.0 && score(new_xq, new_qq) > score(xq, qq) {
                (q[i], xq, qq, moved) = (new, new_xq, new_qq, true);
            }
        }
        if !moved {
            break;
        }
    }
    xq / qq
}

/// The value of an ascending table that is nearest to `x`.
pub(super) fn nearest_of(ascending: &[i8; 16], x: f32) -> f32 {
    let mut at = 0;
    for pair in ascending.windows(2) {
        at += usize::from(x > 0.5 * (f32::from(pair[0]) + f32::from(pair[1])));
    }
    f32::from(ascending[at])
}

/// The scale with which the values of an ascending table come closest to `x`. The weight of largest magnitude begins at either end of the
/// table, and from there the scale is varied.
pub(super) fn multiples_of<const N: usize>(ascending: &[i8; 16], x: &[f32; N], weights: &[f32; N]) -> f32 {
    let largest = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if largest.abs() < NOTHING {
        return 0.0;
    }
    let (mut best, mut best_score) = (0.0, -1.0f64);
    for end in [ascending[0], ascending[15]] {
        for step in -7..=7 {
            let inverse = (f32::from(end) + step as f32) / largest;
            let q: [f32; N] = array::from_fn(|i| nearest_of(ascending, inverse * x[i]));
            let xq = sum(&array::from_fn::<_, N, _>(|i| weights[i] * x[i] * q[i]));
            let qq = sum(&array::from_fn::<_, N, _>(|i| weights[i] * q[i] * q[i]));
            let score = f64::from(xq) * f64::from(xq) / f64::from(qq);
            if qq > 0.0 && score > best_score {
                (best, best_score) = (xq / qq, score);
            }
        }
    }
    best
}

/// The scale and minimum with which codes `0..=top` come closest to `x`.
pub(super) fn affine<const N: usize>(x: &[f32; N], weights: &[f32; N], top: i8, search: &Search, floor: Floor) -> Line {
    let top = f32::from(top);
    let low = x.iter().fold(f32::INFINITY, |m, &v| m.min(v));
    let high = x.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let low = match floor {
        Floor::Zero => low.min(0.0),
        Floor::Free => low,
    };
    let width = high - low;
    if width.is_nan() || width <= 0.0 {
        return Line { scale: 0.0, min: -low };
    }
    let (sw, sx) = (sum(weights), sum(&array::from_fn::<_, N, _>(|i| weights[i] * x[i])));
    let fitted = |q: &[f32; N]| -> Option<Line> {
        let wq: [f32; N] = array::from_fn(|i| weights[i] * q[i]);
        let sq = sum(&wq);
        let xq = sum(&array::from_fn::<_, N, _>(|i| wq[i] * x[i]));
        let qq = sum(&array::from_fn::<_, N, _>(|i| wq[i] * q[i]));
        let determinant = sw * qq - sq * sq;
        let line = Line { scale: (sw * xq - sx * sq) / determinant, min: (sq * xq - qq * sx) / determinant };
        match floor {
            Floor::Zero if line.min < 0.0 => Some(Line { scale: xq / qq, min: 0.0 }),
            Floor::Zero | Floor::Free => Some(line),
        }
        .filter(|_| determinant > 0.0)
    };
    let spread = |inverse: f32, min: f32| -> [f32; N] { array::from_fn(|i| nearest(inverse * (x[i] + min)).clamp(0.0, top)) };
    let mut best = Line { scale: width / top, min: -low };
    let mut least = miss(x, weights, &spread(1.0 / best.scale, best.min), best, search.miss);
    // Each try starts from the best minimum so far; the last few refine the best line itself.
    let tries = (0..=search.steps).map(|i| Some(top + search.first + search.step * i as f32)).chain([None; 3]);
    for steps in tries {
        let inverse = steps.map_or(1.0 / best.scale, |steps| steps / (high + best.min));
        let q = spread(inverse, best.min);
        let Some(line) = fitted(&q) else { continue };
        let missed = miss(x, weights, &q, line, search.miss);
        if missed < least {
            (best, least) = (line, missed);
        }
    }
    best
}

/// The small integers of a group that are to be settled: where they begin, and how far they may go.
pub(super) struct Settle {
    /// The least and the greatest code.
    pub(super) codes: (i8, i8),
    /// The least and the greatest scale.
    pub(super) scales: (i8, i8),
    /// The greatest minimum; 0 where there is none.
    pub(super) most_min: u8,
    pub(super) miss: Miss,
}

impl Settle {
    /// The integers that serve a group best under the block's two f16: `near`, which are nearest to the fitted ones, or their neighbours.
    pub(super) fn settle<const N: usize>(&self, x: &[f32; N], weights: &[f32; N], unit: Line, near: (i8, u8)) -> (i8, u8) {
        let (low, high) = (f32::from(self.codes.0), f32::from(self.codes.1));
        let (mut best, mut least) = (near, f32::INFINITY);
        for step in [0, -1, 1] {
            let scale = near.0.saturating_add(step).clamp(self.scales.0, self.scales.1);
            for step in [0, -1, 1] {
                let min = near.1.saturating_add_signed(step).min(self.most_min);
                let line = Line { scale: unit.scale * f32::from(scale), min: unit.min * f32::from(min) };
                let inverse = if line.scale != 0.0 { 1.0 / line.scale } else { 0.0 };
                let q = array::from_fn(|i| nearest((inverse * (x[i] + line.min)).clamp(low, high)));
                let missed = miss(x, weights, &q, line, self.miss);
                if missed < least {
                    (best, least) = ((scale, min), missed);
                }
                if self.most_min == 0 {
                    break;
                }
            }
        }
        best
    }
}

/// How far `x` is missed in all.
fn miss<const N: usize>(x: &[f32; N], weights: &[f32; N], q: &[f32; N], line: Line, how: Miss) -> f32 {
    let off: [f32; N] = array::from_fn(|i| line.scale * q[i] - line.min - x[i]);
    match how {
        Miss::Absolute => sum(&array::from_fn::<_, N, _>(|i| weights[i] * off[i].abs())),
        Miss::Squared => sum(&array::from_fn::<_, N, _>(|i| weights[i] * off[i] * off[i])),
    }
}

/// The codes nearest to `(x + min) / scale`, between `low` and `high`; zeros where the scale is.
pub(super) fn codes(x: &[f32], line: Line, low: i8, high: i8, codes: &mut [i8]) {
    codes.fill(0);
    if line.scale == 0.0 {
        return;
    }
    let (low, high) = (f32::from(low), f32::from(high));
    for (code, x) in codes.iter_mut().zip(x) {
        *code = nearest(((x + line.min) / line.scale).clamp(low, high)) as i8;
    }
}
