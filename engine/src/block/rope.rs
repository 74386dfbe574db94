//! Rotary position embedding: which angle each pair of channels turns by at each position.
//!
//! Channel pair i of a head turns by `position · freq[i]`, `freq[i] = base^(−2i/rotary)` (Su et al. 2021), and the
//! stretches: linear (Chen et al. 2023), YaRN (Peng et al. 2023, section 3.4), per-frequency divisors from the file
//! (Llama 3.1's `rope_freqs`; LongRoPE's `rope_factors_short|long`, Ding et al. 2024). Angles, sines and cosines are
//! computed in f64 by `libm`, so that they are the same on every machine.

use crate::config::{RopeConfig, Scaling, Temperature};
pub use hob_kernels::ops::Pairing;
use std::f64::consts::PI;
use std::fmt;

/// A rotary embedding, ready to be asked for angles.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which channels turn together.
    pub pairing: Pairing,
    /// Angle per position of each pair, `[rotary / 2]`.
    pub frequencies: Vec<f64>,
    /// Factor on sine and cosine (YaRN's attention temperature).
    pub magnitude: f64,
    /// A further factor that grows with the position (queries only).
    temperature: Option<Temperature>,
    base: f32,
    scaling: Scaling,
}

impl Rope {
    /// The rotary embedding of `config` at θ = `base`, stretched by `scaling`, with the file's divisors of each frequency
    /// (`[rotary / 2]`) where it has them.
    pub fn new(config: &RopeConfig, pairing: Pairing, base: f32, scaling: Scaling, divisors: Option<&[f32]>) -> Rope {
        let plain = |i: usize| {
            let divisor = divisors.map_or(1.0, |d| f64::from(d[i]));
            libm::pow(f64::from(base), -2.0 * i as f64 / config.rotary as f64) / divisor
        };
        let mut frequencies: Vec<f64> = (0..config.rotary / 2).map(plain).collect();
        let mut magnitude = f64::from(config.attention_factor);
        match scaling {
            Scaling::None | Scaling::LongRope => {}
            Scaling::Linear(factor) => frequencies.iter_mut().for_each(|f| *f /= f64::from(factor)),
            Scaling::Yarn { factor, beta_fast, beta_slow } => {
                // The pair that makes this many turns within the original context.
                let pair = |turns: f32| {
                    let wavelength = config.original_context as f64 / (f64::from(turns) * 2.0 * PI);
                    config.rotary as f64 * libm::log(wavelength) / (2.0 * libm::log(f64::from(base)))
                };
                let low = libm::floor(pair(beta_fast)).max(0.0);
                let high = libm::ceil(pair(beta_slow)).min(config.rotary as f64 - 1.0);
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let kept = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    *f = *f / f64::from(factor) * (1.0 - kept) + *f * kept;
                }
                let stretch = libm::log(f64::from(factor)).max(0.0);
                let temperature = |multiplier: f32| 1.0 + 0.1 * f64::from(multiplier) * stretch;
                magnitude *= temperature(1.0) / config.yarn_log_multiplier.map_or(1.0, temperature);
            }
        }
        Rope { pairing, frequencies, magnitude, temperature: None, base, scaling }
    }

    /// The rope that undoes this one, where its magnitude is 1.
    pub fn back(mut self) -> Rope {
        self.frequencies.iter_mut().for_each(|f| *f = -*f);
        self
    }

    /// Its number among `ropes`, to which it is added where it is new.
    pub fn number(self, ropes: &mut Vec<Rope>) -> usize {
        ropes.iter().position(|r| *r == self).unwrap_or_else(|| {
            ropes.push(self);
            ropes.len() - 1
        })
    }

    /// The same for queries, which grow with their position.
    pub fn with_temperature(self, temperature: Temperature) -> Rope {
        Rope { temperature: Some(temperature), ..self }
    }

    /// A rope that turns nothing: all it does to a head of `width` channels is to make it larger, the farther it is.
    pub fn still(width: usize, temperature: Temperature) -> Rope {
        Rope {
            pairing: Pairing::Halves,
            frequencies: vec![0.0; width / 2],
            magnitude: 1.0,
            temperature: Some(temperature),
            base: 1.0,
            scaling: Scaling::None,
        }
    }

    /// Channels of a head that turn.
    pub fn rotary(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Cosines and sines for each position, `[positions, rotary / 2]`, replacing what the vectors hold.
    pub fn angles(&self, positions: impl Iterator<Item = u32>, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        cos.clear();
        sin.clear();
        for position in positions {
            let factor = self.magnitude * self.temperature.map_or(1.0, |t| t.at(position));
            for f in &self.frequencies {
                let (s, c) = libm::sincos(f64::from(position) * f);
                cos.push((c * factor) as f32);
                sin.push((s * factor) as f32);
            }
        }
    }
}

impl Temperature {
    /// The factor at a position.
    fn at(&self, position: u32) -> f64 {
        let steps = (position as usize + self.offset) / self.length.max(1);
        1.0 + f64::from(self.scale) * libm::log1p(steps as f64)
    }
}

impl fmt::Display for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairing = match self.pairing {
            Pairing::Adjacent => "adjacent",
            Pairing::Halves => "halves",
        };
        write!(f, "rope({pairing} {}, θ {:e}", self.rotary(), self.base)?;
        match self.scaling {
            Scaling::None => write!(f, ")"),
            Scaling::Linear(factor) => write!(f, ", linear ×{factor})"),
            Scaling::Yarn { factor, .. } => write!(f, ", yarn ×{factor})"),
            Scaling::LongRope => write!(f, ", longrope)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::block::paper::Paper;
    use crate::config::Tempered;

    fn rope(scaling: Scaling, divisors: Option<&[f32]>) -> Rope {
        let config = RopeConfig {
            base: 1e4,
            window_base: None,
            rotary: 8,
            window_rotary: None,
            scaling,
            original_context: 32,
            attention_factor: 1.0,
            yarn_log_multiplier: None,
        };
        Rope::new(&config, Pairing::Halves, 1e4, scaling, divisors)
    }

    #[test]
    fn frequencies_fall_geometrically() {
        let f = rope(Scaling::None, None).frequencies;
        for (f, want) in f.iter().zip([1.0, 1e-1, 1e-2, 1e-3]) {
            assert!((f / want - 1.0).abs() < 1e-12);
        }
    }

    /// At position 1 the first pair has made a quarter turn, and the second none: of 1, 2, 3, 4 the first pair is 1, 3 (halves), which
    /// becomes -3, 1, or 1, 2 (adjacent), which becomes -2, 1.
    #[test]
    fn a_quarter_turn_by_hand() {
        for (pairing, want) in [(Pairing::Halves, [-3.0, 2.0, 1.0, 4.0]), (Pairing::Adjacent, [-2.0, 1.0, 3.0, 4.0])] {
            let rope = Rope { pairing, frequencies: vec![PI / 2.0, 0.0], ..rope(Scaling::None, None) };
            let mut paper = Paper::new(&[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0], 4, &[rope]);
            let mut x = std::mem::take(&mut paper.work.h);
            paper.backend.rotate(&mut paper.work.step, &mut x, 4, 0);
            paper.near(&x, &[&[1.0, 2.0, 3.0, 4.0], &want[..]].concat());
        }
    }

    #[test]
    fn stretches_do_what_they_say() {
        let plain = rope(Scaling::None, None).frequencies;
        let linear = rope(Scaling::Linear(4.0), None).frequencies;
        assert!(linear.iter().zip(&plain).all(|(l, p)| (l * 4.0 / p - 1.0).abs() < 1e-12));
        let divided = rope(Scaling::None, Some(&[1.0, 2.0, 4.0, 8.0])).frequencies;
        assert!((divided[3] * 8.0 / plain[3] - 1.0).abs() < 1e-12);
        // In 32 positions the first pair makes five turns, the others less than one: YaRN keeps the first, divides the last.
        let yarn = rope(Scaling::Yarn { factor: 4.0, beta_fast: 32.0, beta_slow: 1.0 }, None);
        assert!((yarn.frequencies[0] / plain[0] - 1.0).abs() < 1e-12);
        assert!((yarn.frequencies[3] * 4.0 / plain[3] - 1.0).abs() < 1e-12);
        assert!((yarn.magnitude - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
    }

    #[test]
    fn queries_grow_by_the_logarithm_of_their_position() {
        let temperature = Temperature { scale: 0.5, length: 4, offset: 0, layers: Tempered::All };
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        Rope::still(4, temperature).angles([0, 3, 4, 11, 12].into_iter(), &mut cos, &mut sin);
        // ⌊position / 4⌋ is 0 0 1 2 3.
        let want = [1.0, 1.0, 1.0 + 0.5 * 2f32.ln(), 1.0 + 0.5 * 3f32.ln(), 1.0 + 0.5 * 4f32.ln()];
        assert!(cos.chunks(2).zip(want).all(|(c, want)| (c[0] - want).abs() < 1e-6 && c[1] == c[0]));
        assert!(sin.iter().all(|s| *s == 0.0));
        rope(Scaling::None, None).with_temperature(temperature).angles([12].into_iter(), &mut cos, &mut sin);
        assert!((cos[0] - want[4] * 12f32.cos()).abs() < 1e-6 && (sin[0] - want[4] * 12f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn angles_are_those_of_the_positions_asked_for() {
        let (mut cos, mut sin) = (vec![9.0], vec![9.0]);
        rope(Scaling::None, None).angles([0, 3].into_iter(), &mut cos, &mut sin);
        assert_eq!((cos.len(), sin.len()), (8, 8));
        assert_eq!((cos[0], sin[0]), (1.0, 0.0));
        assert!((cos[4] - 3f32.cos()).abs() < 1e-6 && (sin[4] - 3f32.sin()).abs() < 1e-6);
    }
}
