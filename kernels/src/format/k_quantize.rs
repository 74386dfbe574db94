//! Making blocks of the K formats: each group gets its best scale (and minimum), these are rounded to small integers under the
//! block's f16 and settled among their neighbours, and the codes are taken anew under what was settled.
//!
//! Without importances, large weights count more: `w = x² + mean/2` for the symmetric formats (mean: of the squares of the group),
//! `w = rms + |x|` for Q4_K and Q5_K, `w = |x|` for Q2_K.

use super::fit::{self, Floor, Line, Miss, Search, Settle};
use super::{Block, Form, Format, to_f16};
use std::array;

/// Fits a block to 256 weights.
pub(super) fn fit(format: Format, x: &[f32], importance: Option<&[f32]>, block: &mut Block) {
    *block = Block::new();
    match (format.form(), format) {
        (Form::Float, _) => {}
        (Form::Symmetric, _) => symmetric(format, x, importance, block),
        (Form::Affine, Format::Q2_K) => affine::<16>(format, x, importance, block),
        (Form::Affine, _) => affine::<32>(format, x, importance, block),
    }
}

/// How the groups of an affine format are searched: the largest code, the largest scale and minimum, the scales to try.
fn plan(format: Format) -> (i8, i8, Search) {
    match format {
        Format::Q2_K => (3, 15, Search { first: -0.5, step: 0.1, steps: 15, miss: Miss::Absolute }),
        Format::Q5_K => (31, 63, Search { first: -0.5, step: 0.1, steps: 15, miss: Miss::Squared }),
        _ => (15, 63, Search { first: -1.0, step: 0.1, steps: 20, miss: Miss::Squared }),
    }
}

fn affine<const G: usize>(format: Format, x: &[f32], importance: Option<&[f32]>, block: &mut Block) {
    let (top, scale_top, search) = plan(format);
    let search = if importance.is_some() { Search::FINE } else { search };
    let (groups, _) = x.as_chunks::<G>();
    let mean = fit::mean_square(x);
    let weigh = |g: usize, x: &[f32; G]| -> [f32; G] {
        match (importance, format) {
            (Some(w), _) => fit::weigh(x, &w[g * G..], 2.0 * mean),
            (None, Format::Q2_K) => array::from_fn(|i| x[i].abs()),
            (None, _) => {
                let rms = fit::mean_square(x).sqrt();
                array::from_fn(|i| rms + x[i].abs())
            }
        }
    };
    let (mut scales, mut mins, mut counts) = ([0.0f32; 16], [0.0f32; 16], [0.0f32; 16]);
    for (g, x) in groups.iter().enumerate() {
        let weights = weigh(g, x);
        let line = fit::affine(x, &weights, top, &search, Floor::Zero);
        (scales[g], mins[g], counts[g]) = (line.scale, line.min, weights.iter().sum());
    }
    block.group = G;
    block.d = round_scales(&scales, &counts, importance.is_some(), scale_top, &mut block.scales);
    let mut rounded = [0i8; 16];
    block.dmin = round_scales(&mins, &counts, importance.is_some(), scale_top, &mut rounded);
    let unit = Line { scale: block.d, min: block.dmin };
    let settle = Settle { codes: (0, top), scales: (0, scale_top), most_min: scale_top as u8, miss: search.miss };
    for (g, x) in groups.iter().enumerate() {
        let near = (block.scales[g], rounded[g] as u8);
        let (scale, min) = settle.settle(x, &weigh(g, x), unit, near);
        (block.scales[g], block.mins[g]) = (scale, min);
        let line = Line { scale: block.d * f32::from(scale), min: block.dmin * f32::from(min) };
        fit::codes(x, line, 0, top, &mut block.codes[g * G..(g + 1) * G]);
    }
}

/// Scales, none negative, as `0..=top` times an f16, which is returned.
fn round_scales(scales: &[f32; 16], counts: &[f32; 16], weighted: bool, top: i8, codes: &mut [i8; 16]) -> f32 {
    if weighted {
        return to_f16(fit::multiples(scales, counts, 0, top, top, codes));
    }
    let largest = scales.iter().fold(0.0f32, |m, &s| m.max(s));
    if largest <= 0.0 {
        return 0.0;
    }
    let unit = Line { scale: largest / f32::from(top), min: 0.0 };
    fit::codes(scales, unit, 0, top, codes);
    to_f16(unit.scale)
}

fn symmetric(format: Format, x: &[f32], importance: Option<&[f32]>, block: &mut Block) {
    // Codes and scales of these two reach one further below zero than above.
    let (reach, scale_reach) = if format == Format::Q3_K { (4, 32) } else { (32, 128) };
    let (groups, _) = x.as_chunks::<16>();
    let mean = fit::mean_square(x);
    let weigh = |g: usize, x: &[f32; 16]| -> [f32; 16] {
        match importance {
            Some(w) => fit::weigh(x, &w[g * 16..], 2.0 * mean),
            None => {
                let floor = 0.5 * fit::mean_square(x);
                array::from_fn(|i| floor + x[i] * x[i])
            }
        }
    };
    let mut scales = [0.0f32; 16];
    for (g, x) in groups.iter().enumerate() {
        scales[g] = fit::multiples(x, &weigh(g, x), -reach, reach - 1, -reach, &mut block.codes[g * 16..(g + 1) * 16]);
    }
    block.group = 16;
    let largest = scales.iter().fold(0.0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
    let (low, high) = ((-scale_reach) as i8, (scale_reach - 1) as i8);
    let unit = Line { scale: largest / f32::from(low), min: 0.0 };
    fit::codes(&scales, unit, low, high, &mut block.scales);
    block.d = to_f16(unit.scale);
    let unit = Line { scale: block.d, min: 0.0 };
    let settle = Settle { codes: (-reach, reach - 1), scales: (low, high), most_min: 0, miss: Miss::Squared };
    for (g, x) in groups.iter().enumerate() {
        (block.scales[g], _) = settle.settle(x, &weigh(g, x), unit, (block.scales[g], 0));
        let line = Line { scale: block.d * f32::from(block.scales[g]), min: 0.0 };
        fit::codes(x, line, -reach, reach - 1, &mut block.codes[g * 16..(g + 1) * 16]);
    }
}
