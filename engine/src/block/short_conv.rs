//! Causal convolution over a few tokens, each channel by itself; and the mixer that is nothing else: LFM2's gated short
//! convolution (Liquid AI 2025).
//!
//! ```text
//! b, c, x = h·W_in;   y = (c ⊙ conv(b ⊙ x)) · W_out          conv(x)[t] = bias + Σ w[i]·x[t - taps + 1 + i]
//! ```

use crate::backend::{Backend, Conv, Linear};
use crate::block::Work;
use crate::cache::{Sequence, StateSpec};
use crate::error::{Error, Fault, Result};
use crate::weights::Loader;
use hob_kernels::ops::Activation;
use hob_kernels::recurrent::{MOST_TAPS, StateSize};
use std::fmt;

/// One gated short convolution.
pub struct ShortConv<B: Backend> {
    b: Linear<B>,
    c: Linear<B>,
    x: Linear<B>,
    conv: Conv<B>,
    out: Linear<B>,
    size: StateSize,
}

/// The convolution `{base}.weight`, `[channels, taps]` in the file, cut into neighbours of these widths; the first begins at
/// channel `first` of those that are remembered.
///
/// # Errors
/// Where a tensor is missing or does not fit, or there are too many taps.
pub fn convs<B: Backend, const N: usize>(
    loader: &Loader<'_, B>,
    base: &str,
    taps: usize,
    first: usize,
    widths: [usize; N],
    activation: Activation,
) -> Result<[Conv<B>; N]> {
    let name = format!("{base}.weight");
    if !(2..=MOST_TAPS).contains(&taps) {
        let fault = Fault::at(&name).expected(format!("a convolution of 2 to {MOST_TAPS} taps"));
        return Err(Error::Unsupported(fault.found(taps)));
    }
    let all = widths.iter().sum();
    let weight = loader.numbers(&name, &[taps, all])?.ok_or_else(|| loader.missing(&name))?;
    let bias = loader.values(&format!("{base}.bias"), all)?;
    let mut parts = Vec::with_capacity(N);
    let mut from = 0;
    for channels in widths {
        // Taps come outermost, so that neighbouring channels are neighbouring lanes.
        let taps = (0..taps).flat_map(|i| (from..from + channels).map(move |c| (c, i)));
        let weight = loader.backend.vector(taps.map(|(c, i)| weight[c * (weight.len() / all) + i]).collect())?;
        let bias = bias.as_ref().map(|b| loader.backend.vector(b[from..from + channels].to_vec())).transpose()?;
        parts.push(Conv { weight, bias, activation, first: first + from, channels });
        from += channels;
    }
    parts.try_into().map_err(|_| loader.missing(&name))
}

impl<B: Backend> ShortConv<B> {
    /// The convolution of layer `index`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<ShortConv<B>> {
        let name = |part: &str| format!("blk.{index}.shortconv.{part}");
        let width = loader.config.width;
        let Some(taps) = loader.config.short_conv else {
            let key = format!("{}.shortconv.l_cache", loader.config.architecture);
            return Err(Error::Model(Fault::at(key).expected("a number of taps").found("no such key")));
        };
        let [b, c, x] = loader.fused(&name("in_proj"), [width; 3], width)?;
        let [conv] = convs(loader, &name("conv"), taps, 0, [width], Activation::Identity)?;
        let out = loader.linear(&name("out_proj"), width, width)?;
        Ok(ShortConv { b, c, x, conv, out, size: StateSize { channels: width, past: taps - 1, heads: 0, keys: 0, values: 0 } })
    }

    /// The last inputs of the convolution.
    pub fn state(&self) -> StateSpec {
        StateSpec::Recurrent(self.size)
    }

    /// `out = mixer(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B::State>], slot: usize, out: &mut B::Tensor) {
        let Work { step, h, gate, up, v, .. } = work;
        backend.linear(step, h, &mut [(&self.b, &mut *gate), (&self.c, &mut *up), (&self.x, &mut *v)]);
        backend.glu(step, Activation::Identity, gate, v);
        backend.conv(step, &mut [(&self.conv, &mut *gate)], sequences, slot);
        backend.glu(step, Activation::Identity, gate, up);
        backend.linear(step, gate, &mut [(&self.out, out)]);
    }
}

impl<B: Backend> fmt::Display for ShortConv<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "short conv {}", self.size.past + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{Paper, linear};

    /// h is 1, then 2; b, c, x are 1, 3 and 5 times that. b·x = 5, 20; taps (10, 1) make 0 + 5 and 50 + 20 of it; c is 3, 6.
    /// W_out doubles 15 and 420.
    #[test]
    fn two_positions_by_hand() {
        let conv = Conv { weight: vec![10.0, 1.0], bias: None, activation: Activation::Identity, first: 0, channels: 1 };
        let size = StateSize { channels: 1, past: 1, heads: 0, keys: 0, values: 0 };
        let mixer: ShortConv<CpuBackend> =
            ShortConv { b: linear(&[1.0], 1), c: linear(&[3.0], 1), x: linear(&[5.0], 1), conv, out: linear(&[2.0], 1), size };
        let (mut paper, mut out) = (Paper::new(&[1.0, 2.0], 1, &[]), Default::default());
        let mut sequence = paper.sequence(&mixer.state());
        mixer.forward(&paper.backend, &mut paper.work, &mut [&mut sequence], 0, &mut out);
        paper.near(&out, &[30.0, 840.0]);
    }
}
