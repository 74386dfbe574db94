//! Norms, rotations and activations of arrays, in candle's calls.

use candle_core::{D, Tensor as Array};
use candle_nn::{ops, rotary_emb};
use hob_kernels::ops::Activation;

use super::step::Angles;
use super::{CandleBackend, Done};
use crate::backend::Norm;
use crate::block::rope::Pairing;
use crate::config::NormKind;

/// The bound of a limited GLU's inputs.
const SWIGLU_LIMIT: f64 = 10.0;

/// `activation(x)`
pub(super) fn activated(activation: Activation, x: &Array) -> Done<Array> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::GeluTanh => x.gelu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::Relu => x.relu(),
        Activation::ReluSquared => x.relu()?.sqr(),
        Activation::SwigluLimited => x.minimum(SWIGLU_LIMIT)?.silu(),
        Activation::Sigmoid => ops::sigmoid(x),
        Activation::Identity => Ok(x.clone()),
        Activation::SwigluOai => {
            let x = x.minimum(OAI_LIMIT)?;
            x.mul(&ops::sigmoid(&x.affine(OAI_ALPHA, 0.0)?)?)
        }
    }
}

/// Steepness of gpt-oss's gate, and the bound of its inputs, as [`hob_kernels::naive::ops::activation`] has them.
const OAI_ALPHA: f64 = 1.702;
const OAI_LIMIT: f64 = 7.0;

/// `activation(gate) · up`
pub(super) fn gated(activation: Activation, gate: &Array, up: &Array) -> Done<Array> {
    let gate = activated(activation, gate)?;
    match activation {
        Activation::Silu | Activation::GeluTanh | Activation::Gelu | Activation::Relu | Activation::ReluSquared => gate.mul(up),
        Activation::SwigluLimited => gate.mul(&up.clamp(-SWIGLU_LIMIT, SWIGLU_LIMIT)?),
        Activation::Sigmoid | Activation::Identity => gate.mul(up),
        Activation::SwigluOai => gate.mul(&up.clamp(-OAI_LIMIT, OAI_LIMIT)?.affine(1.0, 1.0)?),
    }
}

/// Each run of the norm's width normalised; the shape stays.
pub(super) fn normalised(x: &Array, norm: &Norm<CandleBackend>) -> Done<Array> {
    let shape = x.shape();
    let x = x.reshape(((), norm.width))?;
    let groups = norm.weight.elem_count() / norm.width;
    if groups > 1 {
        // Weights of several groups take turns.
        let y = ops::rms_norm(&x, &norm.weight.narrow(0, 0, norm.width)?.ones_like()?, norm.eps)?;
        return y.reshape(((), groups, norm.width))?.broadcast_mul(&norm.weight.reshape((groups, norm.width))?)?.reshape(shape);
    }
    let y = match (norm.kind, &norm.bias) {
        (NormKind::Rms, _) => ops::rms_norm(&x, &norm.weight, norm.eps)?,
        (NormKind::Layer, Some(bias)) => ops::layer_norm(&x, &norm.weight, bias, norm.eps)?,
        (NormKind::Layer, None) => ops::layer_norm(&x, &norm.weight, &norm.weight.zeros_like()?, norm.eps)?,
    };
    y.reshape(shape)
}

/// The first channels of every head turned.
pub(super) fn rotated(x: &Array, head_dim: usize, angles: &Angles) -> Done<Array> {
    let Angles { cos, sin, pairing } = angles;
    let (tokens, width) = x.dims2()?;
    let rotary = 2 * cos.dim(D::Minus1)?;
    if rotary == 0 {
        return Ok(x.clone());
    }
    // Every token is a batch of its own to candle, for it has a position of its own.
    let heads = x.reshape((tokens, width / head_dim, 1, head_dim))?;
    let turn = |x: &Array| match pairing {
        Pairing::Adjacent => rotary_emb::rope_i(x, cos, sin),
        Pairing::Halves => rotary_emb::rope(x, cos, sin),
    };
    let turned = if rotary == head_dim {
        turn(&heads)?
    } else {
        let rest = heads.narrow(D::Minus1, rotary, head_dim - rotary)?;
        Array::cat(&[&turn(&heads.narrow(D::Minus1, 0, rotary)?.contiguous()?)?, &rest.contiguous()?], D::Minus1)?
    };
    turned.reshape((tokens, width))
}

/// `cap · tanh(x / cap)`
pub(super) fn capped(x: &Array, cap: f32) -> Done<Array> {
    x.affine(f64::from(1.0 / cap), 0.0)?.tanh()?.affine(f64::from(cap), 0.0)
}
